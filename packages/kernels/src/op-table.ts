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
  'updateScale',
  'gram',
  'compensate',
] as const

export type OpName = (typeof OP_NAMES)[number]

/** Index of each op in the native table. */
export const OP_INDEX = Object.fromEntries(OP_NAMES.map((name, i) => [name, i])) as Readonly<Record<OpName, number>>

/**
 * Raised, with `kAbiRevision` of native/include/octet/op.h, whenever a function of the addon or an argument that crosses
 * changes its meaning.
 */
export const ABI_REVISION = 4

/** 32-bit FNV-1a of the revision and the names, each followed by a comma. */
export function opTableHash(names: readonly string[] = OP_NAMES, revision: number = ABI_REVISION): number {
  let hash = 2166136261
  for (const char of [revision, ...names].map((word) => `${word},`).join('')) {
    hash = Math.imul(hash ^ char.charCodeAt(0), 16777619)
  }
  return hash >>> 0
}
