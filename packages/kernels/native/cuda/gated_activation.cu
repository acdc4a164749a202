// gatedActivation: out[n,i] = act(x[n,i]) * x[n,I+i]
// Tensors  t0 x [N,2I] = gate | up, t1 out [N,I]; f32|bf16; float32 product rounded once
// Attrs    a0 kind of act, activation_math.cuh
// Traffic  x once, out once.  Floor 64 x 2*24576 bf16: 9.4 MB / 4.25 TB/s = 2.2 us
// Launch   grid-stride over 16-byte vectors, 256 threads
#include "activation_math.cuh"

namespace octet::cuda {

template <int kN, class T, class Out, class F>
__global__ void __launch_bounds__(256) gated(Rows<const T> x, Rows<Out> y, int64_t rows, int64_t width, F act) {
  const int64_t per_row = width / kN, total = rows * per_row;
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < total; i += gridDim.x * 256ll) {
    const int64_t r = i / per_row, c = (i - r * per_row) * kN;
    float g[kN], u[kN];
    load<T, kN>(g, x[r] + c);
    load<T, kN>(u, x[r] + width + c);
#pragma unroll
    for (int k = 0; k < kN; ++k) g[k] = act(g[k]) * u[k];
    store<Out, kN>(y[r] + c, g);
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t rows = out.rows(), width = out.cols();
  if (rows * width == 0) return Status::ok;
  return by_kind(call.i(0), [&](auto act) {
    return dispatch_compute(x.dtype, [&](auto xt) {
      return dispatch_compute(out.dtype, [&](auto yt) {
        using X = typename decltype(xt)::type;
        using Y = typename decltype(yt)::type;
        constexpr int kN = kWide<X> < kWide<Y> ? kWide<X> : kWide<Y>;
        const bool wide = width % kN == 0 && width % kWide<X> == 0 && wide_rows<X>(x) && wide_rows<Y>(out);
        const unsigned blocks = blocks_for(rows * width, 256 * (wide ? kN : 1), ctx.device().sms * 16);
        if (wide) gated<kN, X, Y><<<blocks, 256, 0, ctx.stream()>>>(rows_of<const X>(x), rows_of<Y>(out), rows, width, act);
        else gated<1, X, Y><<<blocks, 256, 0, ctx.stream()>>>(rows_of<const X>(x), rows_of<Y>(out), rows, width, act);
        return launched();
      });
    });
  });
}

static const Variant kRows[] = {{"portable", 80, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(gatedActivation, kRows)
