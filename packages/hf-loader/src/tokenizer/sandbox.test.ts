/** The sandbox from outside: deadlines, heap, restarts, and who outlives whom. */
import { execFileSync, fork, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL, fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { describe, expect, it, vi } from 'vitest'
import type { Tokenizer } from '@octet-llm/core'
import { loadTokenizer, type LoadTokenizerOptions } from './index.js'
import { addedToken, byteTokenizer, expectGone, FIXTURES, makeFolder, octetError, sandboxPids, tinyTokenizer, type Json } from './support.test-helper.js'

// Processes start slowly on a busy machine.
vi.setConfig({ testTimeout: 120_000 })

const DIST = pathToFileURL(fileURLToPath(new URL('../../dist/tokenizer/index.js', import.meta.url))).href
const GEMMA = join(FIXTURES, 'fairy-gemma')

/** 2^40 ways to fail on a run of forty letters. */
const STUCK = { type: 'Split', pattern: { Regex: '(a+)+b' }, behavior: 'Isolated', invert: false }
const STUCK_TEXT = 'a'.repeat(40)
const stuckFolder = (): string => makeFolder({ 'tokenizer.json': tinyTokenizer({ top: { pre_tokenizer: STUCK } }) })

async function use(dir: string, options: LoadTokenizerOptions, run: (tokenizer: Tokenizer) => Promise<void>): Promise<void> {
  const tokenizer = await loadTokenizer(dir, options)
  try {
    await run(tokenizer)
  } finally {
    await tokenizer.dispose()
  }
}

function templateFolder(template: string): string {
  return makeFolder({ 'tokenizer.json': tinyTokenizer(), 'chat_template.jinja': template })
}

/** A process that runs `body` (which has `loadTokenizer` and `dir`), and prints what it logs. */
function script(body: string, dir: string): string {
  const file = join(makeFolder({}), 'script.mjs')
  writeFileSync(file, `import { loadTokenizer } from ${JSON.stringify(DIST)}\nconst dir = ${JSON.stringify(dir)}\n${body}\n`)
  return file
}

async function firstLine(child: ChildProcess): Promise<string> {
  const [chunk] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer]
  return String(chunk).trim()
}

describe('deadline', () => {
  it('stops a catastrophic regular expression; queued calls and later ones run on a fresh sandbox', async () => {
    await use(stuckFolder(), { deadlineMs: 3000 }, async (tokenizer) => {
      const before = sandboxPids(process.pid)
      expect(before.length).toBeGreaterThan(0)
      const stuck = octetError(() => tokenizer.encode(STUCK_TEXT), 'WORKER_TIMEOUT')
      const queued = tokenizer.encode('cd')
      expect((await stuck).message).toContain('3000 ms')
      expect(await queued).toEqual([2, 3])
      expect(await tokenizer.encode('aab')).toEqual([0, 0, 1])
      await expectGone(before)
    })
  })

  it('stops a template that never ends', async () => {
    const loops = '{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}'
    await use(templateFolder(loops), { deadlineMs: 3000 }, async (tokenizer) => {
      await octetError(() => tokenizer.applyChatTemplate([]), 'WORKER_TIMEOUT')
      expect(await tokenizer.encode('ab')).toEqual([0, 1])
    })
  })

  it('stops loading, and leaves no process behind', async () => {
    const before = sandboxPids(process.pid)
    await octetError(() => loadTokenizer(GEMMA, { deadlineMs: 1 }), 'WORKER_TIMEOUT')
    expect(sandboxPids(process.pid)).toEqual(before)
  })
})

