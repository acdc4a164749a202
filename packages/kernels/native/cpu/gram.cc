// gram: out[k, j] += sum_t x[t, k] * x[t, j] for channels k and j of one window: the second moments of a projection's input
// Tensors  t0 x [N,K] f32|bf16, t1 out f32[K,S] in place: row k belongs to the window that starts at k / S * S; columns
//          past the last channel keep what they hold
// Values   the lower triangle in float32, chunks of 128 rows one after the other; the upper one is its mirror, to the bit
// Cost     N * K * S multiplications and additions; x once a window
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
constexpr int64_t kChunk = 128;       // rows that are summed before they are added: a strip of them stays in the first cache
constexpr int kDown = 4, kAcross = 2;  // a tile's channels and vectors
constexpr int64_t kStrip = kAcross * kLanes;
constexpr int64_t kMirror = 32;

// A tile of sums: channels i.. of the panel with channels j.. .
void add_tile(const float* panel, int64_t stride, int64_t rows, int64_t i, int64_t j, int64_t down, int64_t across, float* out, int64_t out_stride) {
  F32 sum[kDown][kAcross] = {};
  for (int64_t t = 0; t < rows; ++t) {
    const float* const p = panel + t * stride;
    F32 b[kAcross];
    for (int v = 0; v < kAcross; ++v) b[v] = load(p + j + v * kLanes);
    for (int a = 0; a < kDown; ++a) {
      const F32 s = set1(p[i + a]);
      for (int v = 0; v < kAcross; ++v) sum[a][v] = fma(s, b[v], sum[a][v]);
    }
  }
  for (int64_t a = 0; a < down; ++a) {
    for (int64_t v = 0; v < kAcross && v * kLanes < across; ++v) {
      float* const to = out + a * out_stride + v * kLanes;
      const int64_t n = across - v * kLanes;
      store_n(to, load_n(to, n) + sum[a][v], n);
    }
  }
}

void mirror(Context& ctx, float* out, int64_t n, int64_t stride) {
  ctx.parallel(ceil_div(n, kMirror), 1, [&](int64_t first, int64_t last, int) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t i0 = block * kMirror, i1 = min_of(i0 + kMirror, n);
      for (int64_t j0 = i0; j0 < n; j0 += kMirror) {
        for (int64_t i = i0; i < i1; ++i) {
          for (int64_t j = max_of(j0, i + 1); j < min_of(j0 + kMirror, n); ++j) out[i * stride + j] = out[j * stride + i];
        }
      }
    }
  });
}
}  // namespace

Status op_gram(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  if (!is_activation(x.dtype)) return Status::unsupported;
  const int64_t rows = x.rows(), channels = x.cols(), window = out.cols();
  if (rows == 0 || channels == 0) return finish(ctx);
  // Tiles may reach past the last channel: there the panel is 0.
  const int64_t stride = round_up(min_of(window, channels), kStrip) + kStrip;
  float* const panel = scratch_of<float>(ctx, kChunk * stride);
  if (panel == nullptr) return Status::out_of_memory;
  for (int64_t c = 0; c < channels; c += window) {
    const int64_t n = min_of(window, channels - c);
    float* const sums = out.as<float>() + c * out.row_stride;
    for (int64_t t = 0; t < rows; t += kChunk) {
      const int64_t count = min_of(kChunk, rows - t);
      ctx.parallel(count, 8, [&](int64_t first, int64_t last, int) {
        for (int64_t r = first; r < last; ++r) {
          memset(panel + r * stride + n, 0, static_cast<size_t>(stride - n) * sizeof(float));
          load_row(x, t + r, c, n, panel + r * stride);
        }
      });
      ctx.parallel(ceil_div(n, kDown), 1, [&](int64_t first, int64_t last, int) {
        for (int64_t i = first * kDown; i < min_of(last * kDown, n); i += kDown) {
          for (int64_t j = 0; j < min_of(i + kDown, n); j += kStrip) {
            add_tile(panel, stride, count, i, j, min_of<int64_t>(kDown, n - i), min_of(kStrip, n - j), sums + i * out.row_stride + j, out.row_stride);
          }
        }
      });
      if (ctx.cancelled()) return Status::cancelled;
    }
    mirror(ctx, sums, n, out.row_stride);
  }
  return finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
