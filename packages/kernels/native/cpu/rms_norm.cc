// rmsNorm: s = x (+ residual), rounded to residualOut's dtype, else to x's; residualOut = s
//          out[n,d] = s[n,d] * rsqrt(mean_d(s[n,:]^2) + eps) * w[d]       w = weight, or 1 + weight
// Tensors  t0 x [N,D], t1 weight [D], t2 residual? [N,D], t3 out [N,D], t4 residualOut? [N,D]; f32|bf16 each; or t3 e4m3 with
//          t5 scaleInv f32 and t6 scale? f32: the result rounded to x's dtype, then quantized (quantize.cc)
// Attrs    a0 eps, a1 zeroCenteredGamma, a2 castBeforeWeight (round s * rsqrt to out's dtype, then multiply: Llama),
//          a3 granularity (0 none), a4 powerOf2, a5 epsilon
// Traffic  x, residual, weight once; out, residualOut once.   Order: fixed sum tree (norm_rows.h)
#include "norm_rows.h"
#include "quantize_row.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_rmsNorm(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &weight = call.t[1], &residual = call.t[2], &out = call.t[3], &residual_out = call.t[4];
  const int64_t d = x.cols();
  const float eps = call.f(0);
  const NormWeight w{&weight, nullptr, call.b(1), call.b(2), out.dtype};
  if (!is_activation(x.dtype) || (residual && !is_activation(residual.dtype))) return Status::unsupported;
  if (const RowQuantizer quantize(call, out, call.t[5], call.t[6], 3); quantize) {
    if (!quantize.supported()) return Status::unsupported;
    const NormWeight rounded{&weight, nullptr, call.b(1), call.b(2), x.dtype};
    return by_activation(weight.dtype, [&]<class W>(W*) {
      return for_rows(ctx, x.rows(), d, [&](int64_t row, float* s) {
        load_sum(x, residual, residual_out, row, d, s);
        apply_norm<W, W>(s, d, 0.0f, rms_factor(s, d, eps), rounded, s);
        for (int64_t i = 0; i < d; i += kLanes) store_n(s + i, round_to(x.dtype, load_n(s + i, d - i)), d - i);
        quantize(row, s);
      });
    });
  }
  return by_activation(weight.dtype, [&]<class W>(W*) {
    return by_activation(out.dtype, [&]<class Y>(Y*) {
      return for_rows(ctx, x.rows(), d, [&](int64_t row, float* s) {
        load_sum(x, residual, residual_out, row, d, s);
        apply_norm<W, W>(s, d, 0.0f, rms_factor(s, d, eps), w, out.as<Y>() + row * out.row_stride);
      });
    });
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