describe('heap', () => {
  // Single large allocations: in a bare worker thread each of these ends the whole process.
  it.each<[string, string]>([
    ['a doubling list', '{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}'],
    ['a doubling text', '{% set n = namespace(x="ab") %}{% for i in range(60) %}{% set n.x = (n.x + n.x) | upper %}{% endfor %}'],
    ['many objects', '{% set n = namespace(x=[]) %}{% for i in range(100000) %}{% set n.x = [n.x, n.x, [i, i, i, i]] %}{% endfor %}{{ n.x | tojson }}'],
    ['replacement bombs', '{% set n = namespace(x="a") %}{% for i in range(30) %}{% set n.x = n.x.replace("a", "aaaaaaaaaa") %}{% endfor %}'],
  ])('%s ends the call, not this process', async (_name, template) => {
    await use(templateFolder(template), { deadlineMs: 20_000, heapLimitMb: 64 }, async (tokenizer) => {
      const error = await tokenizer.applyChatTemplate([]).then(() => null, (reason: unknown) => reason)
      expect(['WORKER_TIMEOUT', 'INVALID_TEMPLATE']).toContain((error as { code?: string } | null)?.code)
      expect(await tokenizer.encode('ab')).toEqual([0, 1])
    })
  })

  it('a normalizer that multiplies text', async () => {
    const grow = { type: 'Replace', pattern: { String: 'a' }, content: 'aaaaaaaaaa' }
    const top = { normalizer: { type: 'Sequence', normalizers: Array.from({ length: 30 }, () => grow) } }
    await use(makeFolder({ 'tokenizer.json': tinyTokenizer({ top }) }), { deadlineMs: 20_000, heapLimitMb: 64 }, async (tokenizer) => {
      const error = await tokenizer.encode('a').then(() => null, (reason: unknown) => reason)
      expect(['WORKER_TIMEOUT', 'INVALID_TOKENIZER']).toContain((error as { code?: string } | null)?.code)
      expect(await tokenizer.encode('b')).toEqual([1])
    })
  })

  it('a file that outgrows the heap while it is parsed', async () => {
    const arrays = '[' + '[],'.repeat(3_000_000) + '0]'
    const text = JSON.stringify(tinyTokenizer()).replace('"added_tokens":[]', () => `"added_tokens":${arrays}`)
    const error = await octetError(() => loadTokenizer(makeFolder({ 'tokenizer.json': text }), { heapLimitMb: 32 }), 'WORKER_TIMEOUT')
    expect(error.message).toContain('32 MB')
  })
})

