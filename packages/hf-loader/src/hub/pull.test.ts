import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { FakeHub, gitSha1, noise, sha256 } from './fake-hub.test-helper.js'
import { pull, resolveModel, type PullPlan, type PullProgress } from './index.js'
import { blob, COMMIT, CONFIG, expectFile, fileOf, hub, index, list, MODEL, octetError, options, repo, WEIGHTS } from './setup.test-helper.js'

describe('a pull', () => {
  it('fills the cache as huggingface_hub does, with what loading needs and no more', async () => {
    hub.add('tales/fairy', {
      ...MODEL,
      'pytorch_model.bin': noise(10, 3), 'model.fp16.safetensors': noise(10, 4), 'consolidated.00.pth': noise(10, 5), 'README.md': '# x',
      'onnx/model.onnx': noise(10, 6), 'original/params.json': '{}', 'trainer_state.json': '{}', 'model.gguf': noise(10, 7), '.gitattributes': '',
      'tokenizer.model': noise(10, 8), 'pytorch_model.bin.index.json': index({ a: 'pytorch_model.bin' }),
    })
    const progress: PullProgress[] = []
    const result = await pull('tales/fairy', { ...options, onProgress: (at) => progress.push(at) })
    expect(result).toMatchObject({ dir: repo('snapshots', COMMIT), commit: COMMIT })
    expect(list(result.dir)).toEqual(Object.keys(MODEL).sort())
    const total = Object.values(MODEL).reduce((sum, content) => sum + Buffer.from(content).length, 0)
    expect([result.totalBytes, result.downloadBytes]).toEqual([total, total])
    expect(result.files.map((file) => file.name).sort()).toEqual(Object.keys(MODEL).sort())
    expect(result.files.at(-1)).toEqual({ name: 'model.safetensors', size: WEIGHTS.length })
    for (const [name, content] of Object.entries(MODEL)) {
      const path = join(result.dir, name)
      const bytes = Buffer.from(content)
      expectFile(path, bytes)
      expect(readlinkSync(path)).toBe(join('..', '..', 'blobs', typeof content === 'string' ? gitSha1(bytes) : sha256(bytes)))
    }
    expect(readFileSync(repo('refs', 'main'), 'utf8')).toBe(COMMIT)
    expect(list(repo('blobs'))).toHaveLength(Object.keys(MODEL).length)
    expect(progress.at(-1)).toMatchObject({ doneBytes: total, totalBytes: total })
    expect(progress.every(({ doneBytes }, i) => i === 0 || doneBytes >= (progress[i - 1] as PullProgress).doneBytes)).toBe(true)
  })

  it('again asks for the list only, and takes a new commit', async () => {
    hub.add('tales/fairy', MODEL)
    const first = await pull('tales/fairy', options)
    hub.seen.length = 0
    expect(await pull('tales/fairy', { ...options, confirm: () => { throw new Error('asked') } })).toMatchObject({ dir: first.dir, downloadBytes: 0 })
    expect(hub.seen).toHaveLength(1)
    hub.add('tales/fairy', { ...MODEL, 'config.json': '{"model_type":"llama"}' }, 'd'.repeat(40))
    hub.seen.length = 0
    const second = await pull('tales/fairy', options)
    expect(second.commit).toBe('d'.repeat(40))
    expect(hub.seen.map(({ path }) => path.split('/').at(-1))).toEqual(['main?blobs=true', 'config.json'])
    expect(readFileSync(join(second.dir, 'config.json'), 'utf8')).toContain('llama')
    expect(readFileSync(join(first.dir, 'config.json'), 'utf8')).toBe(CONFIG)
    expect(readFileSync(repo('refs', 'main'), 'utf8')).toBe('d'.repeat(40))
  })

  it('takes over blobs that another tool has left', async () => {
    hub.add('tales/fairy', MODEL)
    mkdirSync(repo('blobs'), { recursive: true })
    writeFileSync(blob(WEIGHTS), WEIGHTS)
    const { downloadBytes, totalBytes } = await pull('tales/fairy', options)
    expect(downloadBytes).toBe(totalBytes - WEIGHTS.length)
    expect(hub.gets('model.safetensors')).toEqual([])
    expect(readdirSync(repo('blobs')).filter((name) => name.includes('octet'))).toEqual([])
  })

  it('mends links that lead elsewhere', async () => {
    hub.add('tales/fairy', MODEL)
    const { dir } = await pull('tales/fairy', options)
    rmSync(join(dir, 'config.json'))
    symlinkSync('/etc/hostname', join(dir, 'config.json'))
    await pull('tales/fairy', options)
    expect(readFileSync(join(dir, 'config.json'), 'utf8')).toBe(CONFIG)
  })

  it('revisions: branches with slashes, and commits, which need no ref', async () => {
    hub.add('tales/fairy', MODEL)
    await pull('tales/fairy', { ...options, revision: 'refs/pr/1' })
    expect(hub.seen[0]?.path).toBe('/api/models/tales/fairy/revision/refs/pr/1?blobs=true')
    expect(readFileSync(repo('refs', 'refs', 'pr', '1'), 'utf8')).toBe(COMMIT)
    await pull('tales/fairy', { ...options, revision: COMMIT })
    expect(list(repo('refs'))).toEqual(['refs'])
  })

  it.each<[string, Record<string, string | Buffer>, string[]]>([
    ['an index with shards of any name, in folders too',
      { 'config.json': CONFIG, 'model.safetensors.index.json': index({ a: 'one.safetensors', b: 'deep/er/two.safetensors', c: 'one.safetensors' }), 'one.safetensors': noise(9, 1), 'deep/er/two.safetensors': noise(9, 2), 'three.safetensors': noise(9, 3) },
      ['config.json', 'deep/er/two.safetensors', 'one.safetensors', 'model.safetensors.index.json']],
    ['one file before shards', { 'config.json': CONFIG, 'model.safetensors': noise(9, 1), 'model.safetensors.index.json': index({ a: 'x.safetensors' }) }, ['config.json', 'model.safetensors']],
    ['.bin where there are no safetensors', { 'config.json': CONFIG, 'pytorch_model.bin': noise(9, 1), 'adapter_model.safetensors': noise(9, 2) }, ['config.json', 'pytorch_model.bin']],
    ['.bin in shards', { 'config.json': CONFIG, 'pytorch_model.bin.index.json': index({ a: 'a.bin', b: 'b.bin' }), 'a.bin': noise(9, 1), 'b.bin': noise(9, 2) }, ['config.json', 'a.bin', 'b.bin', 'pytorch_model.bin.index.json']],
    ['an adapter alone', { 'adapter_config.json': '{}', 'adapter_model.safetensors': noise(9, 1), 'adapter_model.bin': noise(9, 2) }, ['adapter_config.json', 'adapter_model.safetensors']],
    ['an adapter beside a model', { 'config.json': CONFIG, 'model.safetensors': noise(9, 1), 'adapter_config.json': '{}', 'adapter_model.bin': noise(9, 2) }, ['adapter_config.json', 'config.json', 'model.safetensors', 'adapter_model.bin']],
    ['empty files', { 'config.json': CONFIG, 'special_tokens_map.json': '', 'model.safetensors': Buffer.alloc(0) }, ['special_tokens_map.json', 'config.json', 'model.safetensors']],
  ])('chooses %s', async (_name, files, expected) => {
    hub.add('tales/fairy', files)
    const result = await pull('tales/fairy', options)
    expect(result.files.map((file) => file.name)).toEqual(expected)
    for (const name of expected) expectFile(join(result.dir, name), Buffer.from(files[name] as string))
    expect(await resolveModel('tales/fairy', { ...options, endpoint: 'http://127.0.0.1:9' })).toEqual({ source: 'cache', dir: result.dir, commit: COMMIT })
  })

  it('says so when nothing can be loaded', async () => {
    hub.add('tales/fairy', { 'config.json': CONFIG, 'model.gguf': noise(9, 1) })
    expect((await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')).message).toContain('GGUF')
    hub.add('tales/fairy', { 'model.safetensors': noise(9, 1) })
    expect((await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')).message).toContain('no config.json')
  })

  it('sends the token to the hub and not to where it redirects', async () => {
    const elsewhere = await FakeHub.start()
    try {
      elsewhere.add('tales/fairy', MODEL)
      hub.add('tales/fairy', MODEL)
      fileOf('model.safetensors').redirect = elsewhere.endpoint
      await pull('tales/fairy', { ...options, token: 'hf_secret' })
      expect(hub.seen.length).toBeGreaterThan(0)
      expect(new Set(hub.seen.map(({ authorization }) => authorization))).toEqual(new Set(['Bearer hf_secret']))
      expect(elsewhere.seen).toEqual([{ path: `/tales/fairy/resolve/${COMMIT}/model.safetensors`, range: undefined, authorization: undefined }])
      hub.seen.length = 0
      await pull('tales/fairy', options)
      expect(hub.seen[0]?.authorization).toBeUndefined()
    } finally {
      await elsewhere.stop()
    }
  })
})

describe('consent', () => {
  it('is asked once, with sizes, before anything large', async () => {
    hub.add('tales/fairy', { 'config.json': CONFIG, 'model.safetensors.index.json': index({ a: 'a.safetensors' }), 'a.safetensors': WEIGHTS })
    const plans: PullPlan[] = []
    const confirm = async (plan: PullPlan): Promise<boolean> => {
      plans.push(plan)
      expect(hub.gets('a.safetensors')).toEqual([])
      return plans.length > 1
    }
    const error = await octetError(() => pull('tales/fairy', { ...options, confirm }), 'HUB_FAILED')
    expect(error.message).toContain(String(CONFIG.length + WEIGHTS.length))
    expect(existsSync(repo('snapshots'))).toBe(false)
    expect(plans[0]).toMatchObject({ id: 'tales/fairy', revision: 'main', commit: COMMIT, downloadBytes: CONFIG.length + WEIGHTS.length })
    expect(plans[0]?.totalBytes).toBe(plans[0]?.files.reduce((sum, file) => sum + file.size, 0))
    await pull('tales/fairy', { ...options, confirm })
    expect(plans).toHaveLength(2)
  })
})
