// layerNorm: s = x (+ residual), rounded to residualOut's dtype, else to x's; residualOut = s; m = mean_d(s[n,:])
//            out[n,d] = (s[n,d] - m) * rsqrt(mean_d((s[n,:] - m)^2) + eps) * w[d] + bias[d]     w = weight, or 1 + weight
// Tensors  t0 x [N,D], t1 weight [D], t2 bias? [D], t3 residual? [N,D], t4 out [N,D],
//          t5 residualOut? [N,D]; f32|bf16 each
// Attrs    a0 eps, a1 zeroCenteredGamma
// Traffic  x, residual, weight, bias once; out, residualOut once.   Order: fixed sum tree; two passes, so no
//          cancellation in the variance
#include "norm_rows.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_layerNorm(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &weight = call.t[1], &bias = call.t[2], &residual = call.t[3], &out = call.t[4];
  const TensorArg& residual_out = call.t[5];
  const int64_t d = x.cols();
  const float eps = call.f(0);
  const NormWeight w{&weight, bias ? &bias : nullptr, call.b(1), false, out.dtype};
  if (!is_activation(x.dtype) || (residual && !is_activation(residual.dtype))) return Status::unsupported;
  return by_activation(weight.dtype, [&]<class W>(W*) {
    return by_activation(bias ? bias.dtype : weight.dtype, [&]<class B>(B*) {
      return by_activation(out.dtype, [&]<class Y>(Y*) {
        return for_rows(ctx, x.rows(), d, [&](int64_t row, float* s) {
          load_sum(x, residual, residual_out, row, d, s);
          const float mean = sum_row(s, d, [](F32 v) { return v; }) / static_cast<float>(d);
          const float variance = sum_row(s, d, [mean](F32 v) { return (v - mean) * (v - mean); }) / static_cast<float>(d);
          const float factor = 1.0f / first(sqrt(set1(variance + eps)));
          apply_norm<W, B>(s, d, mean, factor, w, out.as<Y>() + row * out.row_stride);
        });
      });
    });
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
