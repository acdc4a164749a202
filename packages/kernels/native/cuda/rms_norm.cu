// rmsNorm: s = round(x + residual); out[n,d] = s[n,d] * rsqrt(mean_d(s[n,:]^2) + eps) * (zeroCentered + w[d])
// Shapes   x, residual, out, residualOut [N,D]; w [D]; 1 <= D <= 16384
// Dtypes   x, residual, residualOut f32|bf16, one type; out f32|bf16; w f32|bf16; accumulate f32; round once at the store, or
//          to out's dtype before the weight too where castBeforeWeight asks for Llama's order
// Tensors  t0 x, t1 weight, t2 residual?, t3 out, t4 residualOut?
// Attrs    a0 eps, a1 zeroCenteredGamma, a2 castBeforeWeight
// Traffic  x, residual once, out, residualOut once.  Floor N=64, D=3072 bf16 with residual: 1.6 MB, launch-bound
// Launch   grid N, block 256 (512 for rows that are not whole vectors); 0 spills.   Order: fixed reduction tree, bitwise repeatable, independent of N
#include "norm.cuh"

namespace octet::cuda {

template <int kN, int kHeld, int kThreads, class T, class W, class Y>
__global__ void __launch_bounds__(kThreads)
    rms_norm(Rows<const T> x, const W* weight, Rows<const T> residual, Rows<Y> out, Rows<T> residual_out, int64_t cols, float eps, float gamma0, bool cast_first) {
  __shared__ float slots[kThreads / 32];
  const int64_t n = blockIdx.x;
  float v[kHeld][kN];
  load_row<kN, kHeld, T>(v, x[n], residual.data ? residual[n] : nullptr, residual_out.data ? residual_out[n] : nullptr, cols);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
#pragma unroll
    for (int k = 0; k < kN; ++k) sum = fmaf(v[i][k], v[i][k], sum);
  }
  const float scale = rsqrtf(block_sum(sum, slots) / static_cast<float>(cols) + eps);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t c = (static_cast<int64_t>(i) * kThreads + threadIdx.x) * kN;
    if (c >= cols) continue;
    float w[kN];
    load<W, kN>(w, weight + c);
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      const float normed = v[i][k] * scale;
      v[i][k] = (cast_first ? to_float(from_float<Y>(normed)) : normed) * (gamma0 + w[k]);
    }
    store<Y, kN>(out[n] + c, v[i]);
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &weight = call.t[1], &residual = call.t[2], &out = call.t[3], &residual_out = call.t[4];
  const int64_t rows = x.rows(), cols = x.cols();
  if (rows * cols == 0) return Status::ok;
  if ((residual && residual.dtype != x.dtype) || (residual_out && residual_out.dtype != x.dtype)) return Status::unsupported;
  return dispatch_compute(x.dtype, [&](auto xt) {
    return dispatch_compute(weight.dtype, [&](auto wt) {
    return dispatch_compute(out.dtype, [&](auto yt) {
      using Y = typename decltype(yt)::type;
      using T = typename decltype(xt)::type;
      using W = typename decltype(wt)::type;
      // 8 elements a vector: 16 bytes of bf16, two 16-byte halves of f32.
      const bool wide = cols % 8 == 0 && wide_rows<T>(x) && wide_rows<Y>(out) && (!residual || wide_rows<T>(residual)) &&
                        (!residual_out || wide_rows<T>(residual_out)) && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
      return by_row_length(cols, wide, [&](auto width, auto held, auto threads) {
        rms_norm<decltype(width)::value, decltype(held)::value, decltype(threads)::value, T, W, Y><<<static_cast<unsigned>(rows), decltype(threads)::value, 0, ctx.stream()>>>(
            rows_of<const T>(x), weight.as<const W>(), rows_of<const T>(residual), rows_of<Y>(out), rows_of<T>(residual_out), cols, call.f(0),
            call.b(1) ? 1.f : 0.f, call.b(2));
        return launched();
      });
    });
    });
  });
}

static const Variant kRows[] = {{"row_per_block", 80, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(rmsNorm, kRows)
