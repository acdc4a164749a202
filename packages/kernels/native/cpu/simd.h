// One float vector type per instruction-set level, so that an op is written once and compiled once per level.
//
//   level        width  compile with (all: -ffp-contract=off)
//   baseline       4    nothing (x86-64 SSE2)
//   avx2           8    -mavx2 -mfma -mf16c
//   avx512        16    -mavx512f -mavx512bw -mavx512dq -mavx512vl (and avx2's)
//   avx512bf16    16    avx512's and -mavx512vbmi -mavx512bf16
//   neon           4    nothing (arm64)
//
// The build defines OCTET_LEVEL to the level's name; everything lives in octet::cpu::OCTET_LEVEL, so two levels never
// share a symbol. Two rules keep that true: a translation unit of a level instantiates no std:: template (the linker
// would merge std::max compiled for AVX-512 into the baseline), and its helpers are templates or inline functions of
// this namespace.
//
// Values. A vector op gives each lane what it gives the same lane of any other vector, and a tail is a partial load into
// a full vector, so scalar and vector results are equal to the bit: a scalar function here is lane 0 of the vector one.
// fma rounds once on every level but baseline, which has no FMA and rounds the product and the sum: there, a dot product
// of n terms has the error bound n*eps*sum|ab| in both cases, but products of two 24-bit floats are no longer exact,
// while products of bf16, f16 or FP8 pairs still are (at most 22 bits). Results therefore differ between baseline and
// the others by rounding; within one level they are reproducible. Denormals are kept (MXCSR/FPCR at their defaults).
//
// Narrow types load as float32 exactly; they store rounded to nearest even with one NaN: bf16 0x7fc0, f16 0x7e00,
// FP8 0x7f. FP8 stores saturate (448, 57344), infinity included; f16 and bf16 overflow to infinity.
#pragma once
#include <cstdint>
#include <cstring>

#include "octet/op.h"

#ifndef OCTET_LEVEL
#error "define OCTET_LEVEL: baseline, avx2, avx512, avx512bf16 or neon"
#endif

namespace octet::cpu {
// Storage types: bits only, so that overloads choose the conversion. Integer tensors use int32_t and friends.
struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
struct e4m3 { uint8_t bits; };  // 1-4-3, bias 7, no infinity, NaN 0x7f and 0xff, largest 448
struct e5m2 { uint8_t bits; };  // 1-5-2, bias 15, infinity 0x7c, NaN 0x7d..0x7f, largest 57344
}  // namespace octet::cpu

#define OCTET_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#elif defined(__SSE2__)
#include "simd_sse2.h"
#elif defined(__aarch64__)
#include "simd_neon.h"
#else
#error "no vector level for this target"
#endif

