// quantize: data = fp8(x * scale), scaleInv = 1 / scale, one scale per block of the granularity
// Tensors  t0 x [N,K] f32|bf16, t1 data [N,K] e4m3|e5m2, t2 scaleInv f32, t3 scale? f32 (static: given, of scaleInv's shape):
//          [1], [N], [N, ceil(K/128)] or [ceil(N/128), ceil(K/128)], contiguous
// Attrs    a0 granularity 1 tensor 2 row 3 1x128 4 128x128, a1 powerOf2, a2 epsilon
// Values   as native/cpu/quantize.cc, equal to the bit: float32 product, one rounding to nearest even, saturating
// Traffic  x twice (its second read from L1 or L2 but for the tensor granularity), data once
// Launch   whole vectors, by row or 1x128 up to K = 16384, and given tensor scales: a block per row, held in registers,
//          started before the previous kernel has ended; else rows: a block per row; 1x128: a warp per block; 128x128: a block per block; tensor: amax, then cast
#include "launch.cuh"
#include "norm.cuh"
#include "quantize_row.cuh"

namespace octet::cuda {

struct QuantizeArgs {
  Blocks b;
  int64_t rows, cols;
  const float* given;
  float* scale_inv;
  float epsilon;
  bool power_of_2;
};

template <class Y> __device__ __forceinline__ float settle(const QuantizeArgs& a, int64_t block, uint32_t amax, bool writer) {
  const float s = a.given != nullptr ? a.given[block] : scale_of_amax(__uint_as_float(amax), kLargest<Y>, a.epsilon, a.power_of_2);
  if (writer) a.scale_inv[block] = __fdiv_rn(1.f, s);
  return s;
}

// One thread block per scale block.
template <class X, class Y> __global__ void __launch_bounds__(256) quantize_blocks(Rows<const X> x, Rows<Y> data, QuantizeArgs a) {
  __shared__ uint32_t slots[8];
  for (int64_t block = blockIdx.x; block < a.b.down * a.b.across; block += gridDim.x) {
    const int64_t r0 = block / a.b.across * a.b.height, c0 = block % a.b.across * a.b.width;
    const int64_t h = min(a.b.height, a.rows - r0), w = min(a.b.width, a.cols - c0);
    uint32_t top = 0;
    if (a.given == nullptr) {
      for (int64_t i = threadIdx.x; i < h * w; i += 256) top = max(top, magnitude_bits(to_float(x[r0 + i / w][c0 + i % w])));
      top = block_max_bits(top, slots);
    }
    const float s = settle<Y>(a, block, top, threadIdx.x == 0);
    for (int64_t i = threadIdx.x; i < h * w; i += 256) data[r0 + i / w][c0 + i % w] = from_float<Y>(to_float(x[r0 + i / w][c0 + i % w]) * s);
  }
}

// One warp per 1x128 block: four elements a lane.
template <class X, class Y> __global__ void __launch_bounds__(256) quantize_spans(Rows<const X> x, Rows<Y> data, QuantizeArgs a) {
  const int lane = threadIdx.x & 31;
  for (int64_t block = blockIdx.x * 8ll + (threadIdx.x >> 5); block < a.b.down * a.b.across; block += gridDim.x * 8ll) {
    const int64_t r = block / a.b.across, c0 = block % a.b.across * 128;
    float v[4];
    uint32_t top = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t c = c0 + k * 32 + lane;
      v[k] = c < a.cols ? to_float(x[r][c]) : 0.f;
      top = max(top, magnitude_bits(v[k]));
    }
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) top = max(top, __shfl_xor_sync(~0u, top, o));
    const float s = settle<Y>(a, block, top, lane == 0);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t c = c0 + k * 32 + lane;
      if (c < a.cols) data[r][c] = from_float<Y>(v[k] * s);
    }
  }
}

