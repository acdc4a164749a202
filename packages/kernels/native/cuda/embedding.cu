// embedding: out[t,:] = table[ids[t],:] * scale
// Tensors  t0 ids i32[T], t1 table [V,D] f32|bf16|f16|e4m3|e5m2, t2 out [T,D] f32|bf16
// Attrs    a0 scale: float32 product, rounded once at the store (Gemma multiplies by sqrt(D))
// Traffic  T rows of the table, out once.   An id outside [0, V) raises the fault word
#include "common.cuh"
#include "launch.cuh"

namespace octet::cuda {

template <int kN, class X, class Y>
__global__ void __launch_bounds__(256) embed(const int32_t* ids, Rows<const X> table, Rows<Y> y, int64_t tokens, int64_t cols, int64_t vocab, float scale, int32_t* fault) {
  const int64_t per_row = cols / kN;
  overlap_wait();
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < tokens * per_row; i += gridDim.x * 256ll) {
    const int64_t t = i / per_row, c = (i - t * per_row) * kN, id = ids[t];
    float v[kN] = {};
    if (id < 0 || id >= vocab) {
      *fault = static_cast<int32_t>(Status::bad_index);
    } else {
      load<X, kN>(v, table[id] + c);
    }
#pragma unroll
    for (int k = 0; k < kN; ++k) v[k] *= scale;
    store<Y, kN>(y[t] + c, v);
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &ids = call.t[0], &table = call.t[1], &out = call.t[2];
  const int64_t tokens = out.rows(), cols = out.cols();
  if (tokens * cols == 0) return Status::ok;
  return dispatch_any_float(table.dtype, [&](auto xt) {
    return dispatch_compute(out.dtype, [&](auto yt) {
      using X = typename decltype(xt)::type;
      using Y = typename decltype(yt)::type;
      constexpr int kN = kWide<X> < kWide<Y> ? kWide<X> : kWide<Y>;
      const bool wide = wide_rows<X>(table) && wide_rows<Y>(out);
      const unsigned blocks = blocks_for(tokens * cols, 256 * (wide ? kN : 1), ctx.device().sms * 16);
      const auto kernel = wide ? embed<kN, X, Y> : embed<1, X, Y>;
      return launch_overlapped(ctx, kernel, dim3(blocks), 256, 0, ids.as<const int32_t>(), rows_of<const X>(table), rows_of<Y>(out), tokens, cols, table.rows(), call.f(0), ctx.fault_word());
    });
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(embedding, kRows)
