// copy: out = x, bit for bit
// Tensors  t0 x, t1 out; same shape and dtype, each with its own row stride; they do not overlap
// Traffic  x once, out once
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_copy(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t item = item_bytes(x.dtype);
  for_pieces(ctx, extent_of(x, out), kPiece, [&](int64_t row, int64_t begin, int64_t end) {
    memcpy(at(out, row, begin), at(x, row, begin), static_cast<size_t>((end - begin) * item));
  });
  return finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
