// add: out = a + b, float32 sum rounded once
// Tensors  t0 a, t1 b, t2 out; f32|bf16, one shape and dtype; out may be a or b
// Traffic  a and b once, out once
#include "elementwise.cuh"

namespace octet::cuda {

struct Plus {
  __device__ __forceinline__ float operator()(float p, float q) const { return p + q; }
};

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &a = call.t[0], &b = call.t[1], &out = call.t[2];
  const int64_t rows = a.rows(), cols = a.cols();
  if (rows * cols == 0) return Status::ok;
  if (a.dtype != b.dtype || a.dtype != out.dtype) return Status::unsupported;
  return dispatch_compute(a.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    constexpr int kN = kWide<T>;
    const bool wide = wide_rows<T>(a) && wide_rows<T>(b) && wide_rows<T>(out);
    const unsigned blocks = blocks_for(rows * cols, kElementThreads * (wide ? kN : 1), ctx.device().sms * 16);
    if (wide) zip_rows<kN, T><<<blocks, kElementThreads, 0, ctx.stream()>>>(rows_of<const T>(a), rows_of<const T>(b), rows_of<T>(out), rows, cols, Plus{});
    else zip_rows<1, T><<<blocks, kElementThreads, 0, ctx.stream()>>>(rows_of<const T>(a), rows_of<const T>(b), rows_of<T>(out), rows, cols, Plus{});
    return launched();
  });
}

static const Variant kRows[] = {{"portable", 80, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(add, kRows)
