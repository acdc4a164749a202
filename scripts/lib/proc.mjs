// Processes and messages shared by the repository's scripts. Nothing here needs an installed package.
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { dirname, join } from 'node:path'

/** The repository's root folder. */
export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

/** Ends the script with one sentence on stderr. */
export function fail(message) {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}

/**
 * Runs a program and resolves to its exit status and what it wrote.
 * `inherit` shows its output as it comes instead of collecting it.
 */
export function run(command, args, { cwd = root, env = {}, inherit = false, timeoutMs, input } = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: [input === undefined ? 'ignore' : 'pipe', inherit ? 'inherit' : 'pipe', inherit ? 'inherit' : 'pipe'],
      ...(timeoutMs === undefined ? {} : { timeout: timeoutMs, killSignal: 'SIGKILL' }),
    })
    let stdout = ''
    let stderr = ''
    child.stdout?.setEncoding('utf8').on('data', (text) => { stdout += text })
    child.stderr?.setEncoding('utf8').on('data', (text) => { stderr += text })
    child.on('error', (error) => resolve({ code: 127, signal: null, stdout, stderr: `${stderr}${error.message}` }))
    child.on('close', (code, signal) => resolve({ code: code ?? 1, signal, stdout, stderr }))
    if (input !== undefined) child.stdin.end(input)
  })
}

/** Like {@link run}, and throws what the program wrote when it fails. */
export async function mustRun(command, args, options = {}) {
  const result = await run(command, args, options)
  if (result.code !== 0) {
    throw new Error(`${command} ${args.join(' ')} ended with ${result.signal ?? result.code}\n${result.stdout}${result.stderr}`)
  }
  return result.stdout
}

/** `61.2 s` or `840 ms`. */
export function elapsed(startMs) {
  const ms = performance.now() - startMs
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`
}
