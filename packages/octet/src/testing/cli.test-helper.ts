import { spawn, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const BIN = fileURLToPath(new URL('../../bin/octet.js', import.meta.url))

/** A path in the repository's fixtures. */
export const fixture = (path: string): string => fileURLToPath(new URL(`../../../../fixtures/${path}`, import.meta.url))

export interface CliResult {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface CliOptions {
  readonly input?: string
  readonly env?: Readonly<Record<string, string>>
  readonly timeoutMs?: number
  readonly nodeArgs?: readonly string[]
  /** Called with the process once it runs. */
  readonly onStart?: (child: ChildProcess) => void
  /** Called with each piece of stdout. */
  readonly onStdout?: (text: string, child: ChildProcess) => void
}

/** Runs `octet ARGS` as users do, in a process of its own. A run past its time is killed and has `signal` SIGKILL. */
export function octet(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...(options.nodeArgs ?? []), BIN, ...args], {
      env: { ...process.env, NODE_OPTIONS: '', ...options.env },
      timeout: options.timeoutMs ?? 100_000,
      killSignal: 'SIGKILL',
    })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
      options.onStdout?.(text, child)
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => { stderr += text })
    child.on('error', reject)
    child.on('close', (status, signal) => resolve({ status, signal, stdout, stderr }))
    // A child that ends before it reads must not fail the test.
    child.stdin.on('error', () => {})
    child.stdin.end(options.input ?? '')
    options.onStart?.(child)
  })
}

/** The one JSON object of a `--json` run. */
export function jsonOf(result: CliResult): Record<string, unknown> {
  return JSON.parse(result.stdout) as Record<string, unknown>
}
