import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from '../device.js'
import { enqueue } from '../enqueue.js'
import { add } from '../ops/add.js'
import { fill } from '../ops/fill.js'
import { gatherRows } from '../ops/gather-rows.js'
import type { Tensor } from '../tensor.js'
import { compare } from './compare.js'
import type { Run } from './contract.js'
import { runAlone } from './execute.js'
import { filterOf, matches } from './filter.js'
import { Random, ints, values } from './host.js'
import { runTable } from './runner.js'

let device: Device
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 })
})
afterAll(() => device.dispose())

/** a + b into out, done right unless `call` says otherwise. */
function sum(change: Partial<Run> = {}): Run {
  const random = new Random('runner')
  const a = values(random, 'f32', [4, 6])
  const b = values(random, 'f32', [4, 6])
  return {
    inputs: { a: { host: a, placement: 'padded' }, b: { host: b, placement: 'offset' } },
    outputs: { out: { dtype: 'f32', shape: [4, 6], placement: 'padded' } },
    call: ({ a, b, out }) => void add({ a: a!, b: b!, out: out! }),
    expected: () => ({ out: { values: a.values.map((v, i) => Math.fround(v + b.values[i]!)) } }),
    ...change,
  }
}

/** The same tensor, `elements` further on: what a kernel with a wrong index writes to. */
function shifted(tensor: Tensor, elements: number): Tensor {
  return Object.create(tensor, {
    encode: {
      value(scratch: Float64Array, at: number) {
        tensor.encode(scratch, at)
        scratch[at]! += 4 * elements
      },
    },
  }) as Tensor
}

describe('the runner', () => {
  it('passes what is right', async () => {
    expect(await runAlone(sum(), device)).toBeNull()
  })

  it('finds a wrong element', async () => {
    const fault = await runAlone(sum({ expected: () => ({ out: { values: new Float64Array(24) } }) }), device)
    expect(fault).toMatch(/^out: 24 of 24 elements wrong; first \[0, 0\]: exactly 0, got/)
  })

  it('finds an element that was never written', async () => {
    const fault = await runAlone(sum({ call: ({ a, b, out }) => void add({ a: a!.rows(0, 3), b: b!.rows(0, 3), out: out!.rows(0, 3) }) }), device)
    expect(fault).toMatch(/6 of 24 elements wrong; first \[3, 0\].* got NaN/)
  })

  it.each([-1, 6, 4 * 38])('finds a write %s elements off its output', async (elements) => {
    const fault = await runAlone(
      sum({
        call({ a, b, out }) {
          add({ a: a!, b: b!, out: out! })
          enqueue(device.queue, 'fill', [shifted(out!.rows(0, 1).columns(0, 1), elements)], [3])
        },
      }),
      device,
    )
    expect(fault).toBe('wrote outside its output out')
  })

  it('finds a write to an input, also between its rows', async () => {
    const inside = await runAlone(sum({ call: ({ a, b, out }) => (add({ a: a!, b: b!, out: out! }), void fill({ out: b!, value: 1 })) }), device)
    expect(inside).toBe('wrote to its input b')
    const between = await runAlone(
      sum({ call: ({ a, b, out }) => (add({ a: a!, b: b!, out: out! }), enqueue(device.queue, 'fill', [shifted(a!.rows(0, 1).columns(0, 1), 6)], [1])) }),
      device,
    )
    expect(between).toBe('wrote to its input a')
  })

  it('finds a read outside an input: what lies there is NaN', async () => {
    const fault = await runAlone(sum({ call: ({ a, b, out }) => enqueue(device.queue, 'add', [shifted(a!, 1), b!, out!], []) }), device)
    expect(fault).toMatch(/elements wrong/)
  })

  it('reports a refusal, a failure and a missing failure', async () => {
    expect(await runAlone(sum({ call: ({ a, out }) => void add({ a: a!, b: a!.rows(0, 2), out: out! }) }), device)).toMatch(/^was refused: \[add\] b/)
    const gather = (row: number, fails?: 'OP_FAILED'): Run => ({
      inputs: { x: { host: values(new Random('x'), 'f32', [2, 2]) }, rows: { host: ints([row]) } },
      outputs: { out: { dtype: 'f32', shape: [1, 2] } },
      call: ({ x, rows, out }) => void gatherRows({ x: x!, rows: rows!, out: out! }),
      expected: () => ({}),
      ...(fails && { fails }),
    })
    expect(await runAlone(gather(2), device)).toMatch(/^failed: /)
    expect(await runAlone(gather(2, 'OP_FAILED'), device)).toBeNull()
    expect(await runAlone(gather(1, 'OP_FAILED'), device)).toBe('expected OP_FAILED, received success')
    expect(await runAlone(sum(), device)).toBeNull()
  })
})

