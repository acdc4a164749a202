// arm64 (NEON) primitives; included by simd.h.
#pragma once
#include <arm_neon.h>

namespace octet::cpu::OCTET_LEVEL {

constexpr int kLanes = 4;
constexpr bool kHasFma = true;
typedef float F32 __attribute__((vector_size(16)));
typedef int32_t I32 __attribute__((vector_size(16)));
typedef uint32_t U32 __attribute__((vector_size(16)));

OCTET_INLINE F32 load(const float* p) { return (F32)vld1q_f32(p); }
OCTET_INLINE void store(float* p, F32 v) { vst1q_f32(p, (float32x4_t)v); }
OCTET_INLINE I32 load(const int32_t* p) { return (I32)vld1q_s32(p); }
OCTET_INLINE void store(int32_t* p, I32 v) { vst1q_s32(p, (int32x4_t)v); }

OCTET_INLINE F32 fma(F32 a, F32 b, F32 c) { return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
OCTET_INLINE F32 max(F32 a, F32 b) { return a > b ? a : b; }  // b where either is NaN, as on x86
OCTET_INLINE F32 min(F32 a, F32 b) { return a < b ? a : b; }  // b where either is NaN, as on x86
OCTET_INLINE F32 sqrt(F32 v) { return (F32)vsqrtq_f32((float32x4_t)v); }

// Lane i + lane i+2, then +1: the order every width uses, and hsum_many too.
OCTET_INLINE float hsum(F32 v) {
  const float32x2_t c = vadd_f32(vget_low_f32((float32x4_t)v), vget_high_f32((float32x4_t)v));
  return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}
OCTET_INLINE float hmax(F32 v) {
  const float a = v[0] > v[2] ? v[0] : v[2];
  const float b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}

// 16-bit and 8-bit codes, zero-extended to 32 bits and back (narrowing keeps the low bits; inputs fit).
OCTET_INLINE U32 widen_u16(const void* p) {
  uint16x4_t h;
  memcpy(&h, p, 8);
  return (U32)vmovl_u16(h);
}
OCTET_INLINE U32 widen_u8(const void* p) {
  uint32_t four;
  memcpy(&four, p, 4);
  return (U32)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
}
// 8-bit codes with their sign bit repeated above them.
OCTET_INLINE I32 widen_s8(const void* p) {
  uint32_t four;
  memcpy(&four, p, 4);
  return (I32)vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four))));
}
OCTET_INLINE I32 widen_s8_partial(const void* p, int64_t n) {
  uint8_t t[4] = {};
  memcpy(t, p, (size_t)n);
  return widen_s8(t);
}
OCTET_INLINE void store_u16(void* p, U32 v) {
  const uint16x4_t h = vmovn_u32((uint32x4_t)v);
  memcpy(p, &h, 8);
}
OCTET_INLINE void store_u8(void* p, U32 v) {
  const uint16x4_t h = vmovn_u32((uint32x4_t)v);
  const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(h, h))), 0);
  memcpy(p, &four, 4);
}

OCTET_INLINE F32 widen_f16(const void* p) {
  uint16x4_t h;
  memcpy(&h, p, 8);
  return (F32)vcvt_f32_f16(vreinterpret_f16_u16(h));
}
OCTET_INLINE void store(f16* p, F32 v) {
  uint16x4_t h = vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v));
  h = vbsl_u16(vmovn_u32((uint32x4_t)(v != v)), vdup_n_u16(0x7e00), h);
  memcpy(p, &h, 8);
}

OCTET_INLINE F32 load_partial(const float* p, int64_t n) {
  float t[4] = {};
  memcpy(t, p, 4 * (size_t)n);
  return load(t);
}
OCTET_INLINE void store_partial(float* p, F32 v, int64_t n) { memcpy(p, &v, 4 * (size_t)n); }
OCTET_INLINE I32 load_partial(const int32_t* p, int64_t n) {
  int32_t t[4] = {};
  memcpy(t, p, 4 * (size_t)n);
  return load(t);
}
OCTET_INLINE void store_partial(int32_t* p, I32 v, int64_t n) { memcpy(p, &v, 4 * (size_t)n); }
OCTET_INLINE U32 widen_u16_partial(const void* p, int64_t n) {
  uint16_t t[4] = {};
  memcpy(t, p, 2 * (size_t)n);
  return widen_u16(t);
}
OCTET_INLINE U32 widen_u8_partial(const void* p, int64_t n) {
  uint8_t t[4] = {};
  memcpy(t, p, (size_t)n);
  return widen_u8(t);
}
OCTET_INLINE void store_u16_partial(void* p, U32 v, int64_t n) {
  uint16_t t[4];
  store_u16(t, v);
  memcpy(p, t, 2 * (size_t)n);
}
OCTET_INLINE void store_u8_partial(void* p, U32 v, int64_t n) {
  uint8_t t[4];
  store_u8(t, v);
  memcpy(p, t, (size_t)n);
}
OCTET_INLINE F32 load(const f16* p) { return widen_f16(p); }
OCTET_INLINE F32 load_partial(const f16* p, int64_t n) {
  uint16_t t[4] = {};
  memcpy(t, p, 2 * (size_t)n);
  return widen_f16(t);
}
OCTET_INLINE void store_partial(f16* p, F32 v, int64_t n) {
  f16 t[4];
  store(t, v);
  memcpy(p, t, 2 * (size_t)n);
}

}  // namespace octet::cpu::OCTET_LEVEL
