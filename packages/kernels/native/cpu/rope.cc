// rope: out[t,h,:] = rotation of x[t,h,:] (after an optional RMSNorm over the head) by the angles of positions[t]
// Tensors  t0 x [T,H*D] f32|bf16, t1 positions i32[T], t2 cos f32[P,D/2], t3 sin f32[P,D/2], t4 out [T,H*D] f32|bf16
//          (may be x), t5 normWeight? [D] f32|bf16
// Attrs    a0 heads, a1 headDim (even), a2 interleaved, a3 eps, a4 zeroCenteredGamma, a5 castBeforeWeight
// Values   float32 from load to store; one rounding (two with castBeforeWeight)
// Traffic  x once, out once.   Fails with bad_index for a position outside [0, P)
#include "rope_rows.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_rope(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &positions = call.t[1], &cosine = call.t[2], &sine = call.t[3], &out = call.t[4];
  const TensorArg& norm = call.t[5];
  const int64_t heads = call.i(0), d = call.i(1);
  const bool interleaved = call.b(2);
  const float eps = call.f(3);
  const NormWeight w{&norm, nullptr, call.b(4), call.b(5), x.dtype};
  if (!is_activation(x.dtype) || !is_activation(out.dtype)) return Status::unsupported;
  Fault fault;
  const Status status = for_rows(ctx, x.rows() * heads, d, [&](int64_t i, float* head) {
    const int64_t t = i / heads, column = i % heads * d;
    const int64_t p = positions.as<const int32_t>()[t];
    if (!in_range(p, cosine.rows())) return fault.set(Status::bad_index);
    load_row(x, t, column, d, head);
    if (norm) norm_head(head, d, eps, w);
    rotate(head, d, cosine.as<const float>() + p * cosine.row_stride, sine.as<const float>() + p * sine.row_stride, interleaved);
    store_row(out, t, column, d, head);
  });
  return status != Status::ok ? status : fault.finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
