// Sums and scaling of one row, shared by rmsNorm, layerNorm and the per-head norm of rope.
//
// Sums run over blocks of 16 vectors with four accumulators, the blocks are added pairwise and the lanes last: the tree
// depends on the row's length only, so a row's result is the same to the bit in every batch. Error of a sum of n terms:
// at most (16/4 + 2 + log2(n / (16 kLanes)) + log2(kLanes)) eps of the sum of magnitudes, 2e-6 relative at n = 16384.
#pragma once
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

// Sum of f(x[i]) over the row; f(zero) must not be needed: missing lanes add 0.
template <class F> F32 sum_vectors(const float* x, int64_t n, F f) {
  constexpr int64_t kBlock = 16 * kLanes;
  if (n > kBlock) {
    const int64_t half = ceil_div(ceil_div(n, kBlock), 2) * kBlock;
    const F32 left = sum_vectors(x, half, f);
    return left + sum_vectors(x + half, n - half, f);
  }
  F32 a[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) a[k] += f(load(x + i + k * kLanes));
  }
  for (int k = 0; i < n; i += kLanes, ++k) {
    const I32 inside = iota() < static_cast<int32_t>(n - i);
    a[k] += select(inside, f(load_n(x + i, n - i)), zero());
  }
  return (a[0] + a[1]) + (a[2] + a[3]);
}
template <class F> float sum_row(const float* x, int64_t n, F f) { return hsum(sum_vectors(x, n, f)); }

// 1 / sqrt(mean(x^2) + eps)
inline float rms_factor(const float* x, int64_t n, float eps) {
  const float mean = sum_row(x, n, [](F32 v) { return v * v; }) / static_cast<float>(n);
  return 1.0f / first(sqrt(set1(mean + eps)));
}

struct NormWeight {
  const TensorArg* weight;  // [D]
  const TensorArg* bias;    // [D] or absent (null)
  bool zero_centered;       // multiply by 1 + weight
  bool cast_first;          // round the normalised value to `dtype` before the weight, as Llama does
  DType dtype;
};

// out = ((x - mean) * factor) [rounded] * (weight | 1 + weight) + bias, rounded once at the store.
template <class W, class B, class Y>
OCTET_INLINE void apply_norm(const float* x, int64_t n, float mean, float factor, const NormWeight& w, Y* out) {
  const W* const weight = w.weight->as<const W>();
  const B* const bias = w.bias != nullptr ? w.bias->as<const B>() : nullptr;
  const F32 center = set1(w.zero_centered ? 1.0f : 0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    F32 v = (load_n(x + i, n - i) - mean) * factor;
    if (w.cast_first) v = round_to(w.dtype, v);
    v = v * (load_n(weight + i, n - i) + center);
    if (bias != nullptr) v = v + load_n(bias + i, n - i);
    store_n(out + i, v, n - i);
  }
}

// s = x (+ residual), rounded to residual_out's dtype, else to x's; stored in residual_out if there is one.
inline void load_sum(const TensorArg& x, const TensorArg& residual, const TensorArg& residual_out, int64_t row, int64_t n,
                     float* to) {
  load_row(x, row, 0, n, to);
  if (residual) {
    by_activation(residual.dtype, [&]<class R>(R*) {
      const R* const r = reinterpret_cast<const R*>(at(residual, row));
      for (int64_t i = 0; i < n; i += kLanes) store_n(to + i, load_n(to + i, n - i) + load_n(r + i, n - i), n - i);
      return Status::ok;
    });
  }
  const DType dtype = residual_out ? residual_out.dtype : x.dtype;
  if (dtype == DType::bf16 && (residual || x.dtype != dtype)) {
    for (int64_t i = 0; i < n; i += kLanes) store_n(to + i, round_to(dtype, load_n(to + i, n - i)), n - i);
  }
  if (residual_out) store_row(residual_out, row, 0, n, to);
}

// Runs f(row, buffer of n floats) over all rows, each with a float32 buffer that stays in the near caches.
template <class F> Status for_rows(Context& ctx, int64_t rows, int64_t n, F&& f) {
  if (rows <= 0 || n <= 0) return Status::ok;
  const int64_t pitch = round_up(n, 16);
  float* const buffers = scratch_of<float>(ctx, pitch * ctx.threads());
  if (buffers == nullptr) return Status::out_of_memory;
  ctx.parallel(rows, max_of<int64_t>(1, kPiece / 4 / n), [&](int64_t begin, int64_t end, int thread) {
    for (int64_t r = begin; r < end; ++r) f(r, buffers + thread * pitch);
  });
  return finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
