// scale: out = x * factor, float32 product rounded once
// Tensors  t0 x, t1 out; f32|bf16|f16, same shape
// Attrs    a0 factor
// Traffic  x once, out once
#include "elementwise.cuh"

namespace octet::cuda {

struct Scale {
  float factor;
  __device__ __forceinline__ float operator()(float v) const { return v * factor; }
};

static Status launch(const OpCall& call, CudaContext& ctx) {
  return dispatch_float(call.t[0].dtype, [&](auto x) {
    return dispatch_float(call.t[1].dtype, [&](auto y) {
      return launch_map<typename decltype(x)::type, typename decltype(y)::type>(call.t[0], call.t[1], ctx, Scale{call.f(0)});
    });
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(scale, kRows)
