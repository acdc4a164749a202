// Elementwise ops over f32 and bf16: float32 arithmetic, one rounding at the store.
#pragma once
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

// out = f(x); f maps F32 to F32.
template <class F> Status map_unary(Context& ctx, const TensorArg& x, const TensorArg& out, F f) {
  return by_activation(x.dtype, [&]<class X>(X*) {
    return by_activation(out.dtype, [&]<class Y>(Y*) {
      for_pieces(ctx, extent_of(x, out), kPiece / 2, [&](int64_t row, int64_t begin, int64_t end) {
        const X* const a = x.as<const X>() + row * x.row_stride;
        Y* const to = out.as<Y>() + row * out.row_stride;
        for (int64_t i = begin; i < end; i += kLanes) store_n(to + i, f(load_n(a + i, end - i)), end - i);
      });
      return finish(ctx);
    });
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
