/**
 * A filter is words; a case is kept when each word is the op's name, one of the case's own words (`D=15`), or an axis
 * followed by `=` (`D=`, any value). A failing case prints the filter that runs it alone.
 */
export function matches(filter: string | undefined, op: string, name: string): boolean {
  if (filter === undefined) return true
  const words = name === '' ? [] : name.split(' ')
  return filter
    .split(/\s+/)
    .filter((word) => word !== '')
    .every((word) => word === op || words.includes(word) || (word.endsWith('=') && words.some((own) => own.startsWith(word))))
}

export function filterOf(op: string, name: string): string {
  return name === '' ? op : `${op} ${name}`
}
