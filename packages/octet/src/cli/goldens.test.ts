// What Hugging Face's libraries computed, through the command line: greedy, beams, penalties, stops, logits, hidden states.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openSafetensors } from '@octet-llm/hf-loader/safetensors'
import { fixture, jsonOf, octet } from '../testing/cli.test-helper.js'

let dir: string
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), 'octet-goldens-'))))
afterAll(() => rm(dir, { recursive: true, force: true }))

interface Batch {
  readonly input_ids: number[][]
  readonly attention_mask: number[][]
}

async function readGolden(folder: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(fixture(`${folder}/golden.json`), 'utf8')) as Record<string, unknown>
}

async function idsFile(name: string, batch: Partial<Batch>): Promise<string> {
  const path = join(dir, `${name.replaceAll('/', '-')}.json`)
  await writeFile(path, JSON.stringify(batch))
  return path
}

/** New tokens of each row of a `--json` run. */
async function generate(model: string, batch: Batch, ...flags: string[]): Promise<{ tokens: number[][]; scores: number[]; texts: string[] | null }> {
  const path = await idsFile(`${model}-batch`, { input_ids: batch.input_ids, attention_mask: batch.attention_mask })
  const result = await octet(['generate', '--model', fixture(model), '--input-ids', path, '--dtype', 'f32', '--json', ...flags])
  expect(flags.includes('fp8') ? '' : result.stderr).toBe('')
  expect(result.status).toBe(0)
  const { sequences, scores, texts, schemaVersion, device, kernels, timings } = jsonOf(result) as { sequences: number[][]; scores: number[]; texts: string[] | null; schemaVersion: number; device: { name: string }; kernels: Record<string, string>; timings: Record<string, number> }
  expect(schemaVersion).toBe(1)
  expect(device.name).toBe('cpu')
  expect(kernels['linear']).toBeTypeOf('string')
  for (const key of ['load_s', 'prefill_s', 'decode_s', 'tokens_per_s']) expect(timings[key]).toBeTypeOf('number')
  const width = batch.input_ids[0]!.length
  const copies = sequences.length / batch.input_ids.length
  sequences.forEach((row, i) => expect(row.slice(0, width)).toEqual(batch.input_ids[Math.floor(i / copies)]))
  return { tokens: sequences.map((row) => row.slice(width)), scores, texts }
}

/** Largest absolute difference of two tensors of two files, by name. */
async function compareTensors(pathA: string, nameA: string, pathB: string, nameB: string): Promise<number> {
  const [a, b] = await Promise.all([openSafetensors(pathA), openSafetensors(pathB)])
  try {
    const [x, y] = await Promise.all([a.readFloat32(nameA), b.readFloat32(nameB)])
    expect(x.length).toBe(y.length)
    return x.reduce((worst, value, i) => Math.max(worst, Math.abs(value - y[i]!)), 0)
  } finally {
    await Promise.all([a.close(), b.close()])
  }
}

/** Bound of a float32 logit that the goldens were published with. */
const LOGITS = 2e-4

