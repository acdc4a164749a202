// One kernel shape for every op that maps elements of a [rows, cols] tensor to the same place of another: a grid-stride
// loop over 16-byte vectors where both sides allow it, over single elements where not.
#pragma once
#include "common.cuh"

namespace octet::cuda {

constexpr int kElementThreads = 256;

template <int kN, class In, class Out, class F>
__global__ void __launch_bounds__(kElementThreads) map_rows(Rows<const In> x, Rows<Out> y, int64_t rows, int64_t cols, F f) {
  const int64_t per_row = cols / kN, total = rows * per_row;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kElementThreads) + threadIdx.x; i < total; i += static_cast<int64_t>(gridDim.x) * kElementThreads) {
    const int64_t r = i / per_row, c = (i - r * per_row) * kN;
    float v[kN];
    load<In, kN>(v, x[r] + c);
#pragma unroll
    for (int k = 0; k < kN; ++k) v[k] = f(v[k]);
    store<Out, kN>(y[r] + c, v);
  }
}

template <int kN, class A, class B, class Out, class F>
__global__ void __launch_bounds__(kElementThreads) zip_rows(Rows<const A> a, Rows<const B> b, Rows<Out> y, int64_t rows, int64_t cols, F f) {
  const int64_t per_row = cols / kN, total = rows * per_row;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kElementThreads) + threadIdx.x; i < total; i += static_cast<int64_t>(gridDim.x) * kElementThreads) {
    const int64_t r = i / per_row, c = (i - r * per_row) * kN;
    float p[kN], q[kN];
    load<A, kN>(p, a[r] + c);
    load<B, kN>(q, b[r] + c);
#pragma unroll
    for (int k = 0; k < kN; ++k) p[k] = f(p[k], q[k]);
    store<Out, kN>(y[r] + c, p);
  }
}

template <class In, class Out, class F> inline Status launch_map(const TensorArg& x, const TensorArg& y, CudaContext& ctx, F f) {
  const int64_t rows = x.rows(), cols = x.cols();
  if (rows * cols == 0) return Status::ok;
  constexpr int kN = kWide<In> < kWide<Out> ? kWide<In> : kWide<Out>;
  const bool wide = cols % kN == 0 && wide_rows<In>(x) && wide_rows<Out>(y);
  const unsigned blocks = blocks_for(rows * cols, kElementThreads * (wide ? kN : 1), ctx.device().sms * 16);
  if (wide) map_rows<kN, In, Out><<<blocks, kElementThreads, 0, ctx.stream()>>>(rows_of<const In>(x), rows_of<Out>(y), rows, cols, f);
  else map_rows<1, In, Out><<<blocks, kElementThreads, 0, ctx.stream()>>>(rows_of<const In>(x), rows_of<Out>(y), rows, cols, f);
  return launched();
}

}  // namespace octet::cuda
