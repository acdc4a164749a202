// gatedActivation: out[n,i] = act(x[n,i]) * x[n,I+i]
// Tensors  t0 x [N,2I] = gate | up, t1 out [N,I]; f32|bf16 each; float32 product rounded once
// Attrs    a0 kind of act, as in activation (5: glu)
// Traffic  x once, out once
#include "activation_math.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_gatedActivation(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t rows = out.rows(), width = out.cols();
  return by_kind(call.i(0), [&](auto act) {
    return by_activation(x.dtype, [&]<class X>(X*) {
      return by_activation(out.dtype, [&]<class Y>(Y*) {
        for_pieces(ctx, {rows, width}, kPiece / 4, [&](int64_t row, int64_t begin, int64_t end) {
          const X* const gate = x.as<const X>() + row * x.row_stride;
          const X* const up = gate + width;
          Y* const to = out.as<Y>() + row * out.row_stride;
          for (int64_t i = begin; i < end; i += kLanes) {
            store_n(to + i, act(load_n(gate + i, end - i)) * load_n(up + i, end - i), end - i);
          }
        });
        return finish(ctx);
      });
    });
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
