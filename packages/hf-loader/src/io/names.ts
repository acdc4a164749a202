const MAX_SHOWN = 120

/** A name from an untrusted file, quoted, with control characters escaped and cut to a length a message can carry. */
export function quoteName(name: string): string {
  const cut = name.length > MAX_SHOWN ? `${name.slice(0, MAX_SHOWN)}…` : name
  return JSON.stringify(cut)
}

/** `a, b, c and 7 more`. */
export function listSome(items: readonly string[], limit = 20): string {
  if (items.length <= limit) return items.join(', ')
  return `${items.slice(0, limit).join(', ')} and ${items.length - limit} more`
}

/** A shape for a message; an absurdly long one is cut. */
export function showShape(shape: readonly number[]): string {
  return shape.length <= 16 ? `[${shape.join(', ')}]` : `[${shape.slice(0, 16).join(', ')}, … ${shape.length} axes]`
}
