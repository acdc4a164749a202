// One chunk of attention: a tile of query rows against up to 256 keys, by register-tiled products.
//
//   scores   s[r][j] = dot(q[r], k[j]), one chain of fma over d for each (r, j). Keys are transposed a group of kLanes at a
//            time into [d][lane], so that the lanes are keys and no sum crosses them
//   softmax  m[r] = max s, p = exp(s - m), l[r] = sum p: one accumulator of vectors in order, lanes last; vectors are
//            aligned to the chunk, so keys outside a row's range only add zeros
//   values   part[r] = sum over j of p[r][j] v[j], one chain of fma over the row's own keys, ascending
//
// Every chain is fixed by the row and the chunk alone. Tile shape, neighbours in the tile, page size and thread count
// choose which chains run side by side and never the order inside one: a row's float32 result is the same to the bit.
// Keys outside a row's range never touch it, so NaN in a later token's K or V stays there.
#pragma once
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

constexpr int kChunk = 256;   // keys
constexpr int kTileRows = 48; // query rows of a task: positions times the heads that share a KV head
constexpr int kRowBlock = 6;  // rows of a register tile; 12 accumulators, 2 loads and 1 broadcast fit 16 registers
constexpr int kPack = 4;      // key groups transposed at a time: they stay in L1

// What one thread works in.
struct Workspace {
  float* q;       // [kTileRows][pitch]
  float* scores;  // [kTileRows][kChunk], later the weights p
  float* part;    // [kTileRows][pitch] of the chunk
  float* acc;     // [kTileRows][pitch] of all chunks so far
  float* keys;    // [kPack][d][kLanes]
  float* values;  // [kChunk][pitch], for tiles that read V several times
  float m[kTileRows], l[kTileRows];          // of the chunk
  float top[kTileRows], total[kTileRows];    // of all chunks so far
  int32_t lo[kTileRows], hi[kTileRows];      // each row's keys within the chunk
  const uint8_t* mask[kTileRows];            // 1 = masked out, from the chunk's first key on; null: none
  const void* k[kChunk];
  const void* v[kChunk];
  const void* next[kChunk];  // keys that this thread will likely read next, or null
};

struct AttentionShape {
  int64_t d;        // head dimension, even
  int64_t pitch;    // d rounded up to vectors
  float softcap;    // 0: none
};

// ---- transposing keys ----

template <int... i> struct Lanes {};
template <int n, int... i> struct MakeLanes : MakeLanes<n - 1, n - 1, i...> {};
template <int... i> struct MakeLanes<0, i...> { using type = Lanes<i...>; };

// One exchange of Eklundh's transposition: lanes with bit `step` move between the two rows.
template <int step, int... i> OCTET_INLINE void exchange(U32& a, U32& b, Lanes<i...>) {
  const U32 low = __builtin_shufflevector(a, b, ((i & step) != 0 ? kLanes + (i ^ step) : i)...);
  const U32 high = __builtin_shufflevector(a, b, ((i & step) != 0 ? kLanes + i : (i ^ step))...);
  a = low;
  b = high;
}
template <int step> OCTET_INLINE void transpose_from(U32 (&m)[kLanes]) {
  if constexpr (step < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if ((i & step) == 0) exchange<step>(m[i], m[i | step], typename MakeLanes<kLanes>::type{});
    }
    transpose_from<step * 2>(m);
  }
}

OCTET_INLINE U32 load_words(const void* p) { return (U32)load(static_cast<const int32_t*>(p)); }
OCTET_INLINE U32 load_words_partial(const void* p, int64_t bytes) {
  alignas(64) int32_t t[kLanes] = {};
  memcpy(t, p, static_cast<size_t>(bytes));
  return (U32)load(t);
}

// e4m3 known to be no NaN: half the work of widening. A chunk is looked through once to know.
struct finite_e4m3 { uint8_t bits; };

// The code in the top byte, whatever lies below: sign and magnitude in their places, the exponent 120 too small.
OCTET_INLINE F32 widen_finite_e4m3(U32 top) { return from_bits((U32)((I32)top >> 4) & 0x87f00000u) * 0x1p120f; }
OCTET_INLINE F32 load(const finite_e4m3* p) { return widen_finite_e4m3(widen_u8(p) << 24); }
OCTET_INLINE F32 load_partial(const finite_e4m3* p, int64_t n) { return widen_finite_e4m3(widen_u8_partial(p, n) << 24); }

