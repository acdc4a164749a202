import { formatBytes } from './table.js'

/** How often a bar is redrawn, in ms. */
const REDRAW_MS = 80
const WIDTH = 28

/** A bar on one line of a terminal; on anything else it draws nothing. */
export interface Progress {
  /** What goes on, and how much of all is done. @param format Default: bytes. */
  update(title: string, done: number, total: number, format?: (amount: number) => string): void
  /** Wipes the line. */
  end(): void
}

export function createProgress(stderr: NodeJS.WriteStream, interactive: boolean): Progress {
  if (!interactive) return { update: () => {}, end: () => {} }
  let drawnAt = -Infinity
  let drawn = false
  return {
    update(title, done, total, format) {
      const now = performance.now()
      if (now - drawnAt < REDRAW_MS && done < total) return
      drawnAt = now
      drawn = true
      stderr.write(`\r${bar(title, done, total, format)}\u001b[K`)
    },
    end() {
      if (drawn) stderr.write('\r\u001b[K')
    },
  }
}

/** `loading ██████░░░░ 3.1 MB of 6.2 MB`. */
export function bar(title: string, done: number, total: number, format: (amount: number) => string = formatBytes): string {
  const share = total > 0 ? Math.min(1, done / total) : 1
  const full = Math.round(share * WIDTH)
  return `${title} ${'█'.repeat(full)}${'░'.repeat(WIDTH - full)} ${format(done)} of ${format(total)}`
}
