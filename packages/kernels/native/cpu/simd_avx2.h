// AVX2 + FMA + F16C primitives; included by simd.h.
#pragma once
#include <immintrin.h>

namespace octet::cpu::OCTET_LEVEL {

constexpr int kLanes = 8;
constexpr bool kHasFma = true;
typedef float F32 __attribute__((vector_size(32)));
typedef int32_t I32 __attribute__((vector_size(32)));
typedef uint32_t U32 __attribute__((vector_size(32)));

OCTET_INLINE __m256i lane_mask(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

OCTET_INLINE F32 load(const float* p) { return _mm256_loadu_ps(p); }
OCTET_INLINE void store(float* p, F32 v) { _mm256_storeu_ps(p, v); }
OCTET_INLINE F32 load_partial(const float* p, int64_t n) { return _mm256_maskload_ps(p, lane_mask(n)); }
OCTET_INLINE void store_partial(float* p, F32 v, int64_t n) { _mm256_maskstore_ps(p, lane_mask(n), v); }
OCTET_INLINE I32 load(const int32_t* p) { return (I32)_mm256_loadu_si256((const __m256i*)p); }
OCTET_INLINE void store(int32_t* p, I32 v) { _mm256_storeu_si256((__m256i*)p, (__m256i)v); }
OCTET_INLINE I32 load_partial(const int32_t* p, int64_t n) { return (I32)_mm256_maskload_epi32(p, lane_mask(n)); }
OCTET_INLINE void store_partial(int32_t* p, I32 v, int64_t n) { _mm256_maskstore_epi32(p, lane_mask(n), (__m256i)v); }

OCTET_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
OCTET_INLINE F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }  // b where either is NaN
OCTET_INLINE F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }  // b where either is NaN
OCTET_INLINE F32 sqrt(F32 v) { return _mm256_sqrt_ps(v); }

// Lane i + lane i+4, then +2, +1: the order every width uses, and hsum_many too.
OCTET_INLINE float hsum(F32 v) {
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
OCTET_INLINE float hmax(F32 v) {
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// 16-bit and 8-bit codes, zero-extended to 32 bits and back (narrowing keeps the low bits; inputs fit).
OCTET_INLINE U32 widen_u16(const void* p) { return (U32)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)); }
OCTET_INLINE U32 widen_u8(const void* p) { return (U32)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
// 8-bit codes with their sign bit repeated above them.
OCTET_INLINE I32 widen_s8(const void* p) { return (I32)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
OCTET_INLINE I32 widen_s8_partial(const void* p, int64_t n) {
  uint8_t t[8] = {};
  memcpy(t, p, (size_t)n);
  return widen_s8(t);
}
OCTET_INLINE __m128i pack_u16(U32 v) {
  const __m256i u = (__m256i)v;
  return _mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
}
OCTET_INLINE void store_u16(void* p, U32 v) { _mm_storeu_si128((__m128i*)p, pack_u16(v)); }
OCTET_INLINE void store_u8(void* p, U32 v) {
  const __m128i w = pack_u16(v);
  _mm_storel_epi64((__m128i*)p, _mm_packus_epi16(w, w));
}
OCTET_INLINE U32 widen_u16_partial(const void* p, int64_t n) {
  uint16_t t[8] = {};
  memcpy(t, p, 2 * (size_t)n);
  return widen_u16(t);
}
OCTET_INLINE U32 widen_u8_partial(const void* p, int64_t n) {
  uint8_t t[8] = {};
  memcpy(t, p, (size_t)n);
  return widen_u8(t);
}
OCTET_INLINE void store_u16_partial(void* p, U32 v, int64_t n) {
  uint16_t t[8];
  store_u16(t, v);
  memcpy(p, t, 2 * (size_t)n);
}
OCTET_INLINE void store_u8_partial(void* p, U32 v, int64_t n) {
  uint8_t t[8];
  store_u8(t, v);
  memcpy(p, t, (size_t)n);
}

OCTET_INLINE F32 load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
OCTET_INLINE F32 load_partial(const f16* p, int64_t n) {
  uint16_t t[8] = {};
  memcpy(t, p, 2 * (size_t)n);
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)t));
}
OCTET_INLINE void store(f16* p, F32 v) {
  const __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
  const __m128i nan = pack_u16((U32)_mm256_srli_epi32((__m256i)(v != v), 16));
  _mm_storeu_si128((__m128i*)p, _mm_blendv_epi8(h, _mm_set1_epi16(0x7e00), nan));
}
OCTET_INLINE void store_partial(f16* p, F32 v, int64_t n) {
  uint16_t t[8];
  store((f16*)t, v);
  memcpy(p, t, 2 * (size_t)n);
}

}  // namespace octet::cpu::OCTET_LEVEL
