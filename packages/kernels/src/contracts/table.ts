import { activation } from './activation.js'
import { add } from './add.js'
import { advanceDecode } from './advance-decode.js'
import { amax } from './amax.js'
import { argmax } from './argmax.js'
import { attention } from './attention.js'
import { attentionDense } from './attention-dense.js'
import { cast } from './cast.js'
import { compensate } from './compensate.js'
import type { OpContract } from './contract.js'
import { copy } from './copy.js'
import { dequantize } from './dequantize.js'
import { embedding } from './embedding.js'
import { fill } from './fill.js'
import { gatedActivation } from './gated-activation.js'
import { gatherRows } from './gather-rows.js'
import { gram } from './gram.js'
import { kvAppend } from './kv-append.js'
import { layerNorm } from './layer-norm.js'
import { linear } from './linear.js'
import { logSoftmax } from './log-softmax.js'
import { quantize } from './quantize.js'
import { randomWeights } from './random-weights.js'
import { readFile } from './read-file.js'
import { rmsNorm } from './rms-norm.js'
import { rope } from './rope.js'
import { ropeKvAppend } from './rope-kv-append.js'
import { sample } from './sample.js'
import { scale } from './scale.js'
import { scatterRows } from './scatter-rows.js'
import { softcap } from './softcap.js'
import { updateScale } from './update-scale.js'

/** Every op's contract, in the order of the op table. */
export const CONTRACTS: readonly OpContract[] = [
  fill,
  copy,
  cast,
  add,
  scale,
  softcap,
  embedding,
  gatherRows,
  scatterRows,
  rmsNorm,
  layerNorm,
  linear,
  activation,
  gatedActivation,
  rope,
  kvAppend,
  ropeKvAppend,
  attention,
  attentionDense,
  argmax,
  logSoftmax,
  sample,
  amax,
  quantize,
  dequantize,
  randomWeights,
  readFile,
  advanceDecode,
  updateScale,
  gram,
  compensate,
]
