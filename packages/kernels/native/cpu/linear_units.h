// The two ways to multiply and accumulate, and how each reads weights. Included by linear.cc only.
//
// A unit has: Element, what activations are packed as; Vec, a register of kStep elements; madd(acc, x, w), one step of
// an output's chain of float32 lanes; kChunk, the K elements after which the lanes are summed and a new chain starts.
// A unit's Weights<W> reads weights of storage type W: kGroup elements become kVectors registers, in the order in
// which pack() lays out activations for that W.
#pragma once
#include "simd.h"

namespace octet::cpu::OCTET_LEVEL {

template <class W> inline constexpr bool kIsE4m3 = false;
template <> inline constexpr bool kIsE4m3<e4m3> = true;

// Whether any of many e4m3 codes was a NaN: 0x7f + 1 carries into bit 7, at two instructions a register of codes.
struct NanWatch {
  typedef uint8_t Bytes __attribute__((vector_size(sizeof(F32))));
  Bytes carries = {};
  OCTET_INLINE void line(const e4m3* p) {
    for (int i = 0; i < 64; i += (int)sizeof(Bytes)) {
      Bytes codes;
      memcpy(&codes, p + i, sizeof codes);
      carries |= (codes & 0x7f) + 1;
    }
  }
  OCTET_INLINE bool seen() const {
    uint64_t words[sizeof(Bytes) / 8], all = 0;
    memcpy(words, &carries, sizeof words);
    for (uint64_t w : words) all |= w;
    return (all & 0x8080808080808080u) != 0;
  }
};

// float32 lanes: any operand widened exactly, products and sums by fma (baseline: rounded twice).
struct FloatUnit {
  using Element = float;
  using Vec = F32;
  static constexpr int kStep = kLanes;
  static constexpr int kChunk = 1024;

  static OCTET_INLINE Vec load_packed(const float* p) { return load(p); }
  static OCTET_INLINE F32 madd(F32 acc, Vec x, Vec w) { return fma(x, w, acc); }

  template <class W> struct Weights {
    static constexpr int kGroup = kLanes;
    static constexpr int kVectors = 1;
    static constexpr bool kWatched = kIsE4m3<W>;
    static OCTET_INLINE void read(const W* p, Vec (&v)[1]) { v[0] = load(p); }
    static OCTET_INLINE void read_partial(const W* p, int64_t n, Vec (&v)[1]) { v[0] = load_partial(p, n); }
    // Where the codes of a whole line are watched for NaN, reading them need not look.
    static OCTET_INLINE void read_watched(const W* p, Vec (&v)[1]) {
      if constexpr (kWatched) v[0] = widen_e4m3_finite(widen_s8(p));
      else read(p, v);
    }
  };

  // One group of activations; n of them exist, the rest become 0.
  template <class W, class X> static OCTET_INLINE void pack(const X* p, int64_t n, Vec (&v)[1]) { v[0] = load_n(p, n); }
  static OCTET_INLINE void store_packed(float* p, Vec v) { store(p, v); }
};

#if defined(__AVX512BF16__)

// bf16 pairs by vdpbf16ps: each lane adds the products of two neighbouring elements, rounding after each, and treats
// denormal inputs and results as zero (absolute error below 2^-126 a step).
struct PairUnit {
  using Element = bf16;
  using Vec = __m512i;
  static constexpr int kStep = 32;
  static constexpr int kChunk = 2048;

  static OCTET_INLINE Vec load_packed(const bf16* p) { return _mm512_loadu_si512(p); }
  static OCTET_INLINE F32 madd(F32 acc, Vec x, Vec w) { return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)w); }

  template <class W> struct Weights;
  template <class W, class X> static OCTET_INLINE void pack(const X* p, int64_t n, Vec (&v)[Weights<W>::kVectors]);
  static OCTET_INLINE void store_packed(bf16* p, Vec v) { _mm512_storeu_si512(p, v); }
};

template <> struct PairUnit::Weights<bf16> {
  static constexpr int kGroup = 32;
  static constexpr int kVectors = 1;
  static constexpr bool kWatched = false;
  static OCTET_INLINE void read(const bf16* p, Vec (&v)[1]) { v[0] = _mm512_loadu_si512(p); }
  static OCTET_INLINE void read_partial(const bf16* p, int64_t n, Vec (&v)[1]) {
    v[0] = _mm512_maskz_loadu_epi16(lane_mask(n), p);
  }
};

