// softcap: out = cap * tanh(x / cap)
// Tensors  t0 x, t1 out; f32|bf16, same shape
// Attrs    a0 cap > 0
// Traffic  x once, out once
#include "elementwise.cuh"

namespace octet::cuda {

struct Softcap {
  float cap;
  __device__ __forceinline__ float operator()(float v) const { return cap * tanhf(v / cap); }
};

static Status launch(const OpCall& call, CudaContext& ctx) {
  return dispatch_compute(call.t[0].dtype, [&](auto x) {
    return dispatch_compute(call.t[1].dtype, [&](auto y) {
      return launch_map<typename decltype(x)::type, typename decltype(y)::type>(call.t[0], call.t[1], ctx, Softcap{call.f(0)});
    });
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(softcap, kRows)
