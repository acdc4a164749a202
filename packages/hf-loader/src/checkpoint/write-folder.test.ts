import { createHash } from 'node:crypto'
import { chmod, mkdir, readFile, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { caught, namesIn, octetError, useTempFolder } from '../testing/support.test-helper.js'
import { writeFolder } from './index.js'

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

  it('clears away what killed calls left for the same folder, and nothing else', async () => {
    const parent = await fresh()
    const host = createHash('sha256').update(hostname()).digest('hex').slice(0, 8)
    const name = (of: string, pid: number, key: string) => `.${of}.octet-${pid}-${key}-0123456789ab`
    // No process can have this number; Linux stops at 2^22.
    const dead = 2 ** 30
    const gone = [name('out', dead, host), name('out', dead, '00000000')]
    const kept = [name('out', process.pid, host), name('other', dead, host), name('out', dead, '11111111'), '.out.octet-x']
    for (const each of [...gone, ...kept]) await fill(await mkdir(join(parent, each)).then(() => join(parent, each)))
    const dayBefore = Date.now() / 1000 - 90_000
    for (const each of [gone[1]!, kept[0]!]) await utimes(join(parent, each), dayBefore, dayBefore)
    await writeFolder(join(parent, 'out'), fill)
    expect(await namesIn(parent)).toEqual([...kept, 'out'].sort())
  })
})
