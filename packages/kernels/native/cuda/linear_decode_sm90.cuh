// Launcher of gemm_decode for one element type; linear_decode_{bf16,e4m3}_sm90.cu instantiate it.
#pragma once
#include "gemm_decode_sm90.cuh"
#include "linear_args.h"
#include "tensor_map.h"

namespace octet::cuda {

constexpr int kDecodeTokens = 128;  // above this the large GEMM reads the weights once for more rows

inline bool decode_shape_fits(const LinearArgs& a, int item) {
  const auto aligned = [](const TensorArg& t, int64_t bytes) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && stride_of(t) * bytes % 16 == 0; };
  return a.m >= 1 && a.m <= kDecodeTokens && a.n >= 1 && a.k >= 1 && a.k * item % 16 == 0 && aligned(*a.x, item) && aligned(*a.weight, item) &&
         (a.out->dtype == DType::bf16 || (a.out->dtype == DType::f32 && !*a.residual && !*a.bias)) &&
         (!*a.residual || (a.residual->dtype == DType::bf16 && stride_of(*a.residual) == stride_of(*a.out))) && (!*a.bias || a.bias->dtype == DType::bf16);
}

template <class T, class Y, int kTokens> Status launch_decode_as(const LinearArgs& a, CudaContext& ctx) {
  using namespace sm90;
  using S = GemmDecodeShape<T, kTokens, 2>;
  const auto kernel = gemm_decode<T, Y, kTokens, 2>;
  static const bool ready = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSmem) == cudaSuccess;
  CUtensorMap wmap, xmap;
  if (!ready || !encode_rows(&wmap, a.weight->data, sizeof(T), a.n, a.k, stride_of(*a.weight), S::kTileRows, kBlockBytes) ||
      !encode_rows(&xmap, a.x->data, sizeof(T), a.m, a.k, stride_of(*a.x), kTokens, kBlockBytes)) {
    return Status::internal;
  }
  GemmDecodeArgs g{};
  g.m = static_cast<int>(a.m);
  g.n = static_cast<int>(a.n);
  g.k_blocks = static_cast<int>((a.k * sizeof(T) + kBlockBytes - 1) / kBlockBytes);
  g.tiles = static_cast<int>((a.n + S::kTileRows - 1) / S::kTileRows);
  if (a.weight_granularity != Granularity::none) g.w_scale = a.weight_scale->as<const float>();
  if (a.x_granularity != Granularity::none) g.x_scale = a.x_scale->as<const float>();
  g.w_scale_stride = a.weight_granularity == Granularity::row;
  g.x_scale_stride = a.x_granularity == Granularity::row;
  g.bias = a.bias->as<const __nv_bfloat16>();
  g.residual = a.residual->as<const __nv_bfloat16>();
  g.y = a.out->data;
  g.ldy = stride_of(*a.out);
  const int64_t units = static_cast<int64_t>(g.tiles) * g.k_blocks;
  const int blocks = static_cast<int>(units < ctx.device().sms ? units : ctx.device().sms);
  g.partial = static_cast<float*>(ctx.workspace(static_cast<size_t>(blocks) * 2 * 2 * (kTokens / 2) * 128 * sizeof(float)));
  g.arrivals = ctx.counters(static_cast<size_t>(g.tiles) * 2);
  if (g.partial == nullptr || g.arrivals == nullptr) return Status::out_of_memory;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = S::kSmem;
  config.stream = ctx.stream();
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, wmap, xmap, g) == cudaSuccess ? Status::ok : Status::internal;
}

template <class T, int kTokens> Status launch_decode(const LinearArgs& a, CudaContext& ctx) {
  return a.out->dtype == DType::f32 ? launch_decode_as<T, float, kTokens>(a, ctx) : launch_decode_as<T, __nv_bfloat16, kTokens>(a, ctx);
}

// One instance per token bucket; which one depends on M alone, and results do not depend on which.
template <class T> Status launch_decode_bucket(const LinearArgs& a, CudaContext& ctx) {
  if (a.m <= 8) return launch_decode<T, 8>(a, ctx);
  if (a.m <= 16) return launch_decode<T, 16>(a, ctx);
  if (a.m <= 32) return launch_decode<T, 32>(a, ctx);
  if (a.m <= 64) return launch_decode<T, 64>(a, ctx);
  return launch_decode<T, 128>(a, ctx);
}

}  // namespace octet::cuda
