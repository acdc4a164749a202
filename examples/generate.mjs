// Run in a folder that holds the checkpoint: cd fixtures && node ../examples/generate.mjs
// #region snippet
import { loadModel } from 'octet-llm'

const llm = await loadModel('./fairy-gemma')
const { text, usage } = await llm.generate('Once upon a time').result()
console.log(text, usage)
await llm.dispose()
// #endregion
