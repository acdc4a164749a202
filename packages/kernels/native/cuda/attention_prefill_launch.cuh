// Launcher of attention_prefill for one cache type and head dimension.
#pragma once
#include "attention_prefill_sm90.cuh"
#include "attention_sm90.h"
#include "launch.cuh"

namespace octet::cuda {

// Heads of rows whose K and V fit in half of L2 together, in whole groups of query heads.
inline int64_t prefill_section(const AttentionArgs& a, int item) {
  const int64_t bytes = 2 * (a.max_kv > 0 ? a.max_kv : 1) * a.d * item, fit = (32 << 20) / bytes, pairs = a.sequences * a.heads;
  const int64_t heads = (fit > 1 ? fit : 1) * (a.heads / a.kv_heads);
  return heads < pairs ? heads : pairs;
}

template <class T, int D, int kN> Status launch_prefill_as(const AttentionArgs& a, CudaContext& ctx) {
  using namespace sm90;
  using S = PrefillShape<T, D, kN>;
  const auto kernel = attention_prefill<S>;
  static OncePerDevice ready;
  const int page_size = static_cast<int>(a.k->shape[2]);
  int box_shift = 4;
  while (box_shift < 6 && page_size % (2 << box_shift) == 0 && kN % (2 << box_shift) == 0) ++box_shift;
  CUtensorMap qmap, kmap, vmap;
  if (!allow_shared(ready, ctx, kernel, S::kSmem) || !encode_caches(a, S::kSpan, 1 << box_shift, &kmap, &vmap)) return Status::internal;
  if (!encode_rows(&qmap, a.q->data, 2, a.tokens, static_cast<int64_t>(a.heads) * D, a.q->row_stride, 64, 128)) return Status::internal;
  AttentionPrefillArgs p{};
  p.out = a.out->as<__nv_bfloat16>();
  p.ldo = a.out->row_stride;
  p.page_table = a.table->as<const int32_t>();
  p.cu_seqlens_q = a.cu_seqlens->as<const int32_t>();
  p.kv_lens = a.kv_lens->as<const int32_t>();
  p.bounds = attention_bounds(a, ctx);
  p.k_scale = a.k_scale;
  p.v_scale = a.v_scale;
  p.rows = static_cast<int>(a.sequences);
  p.heads = a.heads;
  p.kv_heads = a.kv_heads;
  p.group = a.heads / a.kv_heads;
  p.page_size = page_size;
  p.table_width = static_cast<int>(a.table->row_stride);
  p.causal = a.causal;
  p.window = static_cast<int>(a.window);
  p.scale = a.scale;
  p.softcap = a.softcap;
  p.tiles = static_cast<int>((a.max_q + S::kRows - 1) / S::kRows);
  p.section = static_cast<int>(prefill_section(a, sizeof(T)));
  p.items = static_cast<int>(p.tiles * a.sequences * a.heads);
  p.box_shift = box_shift;
  p.tickets = ctx.counters(2);
  if (p.tickets == nullptr) return Status::out_of_memory;
  const int blocks = p.items < ctx.device().sms ? p.items : ctx.device().sms;
  return launch_overlapped(ctx, kernel, dim3(static_cast<unsigned>(blocks)), S::kThreads, S::kSmem, qmap, kmap, vmap, p);
}

}  // namespace octet::cuda