// Whether any code of rows [begin, end) is NaN: of a byte's magnitude, only 0x7f carries into the sign when 1 is added.
inline bool any_nan_e4m3(const void* const* row, int begin, int end, int64_t d) {
  U32 seen = set1_u32(0);
  for (int j = begin; j < end; ++j) {
    const uint8_t* const p = static_cast<const uint8_t*>(row[j]);
    for (int64_t c = 0; c < d; c += 4 * kLanes) {
      const U32 word = c + 4 * kLanes <= d ? load_words(p + c) : load_words_partial(p + c, d - c);
      seen |= (word & 0x7f7f7f7fu) + 0x01010101u;
    }
  }
  uint32_t all = 0;
  for (int i = 0; i < kLanes; ++i) all |= seen[i];
  return (all & 0x80808080u) != 0;
}

// Word `part` of a 32-bit unit of storage as float32.
template <class T> OCTET_INLINE F32 widen_part(U32 unit, int part);
template <> OCTET_INLINE F32 widen_part<float>(U32 unit, int) { return from_bits(unit); }
template <> OCTET_INLINE F32 widen_part<bf16>(U32 unit, int part) {
  return from_bits(part == 0 ? unit << 16 : unit & 0xffff0000u);
}
template <> OCTET_INLINE F32 widen_part<e4m3>(U32 unit, int part) { return widen_e4m3((unit >> (8 * part)) & 0xffu); }
template <> OCTET_INLINE F32 widen_part<finite_e4m3>(U32 unit, int part) { return widen_finite_e4m3(unit << (24 - 8 * part)); }

// Towards L2. Rows lie in pages that hardware prefetchers do not cross, so a thread that only waits for its loads sees half
// of its share of the memory's bandwidth; asked for one line at a time, between other work, they come while it computes.
OCTET_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// Keys first … first + kLanes - 1 into to[d][lane]; lanes outside [begin, end) repeat a key inside. Their values are asked
// for meanwhile.
template <class T> void pack_keys(const void* const* k, const void* const* v, int first, int begin, int end, int64_t d, float* to) {
  constexpr int kPer = 4 / static_cast<int>(sizeof(T)), kStep = kLanes * kPer;
  const T* row[kLanes];
  const T* value[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const int j = min_of(max_of(first + i, begin), end - 1);
    row[i] = static_cast<const T*>(k[j]);
    value[i] = static_cast<const T*>(v[j]);
  }
  for (int64_t c = 0; c < d; c += kStep) {
    U32 m[kLanes];
    for (int i = 0; i < kLanes; ++i) prefetch(value[i] + c);
    if (c + kStep <= d) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) m[i] = load_words(row[i] + c);
    } else {
      for (int i = 0; i < kLanes; ++i) m[i] = load_words_partial(row[i] + c, (d - c) * static_cast<int64_t>(sizeof(T)));
    }
    transpose_from<1>(m);
    float* const block = to + c * kLanes;
    if (c + kStep <= d) {
#pragma GCC unroll 16
      for (int u = 0; u < kLanes; ++u) {
        for (int part = 0; part < kPer; ++part) store(block + (u * kPer + part) * kLanes, widen_part<T>(m[u], part));
      }
    } else {
      for (int64_t e = 0; e < d - c; ++e) store(block + e * kLanes, widen_part<T>(m[e / kPer], static_cast<int>(e % kPer)));
    }
  }
}

// ---- register tiles ----

