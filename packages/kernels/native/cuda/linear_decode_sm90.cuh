// Launcher of gemm_decode for one element type; linear_decode_{bf16,e4m3}_sm90.cu instantiate it.
#pragma once
#include "gemm_decode_sm90.cuh"
#include "launch.cuh"
#include "linear_args.h"
#include "tensor_map.h"

namespace octet::cuda {

constexpr int kDecodeTokens = 128;  // above this the large GEMM reads the weights once for more rows

// What both decode kernels read by 16-byte pieces, and what their epilogue can add and store.
inline bool decode_operands_fit(const LinearArgs& a, int item) {
  const auto aligned = [](const TensorArg& t, int64_t bytes) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && stride_of(t) * bytes % 16 == 0; };
  return a.m >= 1 && a.n >= 1 && a.k >= 1 && a.k * item % 16 == 0 && aligned(*a.x, item) && aligned(*a.weight, item) &&
         (!*a.residual || (a.residual->dtype == DType::bf16 && stride_of(*a.residual) == stride_of(*a.out)));
}
// Scales that the e4m3 kernels apply: by row or tensor after the sum, or by 128x128 and 1x128 within it.
inline bool decode_scales_blocked(const LinearArgs& a) { return a.weight_granularity == Granularity::block128x128 && a.x_granularity == Granularity::block1x128; }
inline bool decode_scales_fit(const LinearArgs& a) {
  const auto coarse = [](Granularity g) { return g == Granularity::row || g == Granularity::tensor; };
  return decode_scales_blocked(a) || (coarse(a.weight_granularity) && coarse(a.x_granularity));
}

inline sm90::Epilogue epilogue_of(const LinearArgs& a) {
  return {a.bias->data, a.residual->as<const __nv_bfloat16>(), a.out->data, stride_of(*a.out), a.bias->dtype == DType::f32, a.out->dtype == DType::f32};
}
template <class Args> void set_scales(Args& g, const LinearArgs& a) {
  if (a.weight_granularity != Granularity::none) g.w_scale = a.weight_scale->as<const float>();
  if (a.x_granularity != Granularity::none) g.x_scale = a.x_scale->as<const float>();
  g.w_scale_stride = a.weight_granularity == Granularity::row;
  g.x_scale_stride = a.x_granularity == Granularity::row;
  g.out = epilogue_of(a);
}

template <class T, int kTokens, bool kBlocked> Status launch_decode(const LinearArgs& a, CudaContext& ctx) {
  using namespace sm90;
  using S = GemmDecodeShape<T, kTokens, 2>;
  const auto kernel = gemm_decode<T, kTokens, 2, kBlocked>;
  static OncePerDevice ready;
  CUtensorMap wmap, xmap;
  if (!allow_shared(ready, ctx, kernel, S::kSmem) || !encode_rows(&wmap, a.weight->data, sizeof(T), a.n, a.k, stride_of(*a.weight), S::kTileRows, kBlockBytes) ||
      !encode_rows(&xmap, a.x->data, sizeof(T), a.m, a.k, stride_of(*a.x), kTokens, kBlockBytes)) {
    return Status::internal;
  }
  GemmDecodeArgs g{};
  g.m = static_cast<int>(a.m);
  g.n = static_cast<int>(a.n);
  g.k_blocks = static_cast<int>((a.k * sizeof(T) + kBlockBytes - 1) / kBlockBytes);
  g.tiles = static_cast<int>((a.n + S::kTileRows - 1) / S::kTileRows);
  set_scales(g, a);
  const int64_t units = static_cast<int64_t>(g.tiles) * g.k_blocks;
  const int blocks = static_cast<int>(units < ctx.device().sms ? units : ctx.device().sms);
  g.partial = static_cast<float*>(ctx.workspace(static_cast<size_t>(blocks) * 2 * 2 * (kTokens / 2) * 128 * sizeof(float)));
  g.arrivals = ctx.counters(static_cast<size_t>(g.tiles) * 2);
  if (g.partial == nullptr || g.arrivals == nullptr) return Status::out_of_memory;
  return launch_overlapped(ctx, kernel, dim3(blocks), S::kThreads, S::kSmem, wmap, xmap, g);
}

// One instance per token bucket; which one depends on M alone, and results do not depend on which.
template <class T, bool kBlocked> Status launch_decode_bucket(const LinearArgs& a, CudaContext& ctx) {
  if (a.m <= 8) return launch_decode<T, 8, kBlocked>(a, ctx);
  if (a.m <= 16) return launch_decode<T, 16, kBlocked>(a, ctx);
  if (a.m <= 32) return launch_decode<T, 32, kBlocked>(a, ctx);
  if (a.m <= 64) return launch_decode<T, 64, kBlocked>(a, ctx);
  return launch_decode<T, 128, kBlocked>(a, ctx);
}

// Any number of tokens, 128 at a time: where the vendor library is absent or has no such scales.
template <class T, bool kBlocked> Status launch_decode_spans(const LinearArgs& all, CudaContext& ctx) {
  const int item = sizeof(T);
  for (int64_t m = 0; m < all.m; m += kDecodeTokens) {
    const auto from = [&](const TensorArg& t, int64_t bytes) {
      TensorArg part = t;
      if (t) part.data = static_cast<uint8_t*>(t.data) + m * bytes;
      return part;
    };
    const int64_t scale = all.x_granularity == Granularity::row ? 4 : kBlocked ? (all.k + 127) / 128 * 4 : 0;
    const int64_t out = all.out->dtype == DType::f32 ? 4 : 2;
    const TensorArg x = from(*all.x, stride_of(*all.x) * item), y = from(*all.out, stride_of(*all.out) * out), xs = from(*all.x_scale, scale);
    const TensorArg residual = from(*all.residual, *all.residual ? stride_of(*all.residual) * 2 : 0);
    LinearArgs a = all;
    a.x = &x, a.out = &y, a.x_scale = &xs, a.residual = &residual;
    a.m = all.m - m < kDecodeTokens ? all.m - m : kDecodeTokens;
    if (const Status s = launch_decode_bucket<T, kBlocked>(a, ctx); s != Status::ok) return s;
  }
  return Status::ok;
}

}  // namespace octet::cuda
