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
const start = performance.now()
const llm = await loadModel(join(root, 'fixtures', 'fairy-gemma'))
process.stdout.write(`\n${prompt}`)
const run = llm.generate(prompt, { maxNewTokens: 220, temperature: 0.7, topP: 0.9, repetitionPenalty: 1.1, seed: 11 })
for await (const delta of run.textStream) process.stdout.write(delta)
const { usage, timings } = await run.result()
const { device } = llm
const kernels = Object.entries(device.kernels()).map(([op, variant]) => `${op} ${variant}`)
process.stdout.write(`

model    ${llm.info.modelType}, ${llm.info.numLayers} layers, ${llm.info.dtype}; ready in ${((performance.now() - start) / 1000).toFixed(1)} s
speed    ${Math.round(timings.tokensPerS)} tokens/s (${usage.newTokens} new tokens)
device   ${device.name}, ${device.isa}, ${device.threads} threads
kernels  ${kernels.join(', ')}
`)
await llm.dispose()
