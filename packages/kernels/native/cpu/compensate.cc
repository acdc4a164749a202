// compensate: moves the codes of a quantized weight so that what their errors do to a product's output grows small:
//             tr(E H Eᵀ), E = x - data * scaleInv, H the second moments of the product's input (op gram)
// Tensors  t0 x [N,K] f32|bf16, t1 moments f32[K,S], t2 data e4m3[N,K] in place, t3 scaleInv f32
// Attrs    a0 granularity 1 tensor 2 row 3 1x128 4 128x128, a1 passes
// Values   coordinate descent (QuantEase, Behdin et al. 2023): column after column of a window of S channels, a row's code
//          becomes the nearest to x + sum_{j != i} H[i,j] E[j] / H[i,i], which is the best while the others stay. It changes
//          only if it then lies strictly nearer, so no pass adds error; a sum of 0, a channel without input (H[i,i] = 0) and
//          whatever is not finite change nothing. float32, products and sums rounded apart and in the order of j: the same
//          bits on every level. Ends after a pass without a change
// Cost     passes * N * K * S multiplications and additions
// Layout   kRows rows side by side in vectors: a moment is broadcast to all, their errors [S, kRows] stay in the second cache
#include "scales.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
constexpr int64_t kRows = 64;
constexpr int64_t kPart = 128;  // columns staged at once
constexpr int kVectors = 4;       // sums at once: enough to hide an addition's latency
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
      alignas(64) float scale[kRows] = {}, inverse[kRows] = {};
      for (int64_t i = 0; i < n; ++i) {
        if (i == 0 || (column + i) % b.width == 0) {
          for (int64_t r = 0; r < rows; ++r) {
            scale[r] = scale_of(row + r, column + i);
            inverse[r] = 1.0f / scale[r];
          }
        }
        const float* const h = moments.as<const float>() + (column + i) * moments.row_stride;
        if (!(h[i] > 0)) continue;
        for (int64_t g = 0; g < rows; g += kGroup) changed |= column_of(h, i, n, w + g, q + g, e + g, scale + g, inverse + g, row + g, column + i, min_of(rows - g, kGroup));
      }
      if (!changed) break;
    }
  }

  // Column i of kGroup rows. Whether any code changed.
  bool column_of(const float* h, int64_t i, int64_t n, const float* w, float* q, float* e, const float* scale, const float* inverse, int64_t row, int64_t column, int64_t rows) const {
    F32 sum[kVectors] = {};
    const auto add = [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        const F32 m = set1(h[j]);
        for (int v = 0; v < kVectors; ++v) sum[v] = sum[v] + m * load(e + j * kRows + v * kLanes);
      }
    };
    add(0, i);
    add(i + 1, n);
    const F32 own = set1(h[i]);
    bool changed = false;
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = i * kRows + v * kLanes;
      const F32 value = load(w + at), code = load(q + at), s = load(scale + v * kLanes);
      const F32 target = value + sum[v] / own;
      const F32 next = widen_e4m3(narrow_e4m3(target * load(inverse + v * kLanes)));
      const I32 better = (abs(target - next * s) < abs(target - code * s)) & (sum[v] != zero());
      if (!any(better)) continue;
      changed = true;
      const F32 chosen = select(better, next, code);
      store(q + at, chosen);
      store(e + at, value - chosen * s);
      for (int64_t l = 0; l < kLanes && v * kLanes + l < rows; ++l) {
        if (better[l] != 0) store_one(data.as<e4m3>() + (row + v * kLanes + l) * data.row_stride + column, chosen[l]);
      }
    }
    return changed;
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
