import { E4M3_TO_F32, E5M2_TO_F32, f16ToF32, type DType } from '@octet-llm/core'

/** e8m0 is a bare exponent: 2^(byte-127), 255 is NaN. */
const E8M0_TO_F32 = Float32Array.from({ length: 256 }, (_, byte) => (byte === 255 ? NaN : 2 ** (byte - 127)))

let f16Table: Float32Array | undefined

/** Every f16 code decoded once: 256 KiB, made at the first f16 tensor. */
function f16ToF32Table(): Float32Array {
  f16Table ??= Float32Array.from({ length: 65536 }, (_, bits) => f16ToF32(bits))
  return f16Table
}

function lookUp(codes: Uint8Array | Uint16Array, table: Float32Array, out: Float32Array): void {
  for (let i = 0; i < codes.length; i++) out[i] = table[codes[i]!]!
}

function setBigInts(values: BigInt64Array | BigUint64Array, out: Float32Array): void {
  for (let i = 0; i < values.length; i++) out[i] = Number(values[i])
}

/**
 * Decodes little-endian elements to float32: exact for every float type but f64, which rounds to nearest as integers
 * past 2^24 do.
 * @param bytes whole elements; its `byteOffset` is a multiple of the item size.
 * @param out one slot an element.
 */
export function toFloat32(bytes: Uint8Array, dtype: DType, out: Float32Array): void {
  const { buffer, byteOffset, byteLength } = bytes
  switch (dtype) {
    case 'f32':
      return void new Uint8Array(out.buffer, out.byteOffset, byteLength).set(bytes)
    case 'bf16': {
      const codes = new Uint16Array(buffer, byteOffset, byteLength / 2)
      const bits = new Uint32Array(out.buffer, out.byteOffset, out.length)
      for (let i = 0; i < codes.length; i++) bits[i] = codes[i]! << 16
      return
    }
    case 'f16':
      return lookUp(new Uint16Array(buffer, byteOffset, byteLength / 2), f16ToF32Table(), out)
    case 'e4m3':
      return lookUp(bytes, E4M3_TO_F32, out)
    case 'e5m2':
      return lookUp(bytes, E5M2_TO_F32, out)
    case 'e8m0':
      return lookUp(bytes, E8M0_TO_F32, out)
    case 'f64':
      return out.set(new Float64Array(buffer, byteOffset, byteLength / 8))
    case 'i64':
      return setBigInts(new BigInt64Array(buffer, byteOffset, byteLength / 8), out)
    case 'u64':
      return setBigInts(new BigUint64Array(buffer, byteOffset, byteLength / 8), out)
    case 'i32':
      return out.set(new Int32Array(buffer, byteOffset, byteLength / 4))
    case 'u32':
      return out.set(new Uint32Array(buffer, byteOffset, byteLength / 4))
    case 'i16':
      return out.set(new Int16Array(buffer, byteOffset, byteLength / 2))
    case 'u16':
      return out.set(new Uint16Array(buffer, byteOffset, byteLength / 2))
    case 'i8':
      return out.set(new Int8Array(buffer, byteOffset, byteLength))
    case 'u8':
    case 'bool':
      return out.set(bytes)
  }
}
