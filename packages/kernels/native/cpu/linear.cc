// linear: y[m,n] = x[m,:] . w[n,:] (+ bias[n]) (+ residual[m,n])
// Tensors  t0 x [M,K], t1 w [N,K], t2 w scales?, t3 bias? [N], t4 residual? [M,N], t5 y [M,N], t6 x scales?
//          rows of x, w, residual and y may be strided; M, N, K >= 0; K = 0 gives bias + residual
// Attrs    a0 granularity of t2, a1 of t6: 0 none, 1 tensor [1], 2 row [N] or [M], 3 1x128 [rows, ceil(K/128)],
//          4 128x128 [ceil(N/128), ceil(K/128)]; scales are float32, contiguous, and multiply the codes' values
// Dtypes   x f32|bf16|e4m3|e5m2; w f32|bf16|f16|e4m3|e5m2; bias, residual f32|bf16; y f32|bf16; float32 accumulation,
//          one rounding at the store: y = round(((sum * w scale) * x scale + bias) + residual)
// Units    float32 lanes (fma) everywhere; bf16 pairs (vdpbf16ps) on avx512bf16 when neither x nor w needs more than bf16
// Order    an output's additions depend on K, the dtypes and the level alone: see linear_tile.h
// Traffic  M <= 4: w once, N*K*sizeof(w): the floor of decode. M > 4: w ceil(M/128) times, x from L2
// Threads  columns (and, past 128 rows, blocks of rows) in independent tasks, claimed as threads come free
#include "linear_tile.h"

