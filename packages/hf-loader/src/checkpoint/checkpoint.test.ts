import { mkdir, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { type QuantizedSource, type WeightSlot } from '@octet-llm/core'
import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { readConfig } from '../config/index.js'
import { readTensorFloat32, type TensorEntry } from '../safetensors/index.js'
import { caught, failsOnlyWith, fixture, FUZZ_TIMEOUT, fuzzCases, octetError, useTempFolder } from '../testing/support.test-helper.js'
import { assign, openCheckpoint, planAssignment, sharesEmbedding, type Checkpoint } from './index.js'
import { copyOf, entry, RecordingSink, shardedFiles, singleFile, slotsOf } from './model.test-helper.js'

const temp = useTempFolder()
let folders = 0
const fresh = (): string => temp.path(`case-${folders++}`)

async function withCheckpoint<T>(dir: string, run: (checkpoint: Checkpoint) => T | Promise<T>): Promise<T> {
  const checkpoint = await openCheckpoint(dir)
  try {
    return await run(checkpoint)
  } finally {
    await checkpoint.close()
  }
}

/** Names a sink is given from a folder of these tensors. */
async function assigned(dir: string, slots: readonly WeightSlot[], tied = false): Promise<string[]> {
  const sink = new RecordingSink()
  await withCheckpoint(dir, (checkpoint) => assign(checkpoint, slots, sink, { tied }))
  return sink.names
}

const VARIANTS = ['fairy-gemma', 'fairy-llama', ...['gemma-mha256', 'gemma-mqa', 'gemma2', 'gemma3', 'llama-bias-tied', 'llama-headdim', 'llama-linear-rope', 'llama-rope3', 'llama-yarn',
  'llama-bin-single', 'llama-bin-sharded', 'llama-bin-legacy', 'llama-fp8-block128', 'llama-fp8-ct-channel-dynamic', 'llama-fp8-ct-tensor-static', 'llama-fp8-fbgemm'].map((name) => `variants/${name}`)]

describe('openCheckpoint and assign', () => {
  it.each(VARIANTS)('fill every slot of %s, in file order', async (name) => {
    const config = await readConfig(fixture(name))
    await withCheckpoint(fixture(name), async (checkpoint) => {
      const tied = await sharesEmbedding(checkpoint, config)
      expect(tied).toBe(config.tieWordEmbeddings)
      const slots = slotsOf(config, tied)
      const sink = new RecordingSink()
      const progress: number[] = []
      const summary = await assign(checkpoint, slots, sink, { tied, onProgress: ({ doneBytes, totalBytes }) => progress.push(doneBytes / totalBytes) })
      expect(planAssignment(checkpoint, slots, { tied }).tensors.map(({ slot }) => slot.name)).toEqual(sink.names)
      expect(new Set(sink.names)).toEqual(new Set(slots.map((slot) => slot.name)))
      expect(summary).toMatchObject({ tensors: slots.length, ignored: [] })
      expect(progress.at(-1)).toBe(1)
      expect([...progress].sort((a, b) => a - b)).toEqual(progress)
      const places = sink.taken.map(({ source }) => ('data' in source ? source.data : source)).map(({ path, offset }) => [checkpoint.shards.findIndex((shard) => shard.path === path), offset] as const)
      expect(places.every(([shard, offset], i) => i === 0 || places[i - 1]![0] < shard || (places[i - 1]![0] === shard && places[i - 1]![1] <= offset))).toBe(true)
    })
  })

  it('tells the four kinds apart, in the order of transformers', async () => {
    const kinds = ['safetensors', 'safetensors-sharded', 'torch-bin', 'torch-bin-sharded']
    const dirs = ['variants/llama-rope3', 'fairy-llama', 'variants/llama-bin-legacy', 'variants/llama-bin-sharded']
    for (const [i, dir] of dirs.entries()) await withCheckpoint(fixture(dir), ({ kind }) => expect(kind).toBe(kinds[i]))
    const dir = await copyOf('variants/llama-bin-single', fresh())
    await shardedFiles(dir, { 'model-1.safetensors': [entry('x', [1])] })
    await withCheckpoint(dir, ({ kind }) => expect(kind).toBe('safetensors-sharded'))
    await singleFile(dir, [entry('y', [1])])
    await withCheckpoint(dir, ({ kind, sources }) => expect([kind, ...sources.keys()]).toEqual(['safetensors', 'y']))
  })

  it('reads tensors of every shard by name', async () => {
    await withCheckpoint(fixture('fairy-gemma'), async (checkpoint) => {
      expect(checkpoint.shards.map(({ path }) => basename(path))).toEqual([1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`))
      expect(checkpoint.shards.flatMap(({ names }) => names)).toEqual([...checkpoint.sources.keys()])
      for (const { names } of checkpoint.shards) {
        const source = checkpoint.sources.get(names[0]!)!
        const values = await checkpoint.readFloat32(names[0]!)
        expect(await readTensorFloat32(source)).toEqual(values)
        expect((await checkpoint.read(names[0]!)).byteLength).toBe(source.byteLength)
        expect(values.some((value) => value !== 0)).toBe(true)
      }
      await octetError(checkpoint.read('model.nothing'), 'INVALID_ARGUMENT', /model\.nothing/)
    })
    const checkpoint = await openCheckpoint(fixture('fairy-gemma'))
    await checkpoint[Symbol.asyncDispose]()
    await octetError(checkpoint.read('model.norm.weight'), 'DISPOSED')
  })

  it('says what is missing from a folder', async () => {
    const dir = fresh()
    await octetError(openCheckpoint(dir), 'FILE_NOT_FOUND', /model\.safetensors or model\.safetensors\.index\.json or pytorch_model\.bin/)
    await mkdir(dir, { recursive: true })
    await octetError(openCheckpoint(dir), 'FILE_NOT_FOUND', /check the path/)
    await octetError(openCheckpoint(fixture('lora-fairy-llama')), 'FILE_NOT_FOUND', /LoRA adapter/)
    const reason = new Error('enough')
    expect(await caught(openCheckpoint(fixture('fairy-gemma'), { signal: AbortSignal.abort(reason) }))).toBe(reason)
  })
})

describe('the strict report', () => {
  const slots: WeightSlot[] = [
    { name: 'model.embed_tokens.weight', shape: [4, 2] }, { name: 'model.layers.0.a.weight', shape: [2, 2], quantizable: true },
    { name: 'model.layers.0.b.weight', shape: [2] }, { name: 'model.norm.weight', shape: [2] }, { name: 'lm_head.weight', shape: [4, 2], optional: true },
  ]
  const good = slots.slice(0, 4).map(({ name, shape }) => entry(name, shape))

  it('names everything that does not fit in one error, before a tensor moves', async () => {
    const dir = await singleFile(fresh(), [
      entry('model.embed_tokens.weight', [2, 4]), { name: 'model.layers.0.a.weight', dtype: 'i8', shape: [2, 2], data: new Int8Array(4) },
      entry('model.norm.weight', [2]), entry('model.extra.weight', [1]), entry('__proto__', [1]),
    ])
    const sink = new RecordingSink()
    await withCheckpoint(dir, async (checkpoint) => {
      const error = await octetError(assign(checkpoint, slots, sink), 'CHECKPOINT_MISMATCH')
      expect(error.argument).toBe(dir)
      expect(error.received).toBe('1 missing (model.layers.0.b.weight); 2 unexpected ("__proto__", "model.extra.weight"); 1 of the wrong shape (model.embed_tokens.weight expected [4, 2], received [2, 4]); ' +
        '1 of the wrong type (model.layers.0.a.weight expected f32, bf16, f16, f64 or e4m3, received i8)')
    })
    expect(sink.taken).toEqual([])
  })

  it('counts what it does not list', async () => {
    const dir = await singleFile(fresh(), [...good, ...Array.from({ length: 700 }, (_, i) => entry(`extra.${i}`, [1]))])
    const error = await octetError(assigned(dir, slots), 'CHECKPOINT_MISMATCH', /700 unexpected/)
    expect(error.message).toContain('and 650 more')
    expect(error.message.length).toBeLessThan(3000)
  })

  it('lets an optional slot stay empty, and fills it when it can', async () => {
    const names = await assigned(await singleFile(fresh(), good), slots)
    expect(new Set(names)).toEqual(new Set(slots.slice(0, 4).map(({ name }) => name)))
    expect(await assigned(await singleFile(fresh(), [...good, entry('lm_head.weight', [4, 2])]), slots)).toContain('lm_head.weight')
    await octetError(assigned(await singleFile(fresh(), [...good, entry('lm_head.weight', [4, 3])]), slots), 'CHECKPOINT_MISMATCH', /lm_head\.weight expected \[4, 2\]/)
  })

  it('accepts float types alone', async () => {
    const one = [{ name: 'x.weight', shape: [2, 2] }]
    const width = { f64: 8, f32: 4, bf16: 2, f16: 2, e4m3: 1, e5m2: 1, i32: 4, u8: 1, bool: 1 } as const
    for (const [dtype, bytes] of Object.entries(width) as [keyof typeof width, number][]) {
      const dir = await singleFile(fresh(), [{ name: 'x.weight', dtype, shape: [2, 2], data: new Uint8Array(4 * bytes) }])
      if (['f64', 'f32', 'bf16', 'f16'].includes(dtype)) expect(await assigned(dir, one)).toEqual(['x.weight'])
      else await octetError(assigned(dir, one), 'CHECKPOINT_MISMATCH', new RegExp(`received ${dtype}`))
    }
  })

  it('knows the names of multimodal and bare checkpoints', async () => {
    const rename = (change: (name: string) => string): TensorEntry[] => good.map((each) => ({ ...each, name: change(each.name) }))
    const expected = good.map(({ name }) => name).sort()
    const vision = [entry('vision_tower.x', [1]), entry('multi_modal_projector.y', [1]), entry('model.vision_tower.z', [1])]
    const forms: TensorEntry[][] = [
      [...rename((name) => name.replace('model.', 'model.language_model.')), ...vision],
      [...rename((name) => `language_model.${name}`), ...vision],
      [...rename((name) => name.replace('model.', '')), entry('layers.0.self_attn.rotary_emb.inv_freq', [4])],
      [...good, entry('model.layers.0.self_attn.rotary_emb.inv_freq', [4])],
    ]
    for (const form of forms) expect((await assigned(await singleFile(fresh(), form), slots)).sort()).toEqual(expected)
    const withHead = [...rename((name) => `language_model.${name}`), entry('language_model.lm_head.weight', [4, 2])]
    expect(await assigned(await singleFile(fresh(), withHead), slots)).toContain('lm_head.weight')
    await octetError(assigned(await singleFile(fresh(), [...good, ...vision]), slots), 'CHECKPOINT_MISMATCH', /3 unexpected/)
    const both = [...good, entry('model.language_model.norm.weight', [2])]
    await octetError(assigned(await singleFile(fresh(), both), slots), 'CHECKPOINT_MISMATCH', /twice under one name \("model\.language_model\.norm\.weight" and "model\.norm\.weight"\)/)
  })
})

describe('tied heads', () => {
  const slots = [{ name: 'model.embed_tokens.weight', shape: [2, 2] }]
  const embedding = entry('model.embed_tokens.weight', [2, 2], [1, 2, 3, 4])
  const head = (...values: number[]): TensorEntry => entry('lm_head.weight', [2, 2], values)
  const shares = async (entries: TensorEntry[], tieWordEmbeddings = true): Promise<boolean> => withCheckpoint(await singleFile(fresh(), entries), (checkpoint) => sharesEmbedding(checkpoint, { tieWordEmbeddings }))

  it('are those that the config ties and the files do not contradict', async () => {
    expect(await shares([embedding])).toBe(true)
    expect(await shares([embedding, head(1, 2, 3, 4)])).toBe(true)
    expect(await shares([embedding, head(1, 2, 3, 5)])).toBe(false)
    expect(await shares([embedding, entry('lm_head.weight', [4, 1], [1, 2, 3, 4])])).toBe(false)
    expect(await shares([embedding, { ...head(), dtype: 'i32', data: Float32Array.of(1, 2, 3, 4) }])).toBe(false)
    expect(await shares([embedding], false)).toBe(false)
    expect(await shares([embedding, head(1, 2, 3, 4)], false)).toBe(false)
    expect(await shares([head(1, 2, 3, 4)])).toBe(true)
    expect(await shares([{ ...embedding, name: 'language_model.model.embed_tokens.weight' }, { ...head(9, 2, 3, 4), name: 'language_model.lm_head.weight' }])).toBe(false)
  })

  it('compare to the last byte of tensors larger than a chunk', async () => {
    const values = Array.from({ length: 2 ** 21 }, (_, i) => i)
    const large = (name: string, last: number): TensorEntry => entry(name, [2, 2 ** 20], [...values.slice(0, -1), last])
    expect(await shares([large('model.embed_tokens.weight', 1), large('lm_head.weight', 1)])).toBe(true)
    expect(await shares([large('model.embed_tokens.weight', 1), large('lm_head.weight', 2)])).toBe(false)
  })

  it('need no slot, and only then', async () => {
    const dir = await singleFile(fresh(), [embedding, head(1, 2, 3, 4)])
    expect(await assigned(dir, slots, true)).toEqual(['model.embed_tokens.weight'])
    await octetError(assigned(dir, slots), 'CHECKPOINT_MISMATCH', /lm_head/)
    await withCheckpoint(dir, (checkpoint) => expect(planAssignment(checkpoint, slots, { tied: true }).ignored).toEqual(['lm_head.weight']))
  })
})

describe('FP8 weights', () => {
  const quantizedOf = async (name: string): Promise<Map<string, QuantizedSource>> => {
    const config = await readConfig(fixture(name))
    const sink = new RecordingSink()
    await withCheckpoint(fixture(name), (checkpoint) => assign(checkpoint, slotsOf(config), sink))
    return new Map(sink.taken.flatMap(({ slot, source }) => ('data' in source ? [[slot.name, source] as const] : [])))
  }

  it.each([
    ['llama-fp8-block128', 'block128x128', [2, 3], false], ['llama-fp8-ct-channel-dynamic', 'row', [192], false],
    ['llama-fp8-ct-tensor-static', 'tensor', [1], true], ['llama-fp8-fbgemm', 'row', [192], false],
  ] as const)('%s comes with its scales', async (name, granularity, shape, hasInputScale) => {
    const sources = await quantizedOf(`variants/${name}`)
    expect(sources.size).toBe(14)
    for (const source of sources.values()) {
      expect(source.granularity).toBe(granularity)
      expect(source.inputScale !== undefined).toBe(hasInputScale)
      // Random weights of standard deviation 0.08: with the scale applied once, and not inverted.
      const data = await readTensorFloat32(source.data)
      const scale = await readTensorFloat32(source.scaleInv)
      const [out, width] = source.data.shape as [number, number]
      const perRow = Math.ceil(width / 128)
      const scaleOf = (row: number, column: number): number => scale[granularity === 'tensor' ? 0 : granularity === 'row' ? row : Math.floor(row / 128) * perRow + Math.floor(column / 128)]!
      let sum = 0
      for (let row = 0; row < out; row++) for (let column = 0; column < width; column++) sum += (data[row * width + column]! * scaleOf(row, column)) ** 2
      expect(Math.sqrt(sum / (out * width))).toBeGreaterThan(0.07)
      expect(Math.sqrt(sum / (out * width))).toBeLessThan(0.09)
    }
    expect(sources.get('model.layers.0.mlp.down_proj.weight')!.scaleInv.shape).toEqual(shape)
  })

  const slots = (out: number, width: number): WeightSlot[] => [{ name: 'a.weight', shape: [out, width], quantizable: true }]
  const weight = (out: number, width: number): TensorEntry => ({ name: 'a.weight', dtype: 'e4m3', shape: [out, width], data: new Uint8Array(out * width) })
  const plan = async (entries: TensorEntry[], out: number, width: number): Promise<QuantizedSource> =>
    withCheckpoint(await singleFile(fresh(), entries), (checkpoint) => planAssignment(checkpoint, slots(out, width)).tensors[0]!.source as QuantizedSource)

  it('take the granularity from the scale', async () => {
    const cases: [number, number, number[], string, number[]][] = [
      [300, 200, [], 'tensor', [1]], [300, 200, [1], 'tensor', [1]], [300, 200, [1, 1], 'tensor', [1]], [300, 200, [300], 'row', [300]], [300, 200, [300, 1], 'row', [300]],
      [300, 200, [3, 2], 'block128x128', [3, 2]], [300, 200, [300, 2], 'block1x128', [300, 2]], [128, 129, [1, 2], 'block128x128', [1, 2]], [300, 100, [3, 1], 'block128x128', [3, 1]],
    ]
    for (const [out, width, shape, granularity, normal] of cases) {
      for (const suffix of ['weight_scale', 'weight_scale_inv']) {
        const source = await plan([weight(out, width), entry(`a.${suffix}`, shape)], out, width)
        expect([source.granularity, source.scaleInv.shape]).toEqual([granularity, normal])
      }
    }
  })

  it('are refused without a scale, or with one that does not fit', async () => {
    const dir = await singleFile(fresh(), [weight(4, 4)])
    await octetError(withCheckpoint(dir, (checkpoint) => assign(checkpoint, slots(4, 4), new RecordingSink())), 'MISSING_SCALE', /a\.weight/)
    for (const shape of [[5], [4, 2], [2, 1], [2, 2, 1], [0]]) await octetError(plan([weight(4, 4), entry('a.weight_scale', shape)], 4, 4), 'CHECKPOINT_MISMATCH', /wrong scale.*a\.weight_scale/)
    await octetError(plan([weight(4, 4), { name: 'a.weight_scale', dtype: 'e8m0', shape: [1], data: new Uint8Array(1) }], 4, 4), 'CHECKPOINT_MISMATCH', /e8m0/)
    await octetError(plan([weight(4, 4), entry('a.weight_scale', [1]), entry('a.input_scale', [4])], 4, 4), 'CHECKPOINT_MISMATCH', /a\.input_scale expected one value/)
    await octetError(plan([{ ...weight(4, 4), dtype: 'e5m2' }, entry('a.weight_scale', [1])], 4, 4), 'CHECKPOINT_MISMATCH', /received e5m2/)
    await octetError(plan([{ ...weight(4, 4), dtype: 'bf16', data: new Uint8Array(32) }, entry('a.weight_scale', [1])], 4, 4), 'CHECKPOINT_MISMATCH', /unexpected \("a\.weight_scale"\)/)
    const norm = [{ name: 'a.weight', shape: [4, 4] }]
    await octetError(assigned(await singleFile(fresh(), [weight(4, 4), entry('a.weight_scale', [1])]), norm), 'CHECKPOINT_MISMATCH', /received e4m3/)
    const missingToo = await octetError(assigned(dir, [...slots(4, 4), { name: 'b.weight', shape: [1] }]), 'CHECKPOINT_MISMATCH')
    expect(missingToo.received).toBe('1 missing (b.weight); 1 in FP8 without a scale (a.weight)')
  })

  it('pass over the scales of an FP8 cache', async () => {
    const entries = [entry('model.layers.0.self_attn.k_scale', [1]), entry('model.layers.0.self_attn.v_scale', [1]), entry('x', [1])]
    expect(await assigned(await singleFile(fresh(), entries), [{ name: 'x', shape: [1] }])).toEqual(['x'])
  })
})

describe('sinks', () => {
  it('hold at most 4 tensors of one shard, and none of the next before it is done', async () => {
    const config = await readConfig(fixture('fairy-llama'))
    await withCheckpoint(fixture('fairy-llama'), async (checkpoint) => {
      let flying = 0
      let most = 0
      const shards = new Set<string>()
      await assign(checkpoint, slotsOf(config), {
        accept: async (_, source) => {
          const { path } = 'data' in source ? source.data : source
          if (flying === 0) shards.clear()
          shards.add(path)
          expect(shards.size).toBe(1)
          most = Math.max(most, ++flying)
          await new Promise((resolve) => setTimeout(resolve, 1))
          flying--
        },
      })
      expect([flying, most]).toEqual([0, 4])
    })
  })

  it('stop at a failure or an abort, once nothing is in flight', async () => {
    const config = await readConfig(fixture('fairy-llama'))
    await withCheckpoint(fixture('fairy-llama'), async (checkpoint) => {
      const boom = new Error('boom')
      let started = 0
      let flying = 0
      const failing = assign(checkpoint, slotsOf(config), {
        accept: async () => {
          const mine = ++started
          flying++
          await new Promise((resolve) => setTimeout(resolve, mine === 3 ? 1 : 20))
          flying--
          if (mine === 3) throw boom
        },
      })
      expect(await caught(failing)).toBe(boom)
      expect([flying, started]).toEqual([0, 4])
      const sync = { accept: (): void => { throw boom } }
      expect(await caught(assign(checkpoint, slotsOf(config), sync))).toBe(boom)
      const controller = new AbortController()
      const sink = new RecordingSink()
      const aborting = assign(checkpoint, slotsOf(config), sink, { signal: controller.signal, onProgress: () => controller.abort(boom) })
      expect(await caught(aborting)).toBe(boom)
      expect(sink.taken.length).toBeLessThan(8)
    })
  })
})

describe('an index', () => {
  const x = [entry('x', [1])]
  const open = async (dir: string): Promise<void> => withCheckpoint(dir, () => undefined)

  it.each(['../model.safetensors', '/etc/passwd', 'a/../../b', './x.safetensors', 'a//b', 'sub/', '', '..', 'C:\\x', 'C:x', 'a\\b', '\\\\host\\x', 'a\0b', 'x'.repeat(5000)])('refuses the path %j', async (file) => {
    const dir = await shardedFiles(fresh(), { 'm.safetensors': x }, { x: 'm.safetensors', y: file })
    await octetError(open(dir), 'INVALID_INDEX', /relative names/)
  })

  it('refuses links that leave the folder, but follows the cache of the hub', async () => {
    const outside = await singleFile(fresh(), x)
    const dir = await shardedFiles(fresh(), {}, { x: 'm.safetensors' })
    await symlink(join(outside, 'model.safetensors'), join(dir, 'm.safetensors'))
    await octetError(open(dir), 'INVALID_INDEX', /lead out/)
    await rm(join(dir, 'm.safetensors'))
    await symlink(outside, join(dir, 'sub'))
    await writeFile(join(dir, 'model.safetensors.index.json'), JSON.stringify({ weight_map: { x: 'sub/model.safetensors' } }))
    await octetError(open(dir), 'INVALID_INDEX', /lead out/)

    // A neighbour whose name begins with the folder's is outside too.
    const neighbour = await shardedFiles(`${dir}-2`, { 'm.safetensors': x })
    await rm(join(dir, 'sub'))
    await symlink(join(neighbour, 'm.safetensors'), join(dir, 'm.safetensors'))
    await writeFile(join(dir, 'model.safetensors.index.json'), JSON.stringify({ weight_map: { x: 'm.safetensors' } }))
    await octetError(open(dir), 'INVALID_INDEX', /lead out/)

    const repo = fresh()
    const snapshot = join(repo, 'snapshots', 'abc')
    await mkdir(join(repo, 'blobs'), { recursive: true })
    await shardedFiles(snapshot, { 'm.safetensors': x })
    await rename(join(snapshot, 'm.safetensors'), join(repo, 'blobs', 'f00'))
    await symlink('../../blobs/f00', join(snapshot, 'm.safetensors'))
    await open(snapshot)
    await rm(join(snapshot, 'm.safetensors'))
    await symlink(join(outside, 'model.safetensors'), join(snapshot, 'm.safetensors'))
    await octetError(open(snapshot), 'INVALID_INDEX', /lead out/)
    const inside = await shardedFiles(fresh(), { 'real.safetensors': x }, { x: 'm.safetensors' })
    await symlink('real.safetensors', join(inside, 'm.safetensors'))
    await open(inside)
  })

  it('must agree with its files, both ways', async () => {
    const files = { 'a.safetensors': x, 'b.safetensors': [entry('y', [1]), entry('z', [1])] }
    await octetError(open(await shardedFiles(fresh(), files, { x: 'a.safetensors', y: 'b.safetensors', z: 'c.safetensors' })), 'INVALID_INDEX', /1 of 3 missing: "c\.safetensors"/)
    await octetError(open(await shardedFiles(fresh(), files, { x: 'a.safetensors', y: 'b.safetensors' })), 'INVALID_INDEX', /"z" of "b\.safetensors" is not named/)
    await octetError(open(await shardedFiles(fresh(), files, { x: 'a.safetensors', y: 'a.safetensors', z: 'b.safetensors' })), 'INVALID_INDEX', /2 differences: "y" is not in "a\.safetensors", "y" of/)
    const twice = { ...files, 'a.safetensors': [...x, entry('y', [1])] }
    await octetError(open(await shardedFiles(fresh(), twice, { x: 'a.safetensors', y: 'b.safetensors', z: 'b.safetensors' })), 'INVALID_INDEX', /"y" of "a\.safetensors" is not named/)
    const old = { 'a.safetensors': [...x, entry('model.layers.0.self_attn.rotary_emb.inv_freq', [1])] }
    await open(await shardedFiles(fresh(), old, { x: 'a.safetensors' }))
    await open(await shardedFiles(fresh(), { 'sub.safetensors': x }, { x: 'sub.safetensors' }))
  })

  it.each<[string, 'INVALID_JSON' | 'INVALID_INDEX']>([
    ['', 'INVALID_JSON'], ['[]', 'INVALID_JSON'], ['{"weight_map":[]}', 'INVALID_JSON'], ['{"weight_map":{"x":1}}', 'INVALID_JSON'], ['{"weight_map":{"x":null}}', 'INVALID_JSON'], ['{"weight_map":{"x":["m"]}}', 'INVALID_JSON'],
    ['{}', 'INVALID_INDEX'], ['{"weight_map":{}}', 'INVALID_INDEX'], [`{"metadata":${'['.repeat(1e5)}${']'.repeat(1e5)}}`, 'INVALID_JSON'], ['{"weight_map":{"x":"m"}}x', 'INVALID_JSON'],
  ])('that reads %.40s is refused', async (text, code) => {
    const dir = fresh()
    await mkdir(dir, { recursive: true })
    await writeFile(join(dir, 'model.safetensors.index.json'), text)
    await octetError(open(dir), code)
  })

  it('of more files than any checkpoint has is refused', async () => {
    const weightMap = Object.fromEntries(Array.from({ length: 10_001 }, (_, i) => [`t${i}`, `f${i}`]))
    await octetError(open(await shardedFiles(fresh(), {}, weightMap)), 'INVALID_INDEX', /at most 10000 files/)
  })

  it('is looked at before its files are, and they are closed after a fault', async () => {
    const dir = await copyOf('variants/llama-bin-sharded', fresh())
    await truncate(join(dir, 'pytorch_model-00002-of-00002.bin'), 1000)
    await octetError(open(dir), 'INVALID_TORCH_FILE', /00002-of-00002/)
    const handles = async (): Promise<number> => (await import('node:fs/promises')).readdir('/proc/self/fd').then((names) => names.length)
    const before = await handles()
    for (let i = 0; i < 20; i++) await octetError(open(dir), 'INVALID_TORCH_FILE')
    expect(await handles()).toBeLessThanOrEqual(before + 2)
  })

  it('gives one error or a sound checkpoint for any mutation', async () => {
    const dir = await copyOf('fairy-llama', fresh())
    const path = join(dir, 'model.safetensors.index.json')
    const text = await readFile(path, 'utf8')
    const edit = fc.tuple(fc.nat(), fc.nat({ max: 40 }), fc.oneof(fc.string({ maxLength: 6 }), fc.constantFrom('{', '}', '"', '\\', '../', '/', '\0', '00002', ',', ':[', '\u{1f600}')))
    await fc.assert(fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 3 }), (edits) => failsOnlyWith(async () => {
      const mutated = edits.reduce((all, [at, cut, put]) => all.slice(0, at % all.length) + put + all.slice((at % all.length) + cut), text)
      await writeFile(path, mutated)
      await withCheckpoint(dir, ({ sources }) => expect(sources.size).toBe(57))
    }, ['INVALID_JSON', 'INVALID_INDEX'])), { numRuns: fuzzCases(150) })
  }, FUZZ_TIMEOUT)
})

it('mutated safetensors give one error or a sound file', async () => {
  const original = await readFile(fixture('variants/llama-rope3/model.safetensors'))
  const header = 8 + original.readUInt32LE(0)
  const dir = fresh()
  await mkdir(dir, { recursive: true })
  const path = join(dir, 'model.safetensors')
  const edit = fc.tuple(fc.constantFrom('set', 'cut', 'insert', 'truncate', 'grow', 'digit'), fc.nat(), fc.nat({ max: 255 }))
  await fc.assert(fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => failsOnlyWith(async () => {
    let bytes = Buffer.from(original)
    for (const [kind, where, value] of edits) {
      const at = where % header
      if (kind === 'set') bytes[at] = value
      else if (kind === 'cut') bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + (value % 40))])
      else if (kind === 'insert') bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from([value]), bytes.subarray(at)])
      else if (kind === 'truncate') bytes = bytes.subarray(0, where % bytes.length)
      else if (kind === 'grow') bytes = Buffer.concat([bytes, Buffer.alloc(value)])
      else {
        const digits = [...bytes.subarray(0, header)].flatMap((byte, i) => (i >= 8 && byte >= 0x30 && byte <= 0x39 ? [i] : []))
        if (digits.length > 0) bytes[digits[where % digits.length]!] = 0x30 + (value % 10)
      }
      if (bytes.length === 0) break
    }
    await writeFile(path, bytes)
    await withCheckpoint(dir, async (checkpoint) => {
      let end = 0
      for (const [name, source] of checkpoint.sources) {
        expect(source.offset).toBeGreaterThanOrEqual(end)
        end = source.offset + source.byteLength
        expect((await checkpoint.read(name)).byteLength).toBe(source.byteLength)
      }
      expect(checkpoint.sources.size === 0 || end === bytes.length).toBe(true)
    })
  }, ['INVALID_SAFETENSORS', 'NOT_SUPPORTED'])), { numRuns: fuzzCases(400) })
}, FUZZ_TIMEOUT)
