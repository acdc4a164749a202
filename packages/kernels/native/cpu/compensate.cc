// compensate: moves the codes of a quantized weight so that what their errors do to a product's output grows small:
//             tr(E H Eᵀ), E = x - data * scaleInv, H the second moments of the product's input (op gram)
// Tensors  t0 x [N,K] f32|bf16, t1 moments f32[K,S], t2 data e4m3[N,K] in place, t3 scaleInv f32
// Attrs    a0 granularity 1 tensor 2 row 3 1x128 4 128x128, a1 passes
// Values   coordinate descent (QuantEase, Behdin et al. 2023): column after column of a window of S channels, a row's code
//          becomes the nearest to x + sum_{j != i} H[i,j] E[j] / H[i,i], which is the best while the others stay. It changes
//          only if it then lies strictly nearer, so no pass adds error; a sum of 0, a channel without input (H[i,i] = 0) and
//          whatever is not finite change nothing. float32, products and sums rounded apart: first the j outside of i's block of
//          kColumns columns, then those in it, each in order, so the same bits on every level. Ends after a pass without a change
// Cost     passes * N * K * S multiplications and additions
// Layout   kRows rows side by side in vectors: a moment is broadcast to all, their errors [S, kRows] stay in the second cache
//          and are loaded once a block
#include "scales.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
constexpr int64_t kRows = 64;
constexpr int64_t kPart = 128;  // columns staged at once
constexpr int64_t kColumns = 4;
constexpr int kVectors = kLanes >= 16 ? 4 : 2;  // of rows, by kColumns: as many sums as there are registers for
constexpr int64_t kGroup = kVectors * kLanes;
static_assert(kRows % kGroup == 0);

struct Compensator {
  const OpCall& call;
  Blocks b;
  const TensorArg &x = call.t[0], &moments = call.t[1], &data = call.t[2];

  float scale_of(int64_t row, int64_t column) const { return call.t[3].as<const float>()[row / b.height * b.across + column / b.width]; }

  // One window of up to kRows rows. `room`: values, codes and errors, [n, kRows] each.
  void run(Context& ctx, int64_t row, int64_t rows, int64_t column, int64_t n, float* room) const {
    float* const w = room;
    float* const q = w + n * kRows;
    float* const e = q + n * kRows;
    memset(room, 0, static_cast<size_t>(3 * n * kRows) * sizeof(float));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; i += kPart) {
        float values[kPart], codes[kPart];
        const int64_t count = min_of(kPart, n - i);
        load_row(x, row + r, column + i, count, values);
        load_row(data, row + r, column + i, count, codes);
        for (int64_t k = 0; k < count; ++k) {
          const int64_t to = (i + k) * kRows + r;
          w[to] = values[k];
          q[to] = codes[k];
          e[to] = values[k] - codes[k] * scale_of(row + r, column + i + k);
        }
      }
    }
    for (int64_t pass = 0; pass < call.i(1) && !ctx.cancelled(); ++pass) {
      bool changed = false;
      for (int64_t i = 0; i < n; i += kColumns) {
        for (int64_t g = 0; g < rows; g += kGroup) changed |= block(i, min_of(kColumns, n - i), n, w + g, q + g, e + g, row + g, column, min_of(rows - g, kGroup));
      }
      if (!changed) break;
    }
  }

  // Columns i.. of kGroup rows. Whether any code changed.
  bool block(int64_t i, int64_t count, int64_t n, const float* w, float* q, float* e, int64_t row, int64_t column, int64_t rows) const {
    const float* h[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) h[c] = moments.as<const float>() + (column + i + min_of(c, count - 1)) * moments.row_stride;
    F32 sums[kColumns][kVectors] = {};
    const auto add = [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        F32 error[kVectors];
        for (int v = 0; v < kVectors; ++v) error[v] = load(e + j * kRows + v * kLanes);
        for (int64_t c = 0; c < kColumns; ++c) {
          const F32 m = set1(h[c][j]);
          for (int v = 0; v < kVectors; ++v) sums[c][v] = sums[c][v] + m * error[v];
        }
      }
    };
    add(0, i);
    add(i + count, n);
    bool changed = false;
    for (int64_t c = 0; c < count; ++c) {
      if (!(h[c][i + c] > 0)) continue;
      alignas(64) float scale[kGroup] = {};
      for (int64_t r = 0; r < rows; ++r) scale[r] = scale_of(row + r, column + i + c);
      for (int v = 0; v < kVectors; ++v) {
        F32 sum = sums[c][v];
        for (int64_t j = i; j < i + count; ++j) {
          if (j != i + c) sum = sum + set1(h[c][j]) * load(e + j * kRows + v * kLanes);
        }
        const int64_t at = (i + c) * kRows + v * kLanes;
        changed |= settle(sum / set1(h[c][i + c]), load(scale + v * kLanes), w + at, q + at, e + at, row + v * kLanes, column + i + c, rows - v * kLanes);
      }
    }
    return changed;
  }

  // One code of each of a vector's rows. correction: of its value by the other errors. Whether any code changed.
  bool settle(F32 correction, F32 scale, const float* w, float* q, float* e, int64_t row, int64_t column, int64_t rows) const {
    const F32 value = load(w), code = load(q), target = value + correction;
    const F32 next = widen_e4m3(narrow_e4m3(target * (set1(1.0f) / scale)));
    const I32 better = (abs(target - next * scale) < abs(target - code * scale)) & (correction != zero());
    if (!any(better)) return false;
    const F32 chosen = select(better, next, code);
    store(q, chosen);
    store(e, value - chosen * scale);
    for (int64_t l = 0; l < min_of<int64_t>(kLanes, rows); ++l) {
      if (better[l] != 0) store_one(data.as<e4m3>() + (row + l) * data.row_stride + column, chosen[l]);
    }
    return true;
  }

  static bool any(I32 mask) {
    int32_t all = 0;
    for (int l = 0; l < kLanes; ++l) all |= mask[l];
    return all != 0;
  }
};
}  // namespace

Status op_compensate(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &moments = call.t[1];
  Blocks b;
  if (!is_activation(x.dtype) || call.t[2].dtype != DType::e4m3 || !blocks_of(call.i(0), x.rows(), x.cols(), &b)) return Status::unsupported;
  const int64_t rows = x.rows(), channels = x.cols(), window = max_of<int64_t>(moments.cols(), 1);
  const int64_t windows = ceil_div(channels, window), groups = ceil_div(rows, kRows);
  const int64_t room = 3 * min_of(window, channels) * kRows;
  float* const scratch = scratch_of<float>(ctx, max_of<int64_t>(room * ctx.threads(), 1));
  if (scratch == nullptr) return Status::out_of_memory;
  const Compensator compensator{call, b};
  // Groups of one window follow each other: its moments stay cached.
  ctx.parallel(windows * groups, 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t column = unit / groups * window, row = unit % groups * kRows;
      compensator.run(ctx, row, min_of(kRows, rows - row), column, min_of(window, channels - column), scratch + thread * room);
    }
  });
  return finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
