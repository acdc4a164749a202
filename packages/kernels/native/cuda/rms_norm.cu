// rmsNorm: s = round(x + residual); out[n,d] = s[n,d] * rsqrt(mean_d(s[n,:]^2) + eps) * (zeroCentered + w[d])
// Shapes   x, residual, out, residualOut [N,D]; w [D]; 1 <= D <= 16384
// Dtypes   x, residual, residualOut f32|bf16, one type; out f32|bf16; w f32|bf16; accumulate f32; round once at the store, or
//          to out's dtype before the weight too where castBeforeWeight asks for Llama's order. Or out e4m3 with scales: the result rounded to
//          x's type, then quantized as quantize does
// Tensors  t0 x, t1 weight, t2 residual?, t3 out, t4 residualOut?, t5 scaleInv? f32, t6 scale? f32
// Attrs    a0 eps, a1 zeroCenteredGamma, a2 castBeforeWeight, a3 granularity (0 none 1 tensor 2 row 3 1x128), a4 powerOf2, a5 epsilon
// Traffic  x, residual once, out, residualOut once.  Floor N=64, D=3072 bf16 with residual: 1.6 MB, launch-bound
// Launch   grid N, block 256 (512 for rows that are not whole vectors); 0 spills; starts before the previous kernel has ended
// Order    fixed reduction tree, bitwise repeatable, independent of N
#include "launch.cuh"
#include "norm.cuh"
#include "quantize_row.cuh"

namespace octet::cuda {

struct NormArgs {
  int64_t cols;
  float per_col;  // 1 / cols: the mean square is its product with the sum, a rounding more than a division, which is a call
  float eps, gamma0;
  bool cast_first;
  RowTarget target;
};

// Y e4m3: quantized by `target`; T its rounding before that.
template <int kN, int kHeld, int kThreads, class T, class W, class Y>
__global__ void __launch_bounds__(kThreads, kNormBlocks<kThreads, kN, kHeld>) rms_norm(Rows<const T> x, const W* weight, Rows<const T> residual, Rows<Y> out, Rows<T> residual_out, NormArgs a) {
  using Stored = std::conditional_t<sizeof(Y) == 1, T, Y>;
  constexpr bool kEarly = kN * kHeld <= 16;  // longer rows have no registers to spare
  __shared__ float slots[kThreads / 32];
  const int64_t n = blockIdx.x;
  const int cols = static_cast<int>(a.cols);
  // The weight is nobody's output: it is on its way while the previous kernel still runs.
  float w[kHeld][kN];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int c = (i * kThreads + static_cast<int>(threadIdx.x)) * kN;
    if (kEarly && c < cols) load<W, kN>(w[i], weight + c);
  }
  overlap_wait();
  float v[kHeld][kN];
  load_row<kThreads, kN, kHeld, T>(v, x[n], residual.data ? residual[n] : nullptr, residual_out.data ? residual_out[n] : nullptr, cols);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
#pragma unroll
    for (int k = 0; k < kN; ++k) sum = fmaf(v[i][k], v[i][k], sum);
  }
  const float scale = rsqrtf(block_sum(sum, slots) * a.per_col + a.eps);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int c = (i * kThreads + static_cast<int>(threadIdx.x)) * kN;
    if (c >= cols) continue;
    if (!kEarly) load<W, kN>(w[i], weight + c);
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      const float normed = v[i][k] * scale;
      v[i][k] = (a.cast_first ? to_float(from_float<Stored>(normed)) : normed) * (a.gamma0 + w[i][k]);
      if constexpr (sizeof(Y) == 1) v[i][k] = to_float(from_float<T>(v[i][k]));
    }
    if constexpr (sizeof(Y) > 1) store<Y, kN>(out[n] + c, v[i]);
  }
  if constexpr (sizeof(Y) == 1) quantize_held<kThreads, kN, kHeld, Y>(v, out[n], a.target, n, cols, 0, cols);
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &weight = call.t[1], &residual = call.t[2], &out = call.t[3], &residual_out = call.t[4];
  const int64_t rows = x.rows(), cols = x.cols();
  if (rows * cols == 0) return Status::ok;
  if ((residual && residual.dtype != x.dtype) || (residual_out && residual_out.dtype != x.dtype)) return Status::unsupported;
  const NormArgs a{cols, 1.f / static_cast<float>(cols), call.f(0), call.b(1) ? 1.f : 0.f, call.b(2), row_target(call, call.t[5], call.t[6], 3)};
  const bool quantized = out.dtype == DType::e4m3;
  if (quantized != (a.target.granularity != 0) || (quantized && !row_target_fits(a.target))) return Status::unsupported;
  return dispatch_compute(x.dtype, [&](auto xt) {
    return dispatch_compute(weight.dtype, [&](auto wt) {
      const auto run = [&](auto yt) {
        using Y = typename decltype(yt)::type;
        using T = typename decltype(xt)::type;
        using W = typename decltype(wt)::type;
        // 8 elements a vector: 16 bytes of bf16, two 16-byte halves of f32.
        const bool wide = wide_rows<T>(x) && eight_rows<Y>(out) && (!residual || wide_rows<T>(residual)) && cols % 8 == 0 &&
                          (!residual_out || wide_rows<T>(residual_out)) && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
        return by_row_length(cols, wide, [&](auto width, auto held, auto threads) {
          constexpr int kThreads = decltype(threads)::value;
          return launch_overlapped(ctx, rms_norm<decltype(width)::value, decltype(held)::value, kThreads, T, W, Y>, dim3(static_cast<unsigned>(rows)), kThreads, 0, 
                                   rows_of<const T>(x), weight.as<const W>(), rows_of<const T>(residual), rows_of<Y>(out), rows_of<T>(residual_out), a);
        });
      };
      return quantized ? run(Tag<e4m3>{}) : dispatch_compute(out.dtype, run);
    });
  });
}

static const Variant kRows[] = {{"row_per_block", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(rmsNorm, kRows)
