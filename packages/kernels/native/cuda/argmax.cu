// argmax: out[n] = the index of the largest x[n,:]; ties go to the lowest index; NaN never wins unless all are NaN (then 0)
// Tensors  t0 x [N,V] f32|bf16, t1 out i32[N]
// Traffic  x once.   Launch   grid (pieces of 8192, N), 256 threads; the last piece of a row to arrive joins them in order
#include "common.cuh"
#include "launch.cuh"

namespace octet::cuda {

constexpr int kPiece = 8192;

// Order of the result is the order of the numbers, then of descending index; 0 stands for NaN and for nothing.
__device__ __forceinline__ uint64_t rank_of(float v, uint32_t index) {
  if (v != v) return 0;
  const uint32_t u = __float_as_uint(v + 0.f);  // -0 and 0 are one value
  return static_cast<uint64_t>(u & 0x80000000u ? ~u : u | 0x80000000u) << 32 | (0xffffffffu - index);
}
__device__ __forceinline__ uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

template <int kN, class X> __global__ void __launch_bounds__(256) argmax(Rows<const X> x, int32_t* out, int64_t v, uint64_t* best, uint32_t* arrivals) {
  __shared__ uint64_t slots[8];
  __shared__ bool last;
  const int64_t row = blockIdx.y, begin = static_cast<int64_t>(blockIdx.x) * kPiece, end = begin + kPiece < v ? begin + kPiece : v;
  uint64_t top = 0;
  overlap_wait();
  for (int64_t i = begin + threadIdx.x * kN; i < end; i += 256 * kN) {
    float v[kN];
    load<X, kN>(v, x[row] + i);
#pragma unroll
    for (int k = 0; k < kN; ++k) top = larger(top, rank_of(v[k], static_cast<uint32_t>(i + k)));
  }
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) top = larger(top, __shfl_xor_sync(~0u, top, o));
  if ((threadIdx.x & 31) == 0) slots[threadIdx.x >> 5] = top;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < 8; ++w) top = larger(top, slots[w]);
    best[row * gridDim.x + blockIdx.x] = top;
    __threadfence();
    last = atomicAdd(&arrivals[row], 1u) == gridDim.x - 1;
    if (last) {
      __threadfence();
      arrivals[row] = 0;
      for (unsigned p = 0; p < gridDim.x; ++p) top = larger(top, __ldcg(&best[row * gridDim.x + p]));
      out[row] = top == 0 ? 0 : static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(top));
    }
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t rows = x.rows(), v = x.cols();
  if (rows == 0) return Status::ok;
  if (rows > 65535) return Status::unsupported;
  const int64_t pieces = v == 0 ? 1 : (v + kPiece - 1) / kPiece;
  auto* best = static_cast<uint64_t*>(ctx.workspace(static_cast<size_t>(rows * pieces) * 8));
  uint32_t* arrivals = ctx.counters(static_cast<size_t>(rows));
  if (best == nullptr || arrivals == nullptr) return Status::out_of_memory;
  return dispatch_compute(x.dtype, [&](auto t) {
    using X = typename decltype(t)::type;
    const auto kernel = wide_rows<X>(x) ? argmax<kWide<X>, X> : argmax<1, X>;
    return launch_overlapped(ctx, kernel, dim3(static_cast<unsigned>(pieces), static_cast<unsigned>(rows)), 256, 0, rows_of<const X>(x), out.as<int32_t>(), v, best, arrivals);
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(argmax, kRows)
