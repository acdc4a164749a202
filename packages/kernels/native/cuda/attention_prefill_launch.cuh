// Launcher of attention_prefill for one cache type and head dimension.
#pragma once
#include "attention_prefill_sm90.cuh"
#include "attention_sm90.h"

namespace octet::cuda {

template <class T, int D> Status launch_prefill_as(const AttentionArgs& a, CudaContext& ctx) {
  using namespace sm90;
  using S = PrefillShape<T, D>;
  const auto kernel = attention_prefill<T, D>;
  static const bool ready = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSmem) == cudaSuccess;
  CUtensorMap kmap, vmap;
  if (!ready || !encode_caches(a, S::kSpan, &kmap, &vmap)) return Status::internal;
  AttentionPrefillArgs p{};
  p.q = a.q->as<const __nv_bfloat16>();
  p.out = a.out->as<__nv_bfloat16>();
  p.ldq = a.q->row_stride;
  p.ldo = a.out->row_stride;
  p.page_table = a.table->as<const int32_t>();
  p.cu_seqlens_q = a.cu_seqlens->as<const int32_t>();
  p.kv_lens = a.kv_lens->as<const int32_t>();
  p.bounds = attention_bounds(a, ctx);
  p.k_scale = a.k_scale;
  p.v_scale = a.v_scale;
  p.kv_heads = a.kv_heads;
  p.group = a.heads / a.kv_heads;
  p.page_size = static_cast<int>(a.k->shape[2]);
  p.table_width = static_cast<int>(a.table->row_stride);
  p.causal = a.causal;
  p.window = static_cast<int>(a.window);
  p.scale = a.scale;
  p.softcap = a.softcap;
  const dim3 grid(static_cast<unsigned>((a.max_q + S::kRows - 1) / S::kRows), static_cast<unsigned>(a.heads), static_cast<unsigned>(a.sequences));
  kernel<<<grid, S::kWarps * 32, S::kSmem, ctx.stream()>>>(kmap, vmap, p);
  return launched();
}

}  // namespace octet::cuda