namespace octet::cpu::OCTET_LEVEL {
namespace {

enum Granularity { kNone = 0, kTensor = 1, kRow = 2, kBlocks1 = 3, kBlocks128 = 4 };

constexpr int kTileRows = 4;
constexpr int kBlockRows = 128;               // rows of packed x per task: 512 KiB a chunk, half of a common L2
constexpr int64_t kStreamBytes = 256 << 10;   // weights per task when each is read once
constexpr int64_t kCachedBytes = 2 << 20;     // weights of this many bytes are read as if they were in cache
constexpr int64_t kShortRow = 1024;           // so are rows of fewer bytes
constexpr int64_t kLongRow = 2048;
constexpr int64_t kLead = 8192;               // how far ahead of a sequential read lines are asked for, bytes
constexpr int64_t kInlineWork = 1 << 17;      // multiply-adds below which waking the pool costs more than it gives

// Columns of a tile of `rows` when weights come from cache: as many accumulators as registers hold beside the operands.
constexpr int tile_columns([[maybe_unused]] int rows, [[maybe_unused]] bool scaled) {
#if defined(__AVX512F__) || defined(__aarch64__)
  return scaled ? (rows == 4 ? 3 : 4) : 6;
#elif defined(__AVX2__)
  return scaled ? 2 : 3;
#else
  return rows == 1 ? 4 : 2;
#endif
}

// Columns when weights stream from memory: as few as hide the latency of an accumulator's chain, since one row after the
// other is the order memory gives fastest. `step` is the bytes of weight a chain takes per addition.
constexpr int stream_columns(int step, bool long_rows) {
  const int columns = min_of(4, max_of(1, 64 / step));
  return columns == 2 && long_rows ? 4 : columns;
}

struct Problem {
  int64_t M, N, K;
  const TensorArg* x;
  const TensorArg* w;
  const TensorArg* bias;
  const TensorArg* residual;
  const TensorArg* y;
  const float* w_scale;  // nullptr: none
  const float* x_scale;
  int w_granularity, x_granularity;
  bool scaled;  // block scales on either side
  bool plain;   // y is the rounded sums
};

// ---- y from sums ----

OCTET_INLINE F32 load_either(const TensorArg& t, int64_t at, int64_t n) {
  return t.dtype == DType::f32 ? load_n(t.as<const float>() + at, n) : load_n(t.as<const bf16>() + at, n);
}

// Columns [n0, n0 + count) of row m.
template <class Y, bool kPlain> OCTET_INLINE void finish_row(const Problem& p, int64_t m, int64_t n0, int count, const float* sums) {
  Y* y = p.y->as<Y>() + m * p.y->row_stride + n0;
  for (int i = 0; i < count; i += kLanes) {
    const int64_t left = count - i;
    F32 v = load_n(sums + i, left);
    if constexpr (kPlain) {
      store_n(y + i, v, left);
      continue;
    }
    if (p.w_granularity == kRow) v = v * load_n(p.w_scale + n0 + i, left);
    else if (p.w_granularity == kTensor) v = v * set1(p.w_scale[0]);
    if (p.x_granularity == kRow) v = v * set1(p.x_scale[m]);
    else if (p.x_granularity == kTensor) v = v * set1(p.x_scale[0]);
    if (*p.bias) v = v + load_either(*p.bias, n0 + i, left);
    if (*p.residual) v = v + load_either(*p.residual, m * p.residual->row_stride + n0 + i, left);
    store_n(y + i, v, left);
  }
}

// `sums` holds rows of `pitch` floats.
template <class Y> void finish_tile(const Problem& p, int64_t m0, int rows, int64_t n0, int count, const float* sums, int pitch) {
  if (p.plain) {
    for (int r = 0; r < rows; ++r) finish_row<Y, true>(p, m0 + r, n0, count, sums + r * pitch);
  } else {
    for (int r = 0; r < rows; ++r) finish_row<Y, false>(p, m0 + r, n0, count, sums + r * pitch);
  }
}

void finish(const Problem& p, int64_t m0, int rows, int64_t n0, int count, const float* sums, int pitch) {
  if (p.y->dtype == DType::f32) finish_tile<float>(p, m0, rows, n0, count, sums, pitch);
  else finish_tile<bf16>(p, m0, rows, n0, count, sums, pitch);
}

// ---- activations ----

// Tiles of kTileRows rows (the last may have fewer), each [group][vector][row][step], K padded with zeros to a group.
template <class Unit, class W, class X> void pack_tile(const Problem& p, int64_t m0, int rows, typename Unit::Element* to) {
  using Weights = typename Unit::template Weights<W>;
  for (int r = 0; r < rows; ++r) {
    const X* from = p.x->as<const X>() + (m0 + r) * p.x->row_stride;
    for (int64_t k = 0; k < p.K; k += Weights::kGroup) {
      typename Unit::Vec v[Weights::kVectors];
      Unit::template pack<W>(from + k, p.K - k, v);
      for (int i = 0; i < Weights::kVectors; ++i) Unit::store_packed(to + k * rows + (i * rows + r) * Unit::kStep, v[i]);
    }
  }
}

template <class Unit, class W> void pack_rows(const Problem& p, int64_t m0, int rows, typename Unit::Element* to) {
  switch (p.x->dtype) {
    case DType::bf16: return pack_tile<Unit, W, bf16>(p, m0, rows, to);
    case DType::e4m3: return pack_tile<Unit, W, e4m3>(p, m0, rows, to);
    case DType::e5m2: return pack_tile<Unit, W, e5m2>(p, m0, rows, to);
    default:
      if constexpr (Unit::kStep == kLanes) pack_tile<Unit, W, float>(p, m0, rows, to);
  }
}

// ---- weights of a panel in the unit's own element, for tiles that share them ----

template <class Unit, class W>
void convert_panel(const TileWeights<W>& t, typename Unit::Element* to, int64_t pitch) {
  using Weights = typename Unit::template Weights<W>;
  for (int n = 0; n < t.columns; ++n) {
    const W* from = t.w + n * t.stride;
    for (int64_t k = 0; k < t.length; k += Weights::kGroup) {
      typename Unit::Vec v[Weights::kVectors];
      __builtin_prefetch((const char*)(from + k) + kLead);
      if (k + Weights::kGroup <= t.length) Weights::read(from + k, v);
      else Weights::read_partial(from + k, t.length - k, v);
      for (int i = 0; i < Weights::kVectors; ++i) Unit::store_packed(to + n * pitch + k + i * Unit::kStep, v[i]);
    }
  }
}

// ---- one task: rows [m0, m1) by columns [n0, n1) ----

struct Range {
  int64_t m0, m1, n0, n1;
};

template <class Unit> struct Shape {
  int64_t padded;         // K rounded up to a group
  int64_t block_rows;
  int64_t block_columns;
  bool cached;            // the weights are so few, or their rows so short, that memory's order does not matter
  typename Unit::Element* x;
};

template <class Unit, class W, bool kScaled> class Task {
  using Element = typename Unit::Element;
  using Weights = typename Unit::template Weights<W>;
  static constexpr bool kNative = sizeof(W) == sizeof(Element);  // f32 for float lanes, bf16 for pairs
  static constexpr int kWide = tile_columns(kTileRows, kScaled);
  static constexpr int64_t kPanelPitch = Unit::kChunk + 64 / (int64_t)sizeof(Element);  // rows land in different cache sets

 public:
  // Per thread: the sums of a task when K has several chunks, and a converted panel.
  static int64_t sums_bytes(const Shape<Unit>& s, int64_t K) {
    return K <= Unit::kChunk ? 0 : round_up(s.block_rows * round_up(s.block_columns, kWide) * (int64_t)sizeof(float), 64);
  }
  static int64_t scratch_bytes(const Shape<Unit>& s, int64_t K) {
    return s.block_rows <= kTileRows ? 0 : sums_bytes(s, K) + (kNative ? 0 : kWide * kPanelPitch * (int64_t)sizeof(Element));
  }

  static void run(const Problem& p, const Shape<Unit>& s, const Range& r, char* scratch) {
    switch (r.m1 - r.m0) {
      case 1: return stream_rows<1>(p, s, r);
      case 2: return stream_rows<2>(p, s, r);
      case 3: return stream_rows<3>(p, s, r);
      case 4: return stream_rows<4>(p, s, r);
      default: return blocked(p, s, r, scratch);
    }
  }

 private:
  static const W* weights(const Problem& p, int64_t n) { return p.w->as<const W>() + n * p.w->row_stride; }

  static BlockScales scales_at(const Problem& p, int64_t m, int64_t k) {
    static constexpr float kOne = 1.0f;
    BlockScales b{&kOne, 0, 1, 0, &kOne, 0, 0};
    const int64_t blocks = ceil_div(p.K, kBlock);
    if (p.w_granularity == kBlocks1 || p.w_granularity == kBlocks128) {
      b.weight = p.w_scale + k / kBlock;
      b.weight_stride = blocks;
      b.weight_rows = p.w_granularity == kBlocks1 ? 1 : kBlock;
      b.weight_step = 1;
    }
    if (p.x_granularity == kBlocks1) {
      b.activation = p.x_scale + m * blocks + k / kBlock;
      b.activation_stride = blocks;
      b.activation_step = 1;
    }
    return b;
  }

  template <int kRows> static void stream_rows(const Problem& p, const Shape<Unit>& s, const Range& r) {
    [[maybe_unused]] constexpr int kStep = Unit::kStep * (int)sizeof(W);
    if constexpr (!kScaled) {
      if (!s.cached && p.K * (int64_t)sizeof(W) > kLongRow) return stream<kRows, stream_columns(kStep, true)>(p, s, r);
      if (!s.cached) return stream<kRows, stream_columns(kStep, false)>(p, s, r);
    }
    return stream<kRows, tile_columns(kRows, kScaled)>(p, s, r);
  }

  // At most kTileRows rows: each weight is read once, straight from its own storage.
  template <int kRows, int kColumns> static void stream(const Problem& p, const Shape<Unit>& s, const Range& r) {
    const int64_t panel = kColumns * p.w->row_stride * (int64_t)sizeof(W);
    const int64_t lead = kColumns == 1 ? kLead : max_of(panel, kLead);
    const char* end = (const char*)weights(p, r.n1);
    const Element* x = s.x + r.m0 * s.padded;
    alignas(64) float sums[kRows * kColumns];
    for (int64_t n = r.n0; n < r.n1; n += kColumns) {
      const int columns = (int)min_of<int64_t>(kColumns, r.n1 - n);
      const char* next = (const char*)weights(p, n) + lead;
      if (next + panel > end) next = (const char*)weights(p, n);  // another thread may read what follows
      LineCursor ahead = LineCursor::linear(next);
      for (int64_t k = 0; k < p.K; k += Unit::kChunk) {
        const TileWeights<W> t{weights(p, n) + k, p.w->row_stride, columns, min_of<int64_t>(Unit::kChunk, p.K - k), n};
        tile<Unit, W, kRows, kColumns, kScaled, kColumns>(x + k * kRows, t, ahead, scales_at(p, r.m0, k), sums, k != 0);
      }
      finish(p, r.m0, kRows, n, columns, sums, kColumns);
    }
  }

  // A tile of a blocked task. Only whole tiles ask for lines: a partial one is the last of its panel.
  static void any_tile(int rows, int64_t ask, const Element* x, const TileWeights<Element>& t, LineCursor& ahead, const BlockScales& scales, float* sums, bool add) {
    switch (rows) {
      case 1: return tile<Unit, Element, 1, kWide, kScaled, 0>(x, t, ahead, scales, sums, add);
      case 2: return tile<Unit, Element, 2, kWide, kScaled, 0>(x, t, ahead, scales, sums, add);
      case 3: return tile<Unit, Element, 3, kWide, kScaled, 0>(x, t, ahead, scales, sums, add);
      default: break;
    }
    if constexpr (kNative) {
      switch (ask) {
        case 1: return tile<Unit, Element, 4, kWide, kScaled, 1>(x, t, ahead, scales, sums, add);
        case 2: return tile<Unit, Element, 4, kWide, kScaled, 2>(x, t, ahead, scales, sums, add);
        case 3: return tile<Unit, Element, 4, kWide, kScaled, 3>(x, t, ahead, scales, sums, add);
        default: break;
      }
    }
    return tile<Unit, Element, 4, kWide, kScaled, 0>(x, t, ahead, scales, sums, add);
  }

  // Many rows: a panel of weight rows stays in L1 while the tiles of x pass over it from L2; the first tiles also ask
  // for the next panel, a line a step where there are enough tiles to spread it over.
  static void blocked(const Problem& p, const Shape<Unit>& s, const Range& r, char* scratch) {
    float* kept = reinterpret_cast<float*>(scratch);
    Element* converted = reinterpret_cast<Element*>(scratch + sums_bytes(s, p.K));
    const int64_t tiles = ceil_div(r.m1 - r.m0, kTileRows);  // 2 or more
    const int64_t per_step = ceil_div(kWide, min_of<int64_t>(tiles, kWide));
    alignas(64) float one[kTileRows * kWide];
    for (int64_t k = 0; k < p.K; k += Unit::kChunk) {
      const int64_t length = min_of<int64_t>(Unit::kChunk, p.K - k);
      const int64_t row_lines = ceil_div(length * (int64_t)sizeof(W), 64);
      float* next_sums = kept;
      for (int64_t n = r.n0; n < r.n1; n += kWide) {
        const TileWeights<W> source{weights(p, n) + k, p.w->row_stride, (int)min_of<int64_t>(kWide, r.n1 - n), length, n};
        TileWeights<Element> t{nullptr, kPanelPitch, source.columns, round_up(length, Weights::kGroup), n};
        LineCursor ahead = LineCursor::none();
        bool ask = false;
        if constexpr (kNative) {
          t = source;
          ask = n + kWide < r.n1;
          ahead = {(const char*)(source.w + kWide * source.stride), row_lines, row_lines, (p.w->row_stride * (int64_t)sizeof(W)) - row_lines * 64};
        } else {
          convert_panel<Unit, W>(source, converted, kPanelPitch);
          t.w = converted;
        }
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t m = r.m0 + i * kTileRows;
          const int rows = (int)min_of<int64_t>(kTileRows, r.m1 - m);
          float* sums = p.K > Unit::kChunk ? next_sums : one;
          const Element* x = s.x + m * s.padded + k * rows;
          const BlockScales scales = scales_at(p, m, k);
          any_tile(rows, ask && i * per_step < kWide ? per_step : 0, x, t, ahead, scales, sums, k != 0);
          if (k + length == p.K) finish(p, m, rows, n, source.columns, sums, kWide);
          next_sums += kTileRows * kWide;
        }
      }
    }
  }
};

// ---- the plan, and all tasks ----

template <class Unit, class W, bool kScaled> Status run(const Problem& p, Context& ctx) {
  using Element = typename Unit::Element;
  using T = Task<Unit, W, kScaled>;
  Shape<Unit> s{};
  s.padded = round_up(p.K, Unit::template Weights<W>::kGroup);
  s.cached = p.N * p.K * (int64_t)sizeof(W) <= kCachedBytes || p.K * (int64_t)sizeof(W) < kShortRow;
  const int64_t row_blocks = ceil_div(p.M, kBlockRows);
  s.block_rows = p.M <= kTileRows ? p.M : round_up(ceil_div(p.M, row_blocks), kTileRows);
  const int threads = p.M * p.N * p.K <= kInlineWork ? 1 : ctx.threads();

  // Columns per task: about kStreamBytes of weights, yet several tasks a thread, and whole panels.
  constexpr int64_t kPanel = 24;  // a multiple of every tile's columns
  const int64_t by_bytes = kStreamBytes / max_of<int64_t>(1, p.K * (int64_t)sizeof(W));
  const int64_t by_threads = ceil_div(p.N * row_blocks, 6 * threads);
  s.block_columns = threads == 1 ? round_up(p.N, kPanel) : round_up(max_of<int64_t>(1, min_of(by_bytes, by_threads)), kPanel);

  const int64_t tiles = ceil_div(p.M, kTileRows);
  const int64_t per_thread = round_up(T::scratch_bytes(s, p.K), 64);
  const int64_t x_bytes = round_up(p.M * s.padded * (int64_t)sizeof(Element), 64);
  char* scratch = static_cast<char*>(ctx.scratch((size_t)(x_bytes + per_thread * threads)));
  if (scratch == nullptr) return Status::out_of_memory;
  s.x = reinterpret_cast<Element*>(scratch);

  auto pack = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t m = t * kTileRows;
      pack_rows<Unit, W>(p, m, (int)min_of<int64_t>(kTileRows, p.M - m), s.x + m * s.padded);
    }
  };
  const int64_t column_blocks = ceil_div(p.N, s.block_columns);
  auto multiply = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t m0 = t / column_blocks * s.block_rows, n0 = t % column_blocks * s.block_columns;
      T::run(p, s, {m0, min_of(m0 + s.block_rows, p.M), n0, min_of(n0 + s.block_columns, p.N)}, scratch + x_bytes + per_thread * thread);
    }
  };
  const int64_t tasks = ceil_div(p.M, s.block_rows) * column_blocks;
  if (threads == 1 || tiles < 4) pack(0, tiles, 0);
  else ctx.parallel(tiles, max_of<int64_t>(1, tiles / (4 * threads)), [&](int64_t b, int64_t e, int t) { pack(b, e, t); });
  if (threads == 1) multiply(0, tasks, 0);
  else ctx.parallel(tasks, 1, [&](int64_t b, int64_t e, int t) { multiply(b, e, t); });
  return ctx.cancelled() ? Status::cancelled : Status::ok;
}

