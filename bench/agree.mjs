// Our half of the comparison with Hugging Face: logits, greedy tokens and hashes of weights of a model with random weights.
//   node bench/agree.mjs DIR CONFIG [--octet PATH/dist/index.js] [--device cuda] [--seed 0] [--batch 4] [--prompt 48] [--new-tokens 32]
// Writes DIR/NAME.json and DIR/NAME.f32 (logits [B, T, V]); bench/agree.py reads them.
import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { pathToFileURL } from 'node:url'

const text = (value) => ({ type: 'string', default: value })
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { octet: text(join(import.meta.dirname, '../packages/octet/dist/index.js')), device: text('cuda'), seed: text('0'), batch: text('4'), prompt: text('48'), 'new-tokens': text('32') },
})
const [dir, config] = positionals
const { RANDOM_MODELS, randomModel } = await import(pathToFileURL(resolve(values.octet)).href)
const [seed, batch, length, newTokens] = [values.seed, values.batch, values.prompt, values['new-tokens']].map(Number)

const llm = await randomModel(config, { device: values.device, dtype: 'bf16', seed })
const { vocabSize, numLayers } = llm.info
const inputIds = Array.from({ length: batch }, (_, b) => Array.from({ length }, (_, i) => 3 + ((i * 7919 + b * 104729) % (vocabSize - 3))))
const logits = llm.model.forward({ inputIds })
const bytes = await logits.toBytes()
logits.dispose()
const { tokens } = await llm.generate({ inputIds }, { maxNewTokens: newTokens, ignoreEos: true }).result()
const again = await llm.generate({ inputIds }, { maxNewTokens: newTokens, ignoreEos: true, graphs: false }).result()
const layers = [0, numLayers - 1].map((layer) => `model.layers.${layer}.`)
const hashes = {}
for (const { name } of llm.model.slots()) {
  if (!layers.some((layer) => name.startsWith(layer)) && name !== 'lm_head.weight') continue
  hashes[name] = createHash('sha256').update(await llm.model.parameter(name).toBytes()).digest('hex')
}
const name = Object.hasOwn(RANDOM_MODELS, config) ? config : basename(resolve(config, '..'))
await mkdir(dir, { recursive: true })
await writeFile(join(dir, `${name}.f32`), bytes)
const json = Object.hasOwn(RANDOM_MODELS, config) ? RANDOM_MODELS[config] : llm.model.config.raw
await writeFile(join(dir, `${name}.json`), JSON.stringify({ name, config: json, seed, inputIds, tokens, eagerTokens: again.tokens, vocabSize, hashes }))
await llm.dispose()
