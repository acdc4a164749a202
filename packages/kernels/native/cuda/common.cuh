// Device helpers every op shares: exact loads and once-rounded stores of each dtype, 16-byte vectors, fixed-order
// reductions, and dispatch from a dtype code to a type.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <type_traits>

#include "context.h"

namespace octet::cuda {

using bf16 = __nv_bfloat16;
struct e4m3 { uint8_t bits; };
struct e5m2 { uint8_t bits; };

// Narrow type -> float, exact; integers and double round to nearest.
__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(double v) { return static_cast<float>(v); }
__device__ __forceinline__ float to_float(int64_t v) { return static_cast<float>(v); }
__device__ __forceinline__ float to_float(int32_t v) { return static_cast<float>(v); }
__device__ __forceinline__ float to_float(uint8_t v) { return static_cast<float>(v); }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(e4m3 v) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(v.bits, __NV_E4M3))); }
__device__ __forceinline__ float to_float(e5m2 v) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(v.bits, __NV_E5M2))); }

// float -> narrow type, to nearest even; one NaN code (bf16 0x7fc0, f16 0x7e00, FP8 0x7f); FP8 saturates.
template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) { return v; }
template <> __device__ __forceinline__ double from_float<double>(float v) { return v; }
template <> __device__ __forceinline__ int32_t from_float<int32_t>(float v) { return v != v ? 0 : __float2int_rz(v); }  // saturates
template <> __device__ __forceinline__ bf16 from_float<bf16>(float v) {
  return v != v ? __ushort_as_bfloat16(0x7fc0) : __float2bfloat16_rn(v);
}
template <> __device__ __forceinline__ __half from_float<__half>(float v) { return v != v ? __ushort_as_half(0x7e00) : __float2half_rn(v); }
template <> __device__ __forceinline__ e4m3 from_float<e4m3>(float v) {
  return {static_cast<uint8_t>(v != v ? 0x7f : __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3))};
}
template <> __device__ __forceinline__ e5m2 from_float<e5m2>(float v) {
  return {static_cast<uint8_t>(v != v ? 0x7f : __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E5M2))};
}

// The value that from_float<T> would store.
template <class T> __device__ __forceinline__ float rounded(float v) { return to_float(from_float<T>(v)); }
template <> __device__ __forceinline__ float rounded<bf16>(float v) { return __bfloat162float(__float2bfloat16_rn(v)); }  // which NaN does not matter

// kN neighbouring elements moved by one access.
template <class T, int kN> struct alignas(sizeof(T) * kN < 16 ? sizeof(T) * kN : 16) Pack { T v[kN]; };
template <class T> constexpr int kWide = 16 / sizeof(T);

template <class T, int kN> __device__ __forceinline__ void load(float (&out)[kN], const T* p) {
  const Pack<T, kN> pack = *reinterpret_cast<const Pack<T, kN>*>(p);
#pragma unroll
  for (int i = 0; i < kN; ++i) out[i] = to_float(pack.v[i]);
}
template <class T, int kN> __device__ __forceinline__ void store(T* p, const float (&in)[kN]) {
#if __CUDA_ARCH__ >= 890
  constexpr bool kTwoAtOnce = std::is_same_v<T, e4m3> && kN % 2 == 0;  // the conversion to e4m3 takes two, saturates, and gives NaN its one code
#else
  constexpr bool kTwoAtOnce = false;
#endif
  if constexpr (kTwoAtOnce) {
    Pack<uint16_t, kN / 2> pairs;
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) pairs.v[i] = __nv_cvt_float2_to_fp8x2(make_float2(in[2 * i], in[2 * i + 1]), __NV_SATFINITE, __NV_E4M3);
    *reinterpret_cast<Pack<uint16_t, kN / 2>*>(p) = pairs;
  } else {
    Pack<T, kN> pack;
#pragma unroll
    for (int i = 0; i < kN; ++i) pack.v[i] = from_float<T>(in[i]);
    *reinterpret_cast<Pack<T, kN>*>(p) = pack;
  }
}

// Sums and maxima over a block in a fixed tree: lanes by xor, then warps in order. Every thread gets the result.
// `slots` is shared memory for one value per warp; ends with a barrier, so it may be used again at once.
template <class Combine> __device__ __forceinline__ float block_reduce(float v, float* slots, float identity, Combine combine) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v = combine(v, __shfl_xor_sync(~0u, v, o));
  if (blockDim.x == 32) return v;
  const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  if ((threadIdx.x & 31) == 0) slots[warp] = v;
  __syncthreads();
  float total = identity;
  for (int w = 0; w < warps; ++w) total = combine(total, slots[w]);
  __syncthreads();
  return total;
}
__device__ __forceinline__ float block_sum(float v, float* slots) {
  return block_reduce(v, slots, 0.f, [](float a, float b) { return a + b; });
}
// NaN-blind like fmaxf: amax treats NaN through its own flag where it matters.
__device__ __forceinline__ float block_max(float v, float* slots) {
  return block_reduce(v, slots, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
}

// A [rows, cols] view with its row stride in elements.
template <class T> struct Rows {
  T* data;
  int64_t stride;
  __device__ __forceinline__ T* operator[](int64_t r) const { return data + r * stride; }
};
template <class T> inline Rows<T> rows_of(const TensorArg& t) {
  return {static_cast<T*>(t.data), t.ndim > 1 ? t.row_stride : t.cols()};
}
// Every row starts on 16 bytes and holds whole 16-byte vectors of T.
template <class T> inline bool wide_rows(const TensorArg& t) {
  return t.cols() % kWide<T> == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (t.rows() <= 1 || t.row_stride * sizeof(T) % 16 == 0);
}

template <class T> struct Tag { using type = T; };

// Calls f(Tag<T>{}) for the activation dtypes f32, bf16, f16; unsupported otherwise.
template <class F> inline Status dispatch_float(DType d, F&& f) {
  switch (d) {
    case DType::f32: return f(Tag<float>{});
    case DType::bf16: return f(Tag<bf16>{});
    case DType::f16: return f(Tag<__half>{});
    default: return Status::unsupported;
  }
}
// f32 and bf16 only: what models compute in.
template <class F> inline Status dispatch_compute(DType d, F&& f) {
  switch (d) {
    case DType::f32: return f(Tag<float>{});
    case DType::bf16: return f(Tag<bf16>{});
    default: return Status::unsupported;
  }
}
template <class F> inline Status dispatch_any_float(DType d, F&& f) {
  switch (d) {
    case DType::e4m3: return f(Tag<e4m3>{});
    case DType::e5m2: return f(Tag<e5m2>{});
    default: return dispatch_float(d, static_cast<F&&>(f));
  }
}

}  // namespace octet::cuda
