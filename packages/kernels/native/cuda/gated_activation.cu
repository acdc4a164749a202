// gatedActivation: out[n,i] = act(x[n,i]) * x[n,I+i]
// Tensors  t0 x [N,2I] = gate | up, t1 out [N,I]; f32|bf16; float32 product rounded once
//          or t1 e4m3 with t2 scaleInv f32, t3 scale? f32: the result rounded to x's type, then quantized as quantize does
// Attrs    a0 kind of act, activation_math.cuh, a1 granularity (0 none 1 tensor 2 row 3 1x128), a2 powerOf2, a3 epsilon
// Traffic  x once, out once.  Floor 64 x 2*24576 bf16: 9.4 MB / 4.25 TB/s = 2.2 us
// Launch   grid-stride over 16-byte vectors, 256 threads; quantized: a block per row, which it holds in registers (I <=
//          32768; other rows are computed twice), or for few rows a cluster (gated_activation_sm90.cu); all start before the previous kernel has ended
#include "activation_math.cuh"
#include "launch.cuh"
#include "quantize_row.cuh"

namespace octet::cuda {

template <int kN, class T, class Out, class F>
__global__ void __launch_bounds__(256) gated(Rows<const T> x, Rows<Out> y, int64_t rows, int64_t width, F act) {
  const int64_t per_row = width / kN, total = rows * per_row;
  overlap_wait();
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

template <int kRowThreads, int kHeld, class T, class F>
__global__ void __launch_bounds__(kRowThreads, 1024 / kRowThreads) gated_quantized(Rows<const T> x, Rows<e4m3> y, int64_t width, RowTarget target, F act) {
  constexpr int kN = 8;
  const int64_t n = blockIdx.x;
  overlap_wait();
  float v[kHeld][kN];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t c = (static_cast<int64_t>(i) * kRowThreads + threadIdx.x) * kN;
    float u[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) v[i][k] = u[k] = 0.f;
    if (c >= width) continue;
    load<T, kN>(v[i], x[n] + c);
    load<T, kN>(u, x[n] + width + c);
#pragma unroll
    for (int k = 0; k < kN; ++k) v[i][k] = rounded<T>(act(v[i][k]) * u[k]);
  }
  quantize_held<kRowThreads, kN, kHeld, e4m3>(v, y[n], target, n, width, 0, width);
}

// Rows of any length and alignment: the activation is computed once for the scales and once more for the codes.
template <class T, class F>
__global__ void __launch_bounds__(512) gated_quantized_twice(Rows<const T> x, Rows<e4m3> y, int64_t width, RowTarget target, F act) {
  __shared__ uint32_t slots[16];
  const int64_t n = blockIdx.x, span = target.granularity == 3 ? 128 : width, across = (width + span - 1) / span;
  overlap_wait();
  const auto value = [&](int64_t c) { return to_float(from_float<T>(act(to_float(x[n][c])) * to_float(x[n][width + c]))); };
  for (int64_t b = 0; b < across; ++b) {
    const int64_t begin = b * span, end = begin + span < width ? begin + span : width, at = target.granularity == 1 ? 0 : n * across + b;
    uint32_t top = 0;
    if (target.given == nullptr) {
      for (int64_t c = begin + threadIdx.x; c < end; c += 512) top = max(top, magnitude_bits(value(c)));
      top = block_max_bits(top, slots);
    }
    const float s = target.given != nullptr ? target.given[at] : scale_of_amax(__uint_as_float(top), kLargest<e4m3>, target.epsilon, target.power_of_2);
    if (threadIdx.x == 0 && (target.granularity != 1 || n == 0)) target.scale_inv[at] = __fdiv_rn(1.f, s);
    for (int64_t c = begin + threadIdx.x; c < end; c += 512) y[n][c] = from_float<e4m3>(value(c) * s);
  }
}

template <class T, class F> static Status launch_quantized(const OpCall& call, CudaContext& ctx, F act) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t rows = out.rows(), width = out.cols();
  const RowTarget target = row_target(call, call.t[2], call.t[3], 1);
  if (out.dtype != DType::e4m3 || !row_target_fits(target)) return Status::unsupported;
  const auto run = [&](auto threads, auto held) {
    constexpr int kThreads = decltype(threads)::value;
    return launch_overlapped(ctx, gated_quantized<kThreads, decltype(held)::value, T, F>, dim3(static_cast<unsigned>(rows)), kThreads, 0, 
                             rows_of<const T>(x), rows_of<e4m3>(out), width, target, act);
  };
  using std::integral_constant;
  if (wide_rows<T>(x) && eight_rows<e4m3>(out) && width % kWide<T> == 0) {
    if (width <= 512 * 8 * 2) return run(integral_constant<int, 512>{}, integral_constant<int, 2>{});
    if (width <= 512 * 8 * 4) return run(integral_constant<int, 512>{}, integral_constant<int, 4>{});
    if (width <= 1024 * 8 * 4) return run(integral_constant<int, 1024>{}, integral_constant<int, 4>{});
  }
  return launch_overlapped(ctx, gated_quantized_twice<T, F>, dim3(static_cast<unsigned>(rows)), 512, 0, rows_of<const T>(x), rows_of<e4m3>(out), width, target, act);
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t rows = out.rows(), width = out.cols();
  if (rows * width == 0) return Status::ok;
  return by_kind(call.i(0), [&](auto act) {
    return dispatch_compute(x.dtype, [&](auto xt) {
      using X = typename decltype(xt)::type;
      if (call.i(1) != 0) return launch_quantized<X>(call, ctx, act);
      return dispatch_compute(out.dtype, [&](auto yt) {
        using Y = typename decltype(yt)::type;
        constexpr int kN = kWide<X> < kWide<Y> ? kWide<X> : kWide<Y>;
        const bool wide = width % kN == 0 && width % kWide<X> == 0 && wide_rows<X>(x) && wide_rows<Y>(out);
        const unsigned blocks = blocks_for(rows * width, 256 * (wide ? kN : 1), ctx.device().sms * 16);
        const auto kernel = wide ? gated<kN, X, Y, decltype(act)> : gated<1, X, Y, decltype(act)>;
        return launch_overlapped(ctx, kernel, dim3(blocks), 256, 0, rows_of<const X>(x), rows_of<Y>(out), rows, width, act);
      });
    });
  });
}

bool fits_gated_cluster(const OpCall&, const DeviceInfo&);
Status launch_gated_cluster(const OpCall&, CudaContext&);

static const Variant kRows[] = {{"cluster_sm90", kSm90, fits_gated_cluster, launch_gated_cluster}, {"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(gatedActivation, kRows)