template <class Unit, class W> Status run_weights(const Problem& p, Context& ctx) {
  return p.scaled ? run<Unit, W, true>(p, ctx) : run<Unit, W, false>(p, ctx);
}

Status dispatch(const Problem& p, Context& ctx) {
#if defined(__AVX512BF16__)
  if (p.x->dtype != DType::f32) {
    switch (p.w->dtype) {
      case DType::bf16: return run_weights<PairUnit, bf16>(p, ctx);
      case DType::e4m3: return run_weights<PairUnit, e4m3>(p, ctx);
      case DType::e5m2: return run_weights<PairUnit, e5m2>(p, ctx);
      default: break;
    }
  }
#endif
  switch (p.w->dtype) {
    case DType::f32: return run_weights<FloatUnit, float>(p, ctx);
    case DType::bf16: return run_weights<FloatUnit, bf16>(p, ctx);
    case DType::f16: return run_weights<FloatUnit, f16>(p, ctx);
    case DType::e4m3: return run_weights<FloatUnit, e4m3>(p, ctx);
    case DType::e5m2: return run_weights<FloatUnit, e5m2>(p, ctx);
    default: return Status::unsupported;
  }
}

// K = 0: the sums are empty.
void finish_empty(const Problem& p) {
  alignas(64) float zeros[64] = {};
  for (int64_t m = 0; m < p.M; ++m) {
    for (int64_t n = 0; n < p.N; n += 64) finish(p, m, 1, n, (int)min_of<int64_t>(64, p.N - n), zeros, 64);
  }
}

}  // namespace

Status op_linear(const OpCall& call, Context& ctx) {
  Problem p{};
  p.x = &call.t[0];
  p.w = &call.t[1];
  p.bias = &call.t[3];
  p.residual = &call.t[4];
  p.y = &call.t[5];
  p.M = p.x->rows();
  p.K = p.x->cols();
  p.N = p.y->cols();
  p.w_granularity = (int)call.i(0);
  p.x_granularity = (int)call.i(1);
  p.w_scale = call.t[2].as<const float>();
  p.x_scale = call.t[6].as<const float>();
  p.scaled = p.w_granularity >= kBlocks1 || p.x_granularity >= kBlocks1;
  const auto whole = [](int granularity) { return granularity == kTensor || granularity == kRow; };
  p.plain = !*p.bias && !*p.residual && !whole(p.w_granularity) && !whole(p.x_granularity);
  if (p.M == 0 || p.N == 0) return Status::ok;
  if (p.K == 0) {
    finish_empty(p);
    return Status::ok;
  }
  return dispatch(p, ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
