// What surrounds speed on a device: loading from the page cache, load and dispose again and again, what cannot fit, extremes.
//   node bench/limits.mjs [--config llama-3-8b] [--device cuda] [--dir /dev/shm/octet-load] [--cycles 20] [--octet PATH/dist/index.js]
// One JSON line a figure. --dir takes the checkpoint's size (16 GB for llama-3-8b); it is removed at the end.
import { mkdir, rm, stat, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { pathToFileURL } from 'node:url'

const text = (value) => ({ type: 'string', default: value })
const { values } = parseArgs({
  options: { octet: text(join(import.meta.dirname, '../packages/octet/dist/index.js')), config: text('llama-3-8b'), device: text('cuda'), dir: text('/dev/shm/octet-load'), cycles: text('20'), long: text('8000'), wide: text('256') },
})
const octet = await import(pathToFileURL(resolve(values.octet)).href)
const { RANDOM_MODELS, loadModel, openDevice, randomModel, writeSafetensors } = octet
const { config, dir } = values
const [cycles, long, wide] = [values.cycles, values.long, values.wide].map(Number)
const out = (row) => process.stdout.write(`${JSON.stringify({ bench: 'limits', config, device: values.device, ...row })}\n`)
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1]
const device = await openDevice(values.device)
const json = Object.hasOwn(RANDOM_MODELS, config) ? RANDOM_MODELS[config] : null

async function loading() {
  const model = await randomModel(config, { device })
  const slots = model.model.slots()
  await model.dispose()
  const block = new Uint16Array(1 << 20).map((_, i) => 0x3c00 ^ ((i * 40503) & 0x83ff))
  const bytes = new Uint8Array(block.buffer)
  function* data(left) {
    for (; left > 0; left -= bytes.byteLength) yield left < bytes.byteLength ? bytes.subarray(0, left) : bytes
  }
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'config.json'), JSON.stringify(json ?? model.model.config.raw))
  const path = join(dir, 'model.safetensors')
  await writeSafetensors(path, slots.map(({ name, shape }) => ({ name, shape, dtype: 'bf16', data: () => data(2 * shape.reduce((a, b) => a * b, 1)) })), { metadata: { format: 'pt' } })
  const { size } = await stat(path)
  for (const fp8 of [false, true]) {
    const seconds = []
    for (let i = 0; i < 3; i++) {
      const llm = await loadModel(dir, { device, fp8 })
      seconds.push(llm.loadSeconds)
      await llm.dispose()
    }
    out({ what: 'load from the page cache', fp8, bytes: size, seconds: median(seconds), firstSeconds: seconds[0], GBPerS: size / median(seconds) / 1e9 })
  }
  await rm(dir, { recursive: true, force: true })
}

async function leaks() {
  const held = []
  for (let i = 0; i < cycles; i++) {
    const llm = await randomModel(config, { device, fp8: i % 2 === 1 })
    await llm.generate({ inputIds: [[5, 6, 7]] }, { maxNewTokens: 9, ignoreEos: true }).result()
    await llm.dispose()
    device.emptyCache()
    held.push({ ...device.memoryStats(), available: device.availableBytes })
  }
  const settled = held.slice(2)
  out({ what: `${cycles} cycles of load, generate, dispose`, allocatedBytes: settled.at(-1).allocatedBytes, reservedBytes: settled.at(-1).reservedBytes, lostBytes: settled[0].available - settled.at(-1).available })
}

async function extremes() {
  const llm = await randomModel(config, { device, fp8: true })
  const ids = (rows, length) => Array.from({ length: rows }, (_, b) => Array.from({ length }, (_, i) => 5 + ((i * 31 + b * 7) % Math.min(20000, llm.info.vocabSize - 5))))
  const run = async (rows, length, maxNewTokens) => {
    const { tokens, timings } = await llm.generate({ inputIds: ids(rows, length) }, { maxNewTokens, ignoreEos: true, seed: 1 }).result()
    out({ what: `${rows} x ${length} tokens`, newTokens: tokens.map((row) => row.length).reduce((a, b) => Math.max(a, b)), prefillMs: timings.prefill_s * 1e3, decodeMs: timings.decode_s * 1e3 })
  }
  await run(1, 1, 8)
  await run(3, 1, 8)
  await run(1, long, 8)
  await run(wide, 20, 8)
  const before = device.availableBytes
  const refused = await llm.generate({ inputIds: ids(wide, long) }, { maxNewTokens: 8 }).result().then(() => null, (error) => error)
  out({ what: `${wide} x ${long} tokens refused`, code: refused?.code ?? null, message: refused?.message ?? null, freeBytes: before, freeAfter: device.availableBytes })
  await run(2, 20, 4)
  await llm.dispose()
}

for (const part of [leaks, extremes, loading]) {
  await part().catch((error) => out({ what: part.name, error: String(error.stack ?? error).slice(0, 600) }))
}
await device.dispose()
