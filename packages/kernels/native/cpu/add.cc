// add: out = a + b
// Tensors  t0 a, t1 b, t2 out, same shape; f32|bf16 each, float32 sum rounded once; out may be a or b
// Traffic  a, b once, out once
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_add(const OpCall& call, Context& ctx) {
  const TensorArg &a = call.t[0], &b = call.t[1], &out = call.t[2];
  return by_activation(a.dtype, [&]<class A>(A*) {
    return by_activation(b.dtype, [&]<class B>(B*) {
      return by_activation(out.dtype, [&]<class Y>(Y*) {
        for_pieces(ctx, extent_of(a, b, out), kPiece, [&](int64_t row, int64_t begin, int64_t end) {
          const A* const p = a.as<const A>() + row * a.row_stride;
          const B* const q = b.as<const B>() + row * b.row_stride;
          Y* const to = out.as<Y>() + row * out.row_stride;
          for (int64_t i = begin; i < end; i += kLanes) {
            store_n(to + i, load_n(p + i, end - i) + load_n(q + i, end - i), end - i);
          }
        });
        return finish(ctx);
      });
    });
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
