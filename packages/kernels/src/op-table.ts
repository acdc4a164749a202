/**
 * The op table in ABI order, as native/include/octet/ops.def has it. Both sides compare {@link opTableHash} when the
 * addon is loaded.
 */
export const OP_NAMES = [
  'fill',
  'copy',
  'cast',
  'add',
  'scale',
  'softcap',
  'embedding',
  'gatherRows',
  'scatterRows',
  'rmsNorm',
  'layerNorm',
  'linear',
  'activation',
  'gatedActivation',
  'rope',
  'kvAppend',
  'ropeKvAppend',
  'attention',
  'attentionDense',
  'argmax',
  'logSoftmax',
  'sample',
  'amax',
  'quantize',
  'dequantize',
  'randomWeights',
  'readFile',
  'advanceDecode',
] as const

export type OpName = (typeof OP_NAMES)[number]

/** Index of each op in the native table. */
export const OP_INDEX = Object.fromEntries(OP_NAMES.map((name, i) => [name, i])) as Readonly<Record<OpName, number>>

/** 32-bit FNV-1a of the names, each followed by a comma. */
export function opTableHash(names: readonly string[] = OP_NAMES): number {
  let hash = 2166136261
  for (const char of names.map((name) => `${name},`).join('')) {
    hash = Math.imul(hash ^ char.charCodeAt(0), 16777619)
  }
  return hash >>> 0
}
