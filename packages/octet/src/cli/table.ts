/** Rows of text as aligned columns, two spaces apart; columns named in `right` are flushed right. */
export function formatTable(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = []
  for (const row of rows) row.forEach((cell, i) => { widths[i] = Math.max(widths[i] ?? 0, cell.length) })
  return rows
    .map((row) => row.map((cell, i) => (right.includes(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))).join('  ').trimEnd())
    .map((line) => `${line}\n`)
    .join('')
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB']

/** `6.2 MB`: decimal units, three significant digits at most. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000
    unit += 1
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${UNITS[unit]}`
}

/** `3.1M`, `1.24B`: a count of parameters as people say it. */
export function formatCount(count: number): string {
  if (count < 1e3) return String(count)
  if (count < 1e6) return `${(count / 1e3).toFixed(1)}K`
  if (count < 1e9) return `${(count / 1e6).toFixed(1)}M`
  return `${(count / 1e9).toFixed(2)}B`
}
