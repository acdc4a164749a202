import { lstatSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { noise, sha256 } from './fake-hub.test-helper.js'
import { isHubId, pull, readHubEnvironment, resolveModel } from './index.js'
import { COMMIT, CONFIG, expectFile, freshFolder, hub, index, MODEL, octetError, options, repo, WEIGHTS } from './setup.test-helper.js'

describe('resolveModel', () => {
  it('a folder comes first, then the cache, then the hub', async () => {
    hub.add('tales/fairy', MODEL)
    const pulled = await resolveModel('tales/fairy', options)
    expect(pulled).toEqual({ source: 'hub', dir: repo('snapshots', COMMIT), commit: COMMIT })
    hub.seen.length = 0
    expect(await resolveModel('tales/fairy', options)).toEqual({ ...pulled, source: 'cache' })
    expect(hub.seen).toEqual([])

    const here = freshFolder()
    mkdirSync(join(here, 'tales', 'fairy'), { recursive: true })
    const before = process.cwd()
    process.chdir(here)
    try {
      expect(await resolveModel('tales/fairy', options)).toEqual({ source: 'folder', dir: join(process.cwd(), 'tales', 'fairy') })
    } finally {
      process.chdir(before)
    }
    expect(hub.seen).toEqual([])
  })

  it('does not take half a snapshot for a whole one', async () => {
    hub.add('tales/fairy', { 'config.json': CONFIG, 'model.safetensors.index.json': index({ a: 'a.safetensors', b: 'b.safetensors' }), 'a.safetensors': noise(9, 1), 'b.safetensors': noise(9, 2) })
    const { dir } = await pull('tales/fairy', options)
    rmSync(join(dir, 'b.safetensors'))
    expect((await resolveModel('tales/fairy', options)).source).toBe('hub')
    // A link whose blob is gone is not there either.
    rmSync(repo('blobs', sha256(noise(9, 1))))
    expect((await resolveModel('tales/fairy', options)).source).toBe('hub')
    expectFile(join(dir, 'a.safetensors'), noise(9, 1))
    writeFileSync(repo('refs', 'main'), 'not a commit')
    expect((await resolveModel('tales/fairy', options)).source).toBe('hub')
  })

  it('asks and aborts as a pull does', async () => {
    hub.add('tales/fairy', MODEL)
    await octetError(() => resolveModel('tales/fairy', { ...options, confirm: () => false }), 'HUB_FAILED')
    const reason = new Error('enough')
    await expect(resolveModel('tales/fairy', { ...options, signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  })

  it.each(['./nowhere', '/nowhere/at/all', 'nowhere', 'a/b/c', '../x', 'owner/na--me', ''.padEnd(200, 'x') + '/y', 'o\\n'])('%j is neither', async (name) => {
    await octetError(() => resolveModel(name, options), 'FILE_NOT_FOUND')
    expect(hub.seen).toEqual([])
  })

  it('a file is not a folder', async () => {
    const file = join(freshFolder(), 'model.safetensors')
    writeFileSync(file, '')
    expect((await octetError(() => resolveModel(file, options), 'FILE_NOT_FOUND')).received).toBe('a file')
  })
})

describe('arguments and environment', () => {
  it('refuses ids, revisions and counts that cannot be', async () => {
    for (const id of ['fairy', 'a/b/c', '', '../x', 'a/..', 'a b/c', 'a/b\n', '-a/b', 'a/b.', 'a--b/c', 7]) {
      await octetError(() => pull(id as string, options), 'INVALID_ARGUMENT')
    }
    for (const revision of ['', '../x', 'a/../b', '/main', 'a b', 'x\0', 'a\\b']) await octetError(() => pull('tales/fairy', { ...options, revision }), 'INVALID_ARGUMENT')
    for (const retries of [-1, 1.5, NaN]) await octetError(() => pull('tales/fairy', { ...options, retries }), 'INVALID_ARGUMENT')
    await octetError(() => pull('tales/fairy', { ...options, stallMs: 0 }), 'INVALID_ARGUMENT')
    for (const endpoint of ['hub', 'file:///etc', 'ftp://x']) await octetError(() => pull('tales/fairy', { ...options, endpoint }), 'INVALID_ARGUMENT')
    expect(hub.seen).toEqual([])
    expect(['google/gemma-2b', 'meta-llama/Llama-3.2-1B', 'a_b/c.d-e_f'].every(isHubId)).toBe(true)
  })

  it('a cache that cannot be written is FILE_WRITE_FAILED', async () => {
    hub.add('tales/fairy', MODEL)
    const file = join(freshFolder(), 'file')
    writeFileSync(file, '')
    await octetError(() => pull('tales/fairy', { ...options, cacheDir: file }), 'FILE_WRITE_FAILED')
  })

  it('HF_HUB_OFFLINE: the cache alone answers', async () => {
    hub.add('tales/fairy', MODEL)
    process.env['HF_HUB_OFFLINE'] = '1'
    try {
      expect((await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')).message).toContain('HF_HUB_OFFLINE')
      delete process.env['HF_HUB_OFFLINE']
      const { dir } = await pull('tales/fairy', options)
      process.env['HF_HUB_OFFLINE'] = 'YES'
      hub.seen.length = 0
      expect(await pull('tales/fairy', options)).toMatchObject({ dir, commit: COMMIT, downloadBytes: 0 })
      expect(await pull('tales/fairy', { ...options, revision: COMMIT })).toMatchObject({ dir })
      await octetError(() => pull('tales/fairy', { ...options, revision: 'other' }), 'HUB_FAILED')
      expect(hub.seen).toEqual([])
    } finally {
      delete process.env['HF_HUB_OFFLINE']
    }
  })

  it('reads the variables of huggingface_hub', () => {
    const home = freshFolder()
    writeFileSync(join(home, 'token'), 'from-file\n')
    expect(readHubEnvironment({}, { HF_HOME: home })).toEqual({ endpoint: 'https://huggingface.co', token: 'from-file', cacheDir: join(home, 'hub'), offline: false })
    expect(readHubEnvironment({}, { HF_HOME: home, HF_TOKEN: ' direct ', HF_ENDPOINT: 'https://mirror.example/hf//', HF_HUB_CACHE: '/c', HF_HUB_OFFLINE: 'on' })).toEqual({
      endpoint: 'https://mirror.example/hf', token: 'direct', cacheDir: '/c', offline: true,
    })
    expect(readHubEnvironment({}, { XDG_CACHE_HOME: '/xdg' }).cacheDir).toBe('/xdg/huggingface/hub')
    expect(readHubEnvironment({}, {}).cacheDir).toBe(join(homedir(), '.cache', 'huggingface', 'hub'))
    expect(readHubEnvironment({}, { HF_HOME: '~/hf' }).cacheDir).toBe(join(homedir(), 'hf', 'hub'))
    expect(readHubEnvironment({ token: null, cacheDir: '/x', endpoint: 'http://y' }, { HF_TOKEN: 't', HF_HUB_OFFLINE: '0' })).toEqual({ endpoint: 'http://y', token: null, cacheDir: '/x', offline: false })
    writeFileSync(join(home, 'other'), 'elsewhere')
    expect(readHubEnvironment({}, { HF_HOME: home, HF_TOKEN_PATH: join(home, 'other') }).token).toBe('elsewhere')
  })

  it('copies where links are impossible are read like links', async () => {
    hub.add('tales/fairy', MODEL)
    const { dir } = await pull('tales/fairy', options)
    // As on a system without links: the file itself.
    rmSync(join(dir, 'model.safetensors'))
    writeFileSync(join(dir, 'model.safetensors'), WEIGHTS)
    expect((await resolveModel('tales/fairy', options)).source).toBe('cache')
    await pull('tales/fairy', options)
    expect(lstatSync(join(dir, 'model.safetensors')).isSymbolicLink()).toBe(true)
  })
})
