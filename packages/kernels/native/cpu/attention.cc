// attention: out[t,h,:] = softmax_j(cap(q[t,h,:] . k[j] * scale)) v[j] over a paged cache, for packed sequences
// Tensors  t0 q [T,H*D] f32|bf16, t1 kCache [pages,Hkv,pageSize,D] f32|bf16|e4m3, t2 vCache, t3 pageTable i32[B,P],
//          t4 cuSeqlensQ i32[B+1], t5 kvLens i32[B] (tokens in the cache, these queries included), t6 out [T,H*D] f32|bf16,
//          t7 kScaleInv? f32[Hkv], t8 vScaleInv? f32[Hkv]
// Attrs    a0 heads, a1 kvHeads, a2 headDim (even, <= 256), a3 scale, a4 causal, a5 window W (0 none), a6 softcap (0 none),
//          a7 maxSeqlenQ, a8 maxSeqlenKv (both unused here: the lengths themselves are at hand)
// Masks    query i of a sequence stands at p = kvLen - qLen + i; key j counts when j <= p (causal) and j > p - W (window).
//          Rows that see no key, and rows of q outside every sequence, are 0
// Values   float32 from load to store, one rounding; a score of +infinity or NaN makes its row NaN
// Order    chunks of 256 keys by absolute position, joined in order: a row's result is the same to the bit whatever the
//          batch, the prefill's chunks, padding, page size and thread count (attention_chunk.h)
// Traffic  K and V of a sequence once for each 48 query rows; decode once.   Fails with bad_index for a page or length outside
#include "attention_plan.h"
#include "rope_rows.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
template <class T> struct PagedSource {
  PagedCache k, v;
  const int32_t* cu_seqlens;
  const int32_t* kv_lens;
  int64_t count;
  bool causal;
  int64_t window;

  int64_t sequences() const { return count; }
  Sequence sequence(int64_t b) const { return {cu_seqlens[b], int64_t{cu_seqlens[b + 1]} - cu_seqlens[b], kv_lens[b]}; }
  Span keys_of(const Sequence& s, int64_t i) const {
    const int64_t p = s.kv_len - s.q_len + i;
    return {window > 0 ? max_of<int64_t>(0, p - window + 1) : 0, causal ? max_of<int64_t>(0, p + 1) : s.kv_len};
  }
  bool rows(int64_t b, int64_t head, int64_t begin, int64_t end, const void** kp, const void** vp) const {
    const int64_t size = k.page_size(), step = k.cache->row_stride, v_step = v.cache->row_stride;
    for (int64_t p = begin; p < end;) {
      const int64_t page = k.page_of(b, p), stop = min_of(end, (p / size + 1) * size);
      if (page < 0 || !in_range(page, v.cache->shape[0])) return false;
      const T* kr = k.cache->as<const T>() + k.offset(page, head, p % size);
      const T* vr = v.cache->as<const T>() + v.offset(page, head, p % size);
      for (; p < stop; ++p, kr += step, vr += v_step) {
        *kp++ = kr;
        *vp++ = vr;
      }
    }
    return true;
  }
  const uint8_t* mask(int64_t, int64_t) const { return nullptr; }
};
}  // namespace

Status op_attention(const OpCall& call, Context& ctx) {
  const TensorArg &table = call.t[3], &lens = call.t[5];
  const int64_t d = call.i(2);
  const AttentionCall c{call.t[0], call.t[6], call.t[7].as<const float>(), call.t[8].as<const float>(), call.i(0), call.i(1),
                        call.f(3), {d, round_up(d, kLanes), call.f(6)}};
  const PagedCache k{&call.t[1], &table, nullptr}, v{&call.t[2], &table, nullptr};
  if (!attention_supports(c) || k.cache->dtype != v.cache->dtype || !is_cache(k.cache->dtype)) return Status::unsupported;
  const auto run = [&]<class T>(T*) {
    const PagedSource<T> source{k, v, call.t[4].as<const int32_t>(), lens.as<const int32_t>(), lens.cols(), call.b(4), call.i(5)};
    return Attention<T, PagedSource<T>>(ctx, c, source).run();
  };
  switch (k.cache->dtype) {
    case DType::f32: return run(static_cast<float*>(nullptr));
    case DType::bf16: return run(static_cast<bf16*>(nullptr));
    default: return run(static_cast<e4m3*>(nullptr));
  }
}

}  // namespace octet::cpu::OCTET_LEVEL
