import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from '@octet-llm/kernels'
import { loadModel } from './load-model.js'
import type { Prompt } from './language-model.js'
import { fixture } from './testing/cli.test-helper.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const GEMMA = fixture('fairy-gemma')
const TINY = fixture('variants/llama-rope3')

describe('loadModel', () => {
  it('takes the dtype of the checkpoint, or the one it is told', async () => {
    const auto = await loadModel(GEMMA, { device })
    expect(auto.info.dtype).toBe('bf16')
    await auto.dispose()
    const f32 = await loadModel(GEMMA, { device, dtype: 'f32' })
    expect(f32.info.dtype).toBe('f32')
    await f32.dispose()
  })

  it('tells how far it is, up to the end', async () => {
    const seen: { doneBytes: number; totalBytes: number }[] = []
    const llm = await loadModel(TINY, { device, onProgress: (progress) => seen.push(progress) })
    expect(seen.length).toBeGreaterThan(5)
    expect(seen.at(-1)!.doneBytes).toBe(seen.at(-1)!.totalBytes)
    expect(seen.every(({ doneBytes }, i) => i === 0 || doneBytes > seen[i - 1]!.doneBytes)).toBe(true)
    await llm.dispose()
  })

  it('throws the reason of an aborted signal, unchanged, and leaves nothing on the device', async () => {
    const reason = new Error('no more')
    await expect(loadModel(TINY, { device, signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    const before = device.memoryStats().allocatedBytes
    const controller = new AbortController()
    await expect(loadModel(GEMMA, { device, signal: controller.signal, onProgress: () => controller.abort(reason) })).rejects.toBe(reason)
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })

  it('frees everything, once, and refuses work afterwards', async () => {
    const before = device.memoryStats().allocatedBytes
    const llm = await loadModel(GEMMA, { device })
    expect(device.memoryStats().allocatedBytes).toBeGreaterThan(before + 6e6)
    await llm.generate('Once', { maxNewTokens: 4 }).result()
    await Promise.all([llm.dispose(), llm.dispose()])
    await llm[Symbol.asyncDispose]()
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
    expect(device.disposed).toBe(false)
    expect(() => llm.generate('Once')).toThrow(expect.objectContaining({ code: 'DISPOSED' }))
    expect(() => llm.forward({ inputIds: [[1]] })).toThrow(expect.objectContaining({ code: 'DISPOSED' }))
  })

  it('closes the device that it opened', async () => {
    const llm = await loadModel(TINY, { threads: 1 })
    const own = llm.device
    expect(own).not.toBe(device)
    expect(own.threads).toBe(1)
    await llm.dispose()
    expect(own.disposed).toBe(true)
  })

  it.each([
    ['./no/such/folder/here', 'FILE_NOT_FOUND'],
    [join(GEMMA, 'config.json'), 'FILE_NOT_FOUND'],
    [fixture('fp8'), 'FILE_NOT_FOUND'],
  ])('refuses %s with %s', async (source, code) => {
    await expect(loadModel(source, { device })).rejects.toMatchObject({ code })
  })

  it('refuses a folder without weights', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'octet-load-'))
    try {
      await cp(TINY, dir, { recursive: true })
      await rm(join(dir, 'model.safetensors'))
      await expect(loadModel(dir, { device })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' })
    } finally {
      await rm(dir, { recursive: true, force: true })
    }
  })
})

describe('generate', () => {
  it('takes a text, texts, chats and ids', async () => {
    const llm = await loadModel(GEMMA, { device, dtype: 'f32' })
    const tokens = async (prompt: Prompt): Promise<number[][]> => (await llm.generate(prompt, { maxNewTokens: 6, ignoreEos: true }).result()).tokens
    const ids = await llm.tokenizer!.encode('There was once')
    const [text] = await tokens('There was once')
    expect(await tokens(['There was once', 'The dragon'])).toEqual([text, (await tokens('The dragon'))[0]])
    expect(await tokens({ inputIds: ids })).toEqual([text])
    expect(await tokens({ inputIds: [[0, 0, ...ids]], attentionMask: [[0, 0, ...ids.map(() => 1)]] })).toEqual([text])
    const chat = [{ role: 'user', content: 'A tale' }]
    const [answer] = await tokens(chat)
    const laidOut = await llm.tokenizer!.encode(await llm.tokenizer!.applyChatTemplate(chat), { addSpecialTokens: false })
    expect(await tokens({ inputIds: [laidOut] })).toEqual([answer])
    expect(await tokens([chat, chat])).toEqual([answer, answer])
    await llm.dispose()
  })

  it.each([[7], [null], [[]], [[1, 'a']], [[{ role: 'user' }]], [{}], [[[]]]])('refuses %j as a prompt', async (prompt) => {
    const llm = await loadModel(TINY, { device })
    expect(() => llm.generate(prompt as unknown as Prompt)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    await llm.dispose()
  })

  it('takes ids alone where there is no tokenizer, and says what text would need', async () => {
    const llm = await loadModel(TINY, { device })
    expect(llm.tokenizer).toBeNull()
    const { texts, tokens } = await llm.generate({ inputIds: [[5, 6]] }, { maxNewTokens: 3, ignoreEos: true }).result()
    expect(tokens[0]).toHaveLength(3)
    expect(texts).toEqual([''])
    await expect(llm.generate('Once').result()).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' })
    await expect(llm.generate([{ role: 'user', content: 'x' }]).result()).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' })
    await expect(llm.generate({ inputIds: [[5]] }, { stopStrings: ['x'] }).result()).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' })
    await llm.dispose()
  })

  it("prefers the call's options to the checkpoint's", async () => {
    const llm = await loadModel(GEMMA, { device, dtype: 'f32', kvCache: { isPaged: true, pageSize: 16 } })
    const prompt = 'Once upon a time there lived a king who had three daughters'
    const run = await llm.generate(prompt, { eosTokenId: [277], maxNewTokens: 30 }).result()
    const all = await llm.generate(prompt, { maxNewTokens: 30, ignoreEos: true }).result()
    const end = all.tokens[0]!.indexOf(277)
    expect(end).toBeGreaterThan(0)
    expect(run.tokens[0]).toEqual(all.tokens[0]!.slice(0, end + 1))
    expect(run.finishReason).toBe('eos')
    await llm.dispose()
  })
})