template <class X> __global__ void __launch_bounds__(256) tensor_amax(Rows<const X> x, uint32_t* top, int64_t rows, int64_t cols) {
  __shared__ uint32_t slots[8];
  uint32_t v = 0;
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < rows * cols; i += gridDim.x * 256ll) v = max(v, magnitude_bits(to_float(x[i / cols][i % cols])));
  v = block_max_bits(v, slots);
  if (threadIdx.x == 0) atomicMax(top, v);
}
template <class X, class Y> __global__ void __launch_bounds__(256) quantize_tensor(Rows<const X> x, Rows<Y> data, QuantizeArgs a, uint32_t* top, uint32_t* left) {
  const float s = settle<Y>(a, 0, a.given == nullptr ? *top : 0, blockIdx.x == 0 && threadIdx.x == 0);
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < a.rows * a.cols; i += gridDim.x * 256ll) data[i / a.cols][i % a.cols] = from_float<Y>(to_float(x[i / a.cols][i % a.cols]) * s);
  __syncthreads();
  if (threadIdx.x == 0 && atomicAdd(left, 1u) == gridDim.x - 1) *top = *left = 0;  // counters go back as they came
}

template <int kN, int kHeld, int kThreads, class X, class Y>
__global__ void __launch_bounds__(kThreads) quantize_held_rows(Rows<const X> x, Rows<Y> data, RowTarget target, int64_t cols) {
  overlap_wait();
  float v[kHeld][kN];
  load_row<kThreads, kN, kHeld, X>(v, x[blockIdx.x], nullptr, nullptr, static_cast<int>(cols));
  quantize_held<kThreads, kN, kHeld, Y>(v, data[blockIdx.x], target, blockIdx.x, cols, 0, cols);
}
template <class X, class Y> static Status run_rows(const OpCall& call, CudaContext& ctx, const QuantizeArgs& a) {
  const TensorArg &x = call.t[0], &data = call.t[1];
  const RowTarget target{a.scale_inv, a.given, static_cast<int>(call.i(0)), a.epsilon, a.power_of_2};
  if (a.rows * a.cols == 0 || !wide_rows<X>(x) || !eight_rows<Y>(data)) return Status::unsupported;
  return by_row_length(a.cols, true, [&](auto width, auto held, auto threads) {
    constexpr int kThreads = decltype(threads)::value;
    if constexpr (decltype(width)::value == 1) return Status::unsupported;
    else return launch_overlapped(ctx, quantize_held_rows<decltype(width)::value, decltype(held)::value, kThreads, X, Y>, dim3(static_cast<unsigned>(a.rows)), kThreads, 0, 
                             rows_of<const X>(x), rows_of<Y>(data), target, a.cols);
  });
}

template <class X, class Y> static Status run(const OpCall& call, CudaContext& ctx, const QuantizeArgs& a) {
  const auto x = rows_of<const X>(call.t[0]);
  const auto data = rows_of<Y>(call.t[1]);
  const int64_t count = a.b.down * a.b.across;
  const unsigned most = static_cast<unsigned>(ctx.device().sms) * 16;
  if (call.i(0) != 4 && (call.i(0) != 1 || a.given != nullptr)) {
    if (const Status s = run_rows<X, Y>(call, ctx, a); s != Status::unsupported) return s;
  }
  switch (call.i(0)) {
    case 1: {
      uint32_t* const counters = ctx.counters(2);
      if (counters == nullptr) return Status::out_of_memory;
      const unsigned blocks = blocks_for(a.rows * a.cols, 4096, most);
      if (a.given == nullptr && a.rows * a.cols > 0) tensor_amax<X><<<blocks, 256, 0, ctx.stream()>>>(x, counters, a.rows, a.cols);
      quantize_tensor<X, Y><<<blocks, 256, 0, ctx.stream()>>>(x, data, a, counters, counters + 1);
      return launched();
    }
    case 3:
      if (count > 0) quantize_spans<X, Y><<<blocks_for(count, 8, most), 256, 0, ctx.stream()>>>(x, data, a);
      return launched();
    default:
      if (count > 0) quantize_blocks<X, Y><<<blocks_for(count, 1), 256, 0, ctx.stream()>>>(x, data, a);
      return launched();
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg& x = call.t[0];
  QuantizeArgs a{{}, x.rows(), x.cols(), call.t[3].as<const float>(), call.t[2].as<float>(), call.f(2), call.b(1)};
  if (!blocks_of(call.i(0), a.rows, a.cols, &a.b)) return Status::unsupported;
  return dispatch_compute(x.dtype, [&](auto xt) {
    return dispatch_fp8(call.t[1].dtype, [&](auto yt) { return run<typename decltype(xt)::type, typename decltype(yt)::type>(call, ctx, a); });
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(quantize, kRows)