// R rows times V groups of kLanes keys.
template <int R, int V> void score_tile(const float* q, int64_t pitch, const float* keys, int64_t d, float* s) {
  F32 a[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) a[r][v] = zero();
  }
  for (int64_t c = 0; c < d; ++c) {
    F32 k[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) k[v] = load(keys + (v * d + c) * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F32 x = set1(q[r * pitch + c]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) a[r][v] = fma(x, k[v], a[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(s + r * kChunk + v * kLanes, a[r][v]);
  }
}

// Groups 0 … groups - 1 of packed keys for R rows.
template <int R> void score_rows(const float* q, int64_t pitch, const float* keys, int64_t d, int groups, float* s) {
  constexpr int kWide = R <= 3 ? 4 : 2;
  int g = 0;
  for (; g + kWide <= groups; g += kWide) score_tile<R, kWide>(q, pitch, keys + g * d * kLanes, d, s + g * kLanes);
  if constexpr (kWide == 4) {
    if (g + 2 <= groups) {
      score_tile<R, 2>(q, pitch, keys + g * d * kLanes, d, s + g * kLanes);
      g += 2;
    }
  }
  if (g < groups) score_tile<R, 1>(q, pitch, keys + g * d * kLanes, d, s + g * kLanes);
}

// Rows that will be read soon: item bytes an element; null rows: none.
struct Ahead {
  const void* const* row;
  int64_t item;
};

// part[r][column …] += sum over j in [begin, end) of p[r][j] v[j][column …] for R rows and V vectors of columns; n columns
// are left (fewer than a vector only when V is 1). The same columns of ahead.row[j] are asked for beside v[j].
template <int R, int V, class T>
void value_tile(const float* p, const void* const* v, const Ahead& ahead, int64_t column, int64_t n, int begin, int end,
                float* part, int64_t pitch) {
  const void* const* const next = ahead.row;
  F32 a[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < V; ++i) a[r][i] = load(part + r * pitch + column + i * kLanes);
  }
  for (int j = begin; j < end; ++j) {
    const T* const row = static_cast<const T*>(v[j]) + column;
    if (next != nullptr) {
      const char* const bytes = static_cast<const char*>(next[j]) + column * ahead.item;
      for (int64_t i = 0; i < V * kLanes * ahead.item; i += 64) prefetch(bytes + i);
    }
    F32 x[V];
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) x[i] = V == 1 ? load_n(row, n) : load(row + i * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F32 weight = set1(p[r * kChunk + j]);
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) a[r][i] = fma(weight, x[i], a[r][i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < V; ++i) store(part + r * pitch + column + i * kLanes, a[r][i]);
  }
}

template <int R, class T>
void value_rows(const float* p, const void* const* v, const Ahead& ahead, int64_t d, int begin, int end, float* part,
                int64_t pitch) {
  if (begin >= end) return;
  constexpr int kWide = R <= 3 ? 4 : 2;
  int64_t c = 0;
  for (; c + kWide * kLanes <= d; c += kWide * kLanes) value_tile<R, kWide, T>(p, v, ahead, c, d - c, begin, end, part, pitch);
  if constexpr (kWide == 4) {
    if (c + 2 * kLanes <= d) {
      value_tile<R, 2, T>(p, v, ahead, c, d - c, begin, end, part, pitch);
      c += 2 * kLanes;
    }
  }
  for (; c < d; c += kLanes) value_tile<R, 1, T>(p, v, ahead, c, d - c, begin, end, part, pitch);
}

// f(Rows<R>) for a row count that is only known at run time, 1 … kRowBlock.
template <int R> struct Rows { static constexpr int count = R; };
template <class F> OCTET_INLINE void by_rows(int rows, F&& f) {
  switch (rows) {
    case 1: return f(Rows<1>{});
    case 2: return f(Rows<2>{});
    case 3: return f(Rows<3>{});
    case 4: return f(Rows<4>{});
    case 5: return f(Rows<5>{});
    default: return f(Rows<6>{});
  }
}

// ---- the three passes ----

// Scores of all rows against keys [begin, end) of the chunk.
template <class T> void scores_of(Workspace& w, const AttentionShape& a, int rows, int begin, int end) {
  const int last = static_cast<int>(ceil_div(end, kLanes));
  for (int g = begin / kLanes; g < last; g += kPack) {
    const int groups = min_of(kPack, last - g);
    for (int i = 0; i < groups; ++i) pack_keys<T>(w.k, w.v, (g + i) * kLanes, begin, end, a.d, w.keys + i * a.d * kLanes);
    for (int r = 0; r < rows; r += kRowBlock) {
      by_rows(min_of(kRowBlock, rows - r), [&](auto n) {
        score_rows<n.count>(w.q + r * a.pitch, a.pitch, w.keys, a.d, groups, w.scores + r * kChunk + g * kLanes);
      });
    }
  }
}

// Scores of row r become weights; m and l of the row. `scale` multiplies the products first.
inline void softmax_row(Workspace& w, const AttentionShape& a, int r, float scale) {
  const F32 minus_infinity = set1(-__builtin_inff());
  const int32_t lo = w.lo[r], hi = w.hi[r];
  float* const s = w.scores + r * kChunk;
  F32 top = minus_infinity;
  const int first = lo / kLanes * kLanes;
  for (int j = first; j < hi; j += kLanes) {
    F32 x = load(s + j) * scale;
    if (a.softcap > 0) x = tanh(x / a.softcap) * a.softcap;
    const I32 index = iota() + j;
    I32 inside = (index >= lo) & (index < hi);
    if (w.mask[r] != nullptr) inside &= (I32)(widen_u8_partial(w.mask[r] + j, min_of(kLanes, hi - j)) == 0u);
    x = select(inside, x, minus_infinity);
    store(s + j, x);
    top = max(x, top);  // passes NaN over: its weight is NaN whatever the maximum
  }
  const float m = hmax(top), shift = m == -__builtin_inff() ? 0.0f : m;
  F32 sum = zero();
  for (int j = first; j < hi; j += kLanes) {
    const F32 p = exp(load(s + j) - shift);
    store(s + j, p);
    sum += p;
  }
  w.m[r] = m;
  w.l[r] = hsum(sum);
}

// Row r's own keys one by one: the ragged edge of a tile, or the runs that a mask leaves.
template <class T> void values_of_row(Workspace& w, const AttentionShape& a, const void* const* v, int r, int begin, int end) {
  const float* const p = w.scores + r * kChunk;
  float* const part = w.part + r * a.pitch;
  const uint8_t* const mask = w.mask[r];
  if (mask == nullptr) return value_rows<1, T>(p, v, {nullptr, 0}, a.d, begin, end, part, a.pitch);
  for (int j = begin; j < end;) {
    while (j < end && mask[j] != 0) ++j;
    const int run = j;
    while (j < end && mask[j] == 0) ++j;
    value_rows<1, T>(p, v, {nullptr, 0}, a.d, run, j, part, a.pitch);
  }
}

template <class T>
void values_of(Workspace& w, const AttentionShape& a, const void* const* v, const Ahead& ahead, int rows) {
  for (int r0 = 0; r0 < rows; r0 += kRowBlock) {
    const int n = min_of(kRowBlock, rows - r0);
    int32_t begin = 0, end = kChunk;  // keys that all rows of the block see
    bool masked = false;
    for (int r = r0; r < r0 + n; ++r) {
      begin = max_of(begin, w.lo[r]);
      end = min_of(end, w.hi[r]);
      masked = masked || w.mask[r] != nullptr;
    }
    if (masked || begin >= end) {
      for (int r = r0; r < r0 + n; ++r) values_of_row<T>(w, a, v, r, w.lo[r], w.hi[r]);
      continue;
    }
    for (int r = r0; r < r0 + n; ++r) values_of_row<T>(w, a, v, r, w.lo[r], begin);
    by_rows(n, [&](auto k) {
      value_rows<k.count, T>(w.scores + r0 * kChunk, v, r0 == 0 ? ahead : Ahead{nullptr, 0}, a.d, begin, end, w.part + r0 * a.pitch, a.pitch);
    });
    for (int r = r0; r < r0 + n; ++r) values_of_row<T>(w, a, v, r, end, w.hi[r]);
  }
}

// Values from a float32 copy: V is read once a row block, or holds codes that only the careful conversion knows.
template <class T>
void values_widened(Workspace& w, const AttentionShape& a, const Ahead& ahead, int rows, int begin, int end) {
  const void* wide[kChunk];
  for (int j = begin; j < end; ++j) {
    float* const row = w.values + j * a.pitch;
    load_as(static_cast<const T*>(w.v[j]), a.d, row);
    wide[j] = row;
  }
  values_of<float>(w, a, wide, ahead, rows);
}

// m, l and part of every row for keys [begin, end) of the chunk; w.q, lo, hi, mask, k and v are set.
template <class T> void chunk_partial(Workspace& w, const AttentionShape& a, int rows, int begin, int end, float scale) {
  constexpr bool kCodes = __is_same(T, e4m3);
  if (kCodes && !any_nan_e4m3(w.k, begin, end, a.d)) {
    scores_of<finite_e4m3>(w, a, rows, begin, end);
  } else {
    scores_of<T>(w, a, rows, begin, end);
  }
  for (int r = 0; r < rows; ++r) softmax_row(w, a, r, scale);
  memset(w.part, 0, static_cast<size_t>(rows * a.pitch) * sizeof(float));
  const Ahead ahead{w.next[begin] != nullptr ? w.next : nullptr, sizeof(T)};
  if constexpr (__is_same(T, float)) {
    values_of<float>(w, a, w.v, ahead, rows);
  } else if (rows > kRowBlock || (kCodes && any_nan_e4m3(w.v, begin, end, a.d))) {
    values_widened<T>(w, a, ahead, rows, begin, end);
  } else if constexpr (kCodes) {
    values_of<finite_e4m3>(w, a, w.v, ahead, rows);
  } else {
    values_of<T>(w, a, w.v, ahead, rows);
  }
}

// Joins one more chunk's (m, l, part) to a row's running (top, total, acc). Always in ascending order of chunks.
OCTET_INLINE void merge_row(float& top, float& total, float* acc, float m, float l, const float* part, int64_t pitch) {
  if (l == 0) return;  // no key of this chunk counts
  const float next = max_of(top, m);
  const float old_factor = exp(top - next), new_factor = exp(m - next);
  for (int64_t c = 0; c < pitch; c += kLanes) {
    store(acc + c, fma(load(acc + c), set1(old_factor), load(part + c) * new_factor));
  }
  total = fma(total, old_factor, l * new_factor);
  top = next;
}

}  // namespace octet::cpu::OCTET_LEVEL
