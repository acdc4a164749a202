/** The same tokens through a model's cache in several ways: as one prefill, step by step, by a recorded step. */
import { Tensor } from '@octet-llm/kernels'
import type { InferenceParams } from '@octet-llm/kv-cache'
import { Workspace, type CausalLM } from '@octet-llm/transformer'

/** Tokens of a sequence: what is prefilled, then what is fed one by one. */
export interface WalkRow {
  readonly prompt: readonly number[]
  readonly fed: readonly number[]
}

export interface WalkOptions {
  readonly kvDtype?: 'f32' | 'bf16' | 'fp8'
  readonly isPaged?: boolean
  readonly pageSize?: number
  /** Decode by one recorded step in a bucket of the next power of two. */
  readonly recorded?: boolean
}

/** Logits [fed + 1][B * V]: after the prompt, and after each token fed. Every row is fed the same number of tokens. */
export async function walk(model: CausalLM, rows: readonly WalkRow[], options: WalkOptions = {}): Promise<Float32Array[]> {
  const params = paramsFor(model, rows, options)
  try {
    params.preStep(new Map(rows.map(({ prompt }, b) => [b, prompt.length])))
    const seen = [await step(model, params, rows.flatMap(({ prompt }) => [...prompt]), 'last')]
    const decode = options.recorded === true ? await record(model, params, rows) : (next: readonly number[]) => eager(model, params, next)
    const { length } = rows[0]!.fed
    try {
      for (let t = 0; t < length; t++) seen.push(await decode(rows.map(({ fed }) => fed[t]!)))
    } finally {
      if ('dispose' in decode) await (decode as Recorded).dispose()
    }
    return seen
  } finally {
    params.dispose()
  }
}

/** What {@link walk} gives, out of one prefill of all tokens. */
export async function prefill(model: CausalLM, rows: readonly WalkRow[], options: WalkOptions = {}): Promise<Float32Array[]> {
  const params = paramsFor(model, rows, options)
  const { vocabSize: V } = model.info
  try {
    const whole = rows.map(({ prompt, fed }) => [...prompt, ...fed])
    params.preStep(new Map(whole.map((ids, b) => [b, ids.length])))
    const all = await step(model, params, whole.flat(), 'all')
    const { length } = rows[0]!.fed
    const ends = whole.map((_, b) => whole.slice(0, b + 1).reduce((sum, ids) => sum + ids.length, 0))
    return Array.from({ length: length + 1 }, (_, t) => {
      const logits = new Float32Array(rows.length * V)
      ends.forEach((end, b) => logits.set(all.subarray((end - length + t - 1) * V, (end - length + t) * V), b * V))
      return logits
    })
  } finally {
    params.dispose()
  }
}

function paramsFor(model: CausalLM, rows: readonly WalkRow[], { kvDtype, isPaged, pageSize }: WalkOptions): InferenceParams {
  const maxSequenceLength = Math.max(...rows.map(({ prompt, fed }) => prompt.length + fed.length))
  return model.createInferenceParams({ maxBatchSize: rows.length, maxSequenceLength, ...(kvDtype && { kvDtype }), ...(isPaged !== undefined && { isPaged }), ...(pageSize !== undefined && { pageSize }) })
}

async function step(model: CausalLM, params: InferenceParams, ids: readonly number[], logits: 'last' | 'all'): Promise<Float32Array> {
  using tokens = Tensor.from(Int32Array.from(ids), { shape: [ids.length], dtype: 'i32', device: model.device })
  using out = model.step(tokens, params, { logits })
  return await out.toFloat32Array()
}

function eager(model: CausalLM, params: InferenceParams, next: readonly number[]): Promise<Float32Array> {
  params.preStep(new Map(next.map((_, b) => [b, 1])))
  return step(model, params, next, 'last')
}

type Recorded = ((next: readonly number[]) => Promise<Float32Array>) & { dispose(): Promise<void> }

async function record(model: CausalLM, params: InferenceParams, rows: readonly WalkRow[]): Promise<Recorded> {
  const width = 2 ** Math.ceil(Math.log2(rows.length))
  const ones = new Map(rows.map((_, b) => [b, 1]))
  if (model.prepareCapture?.(params.maxSequenceLength) !== true) throw new Error('the model cannot be recorded')
  const input = Tensor.zeros([width], { dtype: 'i32', device: model.device })
  params.beginDecode(ones, width)
  const graph = model.device.queue.capture(() => model.step(input, params, { logits: 'last', workspace: new Workspace(model.device) }))
  params.endDecode(new Map())
  const decode = async (next: readonly number[]): Promise<Float32Array> => {
    params.beginDecode(ones, width)
    input.write(Int32Array.from({ length: width }, (_, b) => next[b] ?? 0))
    graph.replay()
    const all = await graph.value.toFloat32Array()
    params.endDecode(ones)
    return all.slice(0, next.length * model.info.vocabSize)
  }
  const dispose = async (): Promise<void> => {
    await graph.dispose()
    input.dispose()
  }
  return Object.assign(decode, { dispose })
}
