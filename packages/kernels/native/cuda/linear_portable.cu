// linear, portable: out[m,n] = sum_k x[m,k] * w[n,k] (+ bias[n]) (+ residual[m,n]), any shape, dtype and scale granularity
// Dtypes   x f32|bf16|f16|e4m3|e5m2, w f32|bf16|f16|e4m3|e5m2, out f32|bf16; quantized values are de-quantized in f32 (value *
//          scaleInv) as they are loaded; f32 FMA; one rounding at the store. No TF32.
// Launch   grid (N/64, M/64), 256 threads, 4 x 4 outputs each, K in steps of 16 through shared memory; 0 spills
// Order    k ascending in one chain per output: a row does not depend on M
#include "common.cuh"
#include "linear_args.h"

namespace octet::cuda {

constexpr int kTile = 64, kStep = 16;

// Scales of one operand: row r, column k has scale[(r / rows) * pitch + k / cols], or 1.
struct Scales {
  const float* data;
  int64_t rows, cols, pitch;
  __device__ __forceinline__ float at(int64_t r, int64_t k) const { return data == nullptr ? 1.f : data[r / rows * pitch + k / cols]; }
};

static Scales scales_of(const TensorArg& t, Granularity g, int64_t k) {
  const int64_t all = INT64_MAX, blocks = (k + 127) / 128;
  switch (g) {
    case Granularity::tensor: return {t.as<const float>(), all, all, 0};
    case Granularity::row: return {t.as<const float>(), 1, all, 1};
    case Granularity::block1x128: return {t.as<const float>(), 1, 128, blocks};
    case Granularity::block128x128: return {t.as<const float>(), 128, 128, blocks};
    default: return {nullptr, 1, 1, 0};
  }
}

template <class T> __device__ __forceinline__ void stage(float (&to)[kStep][kTile + 4], Rows<const T> from, const Scales& s, int64_t row0, int64_t rows, int64_t k0, int64_t k) {
  for (int i = threadIdx.x; i < kTile * kStep; i += 256) {
    const int r = i / kStep, c = i % kStep;
    const int64_t row = row0 + r, col = k0 + c;
    to[c][r] = row < rows && col < k ? to_float(from[row][col]) * s.at(row, col) : 0.f;
  }
}

template <class X, class W, class Y>
__global__ void __launch_bounds__(256)
    gemm_portable(Rows<const X> x, Rows<const W> w, Scales xs, Scales ws, const void* bias, DType bias_type, const void* residual, DType residual_type, int64_t residual_stride, Rows<Y> y, int64_t m, int64_t n, int64_t k) {
  __shared__ float xt[kStep][kTile + 4], wt[kStep][kTile + 4];
  const int64_t m0 = blockIdx.y * static_cast<int64_t>(kTile), n0 = blockIdx.x * static_cast<int64_t>(kTile);
  const int tr = threadIdx.x / 16, tc = threadIdx.x % 16;
  float acc[4][4] = {};
  for (int64_t k0 = 0; k0 < k; k0 += kStep) {
    stage<X>(xt, x, xs, m0, m, k0, k);
    stage<W>(wt, w, ws, n0, n, k0, k);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kStep; ++c) {
      float a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = xt[c][tr * 4 + i];
        b[i] = wt[c][tc * 4 + i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t r = m0 + tr * 4 + i, c = n0 + tc * 4 + j;
      if (r >= m || c >= n) continue;
      float v = acc[i][j];
      if (bias != nullptr) v += bias_type == DType::f32 ? static_cast<const float*>(bias)[c] : to_float(static_cast<const bf16*>(bias)[c]);
      if (residual != nullptr) {
        const int64_t at = r * residual_stride + c;
        v += residual_type == DType::f32 ? static_cast<const float*>(residual)[at] : to_float(static_cast<const bf16*>(residual)[at]);
      }
      y[r][c] = from_float<Y>(v);
    }
  }
}

Status launch_linear_portable(const OpCall& call, CudaContext& ctx) {
  const LinearArgs a = linear_args(call);
  if (a.m * a.n == 0) return Status::ok;
  const auto addend = [](const TensorArg& t) { return !t || t.dtype == DType::f32 || t.dtype == DType::bf16; };
  if (!addend(*a.bias) || !addend(*a.residual)) return Status::unsupported;
  const Scales xs = scales_of(*a.x_scale, a.x_granularity, a.k), ws = scales_of(*a.weight_scale, a.weight_granularity, a.k);
  return dispatch_any_float(a.x->dtype, [&](auto xt) {
    return dispatch_any_float(a.weight->dtype, [&](auto wt) {
      return dispatch_compute(a.out->dtype, [&](auto yt) {
        using X = typename decltype(xt)::type;
        using W = typename decltype(wt)::type;
        using Y = typename decltype(yt)::type;
        const dim3 grid(static_cast<unsigned>((a.n + kTile - 1) / kTile), static_cast<unsigned>((a.m + kTile - 1) / kTile));
        if (grid.y > 65535) return Status::unsupported;
        gemm_portable<X, W, Y><<<grid, 256, 0, ctx.stream()>>>(rows_of<const X>(*a.x), rows_of<const W>(*a.weight), xs, ws, a.bias->data, a.bias->dtype,
                                                              a.residual->data, a.residual->dtype, stride_of(*a.residual), rows_of<Y>(*a.out), a.m, a.n, a.k);
        return launched();
      });
    });
  });
}

}  // namespace octet::cuda
