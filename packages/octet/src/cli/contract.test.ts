// The command line as a contract: exit codes, where output goes, the form of errors, signals and closed pipes.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { fixture, jsonOf, octet } from '../testing/cli.test-helper.js'

const MODEL = fixture('fairy-gemma')
const TINY = fixture('variants/llama-rope3')

let dir: string
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), 'octet-cli-'))))
afterAll(() => rm(dir, { recursive: true, force: true }))

async function file(name: string, text: string): Promise<string> {
  const path = join(dir, name)
  await writeFile(path, text)
  return path
}

describe('help', () => {
  it('prints the commands that exist, and the version', async () => {
    const bare = await octet([])
    expect(bare.status).toBe(0)
    for (const name of ['generate', 'logits', 'chat', 'inspect', 'pull', 'quantize', 'verify', 'doctor', 'bench', 'build-native']) expect(bare.stdout).toMatch(new RegExp(`^  ${name}\\b`, 'm'))
    for (const name of ['finetune', 'serve']) expect(bare.stdout).not.toContain(name)
    const help = await octet(['generate', '--help'])
    expect(help.status).toBe(0)
    expect(help.stdout).toContain('--max-new-tokens <N>')
    expect((await octet(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
  })
})

describe('usage errors end with 2 and one line on stderr', () => {
  it.each([
    [['frobnicate'], 'unknown command'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--frobnicate'], 'unknown option'],
    [['generate', '--prompt', 'x'], '--model'],
    [['generate', '--model', MODEL], 'a prompt is missing'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--input-ids', 'y'], 'exclude each other'],
    [['generate', '--model', MODEL, '--prompt', '-', '--prompt', '-'], 'once'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--max-new-tokens', 'many'], 'whole number'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--dtype', 'int4'], 'auto, f32, bf16'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--device', 'tpu'], 'cuda:N'],
    [['generate', '--model', MODEL, '--prompt', 'x', 'stray'], 'too many arguments'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--seed', '-1'], 'whole number'],
    [['logits', '--model', MODEL, '--input-ids', 'x'], '--output'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--fp8', 'int4'], 'int4'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--fp8-lm-head'], '--fp8'],
    [['bench'], 'cpu'],
    [['bench', 'gpu'], 'gpu'],
    [['verify', '--mode', 'hope'], 'test, invariance'],
    [['inspect'], 'DIR'],
  ])('%j', async (args, part) => {
    const result = await octet(args)
    expect(result.status).toBe(2)
    expect(result.stdout).toBe('')
    expect(result.stderr).toContain(part)
    expect(result.stderr.trim().split('\n')).toHaveLength(1)
    expect(result.stderr).toMatch(/^octet: /)
    const json = await octet([...args, '--json'])
    expect(json.status).toBe(2)
    expect(json.stderr).toBe('')
    expect(jsonOf(json)).toMatchObject({ schemaVersion: 1, error: { code: 'USAGE', message: expect.stringContaining(part) } })
  })
})

describe('failures end with 1, a code and what to do', () => {
  it.each([
    [['generate', '--model', './no/such/folder/at/all', '--prompt', 'x'], 'FILE_NOT_FOUND'],
    [['generate', '--model', join(MODEL, 'config.json'), '--prompt', 'x'], 'FILE_NOT_FOUND'],
    [['generate', '--model', MODEL, '--input-ids', '/no/such/file'], 'FILE_NOT_FOUND'],
    [['generate', '--model', MODEL, '--input-ids', MODEL], 'FILE_NOT_FOUND'],
    [['generate', '--model', MODEL, '--input-ids', join(MODEL, 'config.json')], 'INVALID_JSON'],
    [['generate', '--model', MODEL, '--prompt-file', '/no/such/file'], 'FILE_NOT_FOUND'],
    [['generate', '--model', TINY, '--prompt', 'x'], 'FILE_NOT_FOUND'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--device', 'cuda'], 'DEVICE_NOT_FOUND'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--fp8', 'delayed'], 'RECIPE_NOT_CALIBRATED'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--fp8', 'mxfp8'], 'RECIPE_NOT_SUPPORTED'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--adapter', fixture('lora-fairy-llama')], 'CHECKPOINT_MISMATCH'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--fp8', '--calibration', '/no/such/file'], 'FILE_NOT_FOUND'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--max-new-tokens', '5000'], 'CONTEXT_TOO_LONG'],
    [['generate', '--model', MODEL, '--prompt', 'x', '--num-return-sequences', '2'], 'INVALID_ARGUMENT'],
    [['chat', '--model', TINY], 'INVALID_TEMPLATE'],
    [['inspect', './no/such/folder'], 'FILE_NOT_FOUND'],
    [['logits', '--model', TINY, '--input-ids', join(fixture(''), 'golden-fairy-gemma/golden.json'), '--output', 'x'], 'INVALID_JSON'],
  ])('%j: %s', async (args, code) => {
    const result = await octet(args)
    expect(result.status).toBe(1)
    expect(result.stdout).toBe('')
    expect(result.stderr).toMatch(/^octet: .+\n$/)
    expect(result.stderr).not.toContain('    at ')
    const json = await octet([...args, '--json'])
    expect(json.status).toBe(1)
    expect(json.stderr).toBe('')
    expect((jsonOf(json)['error'] as { code: string }).code).toBe(code)
    expect(jsonOf(json)['error']).toHaveProperty('hint')
  })

  it('refuses a row past the context before it pads the others to it', async () => {
    const ids = await file('long.json', JSON.stringify({ input_ids: [Array.from({ length: 3000 }, () => 5), ...Array.from({ length: 3000 }, () => [5])] }))
    const result = await octet(['logits', '--model', TINY, '--input-ids', ids, '--output', join(dir, 'x.safetensors'), '--json'])
    expect((jsonOf(result)['error'] as { code: string }).code).toBe('CONTEXT_TOO_LONG')
  })

  it('says when the output cannot be written', async () => {
    const ids = await file('one.json', '{"input_ids":[[5,6,7]]}')
    const result = await octet(['logits', '--model', TINY, '--input-ids', ids, '--output', join(dir, 'no', 'such', 'x.safetensors'), '--json'])
    expect(result.status).toBe(1)
    expect((jsonOf(result)['error'] as { code: string }).code).toBe('FILE_WRITE_FAILED')
  })

  it('prints the stack with --debug only', async () => {
    expect((await octet(['inspect', './no/such/folder', '--debug'])).stderr).toContain('    at ')
  })
})

describe('prompts', () => {
  it('come from stdin and from files alike', async () => {
    const text = 'The old witch said to the'
    const flags = ['--model', MODEL, '--max-new-tokens', '8', '--dtype', 'f32']
    const [direct, stdin, path] = [
      await octet(['generate', ...flags, '--prompt', text]),
      await octet(['generate', ...flags, '--prompt', '-'], { input: text }),
      await octet(['generate', ...flags, '--prompt-file', await file('prompt.txt', text)]),
    ]
    expect(direct.status).toBe(0)
    expect(direct.stdout.trim()).not.toBe('')
    expect(stdin.stdout).toBe(direct.stdout)
    expect(path.stdout).toBe(direct.stdout)
  })

  it('of unequal length need no mask', async () => {
    const ids = await file('ragged.json', '{"input_ids":[[5,6,7],[8]]}')
    const result = await octet(['generate', '--model', TINY, '--input-ids', ids, '--max-new-tokens', '4', '--ignore-eos', '--json'])
    const { sequences } = jsonOf(result) as { sequences: number[][] }
    expect(sequences.map((row) => row.length)).toEqual([7, 7])
    expect(sequences[1]!.slice(2, 3)).toEqual([8])
  })

  it('draws the same for the same seed and not for another', async () => {
    const run = (seed: string) => octet(['generate', '--model', MODEL, '--prompt', 'There was', '--do-sample', '--seed', seed, '--max-new-tokens', '24', '--json'])
    const [a, b, c] = [jsonOf(await run('1')), jsonOf(await run('1')), jsonOf(await run('2'))]
    expect(a['sequences']).toEqual(b['sequences'])
    expect(a['sequences']).not.toEqual(c['sequences'])
    expect(a['seed']).toBe(1)
  })
})

describe('chat', () => {
  it('answers each line of stdin and remembers', async () => {
    const result = await octet(['chat', '--model', MODEL, '--dtype', 'f32', '--max-new-tokens', '12', '--json'], { input: 'A tale\nMore\n' })
    expect(result.stderr).toBe('')
    const turns = result.stdout.trim().split('\n').map((line) => JSON.parse(line) as { role: string; usage: { promptTokens: number } })
    expect(turns.map((turn) => turn.role)).toEqual(['assistant', 'assistant'])
    expect(turns[1]!.usage.promptTokens).toBeGreaterThan(turns[0]!.usage.promptTokens + 12)
  })
})

describe('the person at the other end', () => {
  it('may close the pipe', async () => {
    const result = await octet(['generate', '--model', MODEL, '--prompt', 'Once', '--max-new-tokens', '400', '--ignore-eos'], { onStdout: (_, child) => child.stdout!.destroy() })
    expect(result.status).toBe(0)
    expect(result.stderr).toBe('')
  })

  it.each(['SIGINT', 'SIGTERM'] as const)('may send %s while tokens come', async (signal) => {
    let sent = false
    const result = await octet(['generate', '--model', MODEL, '--prompt', 'Once', '--max-new-tokens', '1900', '--ignore-eos'], {
      onStdout: (_, child) => {
        if (!sent) child.kill(signal)
        sent = true
      },
    })
    expect(result.status).toBe(130)
    expect(result.stderr).toBe('')
  })

  it('may interrupt while the weights are loaded', async () => {
    const result = await octet(['generate', '--model', MODEL, '--prompt', 'Once', '--max-new-tokens', '1900', '--ignore-eos'], { onStart: (child) => setTimeout(() => child.kill('SIGINT'), 350) })
    expect([130, null]).toContain(result.status)
  })
})

describe('reports', () => {
  it('inspect shows config, files and tensors', async () => {
    const { config, parameters, tensors, files, totals, kind } = jsonOf(await octet(['inspect', MODEL, '--json'])) as { config: object; parameters: number; tensors: object[]; files: string[]; kind: string; totals: { bf16: { bytes: number } } }
    expect(config).toMatchObject({ modelType: 'gemma', numHiddenLayers: 5 })
    expect(kind).toBe('safetensors-sharded')
    expect(files).toHaveLength(3)
    expect(parameters).toBe(totals.bf16.bytes / 2)
    expect(tensors).toHaveLength(47)
    const fp8 = jsonOf(await octet(['inspect', fixture('variants/llama-fp8-fbgemm'), '--json'])) as { kinds: Record<string, { tensors: number; bytes: number; bf16Bytes: number }>; tensors: { byteLength: number }[] }
    expect(Object.keys(fp8.kinds).sort()).toEqual(['embedding', 'head', 'norms', 'projections', 'scales'])
    expect(Object.values(fp8.kinds).reduce((sum, each) => sum + each.bytes, 0)).toBe(fp8.tensors.reduce((sum, each) => sum + each.byteLength, 0))
    const { projections, scales } = fp8.kinds
    expect([projections!.tensors, scales!.tensors, 2 * projections!.bytes]).toEqual([14, 14, projections!.bf16Bytes])
    expect((projections!.bytes + scales!.bytes) / projections!.bf16Bytes).toBeLessThan(0.52)
    const table = (await octet(['inspect', MODEL])).stdout
    expect(table).toMatch(/^bytes +embedding \d.* kB, norms .*, projections /m)
    expect((await octet(['inspect', fixture('variants/llama-fp8-fbgemm')])).stdout).toMatch(/projections .* kB \(0\.500 of bf16\)/)
    expect(table).toMatch(/^model\.layers\.\*\.mlp\.up_proj\.weight +5 +bf16 +\[512, 192\] +983 kB$/m)
    expect((await octet(['inspect', MODEL, '--all'])).stdout).toContain('model.layers.4.mlp.up_proj.weight')
  })

  it('doctor finds what this machine needs', async () => {
    const { findings } = jsonOf(await octet(['doctor', '--json'])) as { findings: { name: string; status: string }[] }
    expect(findings.map((finding) => finding.name)).toEqual(['octet', 'node', 'system', 'cpu', 'memory', 'kernels', 'cuda'])
    expect(findings.filter((finding) => finding.status === 'missing')).toEqual([])
    expect((await octet(['doctor'])).stdout).toMatch(/^kernels +ok +/m)
  })

  it('verify runs the table and names what it ran', async () => {
    const result = jsonOf(await octet(['verify', '--op', 'add', '--reduced', '--json'])) as { passed: number; failed: number; devices: object[] }
    expect(result.failed).toBe(0)
    expect(result.passed).toBeGreaterThan(0)
    expect(result.devices.length).toBeGreaterThan(0)
    expect((await octet(['verify', '--op', 'noSuchOp'])).status).toBe(1)
    expect((await octet(['verify', '--device', 'cuda', '--op', 'add'])).stdout).toMatch(/CUDA: NOT RUN \(\d+ cases\)/)
  })

  it('bench cpu measures a model that fits a test', async () => {
    const output = join(dir, 'rows.jsonl')
    const args = ['bench', 'cpu', '--shape', 'tiny', '--prompts', '16,32', '--new-tokens', '8', '--repeats', '1', '--output', output, '--json']
    const row = jsonOf(await octet(args)) as { ours: { decodeTokensPerS: number; prefillTokensPerS: Record<string, number> }; load: { GBPerS: number }; probe: { share: number }; anonymousMemory: { bytes: number; allowed: number }; peer: null; fp8: null }
    expect(row.ours.decodeTokensPerS).toBeGreaterThan(0)
    expect(Object.keys(row.ours.prefillTokensPerS)).toEqual(['16', '32'])
    expect(row.load.GBPerS).toBeGreaterThan(0)
    expect(row.probe.share).toBeGreaterThan(0)
    expect(row.anonymousMemory.bytes).toBeLessThan(row.anonymousMemory.allowed)
    expect([row.peer, row.fp8]).toEqual([null, null])
    const { commit, time } = JSON.parse(await (await import('node:fs/promises')).readFile(output, 'utf8')) as { commit: string; time: string }
    expect(commit).toMatch(/^[0-9a-f]{12}/)
    expect(Date.parse(time)).not.toBeNaN()
  })

  it('bench cpu --fp8 measures FP8 weights beside bf16 ones, and says what it stored', async () => {
    const args = ['bench', 'cpu', '--shape', 'tiny', '--prompts', '16', '--new-tokens', '8', '--repeats', '1', '--fp8']
    type Side = { head: string; weights: object; weightsBytes: number; decodeTokensPerS: number; overBf16: { decode: number; prefill: Record<string, number> }; overPeer: null; load: { GBPerS: number }; anonymousMemory: { bytes: number; allowed: number } }
    const row = jsonOf(await octet([...args, '--json'])) as { ours: { weightsBytes: number; decodeTokensPerS: number }; fp8: { sides: Side[]; peer: null } }
    expect(row.fp8.peer).toBeNull()
    expect(row.fp8.sides.map(({ head, weights }) => [head, weights])).toEqual([['bf16', { row: 14 }], ['e4m3', { row: 14 }]])
    for (const side of row.fp8.sides) {
      expect(side.weightsBytes).toBeLessThan(row.ours.weightsBytes)
      expect(side.overBf16.decode).toBeCloseTo(side.decodeTokensPerS / row.ours.decodeTokensPerS, 9)
      expect(Object.keys(side.overBf16.prefill)).toEqual(['16'])
      expect([side.overPeer, side.load.GBPerS > 0, side.anonymousMemory.bytes < side.anonymousMemory.allowed]).toEqual([null, true, true])
    }
    const lines = await octet([...args, '--no-load'])
    expect(lines.stdout).toMatch(/octet fp8, fp8 head +[\d.]+ tokens\/s/)
    expect(lines.stdout).not.toContain('loading')
  })
})
