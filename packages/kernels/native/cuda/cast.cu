// cast: out = x in another dtype
// Tensors  t0 x f64|f32|bf16|f16|e4m3|e5m2|i64|i32|u8|bool, t1 out f64|f32|bf16|f16|e4m3|e5m2|i32, same shape
// Values   by way of float32, as native/cpu/cast.cc: nearest even, FP8 saturates, one NaN code per type; to i32 truncated
// Traffic  x once, out once
#include "elementwise.cuh"

namespace octet::cuda {

struct Same {
  __device__ __forceinline__ float operator()(float v) const { return v; }
};

template <class Y> static Status cast_to(const TensorArg& x, const TensorArg& out, CudaContext& ctx) {
  switch (x.dtype) {
    case DType::f64: return launch_map<double, Y>(x, out, ctx, Same{});
    case DType::i64: return launch_map<int64_t, Y>(x, out, ctx, Same{});
    case DType::i32: return launch_map<int32_t, Y>(x, out, ctx, Same{});
    case DType::u8: case DType::bool8: return launch_map<uint8_t, Y>(x, out, ctx, Same{});
    default: return dispatch_any_float(x.dtype, [&](auto t) { return launch_map<typename decltype(t)::type, Y>(x, out, ctx, Same{}); });
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  switch (out.dtype) {
    case DType::f64: return x.dtype == DType::f64 ? Status::unsupported : cast_to<double>(x, out, ctx);
    case DType::i32: return cast_to<int32_t>(x, out, ctx);
    default: return dispatch_any_float(out.dtype, [&](auto t) { return cast_to<typename decltype(t)::type>(x, out, ctx); });
  }
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(cast, kRows)
