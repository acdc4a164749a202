import { OctetError } from '@octet-llm/core'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { openDevice, type Device } from './device.js'
import { keep, scope } from './scope.js'
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
