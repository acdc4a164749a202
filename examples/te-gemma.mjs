// te_gemma's own shape: tokens in, tokens out.
import { openDevice } from '@octet-llm/kernels'
import { TEGemmaForCausalLM } from '@octet-llm/models-gemma'

const device = await openDevice('auto')
const inputIds = [[0, 0, 2, 432, 1639], [2, 1590, 416, 790, 353]]
const attentionMask = [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
// #region snippet
const model = await TEGemmaForCausalLM.fromPretrained('./fairy-gemma', { device })
const { sequences } = await model.generate({ inputIds, attentionMask, maxNewTokens: 64 })
const logits = model.forward({ inputIds, attentionMask }) // Tensor [B, T, V]; enqueued, read it with await
// #endregion
console.log(sequences.map((row) => row.length), logits.shape, (await logits.toFloat32Array()).length)
logits.dispose()
await model.dispose()
await device.dispose()
