import { OctetError, f32ToBf16, f32ToE4m3, f32ToE5m2, f32ToF16 } from '@octet-llm/core'
import type { TensorDType } from './dtype-codes.js'

/** Host numbers that a tensor can be made from. */
export type TensorData =
  | readonly number[]
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array

const INT_RANGE = {
  i32: [-2147483648, 2147483647],
  u8: [0, 255],
  i64: [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
} as const

type Words = Float32Array | Float64Array | Uint16Array | Uint8Array | Int32Array | BigInt64Array

/**
 * The bytes of `data` as `dtype`. Narrow floats round to nearest even through float32, FP8 saturates, NaN becomes the
 * canonical code; `bool` stores 1 for every non-zero.
 * @throws OctetError `INVALID_ARGUMENT` when an integer dtype gets a value that it cannot hold.
 */
export function encodeNumbers(data: TensorData, dtype: TensorDType, op: string): Uint8Array {
  const words = convert(data, dtype, op)
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
}

function convert(data: TensorData, dtype: TensorDType, op: string): Words {
  switch (dtype) {
    case 'f32':
      return data instanceof Float32Array ? data : Float32Array.from(data)
    case 'f64':
      return data instanceof Float64Array ? data : Float64Array.from(data)
    case 'bf16':
      return map(new Uint16Array(data.length), data, f32ToBf16)
    case 'f16':
      return map(new Uint16Array(data.length), data, f32ToF16)
    case 'e4m3':
      return map(new Uint8Array(data.length), data, f32ToE4m3)
    case 'e5m2':
      return map(new Uint8Array(data.length), data, f32ToE5m2)
    case 'bool':
      return map(new Uint8Array(data.length), data, (v) => (v === 0 ? 0 : 1))
    case 'i32':
      if (data instanceof Int32Array) return data
      return map(new Int32Array(data.length), data, (v, i) => whole(v, i, 'i32', op))
    case 'u8':
      if (data instanceof Uint8Array) return data
      return map(new Uint8Array(data.length), data, (v, i) => whole(v, i, 'u8', op))
    case 'i64': {
      const out = new BigInt64Array(data.length)
      for (let i = 0; i < data.length; i++) out[i] = BigInt(whole(data[i]!, i, 'i64', op))
      return out
    }
  }
}

function map<T extends Uint16Array | Uint8Array | Int32Array>(out: T, data: TensorData, fn: (value: number, index: number) => number): T {
  for (let i = 0; i < data.length; i++) out[i] = fn(data[i]!, i)
  return out
}

function whole(value: number, index: number, dtype: keyof typeof INT_RANGE, op: string): number {
  const [min, max] = INT_RANGE[dtype]
  if (Number.isInteger(value) && value >= min && value <= max) return value
  throw new OctetError('INVALID_ARGUMENT', { op, argument: `data[${index}]`, expected: `a whole number of ${dtype}`, received: String(value) })
}