// What the level's header gives: kLanes; F32, I32, U32 (compiler vectors of kLanes: + - * / & | ^ << >> and comparisons,
// which give an I32 of 0 or -1, work on them); fma, max, min, sqrt, hsum, hmax; load, store and their _partial forms for
// float and int32_t; widen_u16/u8 and narrow_u16/u8; load and store of f16.
namespace octet::cpu::OCTET_LEVEL {

OCTET_INLINE F32 zero() { return F32{}; }
OCTET_INLINE F32 set1(float x) { return x - F32{}; }
OCTET_INLINE U32 set1_u32(uint32_t x) { return x - U32{}; }
OCTET_INLINE float first(F32 v) { return v[0]; }
OCTET_INLINE U32 bits(F32 v) { return (U32)v; }
OCTET_INLINE F32 from_bits(U32 v) { return (F32)v; }
// Lanes of a where mask is -1, of b where it is 0.
OCTET_INLINE F32 select(I32 mask, F32 a, F32 b) { return mask ? a : b; }
OCTET_INLINE U32 select(I32 mask, U32 a, U32 b) { return mask ? a : b; }
OCTET_INLINE F32 abs(F32 v) { return from_bits(bits(v) & 0x7fffffffu); }
OCTET_INLINE I32 is_nan(F32 v) { return v != v; }
OCTET_INLINE F32 to_float(I32 v) { return __builtin_convertvector(v, F32); }

// Small scalar helpers, in place of std:: templates.
template <class T> OCTET_INLINE constexpr T min_of(T a, T b) { return b < a ? b : a; }
template <class T> OCTET_INLINE constexpr T max_of(T a, T b) { return a < b ? b : a; }
OCTET_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
OCTET_INLINE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// ---- widening: kLanes codes (zero-extended to 32 bits) to float32, exact ----

OCTET_INLINE F32 widen_bf16(U32 u) { return from_bits(u << 16); }

// FP8 codes come with their sign bit repeated above them. Their bits, moved to a float32's places, are that value with an
// exponent that is 120 (e4m3) or 112 (e5m2) too small, and the product with a power of two is exact, subnormals included.
OCTET_INLINE F32 widen_e4m3_finite(I32 code) { return from_bits((U32)(code << 20) & 0x87f00000u) * 0x1p120f; }  // NaN codes: 480
OCTET_INLINE F32 widen_e4m3(I32 code) {
  const U32 nan = (U32)(I32)(((U32)code & 0x7fu) == 0x7fu);
  return from_bits(bits(widen_e4m3_finite(code)) | nan);
}
OCTET_INLINE F32 widen_e4m3(U32 code) { return widen_e4m3((I32)(code << 24) >> 24); }  // any bits above the code
OCTET_INLINE F32 widen_e5m2(I32 code) {
  const F32 v = from_bits((U32)(code << 21) & 0x8fe00000u) * 0x1p112f;
  const U32 special = (U32)(I32)(((U32)code & 0x7cu) == 0x7cu);  // infinity and NaN: the exponent becomes all ones
  return from_bits(bits(v) | (special & 0x7f800000u));
}
OCTET_INLINE F32 widen_e5m2(U32 code) { return widen_e5m2((I32)(code << 24) >> 24); }

// ---- narrowing: float32 to kLanes codes, nearest even ----

OCTET_INLINE U32 narrow_bf16(F32 v) {
  const U32 u = bits(v);
  return select(is_nan(v), set1_u32(0x7fc0u), (u + (0x7fffu + ((u >> 16) & 1u))) >> 16);
}

// Rounds to a format of `kMantissa` bits whose exponent bias is `kBias`; `magnitude` is at most the largest value.
// Below the smallest normal, adding 2^(24-bias-mantissa) leaves the rounded multiple of the quantum in the low bits.
template <int kMantissa, int kBias> OCTET_INLINE U32 narrow_magnitude(F32 magnitude) {
  constexpr int kDrop = 23 - kMantissa;
  const U32 u = bits(magnitude);
  const U32 normal = ((u + ((1u << (kDrop - 1)) - 1u + ((u >> kDrop) & 1u))) >> kDrop) - (uint32_t)((127 - kBias) << kMantissa);
  const F32 shift = from_bits(set1_u32((uint32_t)(127 + 24 - kBias - kMantissa) << 23));
  const U32 small = bits(magnitude + shift) - bits(shift);
  return select((I32)(u < (uint32_t)(128 - kBias) << 23), small, normal);
}

OCTET_INLINE U32 narrow_e4m3(F32 v) {
  const U32 sign = (bits(v) >> 24) & 0x80u;
  return select(is_nan(v), set1_u32(0x7fu), narrow_magnitude<3, 7>(min(abs(v), set1(448.0f))) | sign);
}

OCTET_INLINE U32 narrow_e5m2(F32 v) {
  const U32 sign = (bits(v) >> 24) & 0x80u;
  return select(is_nan(v), set1_u32(0x7fu), narrow_magnitude<2, 15>(min(abs(v), set1(57344.0f))) | sign);
}

// ---- loads and stores by storage type; the partial forms touch the first n (0..kLanes) elements only ----

OCTET_INLINE F32 load(const bf16* p) { return widen_bf16(widen_u16(p)); }
OCTET_INLINE F32 load(const e4m3* p) { return widen_e4m3(widen_s8(p)); }
OCTET_INLINE F32 load(const e5m2* p) { return widen_e5m2(widen_s8(p)); }
OCTET_INLINE F32 load_partial(const bf16* p, int64_t n) { return widen_bf16(widen_u16_partial(p, n)); }
OCTET_INLINE F32 load_partial(const e4m3* p, int64_t n) { return widen_e4m3(widen_s8_partial(p, n)); }
OCTET_INLINE F32 load_partial(const e5m2* p, int64_t n) { return widen_e5m2(widen_s8_partial(p, n)); }

OCTET_INLINE void store(bf16* p, F32 v) { store_u16(p, narrow_bf16(v)); }
OCTET_INLINE void store(e4m3* p, F32 v) { store_u8(p, narrow_e4m3(v)); }
OCTET_INLINE void store(e5m2* p, F32 v) { store_u8(p, narrow_e5m2(v)); }
OCTET_INLINE void store_partial(bf16* p, F32 v, int64_t n) { store_u16_partial(p, narrow_bf16(v), n); }
OCTET_INLINE void store_partial(e4m3* p, F32 v, int64_t n) { store_u8_partial(p, narrow_e4m3(v), n); }
OCTET_INLINE void store_partial(e5m2* p, F32 v, int64_t n) { store_u8_partial(p, narrow_e5m2(v), n); }

// n >= kLanes loads a full vector, fewer a partial one: `for (i = 0; i < n; i += kLanes) load_n(p + i, n - i)`.
template <class T> OCTET_INLINE F32 load_n(const T* p, int64_t n) { return n >= kLanes ? load(p) : load_partial(p, n); }
template <class T> OCTET_INLINE void store_n(T* p, F32 v, int64_t n) {
  if (n >= kLanes) store(p, v);
  else store_partial(p, v, n);
}

// One element, by way of lane 0.
template <class T> OCTET_INLINE float load_one(const T* p) { return first(load_partial(p, 1)); }
template <class T> OCTET_INLINE void store_one(T* p, float v) { store_partial(p, set1(v), 1); }
OCTET_INLINE float fma(float a, float b, float c) { return first(fma(set1(a), set1(b), set1(c))); }

}  // namespace octet::cpu::OCTET_LEVEL

#include "simd_math.h"
