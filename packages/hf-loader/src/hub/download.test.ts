import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, readlinkSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { gitSha1, noise, sha256 } from './fake-hub.test-helper.js'
import { pull, type PullProgress } from './index.js'
import { blob, COMMIT, CONFIG, DIST, expectFile, fileOf, hub, list, MODEL, octetError, options, repo, WEIGHTS } from './setup.test-helper.js'

/** What tells a process's number from those of other boots and containers. */
const HERE = { boot: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(), namespace: readlinkSync('/proc/self/ns/pid') }

describe('broken connections', () => {
  it('are taken up where they broke, as long as there is progress', async () => {
    hub.add('tales/fairy', MODEL)
    // More breaks than retries: only those in a row without a byte count.
    fileOf('model.safetensors').cuts = [100_000, 50_000, 0, 30_000, 30_000, 30_000, 30_000]
    const { dir } = await pull('tales/fairy', { ...options, retries: 3 })
    expectFile(join(dir, 'model.safetensors'), WEIGHTS)
    const starts = hub.gets('model.safetensors').map(({ range }) => Number(/^bytes=(\d+)-$/.exec(range ?? 'bytes=0-')?.[1]))
    expect(starts).toHaveLength(8)
    expect(starts[1]).toBeGreaterThan(0)
    expect(starts).toEqual([...starts].sort((a, b) => a - b))
  })

  it('that stay broken fail, and the next pull goes on from there', async () => {
    hub.add('tales/fairy', MODEL)
    fileOf('model.safetensors').cuts = [120_000, 0, 0, 0]
    const error = await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')
    expect(error.message).toMatch(/model\.safetensors.*pull again: what is there is kept/)
    expect(existsSync(repo('snapshots'))).toBe(false)
    const { size } = statSync(`${blob(WEIGHTS)}.octet-incomplete`)
    expect(size).toBeGreaterThan(0)
    fileOf('model.safetensors').cuts = []
    hub.seen.length = 0
    const { dir, downloadBytes } = await pull('tales/fairy', options)
    expect(downloadBytes).toBeGreaterThan(0)
    expect(hub.gets('model.safetensors').map(({ range }) => range)).toEqual([`bytes=${size}-`])
    expectFile(join(dir, 'model.safetensors'), WEIGHTS)
    expect(list(repo('blobs')).filter((name) => name.includes('octet'))).toEqual([])
  })

  it.each(['ignored', 'wrong', 'refused'] as const)('start anew where ranges are %s', async (ranges) => {
    hub.add('tales/fairy', MODEL)
    Object.assign(fileOf('model.safetensors'), { ranges, cuts: [100_000] })
    const seen: number[] = []
    const { dir } = await pull('tales/fairy', { ...options, onProgress: ({ file, doneBytes }) => void (file === 'model.safetensors' && seen.push(doneBytes)) })
    expectFile(join(dir, 'model.safetensors'), WEIGHTS)
    expect(hub.gets('model.safetensors').length).toBe(ranges === 'ignored' ? 2 : 3)
  })

  it('that stand still are broken too', async () => {
    hub.add('tales/fairy', MODEL)
    fileOf('model.safetensors').stalls = [100_000]
    const { dir } = await pull('tales/fairy', { ...options, stallMs: 300 })
    expectFile(join(dir, 'model.safetensors'), WEIGHTS)
    expect(hub.gets('model.safetensors')[1]?.range).toMatch(/^bytes=[1-9]\d+-$/)
  })

  it('that are slow are not', async () => {
    hub.add('tales/fairy', MODEL)
    fileOf('model.safetensors').pieces = 12
    const { dir } = await pull('tales/fairy', { ...options, retries: 0, stallMs: 700 })
    expectFile(join(dir, 'model.safetensors'), WEIGHTS)
    expect(hub.gets('model.safetensors')).toHaveLength(1)
  })

  it('a busy hub is asked again', async () => {
    hub.add('tales/fairy', MODEL)
    fileOf('model.safetensors').statuses = [503, 429]
    let busy = 2
    hub.listing = () => (busy-- > 0 ? { status: 500, body: '' } : null)
    await pull('tales/fairy', options)
    expect(hub.gets('model.safetensors')).toHaveLength(3)
  })

  it('an address where nothing answers is one error', async () => {
    const error = await octetError(() => pull('tales/fairy', { ...options, endpoint: 'http://127.0.0.1:9', retries: 0 }), 'HUB_FAILED')
    expect(error.message).toMatch(/127\.0\.0\.1:9.*check the connection/)
    expect(error.message).not.toContain('fetch failed')
  })
})

