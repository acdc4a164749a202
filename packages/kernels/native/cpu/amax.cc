// amax: out = max |x|, over the tensor or each row; NaN if any element is NaN, 0 if there are none
// Tensors  t0 x [N,K] f32|bf16, t1 out f32 [1] or [N]
// Attrs    a0 granularity 1 tensor, 2 row
// Traffic  x once
#include "scales.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_amax(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const bool by_row = call.i(0) == kRow;
  if (call.i(0) != kRow && call.i(0) != kTensor) return Status::unsupported;
  const Extent e = by_row ? Extent{x.rows(), x.cols()} : extent_of(x);
  const int64_t per_row = ceil_div(e.cols, kPiece), count = e.rows * per_row;
  float* const partial = scratch_of<float>(ctx, max_of<int64_t>(count, 1));
  if (partial == nullptr) return Status::out_of_memory;
  return by_activation(x.dtype, [&]<class X>(X*) {
    for_pieces(ctx, e, kPiece, [&](int64_t row, int64_t begin, int64_t end) {
      const X* const from = x.as<const X>() + row * x.row_stride + begin;
      partial[row * per_row + begin / kPiece] = amax_of_lanes(amax_vectors(from, end - begin, zero()));
    });
    if (ctx.cancelled()) return Status::cancelled;
    const int64_t group = by_row ? per_row : count;
    for (int64_t r = 0; r < (by_row ? e.rows : 1); ++r) {
      float top = 0;
      for (int64_t i = 0; i < group; ++i) top = amax_join(top, partial[r * group + i]);
      out.as<float>()[r] = top;
    }
    return Status::ok;
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
