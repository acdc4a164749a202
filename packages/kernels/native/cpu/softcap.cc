// softcap: out = tanh(x / cap) * cap
// Tensors  t0 x, t1 out, same shape; f32|bf16 each; out may be x
// Attrs    a0 cap > 0
// Traffic  x once, out once
#include "elementwise.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_softcap(const OpCall& call, Context& ctx) {
  const F32 cap = set1(call.f(0));
  return map_unary(ctx, call.t[0], call.t[1], [cap](F32 v) { return tanh(v / cap) * cap; });
}

}  // namespace octet::cpu::OCTET_LEVEL
