import { existsSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { OctetError } from '@octet-llm/core'
import { gitSha1 } from './fake-hub.test-helper.js'
import { pull } from './index.js'
import { cacheDir, COMMIT, CONFIG, hub, index, list, MODEL, octetError, options, repo } from './setup.test-helper.js'

describe('refusals of the hub', () => {
  it.each<[string, number, Record<string, string>, string | null, RegExp]>([
    ['not there, no token', 401, { 'x-error-code': 'RepoNotFound' }, null, /model repository of that name.*HTTP 401.*set HF_TOKEN if it is private or gated/],
    ['not there, with a token', 401, {}, 'hf_x', /check the name, and that HF_TOKEN may read it/],
    ['not there', 404, {}, null, /model repository of that name/],
    ['gated', 403, { 'x-error-code': 'GatedRepo', 'x-error-message': 'Access to model tales/fairy is restricted' }, 'hf_x', /restricted.*accept its terms at http.*\/tales\/fairy/],
    ['gated, no token', 401, { 'x-error-code': 'GatedRepo' }, null, /accept its terms/],
    ['no such revision', 404, { 'x-error-code': 'RevisionNotFound' }, null, /that revision.*branch, tag or commit/],
    ['odd', 418, {}, null, /HTTP 418.*HF_ENDPOINT/],
  ])('%s', async (_name, status, headers, token, message) => {
    hub.listing = () => ({ status, headers, body: '{"error":"x"}' })
    expect((await octetError(() => pull('tales/fairy', { ...options, token }), 'HUB_FAILED')).message).toMatch(message)
    expect(hub.seen).toHaveLength(1)
  })

  it('a file that vanished says to pull again', async () => {
    const { files } = hub.add('tales/fairy', MODEL)
    hub.onRequest = (path) => void (path.startsWith('/api') || files.delete('tokenizer.json'))
    expect((await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')).message).toMatch(/that file.*pull again/)
  })
})

describe('answers that cannot be trusted', () => {
  const listing = (change: (answer: { sha: unknown; siblings: unknown }) => void): void => {
    const answer = { sha: COMMIT as unknown, siblings: [{ rfilename: 'config.json', size: 2, blobId: gitSha1(Buffer.from('{}')) }] as unknown }
    change(answer)
    hub.listing = () => ({ status: 200, body: JSON.stringify(answer) })
  }

  it.each(['../config.json', '/etc/passwd', 'a/../../b', 'a//b', './a', 'a/', '', 'C:\\x', 'a\\b', 'a\0b', 'c:x', 'a\nb', 'x'.repeat(2000), 7, null])('file name %j is refused', async (name) => {
    listing((answer) => (answer.siblings as unknown[]).push({ rfilename: name, size: 2, blobId: gitSha1(Buffer.from('{}')) }))
    expect((await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')).expected).toBe('relative file names without ..')
    expect(list(cacheDir)).toEqual([])
  })

  it.each<[string, (answer: { sha: unknown; siblings: unknown }) => void]>([
    ['a commit', (answer) => (answer.sha = '../../x')],
    ['a commit', (answer) => (answer.sha = undefined)],
    ['a list of files', (answer) => (answer.siblings = {})],
    ['relative file names', (answer) => (answer.siblings = [null])],
    ['the hash of config.json', (answer) => (answer.siblings = [{ rfilename: 'config.json', size: 2, blobId: '../x' }])],
    ['the hash of config.json', (answer) => (answer.siblings = [{ rfilename: 'config.json', size: 2 }])],
    ['the hash of config.json', (answer) => (answer.siblings = [{ rfilename: 'config.json', size: 2, lfs: { size: 2, sha256: 'a'.repeat(40) } }])],
    ['the size of config.json', (answer) => (answer.siblings = [{ rfilename: 'config.json', size: -1, blobId: 'a'.repeat(40) }])],
    ['the size of config.json', (answer) => (answer.siblings = [{ rfilename: 'config.json', size: '2', blobId: 'a'.repeat(40) }])],
    ['each file once', (answer) => (answer.siblings as unknown[]).push((answer.siblings as unknown[])[0])],
  ])('%s: anything else is refused', async (expected, change) => {
    listing(change)
    expect((await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')).expected).toContain(expected)
    expect(list(cacheDir)).toEqual([])
  })

  it('text that is not JSON, and more of it than a listing can have', async () => {
    hub.listing = () => ({ status: 200, body: '<html>' })
    await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')
    hub.listing = () => ({ status: 200, body: ' '.repeat(65 * 1024 * 1024) })
    await octetError(() => pull('tales/fairy', options), 'HUB_FAILED')
  })

  it.each<[string, string, string]>([
    ['a path', index({ a: '../../outside' }), 'relative file names without ..'],
    ['an absolute path', index({ a: '/etc/passwd' }), 'relative file names without ..'],
    ['a shard the repository lacks', index({ a: 'other.safetensors' }), 'shards of the repository'],
    ['a number', '{"weight_map":{"a":7}}', 'relative file names without ..'],
    ['no map', '{"weight_map":[]}', 'a weight_map'],
    ['an empty map', index({}), 'at least one shard'],
    ['no JSON', '{', 'JSON'],
  ])('an index with %s is INVALID_INDEX', async (_name, text, expected) => {
    hub.add('tales/fairy', { 'config.json': CONFIG, 'model.safetensors.index.json': text })
    expect((await octetError(() => pull('tales/fairy', options), 'INVALID_INDEX')).expected).toBe(expected)
    expect(existsSync(repo('snapshots'))).toBe(false)
  })

  it('sizes past the disk are refused at once', async () => {
    const big = { rfilename: 'model.safetensors', size: 2 ** 52, lfs: { size: 2 ** 52, sha256: 'a'.repeat(64) } }
    listing((answer) => (answer.siblings as unknown[]).push(big))
    expect((await octetError(() => pull('tales/fairy', options), 'FILE_WRITE_FAILED')).message).toContain('free some disk space')
    expect(hub.seen).toHaveLength(1)
  })

  it('any JSON at all gives one error or a pull', async () => {
    const runs = process.env['OCTET_SLOW'] === '1' ? 2000 : 100
    const sibling = fc.record(
      { rfilename: fc.oneof(fc.constantFrom('config.json', 'model.safetensors', '../x', 'a/b.json'), fc.jsonValue()), size: fc.oneof(fc.constant(2), fc.jsonValue()), blobId: fc.oneof(fc.constant(gitSha1(Buffer.from('{}'))), fc.jsonValue()), lfs: fc.jsonValue() },
      { requiredKeys: [] },
    )
    const answer = fc.oneof(fc.jsonValue(), fc.record({ sha: fc.oneof(fc.constant(COMMIT), fc.jsonValue()), siblings: fc.oneof(fc.array(sibling), fc.jsonValue()) }, { requiredKeys: [] }))
    await fc.assert(
      fc.asyncProperty(answer, async (value) => {
        hub.listing = () => ({ status: 200, body: JSON.stringify(value) })
        const thrown: unknown = await pull('tales/fairy', { ...options, retries: 0 }).then(() => null, (error: unknown) => error)
        if (thrown !== null) expect(OctetError.is(thrown), String(thrown)).toBe(true)
      }),
      { numRuns: runs },
    )
  })
})
