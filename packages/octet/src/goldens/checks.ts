/** What is held against the goldens, and against the model's own other ways, for one checkpoint. */
import { join } from 'node:path'
import { openSafetensors } from '@octet-llm/hf-loader/safetensors'
import type { Tensor } from '@octet-llm/kernels'
import type { GenerateOptions, LanguageModel } from '../language-model.js'
import { distance, divergence, equalBits } from './measures.js'
import { prefill, walk, type WalkOptions, type WalkRow } from './walk.js'

/** One thing that must hold: what is wrong, or null, and how near the bar it came. */
export interface Finding {
  readonly fault: string | null
  readonly measured?: string
}
export interface Check {
  readonly name: string
  run(): Promise<Finding>
}

/** A batch as goldens give it. */
export interface Batch {
  readonly input_ids: readonly (readonly number[])[]
  readonly attention_mask: readonly (readonly number[])[]
}

/** A float32 logit or hidden state of the goldens: what they were published with. */
const FLOAT32 = 2e-4
/** Decode against prefill in float32: 1e-4. In bf16, the bar of TransformerEngine's layer with a bf16 cache: 1.2e-1. */
const STEPS = { f32: 1e-4, bf16: 1.2e-1 } as const
/** Decode against prefill where keys, values or activations are quantized, in nats a token. */
const FP8_STEPS = { f32: 1e-3, bf16: 1e-2 } as const

/** NaN does not hold. */
const holds = (measured: number, bar: number, unit = ''): Finding => ({
  fault: measured <= bar ? null : `${measured.toExponential(2)}${unit}, bar ${bar}`,
  measured: `${measured.toExponential(2)}${unit} <= ${bar}`,
})
const same = (equal: boolean): Finding => ({ fault: equal ? null : 'differs' })

export async function read(tensor: Tensor): Promise<Float32Array> {
  try {
    return await tensor.toFloat32Array()
  } finally {
    tensor.dispose()
  }
}

/** Tensors of the checkpoint's golden.safetensors. */
export async function goldenTensor(folder: string, name: string): Promise<Float32Array> {
  const file = await openSafetensors(join(folder, 'golden.safetensors'))
  try {
    return await file.readFloat32(name)
  } finally {
    await file.close()
  }
}

/** Float32 logits of one row without pads, and that a second run gives the same bits. */
export function* logitChecks(llm: LanguageModel, folder: string, tensor: string, ids: readonly number[], batch: Batch): Generator<Check> {
  const alone = (): Promise<Float32Array> => read(llm.forward({ inputIds: [ids] }))
  yield { name: 'logits', run: async () => holds(distance(await goldenTensor(folder, tensor), await alone()), FLOAT32) }
  yield { name: 'logits twice', run: async () => same(equalBits(await alone(), await alone())) }
  yield {
    name: 'last logits of the batch',
    async run() {
      const all = await read(llm.forward({ inputIds: batch.input_ids, attentionMask: batch.attention_mask }))
      const { vocabSize: V } = llm.info
      const width = all.length / batch.input_ids.length
      const last = new Float32Array(batch.input_ids.length * V)
      for (let b = 0; b < batch.input_ids.length; b++) last.set(all.subarray((b + 1) * width - V, (b + 1) * width), b * V)
      return holds(distance(await goldenTensor(folder, 'batch.last_logits'), last), FLOAT32)
    },
  }
}

/** The hidden states of one row. */
export function* hiddenChecks(llm: LanguageModel, folder: string, ids: readonly number[]): Generator<Check> {
  yield {
    name: 'hidden states',
    async run() {
      const { logits, hiddenStates } = llm.forward({ inputIds: [ids], hiddenStates: true })
      logits.dispose()
      let most = 0
      for (const [i, state] of hiddenStates.entries()) most = Math.max(most, distance(await goldenTensor(folder, `prompt0.hidden.${i}`), await read(state)))
      return holds(most, FLOAT32)
    },
  }
}

/** Tokens of a run, and of the same run with its cache and steps in other forms. */
export function* tokenChecks(llm: LanguageModel, batch: Batch, name: string, want: readonly (readonly number[])[], options: GenerateOptions, others: Readonly<Record<string, GenerateOptions>> = {}): Generator<Check> {
  for (const [form, more] of Object.entries({ '': {}, ...others })) {
    yield { name: form === '' ? name : `${name}, ${form}`, run: async () => same(tokensEqual(await tokensOf(llm, batch, { ...options, ...more }), want)) }
  }
}

/** Draws with one seed, whatever the form: hundreds of tokens, each of which moves when a probability does. */
export function* drawChecks(llm: LanguageModel, batch: Batch, others: Readonly<Record<string, GenerateOptions>>): Generator<Check> {
  const options = { doSample: true, temperature: 1, seed: 11, maxNewTokens: 48, ignoreEos: true } as const
  for (const [form, more] of Object.entries(others)) {
    yield { name: `sampling, ${form}`, run: async () => same(tokensEqual(await tokensOf(llm, batch, { ...options, ...more }), await tokensOf(llm, batch, options))) }
  }
}