describe('wrong bytes', () => {
  it.each(['model.safetensors', 'config.json'])('of %s are HASH_MISMATCH, and nothing stays', async (name) => {
    hub.add('tales/fairy', MODEL)
    const file = fileOf(name)
    file.served = Buffer.from(file.content.map((byte, i) => (i === 7 ? byte ^ 1 : byte)))
    const error = await octetError(() => pull('tales/fairy', options), 'HASH_MISMATCH')
    expect(error.argument).toBe(name)
    expect(error.expected).toContain(name === 'config.json' ? gitSha1(Buffer.from(CONFIG)) : sha256(WEIGHTS))
    expect(error.received).toMatch(/^[0-9a-f]{40,64}$/)
    expect(existsSync(repo('snapshots'))).toBe(false)
    expect(hub.gets(name)).toHaveLength(1)
    expect(list(repo('blobs')).filter((entry) => entry.startsWith((error.expected as string).split(' ')[1] as string))).toEqual([])
  })

  it('left by an earlier attempt cost one more download', async () => {
    hub.add('tales/fairy', MODEL)
    mkdirSync(repo('blobs'), { recursive: true })
    writeFileSync(`${blob(WEIGHTS)}.octet-incomplete`, noise(1000, 99))
    const { dir } = await pull('tales/fairy', options)
    expectFile(join(dir, 'model.safetensors'), WEIGHTS)
    expect(hub.gets('model.safetensors').map(({ range }) => range)).toEqual(['bytes=1000-', undefined])
    // Longer than the file: not even tried.
    rmSync(blob(WEIGHTS))
    writeFileSync(`${blob(WEIGHTS)}.octet-incomplete`, noise(400_000, 99))
    hub.seen.length = 0
    await pull('tales/fairy', options)
    expect(hub.gets('model.safetensors').map(({ range }) => range)).toEqual([undefined])
    // Complete already: verified without a request.
    rmSync(blob(WEIGHTS))
    writeFileSync(`${blob(WEIGHTS)}.octet-incomplete`, WEIGHTS)
    hub.seen.length = 0
    await pull('tales/fairy', options)
    expect(hub.gets('model.safetensors')).toEqual([])
    expectFile(join(dir, 'model.safetensors'), WEIGHTS)
  })

  it('under the right name, of another length, are replaced', async () => {
    hub.add('tales/fairy', MODEL)
    mkdirSync(repo('blobs'), { recursive: true })
    writeFileSync(blob(WEIGHTS), WEIGHTS.subarray(1))
    const { dir } = await pull('tales/fairy', options)
    expectFile(join(dir, 'model.safetensors'), WEIGHTS)
  })

  it('stop the other files at once', async () => {
    hub.add('tales/fairy', MODEL)
    fileOf('config.json').served = Buffer.from('{"model_type":"xxxxx"}')
    fileOf('generation_config.json').stalls = [1]
    const begin = performance.now()
    expect((await octetError(() => pull('tales/fairy', options), 'HASH_MISMATCH')).argument).toBe('config.json')
    // The other would have stood still for a minute.
    expect(performance.now() - begin).toBeLessThan(30_000)
    expect(list(repo('blobs')).filter((name) => name.endsWith('.octet-lock'))).toEqual([])
  })

  it('more than stated are not written', async () => {
    hub.add('tales/fairy', MODEL)
    fileOf('model.safetensors').served = Buffer.concat([WEIGHTS, noise(500_000, 9)])
    const error = await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')
    expect(error.message).toContain('300000 bytes of model.safetensors')
    expect(statSync(`${blob(WEIGHTS)}.octet-incomplete`).size).toBeLessThanOrEqual(WEIGHTS.length)
  })
})

