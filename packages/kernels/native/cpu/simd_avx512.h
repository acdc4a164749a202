// AVX-512 (F, BW, DQ, VL) primitives; included by simd.h.
#pragma once
#include <immintrin.h>

namespace octet::cpu::OCTET_LEVEL {

constexpr int kLanes = 16;
constexpr bool kHasFma = true;
typedef float F32 __attribute__((vector_size(64)));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef uint32_t U32 __attribute__((vector_size(64)));

// The first n lanes, 0 <= n <= 32.
OCTET_INLINE uint32_t lane_mask(int64_t n) { return _bzhi_u32(~0u, (uint32_t)n); }

OCTET_INLINE F32 load(const float* p) { return _mm512_loadu_ps(p); }
OCTET_INLINE void store(float* p, F32 v) { _mm512_storeu_ps(p, v); }
OCTET_INLINE F32 load_partial(const float* p, int64_t n) { return _mm512_maskz_loadu_ps((__mmask16)lane_mask(n), p); }
OCTET_INLINE void store_partial(float* p, F32 v, int64_t n) { _mm512_mask_storeu_ps(p, (__mmask16)lane_mask(n), v); }
OCTET_INLINE I32 load(const int32_t* p) { return (I32)_mm512_loadu_si512(p); }
OCTET_INLINE void store(int32_t* p, I32 v) { _mm512_storeu_si512(p, (__m512i)v); }
OCTET_INLINE I32 load_partial(const int32_t* p, int64_t n) { return (I32)_mm512_maskz_loadu_epi32((__mmask16)lane_mask(n), p); }
OCTET_INLINE void store_partial(int32_t* p, I32 v, int64_t n) { _mm512_mask_storeu_epi32(p, (__mmask16)lane_mask(n), (__m512i)v); }

OCTET_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
OCTET_INLINE F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }  // b where either is NaN
OCTET_INLINE F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }  // b where either is NaN
OCTET_INLINE F32 sqrt(F32 v) { return _mm512_sqrt_ps(v); }

// Lane i + lane i+8, then +4, +2, +1: the order every width uses, and hsum_many too.
OCTET_INLINE float hsum(F32 v) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
OCTET_INLINE float hmax(F32 v) {
  const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// 16-bit and 8-bit codes, zero-extended to 32 bits and back (narrowing drops the high bits).
OCTET_INLINE U32 widen_u16(const void* p) { return (U32)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)); }
OCTET_INLINE U32 widen_u8(const void* p) { return (U32)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
// 8-bit codes with their sign bit repeated above them.
OCTET_INLINE I32 widen_s8(const void* p) { return (I32)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
OCTET_INLINE I32 widen_s8_partial(const void* p, int64_t n) {
  return (I32)_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8((__mmask16)lane_mask(n), p));
}
OCTET_INLINE U32 widen_u16_partial(const void* p, int64_t n) {
  return (U32)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16((__mmask16)lane_mask(n), p));
}
OCTET_INLINE U32 widen_u8_partial(const void* p, int64_t n) {
  return (U32)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((__mmask16)lane_mask(n), p));
}
OCTET_INLINE void store_u16(void* p, U32 v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16((__m512i)v)); }
OCTET_INLINE void store_u8(void* p, U32 v) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)v)); }
OCTET_INLINE void store_u16_partial(void* p, U32 v, int64_t n) {
  _mm256_mask_storeu_epi16(p, (__mmask16)lane_mask(n), _mm512_cvtepi32_epi16((__m512i)v));
}
OCTET_INLINE void store_u8_partial(void* p, U32 v, int64_t n) {
  _mm_mask_storeu_epi8(p, (__mmask16)lane_mask(n), _mm512_cvtepi32_epi8((__m512i)v));
}

OCTET_INLINE F32 load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
OCTET_INLINE F32 load_partial(const f16* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)lane_mask(n), p));
}
OCTET_INLINE __m256i narrow_f16(F32 v) {
  const __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
  return _mm256_mask_mov_epi16(h, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm256_set1_epi16(0x7e00));
}
OCTET_INLINE void store(f16* p, F32 v) { _mm256_storeu_si256((__m256i*)p, narrow_f16(v)); }
OCTET_INLINE void store_partial(f16* p, F32 v, int64_t n) {
  _mm256_mask_storeu_epi16(p, (__mmask16)lane_mask(n), narrow_f16(v));
}

}  // namespace octet::cpu::OCTET_LEVEL
