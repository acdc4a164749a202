// gatherRows: out[r,:] = x[rows[r],:], bit for bit
// Tensors  t0 x [N,D] any dtype, t1 rows i32[R], t2 out [R,D] of x's dtype
// Traffic  R rows twice.   Fails with bad_index for a row outside [0, N)
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_gatherRows(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &rows = call.t[1], &out = call.t[2];
  const int64_t n = x.rows(), item = item_bytes(x.dtype);
  Fault fault;
  for_pieces(ctx, {out.rows(), out.cols()}, kPiece, [&](int64_t r, int64_t begin, int64_t end) {
    const int64_t from = rows.as<const int32_t>()[r];
    if (!in_range(from, n)) return fault.set(Status::bad_index);
    memcpy(at(out, r, begin), at(x, from, begin), static_cast<size_t>((end - begin) * item));
  });
  return fault.finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
