/**
 * The peer's side of `octet bench cpu`, in a process of its own: node-llama-cpp on a GGUF.
 * Usage: node peer-runner.js FOLDER_WITH_NODE_MODULES GGUF THREADS NEW_TOKENS PROMPT_LENGTH…
 * Prints one JSON object: prefill seconds by prompt length, and decode tokens per second after the first prompt.
 */
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

interface Sequence {
  evaluate(tokens: number[], options: object): AsyncIterable<number>
  clearHistory(): Promise<void>
}
interface Peer {
  getLlama(options: object): Promise<{ loadModel(options: object): Promise<{ createContext(options: object): Promise<{ getSequence(): Sequence }> }> }>
}

/** Seconds to the first new token, and from it to the last. */
async function timeOne(sequence: Sequence, promptLength: number, newTokens: number): Promise<{ prefill: number; decode: number }> {
  const tokens = Array.from({ length: promptLength }, (_, i) => 300 + ((i * 7919) % 200))
  const start = performance.now()
  let first = start
  let count = 0
  for await (const _ of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
    if (count === 0) first = performance.now()
    if (++count > newTokens) break
  }
  const end = performance.now()
  await sequence.clearHistory()
  return { prefill: (first - start) / 1e3, decode: (end - first) / 1e3 }
}

async function run(folder: string, gguf: string, threads: number, newTokens: number, prompts: number[]): Promise<void> {
  const installed = join(resolve(folder), 'node_modules', 'node-llama-cpp')
  const { version } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as { version: string }
  const { getLlama } = (await import(pathToFileURL(join(installed, 'dist', 'index.js')).href)) as Peer
  const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: threads })
  const model = await llama.loadModel({ modelPath: gguf, gpuLayers: 0 })
  const contextSize = Math.max(...prompts) + newTokens + 8
  const context = await model.createContext({ sequences: 1, contextSize, batchSize: Math.max(512, ...prompts), threads })
  const sequence = context.getSequence()
  await timeOne(sequence, 16, 4)
  const prefill: Record<string, number> = {}
  let decode = 0
  for (const [i, length] of prompts.entries()) {
    const times = await timeOne(sequence, length, i === 0 ? newTokens : 1)
    prefill[String(length)] = length / times.prefill
    if (i === 0) decode = newTokens / times.decode
  }
  process.stdout.write(`${JSON.stringify({ peer: `node-llama-cpp ${version}`, decodeTokensPerS: decode, prefillTokensPerS: prefill })}\n`)
}

const [folder, gguf, threads, newTokens, ...prompts] = process.argv.slice(2)
// The peer keeps handles open, so the process has to be told that it is done.
run(folder!, gguf!, Number(threads), Number(newTokens), prompts.map(Number)).then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
    process.exit(1)
  },
)