describe.each(['fairy-gemma', 'fairy-llama'])('%s', (model) => {
  let golden: Record<string, unknown>
  let batch: Batch
  beforeAll(async () => {
    golden = await readGolden(`golden-${model}`)
    batch = golden['left_padded'] as Batch
  })

  it('writes the greedy tokens and texts from prompts', async () => {
    const prompts = golden['prompts'] as string[]
    const result = await octet(['generate', '--model', fixture(model), ...prompts.flatMap((prompt) => ['--prompt', prompt]), '--dtype', 'f32', '--max-new-tokens', '64', '--ignore-eos', '--json'])
    expect(result.stderr).toBe('')
    const { sequences, texts } = jsonOf(result) as { sequences: number[][]; texts: string[] }
    expect(sequences.map((row) => row.slice(-64))).toEqual(golden['greedy_64'])
    expect(sequences.map((row) => row.slice(0, -64))).toEqual(batch.input_ids)
    expect(texts).toEqual(golden['greedy_64_text'])
  })

  it('streams the text of one prompt', async () => {
    const [prompt] = golden['prompts'] as string[]
    const result = await octet(['generate', '--model', fixture(model), '--prompt', prompt!, '--dtype', 'f32', '--max-new-tokens', '64', '--ignore-eos'])
    expect(result.stdout).toBe(`${(golden['greedy_64_text'] as string[])[0]}\n`)
  })

  it.each([
    ['beam4', ['--num-beams', '4']],
    ['beam4_len2_early', ['--num-beams', '4', '--length-penalty', '2', '--early-stopping', 'true']],
    ['beam3_return3', ['--num-beams', '3', '--num-return-sequences', '3']],
    ['greedy_rep1.3', ['--repetition-penalty', '1.3']],
    ['greedy_no_repeat_3gram', ['--no-repeat-ngram-size', '3']],
  ])('%s', async (key, flags) => {
    const { ids, scores } = golden[key] as { ids: number[][]; scores: number[] | null }
    const run = await generate(model, batch, '--max-new-tokens', '32', '--ignore-eos', ...flags)
    expect(run.tokens).toEqual(ids)
    if (scores !== null) run.scores.forEach((score, i) => expect(Math.abs(score - scores[i]!)).toBeLessThan(1e-5))
  })

  it('writes the same op by op, with a paged cache, and with pages of another size', async () => {
    const flags = ['--max-new-tokens', '32', '--ignore-eos']
    const want = (golden['greedy_64'] as number[][]).map((row) => row.slice(0, 32))
    for (const more of [['--no-graphs'], ['--paged'], ['--paged', '--page-size', '16', '--no-graphs']]) expect((await generate(model, batch, ...flags, ...more)).tokens, more.join(' ')).toEqual(want)
  })

  it('runs in FP8, with an FP8 cache, and repeats itself', async () => {
    const flags = ['--max-new-tokens', '8', '--ignore-eos', '--fp8', '--kv-dtype', 'fp8']
    const [a, b] = [await generate(model, batch, ...flags), await generate(model, batch, ...flags)]
    expect(a.tokens).toEqual(b.tokens)
    // Not random: most first tokens are those of the full precision.
    const same = a.tokens.filter((row, i) => row[0] === (golden['greedy_64'] as number[][])[i]![0]).length
    expect(same).toBeGreaterThanOrEqual(6)
  })

  it.each([
    ['eos_is_period', []],
    ['beam4_eos_is_period', ['--num-beams', '4']],
  ])('%s', async (key, flags) => {
    const { ids, eos_token_id: eos } = golden[key] as { ids: number[][]; eos_token_id: number }
    const run = await generate(model, batch, '--max-new-tokens', '40', '--eos-token-id', String(eos), ...flags)
    // Hugging Face pads every row to the longest of the run.
    const width = run.tokens[0]!.length
    expect(run.tokens).toEqual(ids.map((row) => row.slice(0, width)))
    const filler = ids[0]!.at(-1)
    for (const row of ids) for (const id of row.slice(width)) expect(id).toBe(filler)
  })

  it('writes logits and hidden states', async () => {
    const [ids] = golden['token_ids'] as number[][]
    const output = join(dir, `${model}.safetensors`)
    const result = await octet(['logits', '--model', fixture(model), '--input-ids', await idsFile(`${model}-one`, { input_ids: [ids!] }), '--output', output, '--hidden-states', '--dtype', 'f32', '--json'])
    expect(result.stderr).toBe('')
    const { tensors } = jsonOf(result) as { tensors: Record<string, number[]> }
    expect(tensors['logits']).toEqual([1, ids!.length, 2048])
    const goldenFile = fixture(`golden-${model}/golden.safetensors`)
    expect(await compareTensors(output, 'logits', goldenFile, 'prompt0.logits')).toBeLessThan(LOGITS)
    const states = Object.keys(tensors).length - 1
    expect(states).toBe(model === 'fairy-gemma' ? 6 : 7)
    for (let i = 0; i < states; i++) expect(await compareTensors(output, `hidden.${i}`, goldenFile, `prompt0.hidden.${i}`), `hidden.${i}`).toBeLessThan(LOGITS)
  })
})

