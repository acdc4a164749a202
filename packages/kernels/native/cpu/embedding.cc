// embedding: out[t,:] = table[ids[t],:] * scale
// Tensors  t0 ids i32[T], t1 table [V,D] f32|bf16|f16|e4m3|e5m2, t2 out [T,D] f32|bf16
// Attrs    a0 scale: float32 product, rounded once at the store (Gemma multiplies by sqrt(D))
// Traffic  T rows of the table, out once.   Fails with bad_index for an id outside [0, V)
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_embedding(const OpCall& call, Context& ctx) {
  const TensorArg &ids = call.t[0], &table = call.t[1], &out = call.t[2];
  const int64_t d = out.cols(), vocab = table.rows();
  const F32 factor = set1(call.f(0));
  return by_float(table.dtype, [&]<class X>(X*) {
    return by_activation(out.dtype, [&]<class Y>(Y*) {
      Fault fault;
      for_pieces(ctx, {out.rows(), d}, kPiece, [&](int64_t row, int64_t begin, int64_t end) {
        const int64_t id = ids.as<const int32_t>()[row];
        if (!in_range(id, vocab)) return fault.set(Status::bad_index);
        const X* const from = table.as<const X>() + id * table.row_stride;
        Y* const to = out.as<Y>() + row * out.row_stride;
        for (int64_t i = begin; i < end; i += kLanes) store_n(to + i, load_n(from + i, end - i) * factor, end - i);
      });
      return fault.finish(ctx);
    });
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
