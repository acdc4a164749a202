// layerNorm: s = round(x + residual); out[n,d] = (s[n,d] - mean) * rsqrt(var + eps) * (zeroCentered + w[d]) + b[d]
// Shapes   x, residual, out, residualOut [N,D]; w, b [D]; 1 <= D <= 16384
// Dtypes   x, residual, residualOut f32|bf16, one type; out f32|bf16; w, b f32|bf16, each its own; mean, then centred variance, in f32
// Tensors  t0 x, t1 weight, t2 bias?, t3 residual?, t4 out, t5 residualOut?
// Attrs    a0 eps, a1 zeroCenteredGamma
// Traffic  x, residual once, out, residualOut once
// Launch   grid N, block 256 (512 for rows that are not whole vectors); 0 spills.   Order: fixed reduction tree, bitwise repeatable, independent of N
#include "norm.cuh"

namespace octet::cuda {

template <int kN, int kHeld, int kThreads, class T, class W, class Y>
__global__ void __launch_bounds__(kThreads, kNormBlocks<kThreads, kN, kHeld>)
    layer_norm(Rows<const T> x, const W* weight, const void* bias, bool bias_f32, Rows<const T> residual, Rows<Y> out, Rows<T> residual_out, int cols, float per_col, float eps, float gamma0) {
  __shared__ float slots[kThreads / 32];
  const int64_t n = blockIdx.x;
  float v[kHeld][kN];
  load_row<kThreads, kN, kHeld, T>(v, x[n], residual.data ? residual[n] : nullptr, residual_out.data ? residual_out[n] : nullptr, cols);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
#pragma unroll
    for (int k = 0; k < kN; ++k) sum += v[i][k];
  }
  const float mean = mean_of(block_sum(sum, slots), static_cast<float>(cols), per_col);
  sum = 0.f;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const bool live = (i * kThreads + static_cast<int>(threadIdx.x)) * kN < cols;
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      v[i][k] -= mean;
      if (live) sum = fmaf(v[i][k], v[i][k], sum);
    }
  }
  const float scale = rsqrtf(block_sum(sum, slots) * per_col + eps);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int c = (i * kThreads + static_cast<int>(threadIdx.x)) * kN;
    if (c >= cols) continue;
    float w[kN], b[kN] = {};
    load<W, kN>(w, weight + c);
    if (bias != nullptr && bias_f32) load<float, kN>(b, static_cast<const float*>(bias) + c);
    if (bias != nullptr && !bias_f32) load<bf16, kN>(b, static_cast<const bf16*>(bias) + c);
#pragma unroll
    for (int k = 0; k < kN; ++k) v[i][k] = fmaf(v[i][k] * scale, gamma0 + w[k], b[k]);
    store<Y, kN>(out[n] + c, v[i]);
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &weight = call.t[1], &bias = call.t[2], &residual = call.t[3], &out = call.t[4], &residual_out = call.t[5];
  const int64_t rows = x.rows(), cols = x.cols();
  if (rows * cols == 0) return Status::ok;
  if ((residual && residual.dtype != x.dtype) || (residual_out && residual_out.dtype != x.dtype)) return Status::unsupported;
  if (bias && bias.dtype != DType::f32 && bias.dtype != DType::bf16) return Status::unsupported;
  return dispatch_compute(x.dtype, [&](auto xt) {
    return dispatch_compute(weight.dtype, [&](auto wt) {
    return dispatch_compute(out.dtype, [&](auto yt) {
      using Y = typename decltype(yt)::type;
      using T = typename decltype(xt)::type;
      using W = typename decltype(wt)::type;
      const bool wide = cols % 8 == 0 && wide_rows<T>(x) && wide_rows<Y>(out) && (!residual || wide_rows<T>(residual)) &&
                        (!residual_out || wide_rows<T>(residual_out)) &&
                        (reinterpret_cast<uintptr_t>(weight.data) | reinterpret_cast<uintptr_t>(bias.data)) % 16 == 0;
      return by_row_length(cols, wide, [&](auto width, auto held, auto threads) {
        layer_norm<decltype(width)::value, decltype(held)::value, decltype(threads)::value, T, W, Y><<<static_cast<unsigned>(rows), decltype(threads)::value, 0, ctx.stream()>>>(
            rows_of<const T>(x), weight.as<const W>(), bias.data, bias.dtype == DType::f32, rows_of<const T>(residual), rows_of<Y>(out), rows_of<T>(residual_out), static_cast<int>(cols), 1.f / static_cast<float>(cols), call.f(0),
            call.b(1) ? 1.f : 0.f);
        return launched();
      });
    });
    });
  });
}

static const Variant kRows[] = {{"row_per_block", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(layerNorm, kRows)
