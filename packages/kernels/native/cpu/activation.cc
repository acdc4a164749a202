// activation: out = act(x)
// Tensors  t0 x, t1 out, same shape; f32|bf16 each; out may be x
// Attrs    a0 kind: 0 gelu (tanh form) 1 silu 2 relu 3 qgelu 4 srelu 5 sigmoid 6 geluErf
// Traffic  x once, out once
#include "activation_math.h"
#include "elementwise.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_activation(const OpCall& call, Context& ctx) {
  return by_kind(call.i(0), [&](auto act) { return map_unary(ctx, call.t[0], call.t[1], act); });
}

}  // namespace octet::cpu::OCTET_LEVEL
