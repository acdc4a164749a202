/** A query's float32 output by every way a server may come to it. */
import type { Device } from '../device.js'
import { attention } from '../ops/attention.js'
import { attentionDense } from '../ops/attention-dense.js'
import { Tensor } from '../tensor.js'
import type { InvarianceCase, Variant } from './contract.js'
import { encode, host, ints, product, values, type HostTensor, type Random } from './host.js'

interface Shape {
  readonly heads: number
  readonly kvHeads: number
  readonly d: number
  readonly window: number
  readonly softcap: number
}
/** Tokens of one sequence: row t of q, k and v belongs to position t. */
interface Sequence {
  readonly name: string
  readonly q: HostTensor
  readonly k: HostTensor
  readonly v: HostTensor
}
/** Queries [from, to) of a sequence, with the keys of positions below `to` in the cache. */
interface Part {
  readonly sequence: Sequence
  readonly from: number
  readonly to: number
}

const LENGTH = 530

export function* attentionInvariance(): Generator<InvarianceCase> {
  const axes = { heads: ['2/2', '6/2', '5/1'], D: [6, 64, 80, 256], window: [0, 100], softcap: [0, 20] }
  let index = 0
  for (const { name, at } of product(axes)) {
    const [heads, kvHeads] = at.heads.split('/').map(Number) as [number, number]
    yield { name, quick: index++ % 7 === 1, variants: (random) => variants(random, { heads, kvHeads, d: at.D, window: at.window, softcap: at.softcap }) }
  }
}

function variants(random: Random, shape: Shape): Variant[] {
  const a = makeSequence(random, 'a', LENGTH, shape)
  const b = makeSequence(random, 'b', 300, shape)
  const c = makeSequence(random, 'c', 40, shape)
  const paged = (label: string, batches: readonly (readonly Part[])[], pageSize: number, padding = 0, threads?: number): Variant => {
    let calls: Arranged[] | null = null // made once for all devices
    return {
      label,
      ...(threads === undefined ? {} : { threads }),
      rows: (device) => runPaged(device, shape, (calls ??= batches.map((parts) => arrange(shape, parts, pageSize, padding)))),
    }
  }
  const whole = (s: Sequence): Part => ({ sequence: s, from: 0, to: s.q.shape[0]! })
  const split = (s: Sequence, ...ends: number[]): Part[][] => [0, ...ends].slice(0, ends.length).map((from, i) => [{ sequence: s, from, to: ends[i]! }])
  const last = Array.from({ length: 6 }, (_, i) => [{ sequence: a, from: LENGTH - 6 + i, to: LENGTH - 5 + i }])
  return [
    paged('one prefill', [[whole(a)]], 64),
    paged('one prefill, one thread', [[whole(a)]], 64, 0, 1),
    paged('one prefill, three threads', [[whole(a)]], 64, 0, 3),
    paged('page size 1', [[whole(a)]], 1),
    paged('page size 256', [[whole(a)]], 256),
    paged('page size 1000', [[whole(a)]], 1000),
    paged('prefill in chunks', split(a, 7, 256, 300, 301, LENGTH), 16),
    paged('token by token at the end', last, 64),
    paged('token by token, one thread', last, 64, 0, 1),
    paged('token by token, three threads', last, 64, 0, 3),
    paged('in a batch', [[whole(b), whole(a), whole(c)]], 64),
    paged('in a batch with padding, three threads', [[whole(c), whole(a), whole(b)]], 16, 5, 3),
    paged('decode beside a prefill', [[{ sequence: a, from: LENGTH - 1, to: LENGTH }, whole(b), { sequence: c, from: 39, to: 40 }]], 64),
    { label: 'without a cache', rows: (device) => runDense(device, shape, [a, c]) },
    { label: 'without a cache, three threads', threads: 3, rows: (device) => runDense(device, shape, [b, a]) },
  ]
}

function makeSequence(random: Random, name: string, length: number, s: Shape): Sequence {
  return { name, q: values(random, 'f32', [length, s.heads * s.d], 'normal', 2), k: values(random, 'f32', [length, s.kvHeads * s.d]), v: values(random, 'f32', [length, s.kvHeads * s.d]) }
}

function put(device: Device, tensor: HostTensor): Tensor {
  return Tensor.fromBytes(encode(tensor), { shape: tensor.shape, dtype: tensor.dtype, device })
}

