// attention over the paged cache, portable row: attention_portable.cuh with the page table as its source.
#include "attention_args.h"
#include "attention_portable.cuh"
#include "rope_rows.cuh"

namespace octet::cuda {

template <class C> struct PagedSource {
  using Cache = C;
  struct Place {
    int64_t b;
  };
  PagedCache kc, vc;
  PageTable table;
  const int32_t* cu_seqlens;
  const int32_t* kv_lens;
  int64_t sequences, window;
  bool causal;
  AttentionBounds bounds;

  __device__ int64_t rows() const { return bounds.tokens; }
  __device__ const C* k() const { return static_cast<const C*>(kc.data); }
  __device__ const C* v() const { return static_cast<const C*>(vc.data); }
  __device__ KeySpan span(int64_t row, Place* place) const {
    if (sequences == 0 || row < cu_seqlens[0] || row >= cu_seqlens[sequences]) return {0, 0};
    int64_t lo = 0, hi = sequences - 1;
    while (lo < hi) {
      const int64_t mid = (lo + hi) / 2;
      if (cu_seqlens[mid + 1] > row) hi = mid; else lo = mid + 1;
    }
    place->b = lo;
    const int begin = cu_seqlens[lo], end = cu_seqlens[lo + 1];
    const int64_t len = kv_lens[lo], p = len - (end - begin) + row - begin;
    if (row < begin || !bounds.hold(begin, end, kv_lens[lo])) return {0, 0};  // check_lengths reports it
    return {window > 0 && p - window + 1 > 0 ? p - window + 1 : 0, causal ? (p + 1 > 0 ? p + 1 : 0) : len};
  }
  __device__ int64_t k_at(const Place& p, int64_t head, int64_t key) const { return cache_row(kc, table, p.b, key, head); }
  __device__ int64_t v_at(const Place& p, int64_t head, int64_t key) const { return cache_row(vc, table, p.b, key, head); }
  __device__ bool masked(const Place&, int64_t) const { return false; }
};

static __global__ void check_lengths(const int32_t* cu_seqlens, const int32_t* kv_lens, int64_t sequences, AttentionBounds bounds) {
  const int64_t b = blockIdx.x * 256ll + threadIdx.x;
  if (b < sequences && !bounds.hold(cu_seqlens[b], cu_seqlens[b + 1], kv_lens[b])) bounds.raise();
}

Status launch_attention_portable(const OpCall& call, CudaContext& ctx) {
  const AttentionArgs a = attention_args(call);
  if (a.tokens * a.heads == 0) return Status::ok;
  if (a.d > 256 || a.k->dtype != a.v->dtype) return Status::unsupported;
  const AttentionBounds bounds = attention_bounds(a, ctx);
  const auto *const cu_seqlens = a.cu_seqlens->as<const int32_t>(), *const kv_lens = a.kv_lens->as<const int32_t>();
  if (a.sequences > 0) check_lengths<<<blocks_for(a.sequences, 256), 256, 0, ctx.stream()>>>(cu_seqlens, kv_lens, a.sequences, bounds);
  const AttentionShape s{a.heads, a.kv_heads, a.d, a.scale, a.softcap, a.k_scale, a.v_scale};
  const TensorArg none;
  return dispatch_compute(a.q->dtype, [&](auto xt) {
    return dispatch_compute(a.out->dtype, [&](auto yt) {
      return dispatch_cache(a.k->dtype, [&](auto ct) {
        using X = typename decltype(xt)::type;
        using Y = typename decltype(yt)::type;
        using C = typename decltype(ct)::type;
        const PagedSource<C> source{cache_of(*a.k, none), cache_of(*a.v, none), table_of(*a.table), cu_seqlens, kv_lens, a.sequences, a.window, a.causal, bounds};
        attention_rows<PagedSource<C>, X, Y><<<attention_grid(a.heads, a.tokens), kAttentionThreads, 0, ctx.stream()>>>(rows_of<const X>(*a.q), rows_of<Y>(*a.out), source, s, ctx.fault_word());
        return launched();
      });
    });
  });
}

}  // namespace octet::cuda
