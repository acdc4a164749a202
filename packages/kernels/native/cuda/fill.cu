// fill: out = value
// Tensors  t0 out, any dtype but i64|f64 with a value its type holds
// Attrs    a0 value
// Traffic  out once
#include "common.cuh"

namespace octet::cuda {

template <class T> __global__ void __launch_bounds__(256) fill_rows(Rows<T> y, int64_t rows, int64_t cols, T value) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < rows * cols; i += gridDim.x * 256ll) y[i / cols][i % cols] = value;
}
// The value in a float type, rounded on the device so that host and device agree.
template <class T> __global__ void __launch_bounds__(256) fill_float(Rows<T> y, int64_t rows, int64_t cols, float value) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < rows * cols; i += gridDim.x * 256ll) y[i / cols][i % cols] = from_float<T>(value);
}

template <class T> static Status fill_as(const TensorArg& out, CudaContext& ctx, double value) {
  fill_rows<T><<<blocks_for(out.rows() * out.cols(), 256, ctx.device().sms * 16), 256, 0, ctx.stream()>>>(rows_of<T>(out), out.rows(), out.cols(), static_cast<T>(value));
  return launched();
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg& out = call.t[0];
  if (out.rows() * out.cols() == 0) return Status::ok;
  switch (out.dtype) {
    case DType::i32: return fill_as<int32_t>(out, ctx, call.attr[0]);
    case DType::i64: return fill_as<int64_t>(out, ctx, call.attr[0]);
    case DType::u8: return fill_as<uint8_t>(out, ctx, call.attr[0]);
    case DType::bool8: return fill_as<uint8_t>(out, ctx, call.attr[0] != 0);
    case DType::f64: return fill_as<double>(out, ctx, call.attr[0]);
    default: break;
  }
  return dispatch_any_float(out.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    fill_float<T><<<blocks_for(out.rows() * out.cols(), 256, ctx.device().sms * 16), 256, 0, ctx.stream()>>>(rows_of<T>(out), out.rows(), out.cols(), call.f(0));
    return launched();
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(fill, kRows)
