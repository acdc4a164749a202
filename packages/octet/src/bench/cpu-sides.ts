/** The runs that `octet bench cpu` times: ours in this process, the peer's in one of its own. */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { OctetError } from '@octet-llm/core'
import type { LanguageModel } from '../language-model.js'
import { median } from './measure.js'

/** Speeds of one model. */
export interface Side {
  readonly decodeTokensPerS: number
  /** Tokens a second by prompt length. */
  readonly prefillTokensPerS: Readonly<Record<string, number>>
}

export interface PeerSide extends Side {
  readonly name: string
}

export interface RunOptions {
  /** New tokens of a decode run. */
  readonly newTokens: number
  /** Prompt lengths of prefill; decoding starts behind the first. */
  readonly prompts: readonly number[]
  readonly signal: AbortSignal
}

const PEER_RUNNER = fileURLToPath(new URL('./peer-runner.js', import.meta.url))

export async function ourSide(llm: LanguageModel, options: RunOptions): Promise<Side> {
  const prefill: Record<string, number> = {}
  let decode = 0
  for (const [i, length] of options.prompts.entries()) {
    const { timings } = await runOnce(llm, length, i === 0 ? options.newTokens + 1 : 1, options.signal)
    prefill[String(length)] = timings.prefill_tokens_per_s
    if (i === 0) decode = timings.tokens_per_s
  }
  return { decodeTokensPerS: decode, prefillTokensPerS: prefill }
}

/** One prompt of `length` tokens and what follows it. */
export function runOnce(llm: LanguageModel, length: number, newTokens: number, signal: AbortSignal) {
  const inputIds = [Array.from({ length }, (_, i) => 300 + ((i * 7919) % 200))]
  return llm.generate({ inputIds }, { maxNewTokens: newTokens, ignoreEos: true, signal }).result()
}

/** @param folder its node_modules has node-llama-cpp. @throws OctetError `OP_FAILED` with what it printed */
export function peerSide(folder: string, gguf: string, threads: number, { newTokens, prompts, signal }: RunOptions): Promise<PeerSide> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [PEER_RUNNER, folder, gguf, String(threads), String(newTokens), ...prompts.map(String)], { stdio: ['ignore', 'pipe', 'pipe'], signal })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => { stdout += text })
    child.stderr.setEncoding('utf8').on('data', (text: string) => { stderr += text })
    child.on('error', (error) => reject(signal.aborted ? signal.reason : error))
    child.on('close', (code) => {
      if (code !== 0) return reject(new OctetError('OP_FAILED', { op: 'bench', argument: '--peer', message: `node-llama-cpp in ${folder} failed: ${stderr.trim().split('\n').slice(-3).join(' ')}`, hint: 'install it there with npm' }))
      const { peer, ...side } = JSON.parse(stdout.trim().split('\n').at(-1)!) as Side & { peer: string }
      resolve({ name: peer, ...side })
    })
  })
}

/** The median of each speed. */
export function middle(sides: readonly Side[]): Side {
  const lengths = Object.keys(sides[0]!.prefillTokensPerS)
  return {
    decodeTokensPerS: median(sides.map((side) => side.decodeTokensPerS)),
    prefillTokensPerS: Object.fromEntries(lengths.map((length) => [length, median(sides.map((side) => side.prefillTokensPerS[length]!))])),
  }
}

/** One side over another. */
export interface Ratio {
  readonly decode: number
  readonly prefill: Readonly<Record<string, number>>
}

export function compare(side: Side, other: Side): Ratio {
  const prefill = Object.fromEntries(Object.entries(side.prefillTokensPerS).map(([length, speed]) => [length, speed / other.prefillTokensPerS[length]!]))
  return { decode: side.decodeTokensPerS / other.decodeTokensPerS, prefill }
}

export const describe = (side: Side): string =>
  `decode ${side.decodeTokensPerS.toFixed(2)} tokens/s, prefill ${Object.entries(side.prefillTokensPerS).map(([length, speed]) => `${length}: ${speed.toFixed(0)}`).join(', ')} tokens/s`
