// dequantize: out = data * scaleInv of the element's block
// Tensors  t0 data [N,K] e4m3|e5m2, t1 scaleInv f32 (shape as in quantize), t2 out [N,K] f32|bf16
// Attrs    a0 granularity 1 tensor 2 row 3 1x128 4 128x128
// Values   float32 product, rounded once at the store
// Traffic  data once, out once
#include "scales.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
template <class X, class Y>
Status run(Context& ctx, const TensorArg& data, const TensorArg& scale_inv, const TensorArg& out, const Blocks& b) {
  for_pieces(ctx, {data.rows(), data.cols()}, kPiece, [&](int64_t row, int64_t begin, int64_t end) {
    const X* const from = data.as<const X>() + row * data.row_stride;
    Y* const to = out.as<Y>() + row * out.row_stride;
    const float* const scales = scale_inv.as<const float>() + row / b.height * b.across;
    for (int64_t c = begin; c < end;) {
      const int64_t block = c / b.width, stop = min_of(end, (block + 1) * b.width);
      const float s = scales[block];
      for (; c < stop; c += kLanes) store_n(to + c, load_n(from + c, stop - c) * s, stop - c);
      c = stop;
    }
  });
  return finish(ctx);
}
}  // namespace

Status op_dequantize(const OpCall& call, Context& ctx) {
  const TensorArg &data = call.t[0], &scale_inv = call.t[1], &out = call.t[2];
  Blocks b;
  if (!blocks_of(call.i(0), data.rows(), data.cols(), &b)) return Status::unsupported;
  return by_activation(out.dtype, [&]<class Y>(Y*) {
    switch (data.dtype) {
      case DType::e4m3: return run<e4m3, Y>(ctx, data, scale_inv, out, b);
      case DType::e5m2: return run<e5m2, Y>(ctx, data, scale_inv, out, b);
      default: return Status::unsupported;
    }
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
