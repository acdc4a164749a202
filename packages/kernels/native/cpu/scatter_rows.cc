// scatterRows: out[rows[r],:] = x[r,:], bit for bit; other rows of out keep their values
// Tensors  t0 x [R,D] any dtype, t1 rows i32[R], t2 out [N,D] of x's dtype
// Order    a row named twice holds the later source; so the work is split by columns, each walking rows in order
// Traffic  R rows twice.   Fails with bad_index for a row outside [0, N), before anything is written
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_scatterRows(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &rows = call.t[1], &out = call.t[2];
  const int64_t count = x.rows(), n = out.rows(), item = item_bytes(x.dtype);
  const int32_t* const index = rows.as<const int32_t>();
  for (int64_t r = 0; r < count; ++r) {
    if (!in_range(index[r], n)) return Status::bad_index;
  }
  const int64_t piece = max_of<int64_t>(64, kPiece / max_of<int64_t>(1, count));
  for_pieces(ctx, {1, x.cols()}, piece, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t r = 0; r < count; ++r) {
      memcpy(at(out, index[r], begin), at(x, r, begin), static_cast<size_t>((end - begin) * item));
    }
  });
  return finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
