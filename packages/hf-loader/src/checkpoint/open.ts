import { stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { OctetError, type DType, type Shape, type TensorSource } from '@octet-llm/core'
import { listSome, quoteName } from '../io/names.js'
import type { ChunkOptions, ReadOptions } from '../io/read-tensor.js'
import { openSafetensors } from '../safetensors/index.js'
import { openTorchBin } from '../torch-bin/index.js'
import { invalidIndex, readIndex, type CheckpointIndex } from './index-file.js'
import { isRecomputed } from './names.js'

const OP = 'openCheckpoint'

/** In the order that transformers looks for them. */
const FORMS = [
  { kind: 'safetensors', file: 'model.safetensors', sharded: false },
  { kind: 'safetensors-sharded', file: 'model.safetensors.index.json', sharded: true },
  { kind: 'torch-bin', file: 'pytorch_model.bin', sharded: false },
  { kind: 'torch-bin-sharded', file: 'pytorch_model.bin.index.json', sharded: true },
] as const

export type CheckpointKind = (typeof FORMS)[number]['kind']

/** A file of tensors, whichever its format. */
interface TensorFile {
  readonly path: string
  readonly tensors: ReadonlyMap<string, { readonly dtype: DType; readonly shape: Shape }>
  source(name: string): TensorSource
  read(name: string, options?: ReadOptions): Promise<Uint8Array>
  readFloat32(name: string, options?: ReadOptions): Promise<Float32Array>
  chunks(name: string, options?: ChunkOptions): AsyncGenerator<Uint8Array>
  close(): Promise<void>
}

/** One file of a checkpoint. */
export interface Shard {
  /** Absolute path. */
  readonly path: string
  /** Its tensors, in file order. */
  readonly names: readonly string[]
}

/** The weights of a checkpoint folder, open for reading; only names, shapes and places are in memory. */
export class Checkpoint {
  /** Every tensor under the name the files use, shard by shard, in file order. */
  readonly sources: ReadonlyMap<string, TensorSource>
  /** The files, in order of their names. */
  readonly shards: readonly Shard[]
  private readonly fileOf: ReadonlyMap<string, TensorFile>

  constructor(
    /** Absolute path of the folder. */
    readonly dir: string,
    readonly kind: CheckpointKind,
    private readonly files: readonly TensorFile[],
  ) {
    this.shards = files.map(({ path, tensors }) => ({ path, names: [...tensors.keys()] }))
    this.fileOf = new Map(files.flatMap((file) => [...file.tensors.keys()].map((name) => [name, file] as const)))
    this.sources = new Map(files.flatMap((file) => [...file.tensors.keys()].map((name) => [name, file.source(name)] as const)))
  }

  /**
   * A tensor's bytes, row-major, little-endian.
   * @throws OctetError `INVALID_ARGUMENT` for an unknown name, `NOT_SUPPORTED` past 1 GiB, `FILE_CHANGED`, `DISPOSED`.
   */
  async read(name: string, options?: ReadOptions): Promise<Uint8Array> {
    return this.holder(name).read(name, options)
  }

  /** A tensor of any dtype as float32, row-major. Throws as {@link read} does. */
  async readFloat32(name: string, options?: ReadOptions): Promise<Float32Array> {
    return this.holder(name).readFloat32(name, options)
  }

  /** A tensor's bytes in bounded pieces; each is valid until the next is asked for. Throws as {@link read} does. */
  chunks(name: string, options?: ChunkOptions): AsyncGenerator<Uint8Array> {
    return this.holder(name).chunks(name, options)
  }

  /** Idempotent; waits for reads in flight. */
  async close(): Promise<void> {
    await Promise.all(this.files.map((file) => file.close()))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private holder(name: string): TensorFile {
    const file = this.fileOf.get(name)
    if (file !== undefined) return file
    throw new OctetError('INVALID_ARGUMENT', {
      op: OP,
      argument: 'name',
      expected: `one of the ${this.sources.size} tensors of ${this.dir}`,
      received: quoteName(name),
      hint: 'list the names with checkpoint.sources.keys()',
    })
  }
}

/**
 * Opens the weights of a checkpoint folder: `model.safetensors`, else its index, else `pytorch_model.bin`, else its index.
 * Every file is validated; a sharded checkpoint must hold exactly the tensors that its index names.
 * @throws OctetError `FILE_NOT_FOUND` (no weights), `INVALID_INDEX`, `INVALID_JSON`, `INVALID_SAFETENSORS`,
 *   `INVALID_TORCH_FILE`, `UNSAFE_PICKLE`, `FILE_CHANGED`.
 * @throws the signal's reason, unchanged.
 */
export async function openCheckpoint(dir: string, options: ReadOptions = {}): Promise<Checkpoint> {
  options.signal?.throwIfAborted()
  const folder = resolve(dir)
  const form = await findForm(folder)
  const open = form.kind.startsWith('safetensors') ? openSafetensors : openTorchBin
  const path = join(folder, form.file)
  if (!form.sharded) return new Checkpoint(folder, form.kind, [await open(path, options)])
  const index = await readIndex(path, OP, options.signal)
  const files: TensorFile[] = []
  try {
    for (const file of index.files) files.push(await open(join(folder, file), options))
    checkAgainstIndex(path, index, files)
    return new Checkpoint(folder, form.kind, files)
  } catch (error) {
    await Promise.all(files.map((file) => file.close()))
    throw error
  }
}

async function findForm(folder: string): Promise<(typeof FORMS)[number]> {
  for (const form of FORMS) {
    const found = await stat(join(folder, form.file)).catch(() => null)
    if (found !== null) return form
  }
  const adapter = await stat(join(folder, 'adapter_config.json')).catch(() => null)
  throw new OctetError('FILE_NOT_FOUND', {
    op: OP,
    argument: folder,
    expected: `a folder with ${FORMS.map(({ file }) => file).join(' or ')}`,
    received: 'none of them',
    hint: adapter === null ? 'check the path' : 'this is a LoRA adapter: open the model it was made for, and the adapter beside it',
  })
}

/** Both ways: a name without its tensor is a hole, a tensor without its name a leftover of another save. */
function checkAgainstIndex(path: string, { weightMap, files: names }: CheckpointIndex, files: readonly TensorFile[]): void {
  const faults: string[] = []
  const byName = new Map(names.map((name, i) => [name, files[i]!]))
  for (const [tensor, file] of weightMap) {
    if (!byName.get(file)!.tensors.has(tensor)) faults.push(`${quoteName(tensor)} is not in ${quoteName(file)}`)
  }
  for (const [file, { tensors }] of byName) {
    for (const tensor of tensors.keys()) {
      if (weightMap.get(tensor) !== file && !isRecomputed(tensor)) faults.push(`${quoteName(tensor)} of ${quoteName(file)} is not named`)
    }
  }
  if (faults.length > 0) throw invalidIndex(OP, path, 'an index that agrees with its files', `${faults.length} differences: ${listSome(faults)}`)
}
