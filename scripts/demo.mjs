// npm run demo: builds what is stale, then tells a tale with the embedded checkpoint and says how fast and on what.
import { join } from 'node:path'
import { build } from './lib/build.mjs'
import { fail, root } from './lib/proc.mjs'
import { nodeProblem } from './lib/toolchain.mjs'

const tooOld = nodeProblem()
if (tooOld !== null) fail(tooOld)
try {
  await build((line) => process.stderr.write(`${line}\n`))
} catch (error) {
  fail(error.message)
}

const { loadModel } = await import('../packages/octet/dist/index.js')
const prompt = 'Once upon a time there lived'
const llm = await loadModel(join(root, 'fixtures', 'fairy-gemma'))
process.stdout.write(`\n${prompt}`)
const run = llm.generate(prompt, { maxNewTokens: 220, temperature: 0.7, topP: 0.9, repetitionPenalty: 1.1, seed: 11 })
for await (const delta of run.textStream) process.stdout.write(delta)
const { usage, timings } = await run.result()
const { device } = llm
/** `avx512bf16` where one variant runs all ops, else each variant with its ops. */
function describeKernels(kernels) {
  const byVariant = new Map()
  for (const [op, variant] of Object.entries(kernels)) byVariant.set(variant, [...(byVariant.get(variant) ?? []), op])
  const [first, ...others] = byVariant
  if (others.length === 0) return `${first[0]} for all ${first[1].length} ops`
  return [...byVariant].map(([variant, ops]) => `${variant}: ${ops.join(' ')}`).join('; ')
}
process.stdout.write(`

model    ${llm.info.modelType}, ${llm.info.numLayers} layers, ${llm.info.dtype}; loaded in ${llm.loadSeconds.toFixed(2)} s
speed    ${Math.round(timings.tokens_per_s)} tokens/s (${usage.completionTokens} new tokens)
device   ${device.name}, ${device.isa}, ${device.threads} threads
kernels  ${describeKernels(device.kernels())}
`)
await llm.dispose()
