// Damaged and hostile files through the command line: one error or a result, exit 0, 1 or 2, within bounded memory.
// OCTET_FUZZ_CASES sets how many (the full tier has 10,000 in the loader's own tests; each case here is a process).
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ERROR_CODES } from '@octet-llm/core'
import { fixture, jsonOf, octet, type CliResult } from '../testing/cli.test-helper.js'
import { mutate } from '../testing/mutate.test-helper.js'

const CASES = Math.max(3, Math.round(Number(process.env['OCTET_FUZZ_CASES'] ?? '150') / 50))
/** Reports the highest resident memory of the process, as the kernel counted it. */
const PEAK = `data:text/javascript,${encodeURIComponent("import { writeFileSync } from 'node:fs'; process.on('exit', () => writeFileSync(process.env.OCTET_PEAK_FILE, String(process.resourceUsage().maxRSS)))")}`
const SLACK = 64 * 2 ** 20

let dir: string
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), 'octet-fuzz-'))))
afterAll(() => rm(dir, { recursive: true, force: true }))

/** A run and its peak memory in bytes. */
async function measured(args: readonly string[], input?: string): Promise<{ result: CliResult; peak: number }> {
  const peakFile = join(dir, 'peak')
  await rm(peakFile, { force: true })
  const result = await octet(args, { nodeArgs: ['--import', PEAK], env: { OCTET_PEAK_FILE: peakFile }, input: input ?? '', timeoutMs: 60_000 })
  return { result, peak: Number(await readFile(peakFile, 'utf8')) * 1024 }
}

const TARGETS = [
  { model: 'variants/gemma2', file: 'model.safetensors', chat: false },
  { model: 'variants/llama-bin-single', file: 'pytorch_model.bin', chat: false },
  { model: 'variants/llama-bin-legacy', file: 'pytorch_model.bin', chat: false },
  { model: 'variants/llama-bin-sharded', file: 'pytorch_model.bin.index.json', chat: false },
  { model: 'fairy-gemma', file: 'model.safetensors.index.json', chat: false },
  { model: 'variants/gemma3', file: 'config.json', chat: false },
  { model: 'variants/llama-rope3', file: 'generation_config.json', chat: false },
  { model: 'fairy-llama', file: 'tokenizer.json', chat: true },
  { model: 'fairy-gemma', file: 'tokenizer_config.json', chat: true },
  { model: 'fairy-gemma', file: 'chat_template.jinja', chat: true },
  { model: 'variants/gemma2', file: 'ids.json', chat: false },
] as const

describe.each(TARGETS)('$model/$file', ({ model, file, chat }) => {
  it(`survives ${CASES} mutations`, async () => {
    const folder = join(dir, `${model.replace('/', '-')}-${file}`)
    await cp(fixture(model), folder, { recursive: true })
    const ids = join(folder, 'ids.json')
    await writeFile(ids, '{"input_ids": [[5, 6, 7, 8], [9, 10, 11, 12]], "attention_mask": [[0, 1, 1, 1], [1, 1, 1, 1]]}')
    const args = chat
      ? ['chat', '--model', folder, '--max-new-tokens', '2', '--json']
      : ['generate', '--model', folder, '--input-ids', ids, '--max-new-tokens', '2', '--ignore-eos', '--json']
    const input = chat ? 'A tale of three brothers\n' : undefined
    const idle = await measured(args, input)
    expect(idle.result.status).toBe(0)
    const original = await readFile(join(folder, file))
    for (let seed = 0; seed < CASES; seed++) {
      const bytes = mutate(original, seed)
      await rm(join(folder, file))
      await writeFile(join(folder, file), bytes)
      const { result, peak } = await measured(args, input)
      const told = `${model}/${file} seed ${seed}: ${result.stdout.slice(0, 400)} ${result.stderr.slice(0, 800)}`
      expect(result.signal, told).toBeNull()
      expect([0, 1, 2], told).toContain(result.status)
      expect(result.stderr, told).toBe('')
      if (result.status !== 0) {
        const { code } = jsonOf(result)['error'] as { code: string }
        expect(Object.keys(ERROR_CODES), told).toContain(code)
        expect(code, told).not.toBe('INTERNAL')
      }
      expect(peak - idle.peak, told).toBeLessThan(SLACK + 20 * Math.min(bytes.length, 2 ** 20))
    }
  }, 60_000 * CASES + 60_000)
})
