import { OctetError } from '@octet-llm/core'
import { Tensor, type Device } from '@octet-llm/kernels'

import type { QkvFormat } from './options.js'

/** What a step's keys and values must look like. */
export interface StepShape {
  readonly format: QkvFormat
  /** New tokens of each row. */
  readonly counts: readonly number[]
  readonly totalTokens: number
  readonly heads: number
  readonly headDim: number
}

/** Tokens (pads included) of `shape`. @throws OctetError `SHAPE_MISMATCH` */
export function checkTokens(step: StepShape, argument: string, shape: readonly number[]): number {
  const leading = step.format === 'thd' ? 1 : 2
  const [first = 0, second = 0] = shape
  const [batch, width] = step.format === 'bshd' ? [first, second] : [second, first]
  const longest = Math.max(0, ...step.counts)
  const tail = shape.slice(leading)
  const tailFits = tail.length === 2 && tail[0] === step.heads && tail[1] === step.headDim
  const leadFits = step.format === 'thd' ? first === step.totalTokens : batch === step.counts.length && width >= longest
  if (tailFits && leadFits) return step.format === 'thd' ? first : first * second
  const lead = { thd: `${step.totalTokens}`, bshd: `${step.counts.length}, S >= ${longest}`, sbhd: `S >= ${longest}, ${step.counts.length}` }
  throw new OctetError('SHAPE_MISMATCH', {
    op: 'InferenceParams.step',
    argument,
    expected: `[${lead[step.format]}, ${step.heads}, ${step.headDim}] (${step.format})`,
    received: `[${shape.join(', ')}]`,
  })
}

/**
 * Row and position of every token of a padded layout, i32 [tokens]; pads get position -1, which kvAppend skips.
 * `undefined` when the tokens lie exactly as the packed arrays say.
 */
export function paddedIndex(
  step: StepShape,
  tokens: number,
  preStepSeqlens: Int32Array,
  device: Device,
): { rowOf: Tensor; positions: Tensor } | undefined {
  const batch = step.counts.length
  const width = tokens / batch
  const inOrder = step.format !== 'sbhd' || batch === 1 || width === 1
  if (step.format === 'thd' || (inOrder && tokens === step.totalTokens)) return undefined
  const rowOf = new Int32Array(tokens)
  const positions = new Int32Array(tokens).fill(-1)
  for (let row = 0; row < batch; row++) {
    for (let j = 0; j < width; j++) {
      const token = step.format === 'bshd' ? row * width + j : j * batch + row
      rowOf[token] = row
      if (j < step.counts[row]!) positions[token] = preStepSeqlens[row]! + j
    }
  }
  const upload = (data: Int32Array) => Tensor.from(data, { shape: [tokens], dtype: 'i32', device })
  return { rowOf: upload(rowOf), positions: upload(positions) }
}
