// scale: out = x * factor
// Tensors  t0 x, t1 out, same shape; f32|bf16 each; out may be x
// Attrs    a0 factor, rounded to float32; float32 product rounded once
// Traffic  x once, out once
#include "elementwise.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_scale(const OpCall& call, Context& ctx) {
  const F32 factor = set1(call.f(0));
  return map_unary(ctx, call.t[0], call.t[1], [factor](F32 v) { return v * factor; });
}

}  // namespace octet::cpu::OCTET_LEVEL