// The bf16 of each positive FP8 code, split into bytes for a 128-entry byte permute.
struct Fp8Table {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
};

template <int kMantissa, int kBias, bool kInfinity> constexpr Fp8Table make_fp8_table() {
  Fp8Table t{};
  for (int code = 0; code < 128; ++code) {
    int exponent = code >> kMantissa;
    int fraction = code & ((1 << kMantissa) - 1);
    uint32_t bits = 0;
    if (kInfinity ? exponent == (0x7f >> kMantissa) : code == 0x7f) {
      bits = kInfinity && fraction == 0 ? 0x7f80 : 0x7fc0;
    } else if (code != 0) {
      if (exponent == 0) {  // subnormal: shift up to the implicit one
        exponent = 1;
        while (fraction < (1 << kMantissa)) fraction <<= 1, --exponent;
        fraction &= (1 << kMantissa) - 1;
      }
      bits = (uint32_t)((exponent - kBias + 127) << 7 | fraction << (7 - kMantissa));
    }
    t.low[code] = (uint8_t)bits;
    t.high[code] = (uint8_t)(bits >> 8);
  }
  return t;
}

inline constexpr Fp8Table kE4m3Table = make_fp8_table<3, 7, false>();
inline constexpr Fp8Table kE5m2Table = make_fp8_table<2, 15, true>();

// 64 codes to two registers of bf16: elements 0-7, 16-23, 32-39, 48-55 and 8-15, 24-31, 40-47, 56-63 (what the byte
// interleave gives). Exact: every FP8 value, subnormals included, is a normal bf16.
template <const Fp8Table& kTable> OCTET_INLINE void widen_fp8(__m512i codes, __m512i (&v)[2]) {
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kTable.low), codes, _mm512_load_si512(kTable.low + 64));
  __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(kTable.high), codes, _mm512_load_si512(kTable.high + 64));
  high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), 0xf8);  // high | (codes & sign)
  v[0] = _mm512_unpacklo_epi8(low, high);
  v[1] = _mm512_unpackhi_epi8(low, high);
}

template <const Fp8Table& kTable, class W> struct Fp8Weights {
  static constexpr int kGroup = 64;
  static constexpr int kVectors = 2;
  static constexpr bool kWatched = false;
  static OCTET_INLINE void read(const W* p, __m512i (&v)[2]) { widen_fp8<kTable>(_mm512_loadu_si512(p), v); }
  static OCTET_INLINE void read_partial(const W* p, int64_t n, __m512i (&v)[2]) {
    widen_fp8<kTable>(_mm512_maskz_loadu_epi8(_bzhi_u64(~0ull, (uint32_t)n), p), v);
  }
};
template <> struct PairUnit::Weights<e4m3> : Fp8Weights<kE4m3Table, e4m3> {};
template <> struct PairUnit::Weights<e5m2> : Fp8Weights<kE5m2Table, e5m2> {};

OCTET_INLINE __m512i load_bf16_n(const bf16* p, int64_t n) {
  return n >= 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(lane_mask(max_of<int64_t>(n, 0)), p);
}
// FP8 activations are exact in bf16.
template <class X> OCTET_INLINE __m512i load_bf16_n(const X* p, int64_t n) {
  alignas(64) bf16 t[32];
  for (int i = 0; i < 32; i += kLanes) store(t + i, load_n(p + i, max_of<int64_t>(n - i, 0)));
  return _mm512_load_si512(t);
}

template <class W, class X> OCTET_INLINE void PairUnit::pack(const X* p, int64_t n, Vec (&v)[Weights<W>::kVectors]) {
  if constexpr (sizeof(X) == 1 && Weights<W>::kVectors == 2) {
    Weights<X>::read_partial(p, min_of<int64_t>(n, 64), v);  // widening leaves codes of x in the order of w's
    return;
  }
  v[0] = load_bf16_n(p, n);
  if constexpr (Weights<W>::kVectors == 2) {
    const __m512i a = v[0], b = load_bf16_n(p + 32, n - 32);
    v[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    v[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
  }
}

#endif

}  // namespace octet::cpu::OCTET_LEVEL
