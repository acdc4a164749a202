// cast: out = x in another float type; to nearest even, FP8 saturates, one NaN code per type
// Tensors  t0 x, t1 out; any of f32 bf16 f16 e4m3 e5m2, same shape
// Traffic  x once, out once
#include "elementwise.cuh"

namespace octet::cuda {

struct Same {
  __device__ __forceinline__ float operator()(float v) const { return v; }
};

static Status launch(const OpCall& call, CudaContext& ctx) {
  return dispatch_any_float(call.t[0].dtype, [&](auto x) {
    return dispatch_any_float(call.t[1].dtype, [&](auto y) {
      return launch_map<typename decltype(x)::type, typename decltype(y)::type>(call.t[0], call.t[1], ctx, Same{});
    });
  });
}

static const Variant kRows[] = {{"portable", 80, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(cast, kRows)
