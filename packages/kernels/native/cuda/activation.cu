// activation: out = act(x)
// Tensors  t0 x, t1 out; f32|bf16, same shape
// Attrs    a0 kind, activation_math.cuh
// Traffic  x once, out once
#include "activation_math.cuh"
#include "elementwise.cuh"

namespace octet::cuda {

static Status launch(const OpCall& call, CudaContext& ctx) {
  return by_kind(call.i(0), [&](auto act) {
    return dispatch_compute(call.t[0].dtype, [&](auto x) {
      return dispatch_compute(call.t[1].dtype, [&](auto y) {
        return launch_map<typename decltype(x)::type, typename decltype(y)::type>(call.t[0], call.t[1], ctx, act);
      });
    });
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(activation, kRows)