describe('abort', () => {
  it('in the middle throws the reason, keeps what is there and frees the locks', async () => {
    hub.add('tales/fairy', MODEL)
    fileOf('model.safetensors').stalls = [100_000]
    const controller = new AbortController()
    const reason = new Error('enough')
    const onProgress = ({ file: name, doneBytes }: PullProgress): void => {
      if (name === 'model.safetensors' && doneBytes >= 100_000) controller.abort(reason)
    }
    await expect(pull('tales/fairy', { ...options, signal: controller.signal, onProgress })).rejects.toBe(reason)
    expect(list(repo('blobs')).filter((name) => name.endsWith('.octet-lock'))).toEqual([])
    const { size } = statSync(`${blob(WEIGHTS)}.octet-incomplete`)
    expect(size).toBeGreaterThan(0)
    expect(existsSync(repo('snapshots'))).toBe(false)
    await pull('tales/fairy', options)
    expect(hub.gets('model.safetensors').at(-1)?.range).toBe(`bytes=${size}-`)
  })

  it('before, while asking, while waiting for a retry or a lock', async () => {
    hub.add('tales/fairy', MODEL)
    const reason = new Error('enough')
    await expect(pull('tales/fairy', { ...options, signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect(hub.seen).toEqual([])
    const asked = new AbortController()
    const confirm = (): boolean => (asked.abort(reason), false)
    await expect(pull('tales/fairy', { ...options, signal: asked.signal, confirm })).rejects.toBe(reason)

    const retrying = new AbortController()
    setTimeout(() => retrying.abort(reason), 100)
    await expect(pull('tales/fairy', { ...options, endpoint: 'http://127.0.0.1:9', retries: 1000, signal: retrying.signal })).rejects.toBe(reason)

    mkdirSync(repo('blobs'), { recursive: true })
    writeFileSync(`${blob(WEIGHTS)}.octet-lock`, JSON.stringify({ pid: process.pid, key: 'x' }))
    const waiting = new AbortController()
    setTimeout(() => waiting.abort(reason), 300)
    await expect(pull('tales/fairy', { ...options, signal: waiting.signal })).rejects.toBe(reason)
  })

  it('an error of the caller’s own callback comes out, after all files are let go', async () => {
    hub.add('tales/fairy', MODEL)
    const mine = new Error('mine')
    await expect(pull('tales/fairy', { ...options, onProgress: () => { throw mine } })).rejects.toBe(mine)
    await expect(pull('tales/fairy', { ...options, confirm: () => Promise.reject(mine) })).rejects.toBe(mine)
    expect(list(repo('blobs')).filter((name) => name.endsWith('.octet-lock'))).toEqual([])
  })
})

describe('several at once', () => {
  it('in one process download each file once', async () => {
    hub.add('tales/fairy', MODEL)
    const results = await Promise.all(Array.from({ length: 5 }, () => pull('tales/fairy', options)))
    expect(new Set(results.map(({ dir }) => dir)).size).toBe(1)
    for (const name of Object.keys(MODEL)) expect(hub.gets(name), name).toHaveLength(1)
    expectFile(join(results[0]?.dir as string, 'model.safetensors'), WEIGHTS)
  })

  it('in several processes too', async () => {
    hub.add('tales/fairy', MODEL)
    const code = `import { pull } from ${JSON.stringify(DIST)}\nconsole.log((await pull('tales/fairy', ${JSON.stringify(options)})).dir)`
    const outputs = await Promise.all(
      [1, 2, 3].map(async () => {
        const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] })
        const chunks: Buffer[] = []
        child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
        const [exit] = (await once(child, 'close')) as [number]
        return `${exit} ${Buffer.concat(chunks).toString().trim()}`
      }),
    )
    expect(new Set(outputs)).toEqual(new Set([`0 ${repo('snapshots', COMMIT)}`]))
    for (const name of Object.keys(MODEL)) expect(hub.gets(name), name).toHaveLength(1)
  })

  it('a process killed in the middle leaves nothing in the way of the next', async () => {
    hub.add('tales/fairy', MODEL)
    fileOf('model.safetensors').stalls = [150_000]
    const code = `import { pull } from ${JSON.stringify(DIST)}\nawait pull('tales/fairy', { ...${JSON.stringify(options)}, onProgress: ({ file, doneBytes }) => { if (file === 'model.safetensors' && doneBytes >= 150000) process.kill(process.pid, 'SIGKILL') } })`
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'ignore', 'inherit'] })
    expect(await once(child, 'exit')).toEqual([null, 'SIGKILL'])
    expect(existsSync(`${blob(WEIGHTS)}.octet-lock`)).toBe(true)
    const { dir } = await pull('tales/fairy', options)
    expectFile(join(dir, 'model.safetensors'), WEIGHTS)
    expect(hub.gets('model.safetensors')[1]?.range).toMatch(/^bytes=\d+-$/)
    // The kill may have come between a finished blob and its lock: such a lock is in nobody's way.
    expect(list(repo('blobs')).filter((name) => name.startsWith(sha256(WEIGHTS)))).toEqual([sha256(WEIGHTS)])
  })

  it.each([
    ['of another machine that is long silent', { pid: process.pid, boot: 'x', namespace: 'x', started: '1', key: 'x' }, 60],
    ['of a process whose number another has by now', { pid: process.pid, ...HERE, started: '1', key: 'x' }, 0],
    ['that was never written out', null, 60],
  ])('a lock %s is taken over', async (_name, owner, silent) => {
    hub.add('tales/fairy', MODEL)
    mkdirSync(repo('blobs'), { recursive: true })
    const lock = `${blob(WEIGHTS)}.octet-lock`
    writeFileSync(lock, owner === null ? '' : JSON.stringify(owner))
    const then = new Date(Date.now() - 1000 * silent)
    utimesSync(lock, then, then)
    await pull('tales/fairy', options)
    expect(list(repo('blobs')).filter((name) => name.includes('octet'))).toEqual([])
  })

  it('a lock of a container that works is waited for, whatever its process is called', async () => {
    hub.add('tales/fairy', MODEL)
    mkdirSync(repo('blobs'), { recursive: true })
    writeFileSync(`${blob(WEIGHTS)}.octet-lock`, JSON.stringify({ pid: 2 ** 30, boot: HERE.boot, namespace: 'another', started: '1', key: 'x' }))
    const waiting = new AbortController()
    const onProgress = ({ file: name }: PullProgress): void => void (name === 'generation_config.json' && setTimeout(() => waiting.abort('enough'), 500))
    await expect(pull('tales/fairy', { ...options, onProgress, signal: waiting.signal })).rejects.toBe('enough')
    expect(hub.gets('model.safetensors')).toEqual([])
  })
})
