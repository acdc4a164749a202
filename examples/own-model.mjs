// A transformer layer in a model of your own.
// #region snippet
import { openDevice, Tensor } from '@octet-llm/kernels'
import { TransformerLayer } from '@octet-llm/transformer'

const device = await openDevice('auto')
const layer = new TransformerLayer({ hiddenSize: 64, ffnHiddenSize: 256, numAttentionHeads: 4, device, dtype: 'bf16', seed: 1 })
const x = Tensor.from(new Float32Array(8 * 64), { shape: [1, 8, 64], dtype: 'bf16', device })
const y = layer.forward(x)
console.log((await y.toFloat32Array()).length)
// #endregion
await device.dispose()
