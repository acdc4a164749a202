/**
 * Writes a GGUF (version 3) of a Llama-shaped model with random weights in bf16 or Q8_0, so that the llama.cpp family can be
 * timed on the shapes we time. Layout: magic, version, tensor count, key-value count, key-values, tensor infos, padding to
 * 32 bytes, then the tensors, each padded to 32 bytes. Everything little-endian.
 */
import { createWriteStream } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { Q8_BLOCK_BYTES, Q8_VALUES, randomBf16Block, randomQ8Block, repeatBytes } from './random-bytes.js'
import { tensorsOf, type BenchShape } from './shapes.js'

const ALIGNMENT = 32
const TYPE_U32 = 4
const TYPE_I32 = 5
const TYPE_F32 = 6
const TYPE_STRING = 8
const TYPE_ARRAY = 9
const TENSOR_F32 = 0

/** Types of the matrices: the numbers that GGUF gives them, bytes of so many values, and what fills them. */
const MATRIX = {
  bf16: { tensor: 30, file: 32, values: 1, bytes: 2, block: randomBf16Block },
  q8_0: { tensor: 8, file: 7, values: Q8_VALUES, bytes: Q8_BLOCK_BYTES, block: randomQ8Block },
} as const

export type GgufType = keyof typeof MATRIX

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}
const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}
const f32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return bytes
}
const text = (value: string): Buffer => {
  const bytes = Buffer.from(value)
  return Buffer.concat([u64(bytes.byteLength), bytes])
}
const keyU32 = (key: string, value: number): Buffer => Buffer.concat([text(key), u32(TYPE_U32), u32(value)])
const keyF32 = (key: string, value: number): Buffer => Buffer.concat([text(key), u32(TYPE_F32), f32(value)])
const keyText = (key: string, value: string): Buffer => Buffer.concat([text(key), u32(TYPE_STRING), text(value)])
const keyArray = (key: string, type: number, items: Buffer[]): Buffer => Buffer.concat([text(key), u32(TYPE_ARRAY), u32(type), u64(items.length), ...items])

/** A vocabulary that loads: three specials, 256 byte tokens, then names. Token types 2 unknown, 3 control, 6 byte, 1 normal. */
function vocabulary(size: number): Buffer[] {
  const tokens = ['<unk>', '<s>', '</s>', ...Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`)]
  while (tokens.length < size) tokens.push(`tok${tokens.length}`)
  const types = tokens.map((_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1))
  return [
    keyText('tokenizer.ggml.model', 'llama'),
    keyArray('tokenizer.ggml.tokens', TYPE_STRING, tokens.map(text)),
    keyArray('tokenizer.ggml.scores', TYPE_F32, tokens.map(() => f32(0))),
    keyArray('tokenizer.ggml.token_type', TYPE_I32, types.map(u32)),
    keyU32('tokenizer.ggml.bos_token_id', 1),
    keyU32('tokenizer.ggml.eos_token_id', 2),
  ]
}

function metadata(shape: BenchShape, type: GgufType): Buffer[] {
  return [
    keyText('general.architecture', 'llama'),
    keyText('general.name', `random-${shape.name}`),
    keyU32('general.file_type', MATRIX[type].file),
    keyU32('llama.vocab_size', shape.vocabSize),
    keyU32('llama.context_length', 8192),
    keyU32('llama.embedding_length', shape.hiddenSize),
    keyU32('llama.block_count', shape.numLayers),
    keyU32('llama.feed_forward_length', shape.intermediateSize),
    keyU32('llama.attention.head_count', shape.numHeads),
    keyU32('llama.attention.head_count_kv', shape.numKvHeads),
    keyF32('llama.attention.layer_norm_rms_epsilon', 1e-5),
    keyF32('llama.rope.freq_base', 500000),
    keyU32('llama.rope.dimension_count', shape.headDim),
    ...vocabulary(shape.vocabSize),
  ]
}

const PARTS: Record<string, string> = {
  input_layernorm: 'attn_norm', 'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output', post_attention_layernorm: 'ffn_norm', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}

/** `model.layers.3.mlp.up_proj.weight` → `blk.3.ffn_up.weight`. */
function ggufName(name: string): string {
  if (name === 'model.embed_tokens.weight') return 'token_embd.weight'
  if (name === 'model.norm.weight') return 'output_norm.weight'
  if (name === 'lm_head.weight') return 'output.weight'
  const [, layer, part] = /^model\.layers\.(\d+)\.(.+)\.weight$/.exec(name)!
  return `blk.${layer}.${PARTS[part!]}.weight`
}

const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

/** Norms are float32 ones, matrices random. */
function* fileBytes(shape: BenchShape, matrices: GgufType, seed: number): Generator<Uint8Array> {
  const kind = MATRIX[matrices]
  const tensors = tensorsOf(shape).map(({ name, shape: dims }) => {
    const elements = dims.reduce((a, b) => a * b, 1)
    const [type, bytes] = dims.length === 1 ? [TENSOR_F32, elements * 4] : [kind.tensor, (elements / kind.values) * kind.bytes]
    return { name: ggufName(name), dims, type, bytes }
  })
  const pairs = metadata(shape, matrices)
  const infos: Buffer[] = []
  let offset = 0
  for (const { name, dims, type, bytes } of tensors) {
    infos.push(Buffer.concat([text(name), u32(dims.length), ...[...dims].reverse().map(u64), u32(type), u64(offset)]))
    offset += aligned(bytes)
  }
  const head = Buffer.concat([Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(pairs.length), ...pairs, ...infos])
  yield head
  yield Buffer.alloc(aligned(head.byteLength) - head.byteLength)
  const block = kind.block(seed)
  for (const { type, bytes } of tensors) {
    if (type === TENSOR_F32) yield new Uint8Array(new Float32Array(bytes / 4).fill(1).buffer)
    else yield* repeatBytes(block, bytes)
    yield Buffer.alloc(aligned(bytes) - bytes)
  }
}

/** Writes the file; about 2 (bf16) or 1.06 (Q8_0) bytes a parameter. Rows have a multiple of 32 values. */
export async function writeRandomGguf(path: string, shape: BenchShape, type: GgufType = 'bf16', seed = 0): Promise<void> {
  await pipeline(Readable.from(fileBytes(shape, type, seed), { objectMode: true }), createWriteStream(path))
}
