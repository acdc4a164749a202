// dequantize: out = data * scaleInv of the element's block
// Tensors  t0 data [N,K] e4m3|e5m2, t1 scaleInv f32 (shape as in quantize), t2 out [N,K] f32|bf16
// Attrs    a0 granularity 1 tensor 2 row 3 1x128 4 128x128
// Traffic  data once, out once
#include "scales.cuh"

namespace octet::cuda {

template <class X, class Y> __global__ void __launch_bounds__(256) dequantize(Rows<const X> data, const float* scale_inv, Rows<Y> out, int64_t rows, int64_t cols, Blocks b) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < rows * cols; i += gridDim.x * 256ll) {
    const int64_t r = i / cols, c = i % cols;
    out[r][c] = from_float<Y>(to_float(data[r][c]) * scale_inv[r / b.height * b.across + c / b.width]);
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &data = call.t[0], &out = call.t[2];
  Blocks b;
  if (!blocks_of(call.i(0), data.rows(), data.cols(), &b)) return Status::unsupported;
  if (data.rows() * data.cols() == 0) return Status::ok;
  return dispatch_fp8(data.dtype, [&](auto xt) {
    return dispatch_compute(out.dtype, [&](auto yt) {
      using X = typename decltype(xt)::type;
      using Y = typename decltype(yt)::type;
      dequantize<X, Y><<<blocks_for(data.rows() * data.cols(), 1024, ctx.device().sms * 16), 256, 0, ctx.stream()>>>(
          rows_of<const X>(data), call.t[1].as<const float>(), rows_of<Y>(out), data.rows(), data.cols(), b);
      return launched();
    });
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(dequantize, kRows)
