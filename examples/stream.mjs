// A chat, token by token, that can be aborted.
import { loadModel } from 'octet-llm'

const llm = await loadModel('./fairy-gemma')
// #region snippet
const signal = AbortSignal.timeout(60_000)
const run = llm.generate([{ role: 'user', content: 'A tale' }], { maxNewTokens: 200, temperature: 0.8, seed: 1, signal })
for await (const delta of run.textStream) process.stdout.write(delta)
console.log((await run.result()).timings)
// #endregion
await llm.dispose()
