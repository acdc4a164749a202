// gatedActivation: out[n,i] = act(x[n,i]) * x[n,I+i]
// Tensors  t0 x [N,2I] = gate | up, t1 out [N,I]; f32|bf16 each; float32 product rounded once
//          or t1 e4m3 with t2 scaleInv f32 and t3 scale? f32: the result rounded to x's dtype, then quantized (quantize.cc)
// Attrs    a0 kind of act, as in activation (5: glu), a1 granularity (0 none), a2 powerOf2, a3 epsilon
// Traffic  x once, out once
#include "activation_math.h"
#include "norm_rows.h"
#include "quantize_row.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_gatedActivation(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t rows = out.rows(), width = out.cols();
  const RowQuantizer quantize(call, out, call.t[2], call.t[3], 1);
  if (quantize && !quantize.supported()) return Status::unsupported;
  return by_kind(call.i(0), [&](auto act) {
    return by_activation(x.dtype, [&]<class X>(X*) {
      if (quantize) {
        return for_rows(ctx, rows, width, [&](int64_t row, float* to) {
          const X* const gate = x.as<const X>() + row * x.row_stride;
          for (int64_t i = 0; i < width; i += kLanes) {
            store_n(to + i, round_to(x.dtype, act(load_n(gate + i, width - i)) * load_n(gate + width + i, width - i)), width - i);
          }
          quantize(row, to);
        });
      }
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
