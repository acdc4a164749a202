// Baseline x86-64 (SSE2) primitives; included by simd.h. No FMA: fma rounds twice (see simd.h).
#pragma once
#include <emmintrin.h>

namespace octet::cpu::OCTET_LEVEL {

constexpr int kLanes = 4;
constexpr bool kHasFma = false;
typedef float F32 __attribute__((vector_size(16)));
typedef int32_t I32 __attribute__((vector_size(16)));
typedef uint32_t U32 __attribute__((vector_size(16)));

OCTET_INLINE F32 load(const float* p) { return _mm_loadu_ps(p); }
OCTET_INLINE void store(float* p, F32 v) { _mm_storeu_ps(p, v); }
OCTET_INLINE I32 load(const int32_t* p) { return (I32)_mm_loadu_si128((const __m128i*)p); }
OCTET_INLINE void store(int32_t* p, I32 v) { _mm_storeu_si128((__m128i*)p, (__m128i)v); }

OCTET_INLINE F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
OCTET_INLINE F32 max(F32 a, F32 b) { return _mm_max_ps(a, b); }  // b where either is NaN
OCTET_INLINE F32 min(F32 a, F32 b) { return _mm_min_ps(a, b); }  // b where either is NaN
OCTET_INLINE F32 sqrt(F32 v) { return _mm_sqrt_ps(v); }

// Lane i + lane i+2, then +1: the order every width uses, and hsum_many too.
OCTET_INLINE float hsum(F32 v) {
  const __m128 c = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
OCTET_INLINE float hmax(F32 v) {
  const __m128 c = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

// 16-bit and 8-bit codes, zero-extended to 32 bits and back (narrowing keeps the low bits; inputs fit).
OCTET_INLINE U32 widen_u16(const void* p) {
  return (U32)_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i*)p), _mm_setzero_si128());
}
OCTET_INLINE U32 widen_u8(const void* p) {
  int32_t four;
  memcpy(&four, p, 4);
  const __m128i z = _mm_setzero_si128();
  return (U32)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(four), z), z);
}
// 8-bit codes with their sign bit repeated above them.
OCTET_INLINE I32 widen_s8(const void* p) {
  int32_t four;
  memcpy(&four, p, 4);
  const __m128i twice = _mm_unpacklo_epi8(_mm_cvtsi32_si128(four), _mm_cvtsi32_si128(four));
  return (I32)_mm_srai_epi32(_mm_unpacklo_epi16(twice, twice), 24);
}
OCTET_INLINE I32 widen_s8_partial(const void* p, int64_t n) {
  uint8_t t[4] = {};
  memcpy(t, p, (size_t)n);
  return widen_s8(t);
}
OCTET_INLINE void store_u16(void* p, U32 v) {
  // Sign-extending first makes the signed pack keep every 16-bit pattern.
  const __m128i s = _mm_srai_epi32(_mm_slli_epi32((__m128i)v, 16), 16);
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi32(s, s));
}
OCTET_INLINE void store_u8(void* p, U32 v) {
  const __m128i w = _mm_packs_epi32((__m128i)v, (__m128i)v);
  const int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(w, w));
  memcpy(p, &four, 4);
}

// f16 by integer arithmetic: the code's bits as a float32 whose exponent is 112 too small.
OCTET_INLINE F32 widen_f16(U32 u) {
  const F32 v = (F32)((u & 0x7fffu) << 13) * 0x1p112f;
  const I32 special = (I32)((u & 0x7c00u) == 0x7c00u);
  const U32 quiet = (U32)(I32)((u & 0x3ffu) != 0u) & 0x400000u;  // as hardware does, a signalling NaN becomes quiet
  const U32 m = special ? (0x7f800000u | ((u & 0x3ffu) << 13) | quiet) : (U32)v;
  return (F32)(m | ((u & 0x8000u) << 16));
}
OCTET_INLINE U32 narrow_f16(F32 v) {
  const U32 u = (U32)v & 0x7fffffffu;
  const U32 normal = ((u + (0xfffu + ((u >> 13) & 1u))) >> 13) - (112u << 10);
  const U32 small = (U32)((F32)u + 0.5f) - 0x3f000000u;
  U32 m = (I32)(u < 0x38800000u) ? small : normal;
  m = (I32)(u >= 0x477ff000u) ? (U32{} + 0x7c00u) : m;  // 65520 and above
  m |= ((U32)v >> 16) & 0x8000u;
  return (I32)(v != v) ? (U32{} + 0x7e00u) : m;
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

OCTET_INLINE F32 load(const f16* p) { return widen_f16(widen_u16(p)); }
OCTET_INLINE F32 load_partial(const f16* p, int64_t n) { return widen_f16(widen_u16_partial(p, n)); }
OCTET_INLINE void store(f16* p, F32 v) { store_u16(p, narrow_f16(v)); }
OCTET_INLINE void store_partial(f16* p, F32 v, int64_t n) { store_u16_partial(p, narrow_f16(v), n); }

}  // namespace octet::cpu::OCTET_LEVEL
