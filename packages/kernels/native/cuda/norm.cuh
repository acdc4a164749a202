// What rmsNorm and layerNorm share: a block owns a row and keeps it in registers between its passes, so x is read once.
#pragma once
#include <type_traits>

#include "common.cuh"

namespace octet::cuda {

// Loads a row's values into registers (adding the residual, rounded to T as it is stored) and zero-fills past its end.
// kN is 8 for rows of whole vectors, 1 otherwise.
template <int kThreads, int kN, int kHeld, class T>
__device__ __forceinline__ void load_row(float (&v)[kHeld][kN], const T* x, const T* residual, T* residual_out, int cols) {
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int c = (i * kThreads + static_cast<int>(threadIdx.x)) * kN;
#pragma unroll
    for (int k = 0; k < kN; ++k) v[i][k] = 0.f;
    if (c >= cols) continue;
    load<T, kN>(v[i], x + c);
    if (residual != nullptr) {
      float r[kN];
      load<T, kN>(r, residual + c);
#pragma unroll
      for (int k = 0; k < kN; ++k) v[i][k] = to_float(from_float<T>(v[i][k] + r[k]));
    }
    if (residual_out != nullptr) store<T, kN>(residual_out + c, v[i]);
  }
}

// sum / n for a row of n elements, given r = 1 / n in float32: what IEEE's division gives, but for subnormal means, and NaN for an
// infinite sum. The division itself is a call, around which registers are saved.
__device__ __forceinline__ float mean_of(float sum, float n, float r) {
  const float q = sum * r;
  return fmaf(fmaf(-q, n, sum), r, q);
}

// Blocks that an SM's 65536 registers are to hold: a thread keeps its values and some 44 more. Said to the compiler, which else
// spills for the sake of one block more.
template <int kThreads, int kN, int kHeld> constexpr int kNormBlocks = 65536 / (kThreads * (kN * kHeld + 44));

// Calls f(vector width, vectors a thread holds, threads): eight-element vectors over 256 threads where rows allow it, single
// elements over 512 where not. Both reach D = 16384.
template <class F> inline Status by_row_length(int64_t cols, bool wide, F&& f) {
  using std::integral_constant;
  const auto pick = [&](auto width, auto threads, auto a, auto b, auto c, auto d) {
    const int64_t per = static_cast<int64_t>(width) * threads;
    const int64_t held = (cols + per - 1) / per;
    if (held <= a) return f(width, a, threads);
    if (held <= b) return f(width, b, threads);
    if (held <= c) return f(width, c, threads);
    return held <= d ? f(width, d, threads) : Status::unsupported;
  };
  using I1 = integral_constant<int, 1>;
  using I2 = integral_constant<int, 2>;
  using I4 = integral_constant<int, 4>;
  using I8 = integral_constant<int, 8>;
  if (wide) return pick(I8{}, integral_constant<int, 256>{}, I1{}, I2{}, I4{}, I8{});
  return pick(I1{}, integral_constant<int, 512>{}, I1{}, I4{}, I8{}, integral_constant<int, 32>{});
}

}  // namespace octet::cuda
