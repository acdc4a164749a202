import { OctetError } from '@octet-llm/core'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { openDevice, type Device } from './device.js'
import { scale } from './ops/scale.js'
import { Construction, disposeAll, keep, scope } from './scope.js'
import { Tensor } from './tensor.js'

let device: Device
let before: number
const make = (): Tensor => Tensor.zeros([4], { dtype: 'f32', device })

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
})
afterAll(() => device.dispose())
beforeEach(() => {
  before = device.memoryStats().allocations
})
const live = (): number => device.memoryStats().allocations - before

describe('scope', () => {
  it('frees what is not returned', () => {
    let inner: Tensor | undefined
    const out = scope(() => {
      inner = make()
      const view = inner.rows(0, 2)
      expect(view.disposed).toBe(false)
      return make()
    })
    expect(inner!.disposed).toBe(true)
    expect(out.disposed).toBe(false)
    expect(live()).toBe(1)
    out.dispose()
    expect(live()).toBe(0)
  })

  it('keeps tensors anywhere inside arrays and plain objects, and a view keeps its memory', () => {
    const result = scope(() => {
      make()
      const base = make()
      return { list: [make(), [make()]], deep: { t: make() }, view: base.rows(1, 2), n: 1, nothing: null, text: 'x' }
    })
    expect(live()).toBe(4)
    expect(result.view.disposed).toBe(false)
    for (const t of [result.list[0] as Tensor, (result.list[1] as Tensor[])[0]!, result.deep.t, result.view]) t.dispose()
    expect(live()).toBe(0)
  })

  it('does not look into class instances', () => {
    class Holder {
      readonly t = make()
    }
    const holder = scope(() => new Holder())
    expect(holder.t.disposed).toBe(true)
  })

  it('hands results to the enclosing scope', () => {
    let middle: Tensor | undefined
    const out = scope(() => {
      middle = scope(() => make())
      expect(middle.disposed).toBe(false)
      return scope(() => make())
    })
    expect(middle!.disposed).toBe(true)
    expect(out.disposed).toBe(false)
    out.dispose()
    expect(live()).toBe(0)
  })

  it('keep() moves a tensor one scope outwards', () => {
    let once: Tensor | undefined
    let twice: Tensor | undefined
    scope(() => {
      scope(() => {
        once = keep(make())
        twice = keep(make())
      })
      expect(once!.disposed).toBe(false)
      keep(twice!)
    })
    expect(once!.disposed).toBe(true)
    expect(twice!.disposed).toBe(false)
    twice!.dispose()
  })

  it('leaves tensors of outside alone and takes early dispose', () => {
    const outside = make()
    scope(() => {
      outside.rows(0, 1)
      make().dispose()
    })
    expect(outside.disposed).toBe(false)
    outside.dispose()
    expect(live()).toBe(0)
  })

  it('frees everything when the function throws', () => {
    expect(() =>
      scope(() => {
        make()
        throw new Error('inside')
      }),
    ).toThrow('inside')
    expect(live()).toBe(0)
    const after = make()
    expect(after.disposed).toBe(false)
    after.dispose()
  })

  it('refuses a function that returns a promise, and frees what it made', () => {
    let error: unknown
    try {
      scope(async () => {
        make()
        await Promise.resolve()
      })
    } catch (e) {
      error = e
    }
    expect(OctetError.is(error, 'INVALID_ARGUMENT')).toBe(true)
    expect(live()).toBe(0)
  })

  it('frees the conversions of a read that starts inside', async () => {
    const t = Tensor.from([1, 2], { dtype: 'bf16', device })
    const pending = scope(() => ({ read: t.toFloat32Array() })).read
    expect([...(await pending)]).toEqual([1, 2])
    t.dispose()
    expect(live()).toBe(0)
  })
})

describe('Construction', () => {
  /** Two tensors, the second of which cannot be made when told so. */
  class Pair {
    readonly a: Tensor
    readonly b: Tensor
    constructor(fails = false, around: () => unknown = () => undefined) {
      using construction = new Construction()
      this.a = keep(make())
      around()
      if (fails) throw new Error('no more')
      this.b = make()
      construction.complete()
    }
    dispose(): void {
      disposeAll([this.a, this.b])
    }
  }

  it('leaves the tensors of a constructor that ends, and frees those of one that throws, kept ones too', () => {
    const pair = new Pair()
    expect(live()).toBe(2)
    pair.dispose()
    expect(() => scope(() => new Pair(true))).toThrow('no more')
    expect(() => new Pair(true)).toThrow('no more')
    expect(live()).toBe(0)
  })

  it('frees inner constructions that were complete when the outer one is not, and nothing that was disposed or made before', () => {
    const before = make()
    expect(() => new Pair(true, () => (new Pair(), new Pair().dispose()))).toThrow('no more')
    expect(live()).toBe(1)
    expect(before.disposed).toBe(false)
    // An inner failure that is survived is none of the outer one.
    const pair = new Pair(false, () => expect(() => new Pair(true)).toThrow('no more'))
    expect(live()).toBe(3)
    expect([pair.a.disposed, pair.b.disposed]).toEqual([false, false])
    for (const t of [pair, before]) t.dispose()
    expect(live()).toBe(0)
  })

  it('leaves alone what is made after it, and what a graph owns', async () => {
    const { graph } = new (class {
      readonly graph
      constructor() {
        using construction = new Construction()
        this.graph = device.queue.capture(make)
        construction.complete()
      }
    })()
    const after = make()
    expect(() => new Pair(true)).toThrow('no more')
    expect([after.disposed, graph.value.disposed]).toEqual([false, false])
    after.dispose()
    await graph.dispose()
    expect(live()).toBe(0)
  })
})

it('disposeAll goes past a refusal, throws the first, and can be called again', async () => {
  const [a, b, c] = [make(), make(), make()]
  const graph = device.queue.capture(() => scale({ x: a, factor: 2 }))
  expect(() => disposeAll([undefined, a, b, { dispose: () => { throw new Error('second') } }, c])).toThrow(expect.objectContaining({ code: 'TENSOR_IN_GRAPH' }) as Error)
  expect([a, b, c].map((t) => t.disposed)).toEqual([false, true, true])
  await graph.dispose()
  disposeAll([a, b, c])
  expect(live()).toBe(0)
})