describe('compare', () => {
  const one = (got: number, want: number, error?: number): string | null => compare(Float64Array.of(got), { values: Float64Array.of(want), ...(error !== undefined && { error }) }, 'bf16', 1)

  it('is exact without a bound, to the sign of zero', () => {
    expect(one(1, 1)).toBeNull()
    expect(one(NaN, NaN)).toBeNull()
    expect(one(0, -0)).not.toBeNull()
    expect(one(1, 1 + 2 ** -50)).not.toBeNull()
  })

  it('adds half an ulp of the output to a bound', () => {
    expect(one(1, 1 + 2 ** -8, 0)).toBeNull()
    expect(one(1, 1 + 2 ** -6, 0)).not.toBeNull()
    expect(one(1, 1.1, 0.1)).toBeNull()
  })

  it('wants NaN for NaN, infinity for infinity, and for what is past the largest value', () => {
    expect(one(NaN, 1, 10)).not.toBeNull()
    expect(one(1, NaN, 10)).not.toBeNull()
    expect(one(Infinity, -Infinity, 10)).not.toBeNull()
    expect(one(Infinity, 1e39, 0)).toBeNull()
    expect(one(Infinity, 1e38, 0)).not.toBeNull()
  })

  it('finds one wrong row under a wide bound', () => {
    const rows = 64
    const cols = 32
    const want = new Float64Array(rows * cols).fill(1)
    const got = want.slice().fill(1 + 2 ** -20, 5 * cols, 6 * cols)
    expect(compare(got, { values: want, error: 1 }, 'f32', cols)).toBeNull()
    expect(compare(got, { values: want, error: 1, rms: 4 }, 'f32', cols)).toMatch(/^row 5 is off by/)
  })

  it('finds a small loss everywhere', () => {
    const want = new Float64Array(4096).fill(1)
    expect(compare(want.map((v) => v * (1 + 2 ** -24)), { values: want, error: 1, rms: 0 }, 'f32', 64)).toMatch(/^off by/)
  })
})

describe('filters', () => {
  it('run a failing case alone', () => {
    const name = 'D=15 x=bf16 placement=padded'
    expect(matches(filterOf('rmsNorm', name), 'rmsNorm', name)).toBe(true)
    expect(matches(filterOf('rmsNorm', name), 'rmsNorm', 'D=15 x=f32 placement=padded')).toBe(false)
    expect(matches(filterOf('rmsNorm', name), 'layerNorm', name)).toBe(false)
  })

  it('match whole words, or an axis of any value', () => {
    expect(matches('D=1', 'rope', 'D=15')).toBe(false)
    expect(matches('rope D=', 'rope', 'D=15')).toBe(true)
    expect(matches('H=', 'rope', 'D=15')).toBe(false)
    expect(matches(undefined, 'rope', 'D=15')).toBe(true)
    expect(matches('', 'rope', '')).toBe(true)
  })
})

describe('support', () => {
  it('prints the reason of a gap that the manifest has, and fails on a kernel that is missing without one', async () => {
    const printed: string[] = []
    const gpu = { kind: 'cuda', name: 'cuda:0', isa: 'sm_90', kernels: () => ({ compensate: 'none', fill: 'none', cast: 'portable' }) } as unknown as Device
    const run = (filter: string) => runTable({ device: gpu, mode: 'support', filter, print: (line) => printed.push(line) })
    expect(await run('compensate')).toMatchObject({ passed: 0, failed: 0 })
    expect(printed.at(-1)).toMatch(/^ {19}part of calibration, which runs on the CPU/)
    expect(await run('fill')).toMatchObject({ passed: 0, failed: 1 })
    expect(await run('cast')).toMatchObject({ passed: 1, failed: 0 })
  })
})
