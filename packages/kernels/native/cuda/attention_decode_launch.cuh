// Launcher of attention_decode for one cache type and head dimension.
#pragma once
#include "attention_cluster_sm90.cuh"
#include "attention_sm90.h"
#include "launch.cuh"

namespace octet::cuda {

// Few rows and heads: shorter chunks, for about as many warps as SMs. Static, so a row's result does not depend on its
// batch-mates.
inline int shortest_chunk(const AttentionArgs& a, CudaContext& ctx) {
  int chunk = sm90::kChunk;
  while (chunk > sm90::kLeastChunk && a.sequences * a.kv_heads * (sm90::kChunk / chunk) < ctx.device().sms) chunk /= 2;
  return chunk;
}

inline sm90::AttentionDecodeArgs decode_args(const AttentionArgs& a, CudaContext& ctx) {
  sm90::AttentionDecodeArgs d{};
  d.q = a.q->as<const __nv_bfloat16>();
  d.out = a.out->as<__nv_bfloat16>();
  d.ldq = a.q->row_stride;
  d.ldo = a.out->row_stride;
  d.page_table = a.table->as<const int32_t>();
  d.cu_seqlens_q = a.cu_seqlens->as<const int32_t>();
  d.kv_lens = a.kv_lens->as<const int32_t>();
  d.k_scale = a.k_scale;
  d.v_scale = a.v_scale;
  d.rows = static_cast<int>(a.sequences);
  d.heads = a.heads;
  d.kv_heads = a.kv_heads;
  d.group = a.heads / a.kv_heads;
  d.page_size = static_cast<int>(a.k->shape[2]);
  d.table_width = static_cast<int>(a.table->row_stride);
  d.window = static_cast<int>(a.window);
  d.scale = a.scale;
  d.softcap = a.softcap;
  d.bounds = attention_bounds(a, ctx);
  if (a.max_kv < d.bounds.capacity) d.bounds.capacity = static_cast<int>(a.max_kv);
  return d;
}

template <class T, int D, int kMost> Status launch_decode_with(const AttentionArgs& a, CudaContext& ctx) {
  using namespace sm90;
  using S = AttnShape<T, D, kMost>;
  const auto kernel = attention_decode<T, D, kMost>;
  static OncePerDevice ready;
  CUtensorMap kmap, vmap;
  if (!allow_shared(ready, ctx, kernel, S::kSmem) || !encode_caches(a, S::kSpan, kTileTokens, &kmap, &vmap)) return Status::internal;
  AttentionDecodeArgs d = decode_args(a, ctx);
  d.chunk = shortest_chunk(a, ctx);
  const int64_t most = (a.max_kv + d.chunk - 1) / d.chunk, least = (a.max_kv + kChunk - 1) / kChunk;
  d.max_chunks = static_cast<int>(most > 64 ? (least > 64 ? least : 64) : most);
  const size_t pieces = static_cast<size_t>(d.rows) * d.kv_heads * d.max_chunks * d.group;
  auto* const workspace = static_cast<float*>(ctx.workspace(pieces * (D * sizeof(float) + sizeof(float2))));
  d.partial_ml = reinterpret_cast<float2*>(workspace);
  d.partial = workspace + pieces * 2;
  d.arrivals = ctx.counters(static_cast<size_t>(d.rows) * d.kv_heads);
  if (workspace == nullptr || d.arrivals == nullptr) return Status::out_of_memory;
  return launch_overlapped(ctx, kernel, dim3(static_cast<unsigned>(ctx.device().sms)), S::kWarps * 32, S::kSmem, kmap, vmap, d);
}

template <class T, int D> Status launch_decode_as(const AttentionArgs& a, CudaContext& ctx) {
  return shortest_chunk(a, ctx) < sm90::kChunk ? launch_decode_with<T, D, 4>(a, ctx) : launch_decode_with<T, D, 12>(a, ctx);
}

// One block of the cluster kernel an SM, and what it leaves of the SM's memory to L1: the products before and after it keep
// their loads in flight there, and take twice as long where the driver makes room for two blocks.
template <class T, int D> Status launch_cluster_as(const AttentionArgs& a, CudaContext& ctx) {
  using namespace sm90;
  using S = ClusterShape<T, D>;
  const auto kernel = attention_cluster<T, D>;
  static OncePerDevice ready;
  CUtensorMap kmap, vmap;
  if (!allow_shared(ready, ctx, kernel, S::kSmem) || !encode_caches(a, S::kSpan, kTileTokens, &kmap, &vmap)) return Status::internal;
  constexpr int kSmMemory = 228 * 1024, kBlockOwn = 2 * 1024;  // of sm_90; what a block takes beside its dynamic memory
  const LaunchHints hints{ctx.overlaps(), (S::kSmem + kBlockOwn) * 100 / kSmMemory + 1};
  const unsigned blocks = static_cast<unsigned>(a.sequences * a.kv_heads) * kClusterBlocks;
  return launch_on(ctx.stream(), hints, kernel, dim3(blocks), kClusterWarps * 32, S::kSmem, kmap, vmap, decode_args(a, ctx));
}

}  // namespace octet::cuda
