import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { chmod, mkdir, readFile, readlink, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { caught, namesIn, octetError, useTempFolder } from '../testing/support.test-helper.js'
import { checkFreeFolder, writeFolder } from './index.js'

const DIST = new URL('../../dist/checkpoint/index.js', import.meta.url).href

/** What happens while a call waits for owners to show themselves. */
const asleep = { meanwhile: () => Promise.resolve() }
vi.mock('node:timers/promises', () => ({ setTimeout: () => asleep.meanwhile() }))
afterEach(() => void (asleep.meanwhile = () => Promise.resolve()))

const temp = useTempFolder()
let folders = 0
async function fresh(): Promise<string> {
  const dir = temp.path(`write-${folders++}`)
  await mkdir(dir)
  return dir
}

const fill = async (folder: string): Promise<string> => {
  await mkdir(join(folder, 'sub'))
  await writeFile(join(folder, 'sub', 'b'), 'B')
  await writeFile(join(folder, 'a'), 'A')
  return 'filled'
}

describe('writeFolder', () => {
  it.each(['absent', 'empty', 'absent, and its parents too', 'a link to an empty folder'])('makes a folder that was %s', async (before) => {
    const parent = await fresh()
    const out = before.includes('parents') ? join(parent, 'x', 'y', 'out') : join(parent, 'out')
    if (before === 'empty') await mkdir(out)
    if (before.startsWith('a link')) {
      await mkdir(join(parent, 'real'))
      await symlink(join(parent, 'real'), out)
    }
    expect(await writeFolder(out, fill)).toBe('filled')
    expect(await namesIn(out)).toEqual(['a', 'sub'])
    expect(await readFile(join(out, 'sub', 'b'), 'utf8')).toBe('B')
    expect((await namesIn(parent)).filter((name) => name.startsWith('.'))).toEqual([])
  })

  it('shows nothing before it is complete, and nothing when it fails', async () => {
    const parent = await fresh()
    const out = join(parent, 'out')
    const boom = new Error('boom')
    let during: string[] = []
    const failing = writeFolder(out, async (folder) => {
      await fill(folder)
      during = await namesIn(parent)
      throw boom
    })
    expect(await caught(failing)).toBe(boom)
    expect(during).toHaveLength(1)
    expect(during[0]).toMatch(/^\.out\.octet-/)
    expect(await namesIn(parent)).toEqual([])
    const controller = new AbortController()
    expect(await caught(writeFolder(out, async (folder) => (await fill(folder), controller.abort(boom)), { signal: controller.signal }))).toBe(boom)
    expect(await caught(writeFolder(out, fill, { signal: AbortSignal.abort(boom) }))).toBe(boom)
    expect(await namesIn(parent)).toEqual([])
  })

  it('refuses a place that is taken, also when it is taken meanwhile', async () => {
    const out = join(await fresh(), 'out')
    await writeFile(out, '')
    await octetError(writeFolder(out, fill, { op: 'quantize' }), 'INVALID_ARGUMENT', /^\[quantize\].*a file/)
    await rm(out)
    await symlink(join(out, 'nowhere'), out)
    await octetError(writeFolder(out, () => Promise.reject(new Error('begun'))), 'INVALID_ARGUMENT', /a link that leads nowhere/)
    await rm(out)
    const occupy = async (folder: string): Promise<void> => {
      await fill(folder)
      await mkdir(out)
      await writeFile(join(out, '.mine'), 'mine')
    }
    await octetError(writeFolder(out, occupy), 'INVALID_ARGUMENT', /one with 1 entries/)
    await octetError(writeFolder(out, fill), 'INVALID_ARGUMENT', /one with 1 entries/)
    expect(await readFile(join(out, '.mine'), 'utf8')).toBe('mine')
    expect(await namesIn(join(out, '..'))).toEqual(['out'])
  })

  it('says when a folder cannot be made', async () => {
    const parent = await fresh()
    await writeFile(join(parent, 'file'), '')
    await octetError(writeFolder(join(parent, 'file', 'out'), fill), 'FILE_WRITE_FAILED')
    if (process.getuid?.() === 0) return
    await chmod(parent, 0o500)
    await octetError(writeFolder(join(parent, 'out'), fill), 'FILE_WRITE_FAILED')
    await chmod(parent, 0o700)
  })

  it('refuses beforehand what it would refuse', async () => {
    const parent = await fresh()
    await checkFreeFolder(join(parent, 'out'))
    await writeFile(join(parent, 'file'), '')
    await octetError(checkFreeFolder(join(parent, 'file'), { op: 'quantize' }), 'INVALID_ARGUMENT', /^\[quantize\].*a file/)
    await octetError(checkFreeFolder(parent), 'INVALID_ARGUMENT', /one with 1 entries/)
    expect(await namesIn(parent)).toEqual(['file'])
  })
})

describe('what others have set aside', () => {
  const NUMBERS = { dead: 2 ** 30, own: process.pid, parent: process.ppid }
  const ELEVEN_MINUTES = 660

  /** The owner files of this process and of its parent, as calls of theirs would write them. */
  async function identities(): Promise<{ boot: string; namespace: string; started: Record<'own' | 'parent', string> }> {
    const started = async (pid: number): Promise<string> => (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /s, '').split(' ')[19]!
    return {
      boot: (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim(),
      namespace: await readlink('/proc/self/ns/pid'),
      started: { own: await started(NUMBERS.own), parent: await started(NUMBERS.parent) },
    }
  }

  /** Leaves what a call has set aside, silent for that many seconds. */
  async function leave(parent: string, name: string, owner: object | null, silent = 0): Promise<string> {
    const aside = join(parent, name)
    await mkdir(join(aside, 'files'), { recursive: true })
    await fill(join(aside, 'files'))
    if (owner !== null) await writeFile(join(aside, 'owner'), JSON.stringify(owner))
    const then = Date.now() / 1000 - silent
    for (const path of [join(aside, 'owner'), aside]) if (owner !== null || path === aside) await utimes(path, then, then)
    return name
  }

  const numbered = (() => {
    let made = 0
    return (of = 'out'): string => `.${of}.octet-${String(made++).padStart(12, '0')}`
  })()

  it('goes when its process is dead or has long been silent, and stays otherwise', async () => {
    const parent = await fresh()
    const { boot, namespace, started } = await identities()
    const here = { boot, namespace, key: 'k' }
    const gone = [
      ['a dead process', { ...here, pid: NUMBERS.dead, started: started.own }, 0],
      ['a process whose number another has by now', { ...here, pid: NUMBERS.own, started: '1' }, 0],
      ['a thread of this process that is silent', { ...here, pid: NUMBERS.own, started: started.own }, ELEVEN_MINUTES],
      ['another machine that is silent', { ...here, boot: 'x', pid: NUMBERS.own, started: started.own }, ELEVEN_MINUTES],
      ['another container that is silent', { ...here, namespace: 'x', pid: 1, started: '1' }, ELEVEN_MINUTES],
      ['a system that tells nothing, silent', { pid: NUMBERS.dead, boot: null, namespace: null, started: null, key: 'k' }, ELEVEN_MINUTES],
      ['one killed before it said who it was', null, ELEVEN_MINUTES],
    ] as const
    const kept = [
      ['a process that lives, though silent', { ...here, pid: NUMBERS.parent, started: started.parent }, ELEVEN_MINUTES],
      ['a thread of this process', { ...here, pid: NUMBERS.own, started: started.own }, 60],
      ['another machine', { ...here, boot: 'x', pid: NUMBERS.dead, started: '1' }, 60],
      ['another container', { ...here, namespace: 'x', pid: NUMBERS.dead, started: '1' }, 60],
      ['a system that tells nothing', { pid: NUMBERS.dead, boot: null, namespace: null, started: null, key: 'k' }, 60],
      ['one that has only just begun', null, 60],
    ] as const
    for (const [, owner, silent] of gone) await leave(parent, numbered(), owner, silent)
    const left: string[] = [await leave(parent, numbered('other'), { ...here, pid: NUMBERS.dead, started: '1' }), await leave(parent, '.out.octet-x', null, ELEVEN_MINUTES)]
    const names = new Map<string, string>()
    for (const [title, owner, silent] of kept) names.set(await leave(parent, numbered(), owner, silent), title)
    await writeFolder(join(parent, 'out'), fill)
    const found = await namesIn(parent)
    expect(found.map((name) => names.get(name) ?? name).sort()).toEqual([...names.values(), ...left, 'out'].sort())
  })

  it('has an owner as long as it has files, while it goes too', async () => {
    const parent = await fresh()
    const many = async (folder: string): Promise<void> => void (await Promise.all(Array.from({ length: 400 }, (_, i) => writeFile(join(folder, String(i)), ''))))
    const { boot, namespace, started } = await identities()
    const dead = await leave(parent, numbered(), { boot, namespace, key: 'k', pid: NUMBERS.dead, started: started.own })
    await many(join(parent, dead, 'files'))
    const orphans = new Set<string>()
    const look = (): void => {
      for (const name of readdirSync(parent)) {
        // In this order: an owner comes before the files, so only one that has gone too early is missing here.
        const owned = existsSync(join(parent, name, 'owner'))
        if (!owned && existsSync(join(parent, name, 'files')) && readdirSync(join(parent, name, 'files')).length > 0) orphans.add(name)
      }
    }
    const watch = { count: 0, ended: false }
    const watched = (async () => {
      for (; !watch.ended; watch.count++) {
        look()
        await new Promise(setImmediate)
      }
    })()
    expect(await caught(writeFolder(join(parent, 'out'), async (folder) => (await many(folder), Promise.reject(new Error('boom')))))).toMatchObject({ message: 'boom' })
    watch.ended = true
    await watched
    expect(watch.count).toBeGreaterThan(10)
    expect([...orphans]).toEqual([])
    expect(await namesIn(parent)).toEqual([])
  })

  it('stays when its owner was only asleep', async () => {
    const parent = await fresh()
    const name = await leave(parent, numbered(), { pid: 1, boot: 'x', namespace: 'x', started: '1', key: 'k' }, ELEVEN_MINUTES)
    asleep.meanwhile = async () => {
      const now = Date.now() / 1000
      await utimes(join(parent, name, 'owner'), now, now)
    }
    await writeFolder(join(parent, 'out'), fill)
    expect(await namesIn(parent)).toEqual([name, 'out'])
  })

  it('says who owns it, and renews that while it is worked on', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    try {
      const parent = await fresh()
      const { boot, namespace, started } = await identities()
      await writeFolder(join(parent, 'out'), async (folder) => {
        const owner = join(folder, '..', 'owner')
        expect(JSON.parse(await readFile(owner, 'utf8'))).toMatchObject({ boot, namespace, pid: NUMBERS.own, started: started.own })
        await utimes(owner, 1, 1)
        vi.advanceTimersByTime(1_000)
        await vi.waitFor(async () => expect((await stat(owner)).mtimeMs).toBeGreaterThan(Date.now() - 60_000))
        expect(JSON.parse(await readFile(owner, 'utf8'))).toMatchObject({ boot, namespace })
        await fill(folder)
      })
      expect(vi.getTimerCount()).toBe(0)
      expect(await namesIn(parent)).toEqual(['out'])
    } finally {
      vi.useRealTimers()
    }
  })

  it('of a living worker thread stays, and of a killed process goes at once', async () => {
    const parent = await fresh()
    const out = join(parent, 'out')
    const code = (end: string): string => `import { writeFolder } from ${JSON.stringify(DIST)}\nimport { parentPort } from 'node:worker_threads'\nawait writeFolder(${JSON.stringify(out)}, async () => { ${end} })`
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code("parentPort.postMessage(0); await new Promise((go) => parentPort.once('message', go))"))}`))
    await once(worker, 'message')
    const child = spawn(process.execPath, ['--input-type=module', '-e', code("process.kill(process.pid, 'SIGKILL')")], { stdio: 'ignore' })
    expect(await once(child, 'exit')).toEqual([null, 'SIGKILL'])
    expect((await namesIn(parent)).length).toBe(2)
    expect(await caught(writeFolder(out, () => Promise.reject(new Error('boom'))))).toMatchObject({ message: 'boom' })
    expect((await namesIn(parent)).length).toBe(1)
    worker.postMessage('go')
    expect(await once(worker, 'exit')).toEqual([0])
    expect(await namesIn(parent)).toEqual(['out'])
  })
})
