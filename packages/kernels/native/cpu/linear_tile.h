// The register tile of linear: kRows activations by kColumns weight rows over one chunk of K, then the sums of lanes.
// Included by linear.cc only.
//
// The order of additions of one output element is the same in every tile shape, so it does not depend on M, on the
// element's place or on which thread runs the tile:
//   for each chunk of K (Unit::kChunk):  lanes = 0;  for each step: lanes = madd(lanes, x, w)   [block scales: each 128
//   elements start from 0 and are added as lanes = fma(part * weight scale, activation scale, lanes)];
//   sum = chunk 0's lane sum + chunk 1's + ...
#pragma once
#include "linear_units.h"

namespace octet::cpu::OCTET_LEVEL {

#define OCTET_UNROLL _Pragma("GCC unroll 32")

constexpr int kBlock = 128;  // elements of K under one block scale

// Scales of the tile's rows and columns for the first block of the chunk; absent ones point at 1 with no stride.
struct BlockScales {
  const float* weight;
  int64_t weight_stride;   // from one row of scales to the next
  int64_t weight_rows;     // weight rows that share a row of scales
  int64_t weight_step;     // 1, or 0 where absent
  const float* activation;
  int64_t activation_stride;
  int64_t activation_step;
};

// sums[i] (+)= the lanes of acc[i] added as hsum adds them. `add` is false for the first chunk.
// Unrolled: an index that the compiler does not know keeps all accumulators in memory, stored at every block of scales.
template <int n> OCTET_INLINE void reduce_lanes(const F32 (&acc)[n], float* sums, bool add) {
  OCTET_UNROLL for (int i = 0; i < n; ++i) sums[i] = add ? sums[i] + hsum(acc[i]) : hsum(acc[i]);
}

#if defined(__AVX512F__)

// hsum of 16 registers at once: each step halves the registers and keeps every output's own tree.
OCTET_INLINE F32 hsum_16(const F32* v) {
  __m512 quarter[4];
  OCTET_UNROLL for (int j = 0; j < 4; ++j) {
    // 256-bit halves: [a | b] and [c | d], then 128-bit quarters: [a b c d] for outputs j, 4+j, 8+j, 12+j.
    const __m512 a = v[j], b = v[4 + j], c = v[8 + j], d = v[12 + j];
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    quarter[j] = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  }
  const __m512 p = _mm512_add_ps(_mm512_shuffle_ps(quarter[0], quarter[1], 0x44), _mm512_shuffle_ps(quarter[0], quarter[1], 0xee));
  const __m512 q = _mm512_add_ps(_mm512_shuffle_ps(quarter[2], quarter[3], 0x44), _mm512_shuffle_ps(quarter[2], quarter[3], 0xee));
  return _mm512_add_ps(_mm512_shuffle_ps(p, q, 0x88), _mm512_shuffle_ps(p, q, 0xdd));
}

template <int n> requires(n % 8 == 0) OCTET_INLINE void reduce_lanes(const F32 (&acc)[n], float* sums, bool add) {
  OCTET_UNROLL for (int i = 0; i + 16 <= n; i += 16) {
    const F32 s = hsum_16(acc + i);
    store(sums + i, add ? load(sums + i) + s : s);
  }
  if constexpr (n % 16 != 0) {
    const F32* last = acc + n - 8;
    const F32 v[16] = {last[0], last[1], last[2], last[3], last[4], last[5], last[6], last[7],
                       last[0], last[1], last[2], last[3], last[4], last[5], last[6], last[7]};
    const __m256 s = _mm512_castps512_ps256(hsum_16(v));
    float* to = sums + n - 8;
    _mm256_storeu_ps(to, add ? _mm256_add_ps(_mm256_loadu_ps(to), s) : s);
  }
}

#endif

// One group: kVectors steps of every chain. x is packed as [vector][row][step].
enum class Read { whole, partial, watched };

template <class Unit, class W, int kRows, int kColumns, Read kRead>
OCTET_INLINE void tile_group(const typename Unit::Element* x, const W* const (&w)[kColumns], int64_t k, int64_t left,
                             F32 (&acc)[kRows * kColumns]) {
  using Weights = typename Unit::template Weights<W>;
  using Vec = typename Unit::Vec;
  Vec xv[Weights::kVectors][kRows];
  OCTET_UNROLL for (int i = 0; i < Weights::kVectors; ++i) {
    OCTET_UNROLL for (int m = 0; m < kRows; ++m) xv[i][m] = Unit::load_packed(x + (i * kRows + m) * Unit::kStep);
  }
  OCTET_UNROLL for (int n = 0; n < kColumns; ++n) {
    Vec wv[Weights::kVectors];
    if constexpr (kRead == Read::partial) Weights::read_partial(w[n] + k, left, wv);
    else if constexpr (kRead == Read::watched) Weights::read_watched(w[n] + k, wv);
    else Weights::read(w[n] + k, wv);
    OCTET_UNROLL for (int i = 0; i < Weights::kVectors; ++i) {
      OCTET_UNROLL for (int m = 0; m < kRows; ++m) acc[m * kColumns + n] = Unit::madd(acc[m * kColumns + n], xv[i][m], wv[i]);
    }
  }
}

// Asks for the cache lines of some weight rows before they are read, in address order: memory's prefetchers and row
// buffers reward that order, while tiles read several rows side by side. Rows of `lines` lines lie `jump` bytes apart.
struct LineCursor {
  const char* next;
  int64_t left, lines, jump;
  static OCTET_INLINE LineCursor none() { return {nullptr, 0, 0, 0}; }
  static OCTET_INLINE LineCursor linear(const char* from) { return {from, INT64_MAX, INT64_MAX, 0}; }
  OCTET_INLINE void step() {
    __builtin_prefetch(next);
    next += 64;
    if (--left == 0) left = lines, next += jump;
  }
};

// Elements [begin, end) of the chunk, asking for kAsk lines ahead for each line that a row gives.
template <class Unit, class W, int kRows, int kColumns, int kAsk>
OCTET_INLINE void tile_span(const typename Unit::Element* x, const W* const (&w)[kColumns], int64_t begin, int64_t end,
                            LineCursor& ahead, NanWatch (&watch)[kColumns], F32 (&acc)[kRows * kColumns]) {
  constexpr bool kWatched = Unit::template Weights<W>::kWatched;
  constexpr int64_t kGroup = Unit::template Weights<W>::kGroup;
  constexpr int64_t kLine = max_of<int64_t>(kGroup, 64 / (int64_t)sizeof(W));
  int64_t k = begin;
  if constexpr (kAsk > 0 || kWatched) {
    for (; k + kLine <= end; k += kLine) {
      OCTET_UNROLL for (int i = 0; i < kAsk; ++i) ahead.step();
      if constexpr (kWatched) {
        OCTET_UNROLL for (int n = 0; n < kColumns; ++n) watch[n].line(w[n] + k);
      }
      _Pragma("GCC unroll 2") for (int64_t i = 0; i < kLine; i += kGroup) {
        tile_group<Unit, W, kRows, kColumns, kWatched ? Read::watched : Read::whole>(x + (k + i) * kRows, w, k + i, kGroup, acc);
      }
    }
  }
  for (; k + kGroup <= end; k += kGroup) tile_group<Unit, W, kRows, kColumns, Read::whole>(x + k * kRows, w, k, kGroup, acc);
  if (k < end) tile_group<Unit, W, kRows, kColumns, Read::partial>(x + k * kRows, w, k, end - k, acc);
}

// One chunk of a tile. Weight row n starts at w + n * stride; rows past `columns` repeat the last one (their sums are
// not used). sums[m * kColumns + n] (+)= x[m, 0..length) . w[n, 0..length).
template <class W> struct TileWeights {
  const W* w;
  int64_t stride;
  int columns;
  int64_t length;
  int64_t first_column;  // of y, to find block scales
};

template <class Unit, class W, int kRows, int kColumns, bool kScaled, int kAsk>
void tile(const typename Unit::Element* x, const TileWeights<W>& t, LineCursor& ahead, const BlockScales& scales, float* sums, bool add) {
  const W* rows[kColumns];
  OCTET_UNROLL for (int n = 0; n < kColumns; ++n) rows[n] = t.w + min_of(n, t.columns - 1) * t.stride;
  F32 acc[kRows * kColumns] = {};
  LineCursor cursor = ahead;
  NanWatch watch[kColumns];
  if constexpr (!kScaled) {
    tile_span<Unit, W, kRows, kColumns, kAsk>(x, rows, 0, t.length, cursor, watch, acc);
  } else {
    const float* weight[kColumns];
    OCTET_UNROLL for (int n = 0; n < kColumns; ++n) {
      weight[n] = scales.weight + (t.first_column + min_of(n, t.columns - 1)) / scales.weight_rows * scales.weight_stride;
    }
    for (int64_t begin = 0, block = 0; begin < t.length; begin += kBlock, ++block) {
      F32 part[kRows * kColumns] = {};
      tile_span<Unit, W, kRows, kColumns, kAsk>(x, rows, begin, min_of(begin + kBlock, t.length), cursor, watch, part);
      OCTET_UNROLL for (int m = 0; m < kRows; ++m) {
        const F32 xs = set1(scales.activation[m * scales.activation_stride + block * scales.activation_step]);
        OCTET_UNROLL for (int n = 0; n < kColumns; ++n) {
          const int i = m * kColumns + n;
          acc[i] = fma(part[i] * set1(weight[n][block * scales.weight_step]), xs, acc[i]);
        }
      }
    }
  }
  if constexpr (kAsk > 0) ahead = cursor;
  if constexpr (Unit::template Weights<W>::kWatched) {
    for (int n = 0; n < kColumns; ++n) {
      if (watch[n].seen()) for (int m = 0; m < kRows; ++m) acc[m * kColumns + n] = set1(__builtin_nanf(""));
    }
  }
  reduce_lanes(acc, sums, add);
}

}  // namespace octet::cpu::OCTET_LEVEL
