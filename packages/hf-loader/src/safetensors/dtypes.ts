import type { DType } from '@octet-llm/core'

/**
 * The format's names, in the reference's alignment order (lowest first): its writer sorts tensors by this rank, highest
 * first, then by name (safetensors/src/tensor.rs, `Dtype`). A null is a type the format has and Octet does not.
 */
const TABLE: readonly (readonly [name: string, dtype: DType | null])[] = [
  ['BOOL', 'bool'],
  ['F4', null],
  ['F6_E2M3', null],
  ['F6_E3M2', null],
  ['U8', 'u8'],
  ['I8', 'i8'],
  ['F8_E5M2', 'e5m2'],
  ['F8_E4M3', 'e4m3'],
  ['F8_E8M0', 'e8m0'],
  ['F8_E4M3FNUZ', null],
  ['F8_E5M2FNUZ', null],
  ['I16', 'i16'],
  ['U16', 'u16'],
  ['F16', 'f16'],
  ['BF16', 'bf16'],
  ['I32', 'i32'],
  ['U32', 'u32'],
  ['F32', 'f32'],
  ['C64', null],
  ['F64', 'f64'],
  ['I64', 'i64'],
  ['U64', 'u64'],
]

/** Format name → dtype; null where the type is known and unsupported. */
export const DTYPE_OF_NAME: ReadonlyMap<string, DType | null> = new Map(TABLE)

const BY_DTYPE = new Map(TABLE.flatMap(([name, dtype], rank) => (dtype === null ? [] : [[dtype, { name, rank }] as const])))

/** The format's name of a dtype: `bf16` → `BF16`. */
export function nameOfDType(dtype: DType): string {
  return BY_DTYPE.get(dtype)!.name
}

/** Position in the writer's order; higher comes first in the file. */
export function rankOfDType(dtype: DType): number {
  return BY_DTYPE.get(dtype)!.rank
}
