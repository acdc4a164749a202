// An FP8 checkpoint, calibrated on a text: static scales, and weights rounded so that their errors cancel on such texts.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const folder = await mkdtemp(join(tmpdir(), 'octet-'))
const [text, output] = [join(folder, 'tale.txt'), join(folder, 'fairy-gemma-fp8')]
await writeFile(text, 'Once upon a time there lived a king who had three daughters, and the youngest went into the wood.')

// #region snippet
import { loadModel, quantizeCheckpoint } from 'octet-llm'

const { bytes, rounding } = await quantizeCheckpoint('./fairy-gemma', output, { device: 'cpu', calibrate: text })
console.log(bytes.quantized / bytes.quantizedAsBf16, rounding) // 0.51 compensated

const llm = await loadModel(output, { device: 'cpu', fp8: true, kvCache: { dtype: 'e4m3' } })
console.log((await llm.generate('The king', { maxNewTokens: 16 }).result()).texts[0])
// #endregion
await llm.dispose()
await rm(folder, { recursive: true })
