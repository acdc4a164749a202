// Worker threads and abrupt ends: two models at once, a hundred terminations and an exit in the middle of a prefill.
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { fixture } from './testing/cli.test-helper.js'

const INDEX = new URL('../dist/index.js', import.meta.url).href

/** Runs an ES module in a process of its own. */
function runScript(code: string): Promise<{ status: number | null; signal: string | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], { cwd: fileURLToPath(new URL('..', import.meta.url)), timeout: 300_000, killSignal: 'SIGKILL' })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => { stdout += text })
    child.stderr.setEncoding('utf8').on('data', (text: string) => { stderr += text })
    child.on('error', reject)
    child.on('close', (status, signal) => resolve({ status, signal, stdout, stderr }))
  })
}

/** A prefill that takes long enough to be hit in the middle. */
const PREFILL = `
  import { openDevice, parseConfig, TELlamaForCausalLM } from ${JSON.stringify(INDEX)}
  const device = await openDevice('cpu')
  const config = parseConfig({ model_type: 'llama', hidden_size: 256, intermediate_size: 1024, num_hidden_layers: 6, num_attention_heads: 4, head_dim: 64,
    num_key_value_heads: 2, vocab_size: 512, max_position_embeddings: 4096, tie_word_embeddings: true })
  const model = new TELlamaForCausalLM(config, { device, dtype: 'f32', seed: 1 })
  const inputIds = [Array.from({ length: 2048 }, (_, i) => i % 512)]
`

it('two workers run two models at once', async () => {
  const worker = (model: string): string => `
    import { parentPort } from 'node:worker_threads'
    import { loadModel } from ${JSON.stringify(INDEX)}
    const llm = await loadModel(${JSON.stringify(fixture(model))}, { dtype: 'f32', threads: 1 })
    const { tokens } = await llm.generate('There was once', { maxNewTokens: 40, ignoreEos: true }).result()
    await llm.dispose()
    parentPort.postMessage(tokens[0])
  `
  const { status, signal, stdout, stderr } = await runScript(`
    import { Worker } from 'node:worker_threads'
    import { loadModel } from ${JSON.stringify(INDEX)}
    const inWorker = (code) => new Promise((resolve, reject) => new Worker(new URL('data:text/javascript,' + encodeURIComponent(code))).once('message', resolve).once('error', reject))
    const both = await Promise.all([inWorker(${JSON.stringify(worker('fairy-gemma'))}), inWorker(${JSON.stringify(worker('fairy-llama'))})])
    const alone = []
    for (const model of ${JSON.stringify([fixture('fairy-gemma'), fixture('fairy-llama')])}) {
      const llm = await loadModel(model, { dtype: 'f32' })
      alone.push((await llm.generate('There was once', { maxNewTokens: 40, ignoreEos: true }).result()).tokens[0])
      await llm.dispose()
    }
    console.log(JSON.stringify({ both, alone }))
  `)
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  const { both, alone } = JSON.parse(stdout) as { both: number[][]; alone: number[][] }
  expect(both[0]).toHaveLength(40)
  expect(both).toEqual(alone)
})

it('a hundred workers end in the middle of a prefill', async () => {
  const worker = `
    import { parentPort } from 'node:worker_threads'
    ${PREFILL}
    parentPort.postMessage('ready')
    await model.generate({ inputIds, maxNewTokens: 1 })
    parentPort.postMessage('finished')
  `
  const { status, signal, stdout, stderr } = await runScript(`
    import { Worker } from 'node:worker_threads'
    let finished = 0
    const one = (i) => new Promise((resolve, reject) => {
      const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(worker)})))
      worker.on('error', reject)
      worker.on('message', (message) => {
        if (message === 'finished') finished += 1
        else setTimeout(() => worker.terminate().then(resolve, reject), i % 25)
      })
    })
    for (let i = 0; i < 100; i += 2) await Promise.all([one(i), one(i + 1)])
    console.log(JSON.stringify({ finished }))
  `)
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  // Otherwise nothing was in flight when the workers ended.
  expect((JSON.parse(stdout) as { finished: number }).finished).toBeLessThan(20)
}, 300_000)

it('the process exits in the middle of a prefill', async () => {
  const { status, signal, stdout, stderr } = await runScript(`
    ${PREFILL}
    model.generate({ inputIds, maxNewTokens: 1 }).then(() => console.log('finished'))
    setTimeout(() => process.exit(3), 10)
  `)
  expect({ status, signal, stdout, stderr }).toEqual({ status: 3, signal: null, stdout: '', stderr: '' })
})

it('require() loads the package, since no module awaits at its top level', async () => {
  const { status, stdout, stderr } = await runScript(`
    import { createRequire } from 'node:module'
    const require = createRequire(${JSON.stringify(INDEX)})
    console.log(typeof require(${JSON.stringify(fileURLToPath(INDEX))}).loadModel)
  `)
  expect({ status, stdout: stdout.trim(), stderr: stderr.includes('ERR_') }).toEqual({ status: 0, stdout: 'function', stderr: false })
})