describe('lifetime', () => {
  it('dispose ends the process, fails what is pending, and may be called again', async () => {
    const before = sandboxPids(process.pid)
    const tokenizer = await loadTokenizer(stuckFolder())
    const mine = sandboxPids(process.pid).filter((pid) => !before.includes(pid))
    expect(mine).toHaveLength(1)
    const pending = octetError(() => tokenizer.encode(STUCK_TEXT), 'DISPOSED')
    const queued = octetError(() => tokenizer.encode('a'), 'DISPOSED')
    await new Promise((resolve) => setTimeout(resolve, 50))
    await Promise.all([tokenizer.dispose(), tokenizer.dispose()])
    await Promise.all([pending, queued])
    expect(sandboxPids(process.pid)).toEqual(before)
    await tokenizer.dispose()
    await octetError(() => tokenizer.encode('a'), 'DISPOSED')
    await octetError(() => tokenizer.decode([0]), 'DISPOSED')
    await octetError(() => tokenizer.tokenBytes([0]), 'DISPOSED')
    await octetError(() => tokenizer.applyChatTemplate([]), 'DISPOSED')
  })

  it('a process with an idle tokenizer ends by itself, one with a pending call after it', () => {
    const idle = script("const t = await loadTokenizer(dir)\nconsole.log((await t.encode('Once')).length)", GEMMA)
    expect(execFileSync(process.execPath, [idle], { encoding: 'utf8', timeout: 20_000 })).toBe('3\n')
    const pending = script("loadTokenizer(dir).then((t) => t.encode('Once').then((ids) => console.log(ids.length)))", GEMMA)
    expect(execFileSync(process.execPath, [pending], { encoding: 'utf8', timeout: 20_000 })).toBe('3\n')
  })

  it('goes when its parent does while it starts', async () => {
    const child = fork(fileURLToPath(new URL('../../dist/tokenizer/worker.js', import.meta.url)), ['64'], { execArgv: [], stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
    // The pipe closes before a module of the process is loaded.
    child.disconnect()
    expect(await once(child, 'exit')).toEqual([null, 'SIGKILL'])
  })

  it.each([
    ['process.exit', 'process.exit(3)', 3, null],
    ['SIGKILL', "process.kill(process.pid, 'SIGKILL')", null, 'SIGKILL'],
  ])('a stuck sandbox ends with its process: %s', async (_name, end, code, signal) => {
    const file = script(`const t = await loadTokenizer(dir)\nvoid t.encode('${STUCK_TEXT}')\nsetTimeout(() => { console.log('go'); setTimeout(() => ${end}, 300) }, 200)`, stuckFolder())
    const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] })
    const exit = once(child, 'exit')
    expect(await firstLine(child)).toBe('go')
    const pids = sandboxPids(child.pid)
    expect(pids).toHaveLength(1)
    expect(await exit).toEqual([code, signal])
    await expectGone(pids)
  })

  it('works in a worker thread, and a stuck sandbox ends with the thread', async () => {
    const before = sandboxPids(process.pid)
    const file = script(
      `import { parentPort } from 'node:worker_threads'\nconst t = await loadTokenizer(dir)\nparentPort.postMessage(await t.encode('ab'))\nvoid t.encode('${STUCK_TEXT}')`,
      stuckFolder(),
    )
    const worker = new Worker(file)
    expect(await once(worker, 'message')).toEqual([[0, 1]])
    const mine = sandboxPids(process.pid).filter((pid) => !before.includes(pid))
    expect(mine).toHaveLength(1)
    await worker.terminate()
    await expectGone(mine)
  })

  it('aborting while loading rejects with the reason and leaves no process behind', async () => {
    const before = sandboxPids(process.pid)
    const reason = new Error('enough')
    const controller = new AbortController()
    const loading = loadTokenizer(GEMMA, { signal: controller.signal })
    setTimeout(() => controller.abort(reason), 10)
    await expect(loading).rejects.toBe(reason)
    await expect(loadTokenizer(GEMMA, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect(sandboxPids(process.pid)).toEqual(before)
    // After loading the signal means nothing.
    const late = new AbortController()
    await use(GEMMA, { signal: late.signal }, async (tokenizer) => {
      late.abort(reason)
      expect(await tokenizer.encode('Once')).toHaveLength(3)
    })
  })

  it('inherits no secrets and no Node options', async () => {
    process.env['HF_TOKEN'] = 'secret-of-the-test'
    process.env['NODE_OPTIONS'] = '--no-warnings'
    try {
      await use(GEMMA, {}, async () => {
        const { readFileSync } = await import('node:fs')
        const environments = sandboxPids(process.pid).map((pid) => readFileSync(`/proc/${pid}/environ`, 'utf8'))
        expect(environments.length).toBeGreaterThan(0)
        expect(environments.join()).not.toMatch(/secret-of-the-test|NODE_OPTIONS/)
      })
    } finally {
      delete process.env['HF_TOKEN']
      delete process.env['NODE_OPTIONS']
    }
  })

  it('says so where child processes are forbidden', () => {
    const file = script("await loadTokenizer(dir).catch((error) => console.log(error.code, error.message))", GEMMA)
    const flag = Number(process.versions.node.split('.')[0]) >= 24 ? '--permission' : '--experimental-permission'
    const output = execFileSync(process.execPath, [flag, '--allow-fs-read=*', file], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    expect(output).toMatch(/^NOT_SUPPORTED .*--allow-child-process/)
  })
})

describe('calls', () => {
  it('many at once come back in order, with their own answers', async () => {
    await use(makeFolder({ 'tokenizer.json': byteTokenizer() }), {}, async (tokenizer) => {
      const texts = Array.from({ length: 200 }, (_, i) => `text ${i} ${'é'.repeat(i % 7)}`)
      const all = await Promise.all(texts.map((text) => tokenizer.encode(text)))
      expect(await Promise.all(all.map((ids) => tokenizer.decode(ids)))).toEqual(texts)
    })
  })

  it('wrong arguments are errors of their own, and cost no sandbox', async () => {
    await octetError(() => loadTokenizer(join(GEMMA, 'nowhere')), 'FILE_NOT_FOUND')
    await octetError(() => loadTokenizer(join(GEMMA, 'tokenizer.json')), 'FILE_NOT_FOUND')
    await octetError(() => loadTokenizer(makeFolder({})), 'FILE_NOT_FOUND')
    for (const options of [{ deadlineMs: 0 }, { deadlineMs: NaN }, { deadlineMs: 2 ** 31 }, { heapLimitMb: 1 }, { heapLimitMb: 64.5 }]) {
      await octetError(() => loadTokenizer(GEMMA, options), 'INVALID_ARGUMENT')
    }
    await use(GEMMA, {}, async (tokenizer) => {
      const pids = sandboxPids(process.pid)
      await octetError(() => tokenizer.encode(7 as unknown as string), 'INVALID_ARGUMENT')
      await octetError(() => tokenizer.applyChatTemplate('x' as unknown as []), 'INVALID_ARGUMENT')
      await octetError(() => tokenizer.applyChatTemplate([], { variables: { f: () => 1 } }), 'INVALID_ARGUMENT')
      const loop: Json = {}
      loop['self'] = loop
      await octetError(() => tokenizer.applyChatTemplate([], { variables: { loop } }), 'INVALID_TEMPLATE')
      await octetError(() => tokenizer.decode([-1]), 'INVALID_ARGUMENT')
      expect(await tokenizer.encode('Once')).toHaveLength(3)
      expect(sandboxPids(process.pid)).toEqual(pids)
    })
  })

  it('a tokenizer without a template says what to add', async () => {
    await use(makeFolder({ 'tokenizer.json': tinyTokenizer() }), {}, async (tokenizer) => {
      expect(tokenizer.hasChatTemplate).toBe(false)
      expect((await octetError(() => tokenizer.applyChatTemplate([]), 'INVALID_TEMPLATE')).message).toContain('chat_template.jinja')
    })
  })

  it('a tokenizer.json that is no file is refused, not waited for', async () => {
    const dir = makeFolder({})
    execFileSync('mkfifo', [join(dir, 'tokenizer.json')])
    await octetError(() => loadTokenizer(dir, { deadlineMs: 10_000 }), 'INVALID_TOKENIZER')
  })

  it('errors of the sandbox keep their fields', async () => {
    const error = await octetError(() => loadTokenizer(makeFolder({ 'tokenizer.json': tinyTokenizer({ model: { type: 'WordPiece' } }) })), 'INVALID_TOKENIZER')
    expect(error).toMatchObject({ op: 'loadTokenizer', argument: 'model.type', expected: 'one of BPE', received: '"WordPiece"' })
    expect(error.stack).toContain('sandbox.test.ts')
  })
})

// Part of the full run only: not registered otherwise, since a skipped test would be counted.
if (process.env['OCTET_SLOW'] === '1') {
  it('a vocabulary of 256k tokens loads within the default heap and deadline', async () => {
    const letters = ['▁', ...'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ']
    const vocab = Object.create(null) as Record<string, number>
    let next = 0
    const put = (token: string): boolean => {
      if (vocab[token] !== undefined) return false
      vocab[token] = next++
      return true
    }
    for (let byte = 0; byte < 256; byte++) put(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
    for (const letter of letters) put(letter)
    const tokens = [...letters]
    const merges: [string, string][] = []
    let state = 12345
    const random = (n: number): number => {
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      return (state >>> 0) % n
    }
    while (tokens.length < 261_888) {
      const pair: [string, string] = [tokens[random(tokens.length)] as string, tokens[random(tokens.length)] as string]
      const token = pair[0] + pair[1]
      if (token.length > 16 || !put(token)) continue
      tokens.push(token)
      // Gemma has two merges a token on average.
      merges.push(pair, [token.slice(0, 1), token.slice(1)].every((part) => part in vocab) ? [token.slice(0, 1), token.slice(1)] : pair)
    }
    const base = tinyTokenizer()
    const tokenizer = {
      ...base,
      added_tokens: [addedToken(262_144, '<bos>', { special: true })],
      normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      decoder: { type: 'Sequence', decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }] },
      model: { ...(base['model'] as Json), byte_fallback: true, vocab, merges },
    }
    await use(makeFolder({ 'tokenizer.json': tokenizer }), {}, async (loaded) => {
      expect(loaded.vocabSize).toBe(262_145)
      expect(next).toBe(262_144)
      const text = 'Hello world, 日本 and back'
      expect(await loaded.decode(await loaded.encode(text))).toBe(text)
    })
  })
}