async function tokensOf(llm: LanguageModel, batch: Batch, options: GenerateOptions): Promise<number[][]> {
  const { sequences } = await llm.generate({ inputIds: batch.input_ids, attentionMask: batch.attention_mask }, options).result()
  return sequences.map((row) => row.slice(batch.input_ids[0]!.length))
}

/** Hugging Face pads every row to the longest of the run, so a want may be longer by filler. */
function tokensEqual(got: readonly (readonly number[])[], want: readonly (readonly number[])[]): boolean {
  return got.length === want.length && got.every((row, i) => row.length <= want[i]!.length && row.every((id, t) => id === want[i]![t]) && want[i]!.slice(row.length).every((id) => id === want[i]!.at(-1)))
}

/** Beam scores beside the tokens. */
export function* scoreChecks(llm: LanguageModel, batch: Batch, name: string, want: readonly number[], options: GenerateOptions): Generator<Check> {
  yield {
    name: `${name} scores`,
    async run() {
      const { scores = [] } = await llm.generate({ inputIds: batch.input_ids, attentionMask: batch.attention_mask }, options).result()
      return holds(distance(Float32Array.from(want), Float32Array.from(scores)), 1e-5)
    },
  }
}

/**
 * Recorded against eager and paged against not, to the bit; decode against prefill within the dtype's bar, or in nats a token
 * where values are quantized on the way: a code at a near-tie may go either way.
 */
export function* stepChecks(llm: LanguageModel, rows: readonly WalkRow[], dtype: 'f32' | 'bf16', weights: 'plain' | 'fp8' = 'plain'): Generator<Check> {
  const { model } = llm
  for (const kvDtype of [dtype, 'fp8'] as const) {
    const title = `${kvDtype} cache`
    const compare = async (other: WalkOptions): Promise<Finding> => {
      const [a, b] = [await walk(model, rows, { kvDtype }), await walk(model, rows, { kvDtype, ...other })]
      return same(a.length === b.length && a.every((logits, t) => equalBits(logits, b[t]!)))
    }
    yield { name: `${title}: recorded steps`, run: () => compare({ recorded: true }) }
    yield { name: `${title}: pages of 16`, run: () => compare({ isPaged: true, pageSize: 16 }) }
    yield { name: `${title}: pages of 64, recorded`, run: () => compare({ isPaged: true, pageSize: 64, recorded: true }) }
    yield {
      name: `${title}: decode against prefill`,
      async run() {
        const [steps, whole] = [await walk(model, rows, { kvDtype }), await prefill(model, rows, { kvDtype })]
        if (kvDtype !== 'fp8' && weights === 'plain') return holds(Math.max(...steps.map((logits, t) => distance(whole[t]!, logits))), STEPS[kvDtype])
        return holdsNats(whole, steps, model.info.vocabSize, FP8_STEPS[dtype])
      },
    }
  }
}

/** Prompts with their continuations, and what the float32 model gives for each of their tokens on this device. */
export class Sample {
  readonly #rows: readonly WalkRow[]
  #logits: readonly Float32Array[] = []

  constructor(rows: readonly WalkRow[]) {
    this.#rows = rows
  }

  /** Takes the logits of the float32 model, whose greedy choices the continuations must be. */
  *checks(llm: LanguageModel): Generator<Check> {
    yield {
      name: 'greedy choices of the sample',
      run: async () => {
        this.#logits = await this.#run(llm)
        const { vocabSize: V } = llm.info
        return same(this.#rows.every(({ prompt, fed }, b) => fed.every((id, t) => argmax(this.#logits[b]!, (prompt.length - 1 + t) * V, V) === id)))
      },
    }
  }

  /** How far a run in fewer bits may be from the float32 model, in nats a token: of all tokens, since one near-tie moves the mean of a few. */
  *divergence(llm: LanguageModel, name: string, bar: number): Generator<Check> {
    yield { name, run: async () => holdsNats(this.#logits, await this.#run(llm), llm.info.vocabSize, bar) }
  }

  async #run(llm: LanguageModel): Promise<Float32Array[]> {
    const logits: Float32Array[] = []
    for (const { prompt, fed } of this.#rows) logits.push(await read(llm.forward({ inputIds: [[...prompt, ...fed]] })))
    return logits
  }
}

function argmax(values: Float32Array, at: number, count: number): number {
  let best = 0
  for (let i = 1; i < count; i++) if (values[at + i]! > values[at + best]!) best = i
  return best
}

/** Mean divergence over all tokens of several runs. */
function holdsNats(want: readonly Float32Array[], got: readonly Float32Array[], vocab: number, bar: number): Finding {
  const sizes = got.map((logits) => logits.length / vocab)
  const positions = sizes.reduce((sum, n) => sum + n, 0)
  const nats = want.length === got.length ? got.reduce((sum, logits, i) => sum + divergence(want[i]!, logits, vocab) * sizes[i]!, 0) / positions : Infinity
  return holds(nats, bar, ` nats over ${positions} positions`)
}

/** Largest difference of the golden logits, for a run in fewer bits. */
export function* distanceChecks(llm: LanguageModel, name: string, want: () => Promise<Float32Array>, ids: readonly number[], bar: number): Generator<Check> {
  yield { name, run: async () => holds(distance(await want(), await read(llm.forward({ inputIds: [ids] }))), bar) }
}
