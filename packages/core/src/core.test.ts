import { describe, expect, it } from 'vitest'
import * as core from './index.js'

describe('conversions', () => {
  it('round-trips every bf16 and f16 code', () => {
    for (let bits = 0; bits < 65536; bits++) {
      const b = core.bf16ToF32(bits)
      if (!Number.isNaN(b)) expect(core.f32ToBf16(b)).toBe(bits)
      const h = core.f16ToF32(bits)
      if (!Number.isNaN(h)) expect(core.f32ToF16(h)).toBe(bits)
    }
  })

  it('round-trips every fp8 code and saturates', () => {
    for (let bits = 0; bits < 256; bits++) {
      const a = core.E4M3_TO_F32[bits]!
      if (!Number.isNaN(a)) expect(core.f32ToE4m3(a)).toBe(bits)
      const b = core.E5M2_TO_F32[bits]!
      if (Number.isFinite(b)) expect(core.f32ToE5m2(b)).toBe(bits)
    }
    expect(core.f32ToE4m3(1e9)).toBe(0x7e)
    expect(core.f32ToE4m3(-Infinity)).toBe(0xfe)
    expect(core.f32ToE5m2(Infinity)).toBe(0x7b)
    expect(core.f32ToE4m3(NaN)).toBe(0x7f)
  })

  it('breaks ties to even', () => {
    expect(core.bf16ToF32(core.f32ToBf16(1 + 2 ** -8))).toBe(1)
    expect(core.bf16ToF32(core.f32ToBf16(1 + 3 * 2 ** -8))).toBe(1 + 2 ** -6)
    expect(core.E4M3_TO_F32[core.f32ToE4m3(17)]).toBe(16)
    expect(core.E4M3_TO_F32[core.f32ToE4m3(19)]).toBe(20)
  })
})

describe('philox', () => {
  it('matches the published known answers of Philox 4x32-10', () => {
    expect(core.philox4x32([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
    const f = 0xffffffff
    expect(core.philox4x32([f, f, f, f], [f, f])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd])
  })
})

describe('OctetError', () => {
  it('is one sentence that names op, argument, expected, received and what to do', () => {
    const error = new core.OctetError('SHAPE_MISMATCH', {
      op: 'rmsNorm', argument: 'weight', expected: '[4096]', received: '[4095]', hint: 'pass the layer norm of this model',
    })
    expect(error.message).toBe('[rmsNorm] weight: expected [4096], received [4095]; pass the layer norm of this model')
    expect(core.OctetError.is(error, 'SHAPE_MISMATCH')).toBe(true)
    expect(core.OctetError.is(new Error('x'))).toBe(false)
  })

  it('refuses shapes that cannot be', () => {
    expect(() => core.checkShape([2, -1], 'view', 'shape')).toThrow(/non-negative/)
  })
})
