// The geometry of scales and the rule that makes one, shared by amax, quantize and dequantize (native/cpu/scales.h).
#pragma once
#include "common.cuh"

namespace octet::cuda {

struct Blocks {
  int64_t height, width, down, across;
};
inline bool blocks_of(int64_t granularity, int64_t rows, int64_t cols, Blocks* b) {
  const int64_t n = rows > 1 ? rows : 1, k = cols > 1 ? cols : 1;
  switch (granularity) {
    case 1: *b = {n, k, 1, 1}; return true;
    case 2: *b = {1, k, rows, 1}; return true;
    case 3: *b = {1, 128, rows, (cols + 127) / 128}; return true;
    case 4: *b = {128, 128, (rows + 127) / 128, (cols + 127) / 128}; return true;
    default: return false;
  }
}

// A magnitude as bits: integer order is the order of magnitudes, and every NaN is above infinity. Integer maxima are
// exact and need no order.
__device__ __forceinline__ uint32_t magnitude_bits(float v) { return __float_as_uint(v) & 0x7fffffffu; }

__device__ __forceinline__ uint32_t block_max_bits(uint32_t v, uint32_t* slots) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v = max(v, __shfl_xor_sync(~0u, v, o));
  if ((threadIdx.x & 31) == 0) slots[threadIdx.x >> 5] = v;
  __syncthreads();
  for (unsigned w = 0; w < blockDim.x / 32; ++w) v = max(v, slots[w]);
  __syncthreads();
  return v;
}

// Floor amax at epsilon; 0, infinity and NaN give 1; else max / amax, infinity becomes the largest float32, and powerOf2
// clears the mantissa. Division is IEEE (no -use_fast_math), so the CPU's scales are equal to the bit.
__device__ __forceinline__ float scale_of_amax(float amax, float largest, float epsilon, bool power_of_2) {
  if (amax < epsilon) amax = epsilon;
  if (!(amax > 0.f) || amax > 3.402823466e38f) return 1.f;
  float scale = __fdiv_rn(largest, amax);
  if (scale > 3.402823466e38f) scale = 3.402823466e38f;
  return power_of_2 ? __uint_as_float(__float_as_uint(scale) & 0xff800000u) : scale;
}

template <class F> inline Status dispatch_fp8(DType d, F&& f) {
  switch (d) {
    case DType::e4m3: return f(Tag<e4m3>{});
    case DType::e5m2: return f(Tag<e5m2>{});
    default: return Status::unsupported;
  }
}
template <class T> constexpr float kLargest = 448.f;
template <> inline constexpr float kLargest<e5m2> = 57344.f;

}  // namespace octet::cuda