function rowsNamed(parts: readonly Part[], bytes: Uint8Array, rowBytes: number): [string, Uint8Array][] {
  const named: [string, Uint8Array][] = []
  let row = 0
  for (const { sequence, from, to } of parts) {
    for (let t = from; t < to; t++, row++) named.push([`${sequence.name}[${t}]`, bytes.subarray(row * rowBytes, (row + 1) * rowBytes)])
  }
  return named
}

async function runPaged(device: Device, s: Shape, calls: readonly Arranged[]): Promise<Map<string, Uint8Array>> {
  const rows = new Map<string, Uint8Array>()
  for (const { parts, q, k, v, table, cu, lens } of calls) {
    const tensors = [q, k, v, table, cu, lens].map((t) => put(device, t))
    const [tq, kCache, vCache, pageTable, cuSeqlensQ, kvLens] = tensors as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    const out = attention({ q: tq, kCache, vCache, pageTable, cuSeqlensQ, kvLens, heads: s.heads, kvHeads: s.kvHeads, headDim: s.d, window: s.window, softcap: s.softcap })
    const bytes = await out.toBytes()
    for (const t of [...tensors, out]) t.dispose()
    for (const [name, row] of rowsNamed(parts, bytes, s.heads * s.d * 4)) rows.set(name, row)
  }
  return rows
}

type Arranged = ReturnType<typeof arrange>

/** Caches with the pages of the sequences interleaved, backwards; free slots hold NaN. */
function arrange(s: Shape, parts: readonly Part[], pageSize: number, padding: number) {
  const columns = Math.max(...parts.map(({ to }) => Math.ceil(to / pageSize)))
  const pages = columns * parts.length
  const k = new Float64Array(pages * s.kvHeads * pageSize * s.d).fill(NaN)
  const v = k.slice()
  const table: number[] = []
  parts.forEach(({ sequence, to }, b) => {
    for (let column = 0; column < columns; column++) {
      const page = pages - 1 - (column * parts.length + b)
      table.push(page)
      for (let t = column * pageSize; t < Math.min(to, (column + 1) * pageSize); t++) {
        for (let h = 0; h < s.kvHeads; h++) {
          const at = ((page * s.kvHeads + h) * pageSize + (t % pageSize)) * s.d
          const from = (t * s.kvHeads + h) * s.d
          k.set(sequence.k.values.subarray(from, from + s.d), at)
          v.set(sequence.v.values.subarray(from, from + s.d), at)
        }
      }
    }
  })
  const width = s.heads * s.d
  const total = parts.reduce((n, { from, to }) => n + to - from, 0)
  const q = new Float64Array((total + padding) * width).fill(NaN)
  const cu = [0]
  for (const { sequence, from, to } of parts) {
    q.set(sequence.q.values.subarray(from * width, to * width), cu.at(-1)! * width)
    cu.push(cu.at(-1)! + to - from)
  }
  const shape = [pages, s.kvHeads, pageSize, s.d]
  return {
    parts,
    q: host('f32', [total + padding, width], q),
    k: host('f32', shape, k),
    v: host('f32', shape, v),
    table: ints(table, [parts.length, columns]),
    cu: ints(cu),
    lens: ints(parts.map(({ to }) => to)),
  }
}

async function runDense(device: Device, s: Shape, sequences: readonly Sequence[]): Promise<Map<string, Uint8Array>> {
  const joined = (pick: (x: Sequence) => HostTensor): HostTensor => {
    const all = sequences.map(pick)
    const width = all[0]!.shape[1]!
    return host('f32', [all.reduce((n, t) => n + t.shape[0]!, 0), width], all.flatMap((t) => Array.from(t.values)))
  }
  const lengths = sequences.map((x) => x.q.shape[0]!)
  const starts = lengths.map((_, i) => lengths.slice(0, i).reduce((n, l) => n + l, 0))
  const [q, k, v, start, length] = [joined((x) => x.q), joined((x) => x.k), joined((x) => x.v), ints(starts), ints(lengths)].map((t) => put(device, t)) as [Tensor, Tensor, Tensor, Tensor, Tensor]
  const window = s.window > 0 ? s.window - 1 : -1
  const out = attentionDense({ q, k, v, startsQ: start, lensQ: length, startsKv: start, lensKv: length, heads: s.heads, kvHeads: s.kvHeads, headDim: s.d, causal: 'bottomRight', windowLeft: window, softcap: s.softcap })
  const bytes = await out.toBytes()
  for (const t of [q, k, v, start, length, out]) t.dispose()
  return new Map(rowsNamed(sequences.map((x, i) => ({ sequence: x, from: 0, to: lengths[i]! })), bytes, s.heads * s.d * 4))
}