it('merges a LoRA adapter', async () => {
  const golden = await readGolden('lora-fairy-llama')
  const ids = golden['input_ids'] as number[][]
  const run = await generate('fairy-llama', { input_ids: ids, attention_mask: ids.map((row) => row.map(() => 1)) }, '--max-new-tokens', '24', '--ignore-eos', '--adapter', fixture('lora-fairy-llama'))
  expect(run.tokens).toEqual([golden['greedy_24']])
  const output = join(dir, 'lora.safetensors')
  expect((await octet(['logits', '--model', fixture('fairy-llama'), '--adapter', fixture('lora-fairy-llama'), '--input-ids', await idsFile('lora', { input_ids: ids }), '--output', output, '--dtype', 'f32'])).status).toBe(0)
  expect(await compareTensors(output, 'logits', fixture('lora-fairy-llama/golden.safetensors'), 'logits')).toBeLessThan(LOGITS)
})

const VARIANTS = ['gemma-mha256', 'gemma-mqa', 'gemma2', 'gemma3', 'llama-bias-tied', 'llama-bin-legacy', 'llama-bin-sharded', 'llama-bin-single', 'llama-headdim', 'llama-linear-rope', 'llama-rope3', 'llama-yarn', 'llama-fp8-block128', 'llama-fp8-ct-channel-dynamic', 'llama-fp8-ct-tensor-static', 'llama-fp8-fbgemm']

describe.each(VARIANTS)('%s', (variant) => {
  const model = `variants/${variant}`

  it('writes the greedy tokens of a left-padded batch', async () => {
    const golden = (await readGolden(model)) as unknown as Batch & { greedy_24: number[][] }
    const run = await generate(model, golden, '--max-new-tokens', '24', '--ignore-eos')
    expect(run.tokens).toEqual(golden.greedy_24)
    expect(run.texts).toBeNull()
  })

  it('writes the logits of the batch and of a row alone', async () => {
    const { input_ids: ids, attention_mask: mask } = (await readGolden(model)) as unknown as Batch
    const goldenFile = fixture(`${model}/golden.safetensors`)
    const batchOut = join(dir, `${variant}-batch.safetensors`)
    expect((await octet(['logits', '--model', fixture(model), '--input-ids', await idsFile(`${variant}-b`, { input_ids: ids, attention_mask: mask }), '--output', batchOut, '--dtype', 'f32'])).status).toBe(0)
    const rowOut = join(dir, `${variant}-row.safetensors`)
    expect((await octet(['logits', '--model', fixture(model), '--input-ids', await idsFile(`${variant}-r`, { input_ids: [ids[0]!] }), '--output', rowOut, '--dtype', 'f32'])).status).toBe(0)
    expect(await compareTensors(rowOut, 'logits', goldenFile, 'row0.logits')).toBeLessThan(LOGITS)
    const [batch, row, golden] = await Promise.all([openSafetensors(batchOut), openSafetensors(rowOut), openSafetensors(goldenFile)])
    const [b, r, last] = await Promise.all([batch.readFloat32('logits'), row.readFloat32('logits'), golden.readFloat32('batch.last_logits')])
    const [, width, vocab] = batch.tensors.get('logits')!.shape as [number, number, number]
    for (let i = 0; i < ids.length; i++) {
      const end = (i + 1) * width * vocab
      b.subarray(end - vocab, end).forEach((value, v) => expect(Math.abs(value - last[i * vocab + v]!)).toBeLessThan(LOGITS))
    }
    // In float32 a row does not know its batch.
    expect(Buffer.from(b.buffer, b.byteOffset, r.byteLength).equals(Buffer.from(r.buffer, r.byteOffset, r.byteLength))).toBe(true)
    await Promise.all([batch.close(), row.close(), golden.close()])
  })
})
