// ropeKvAppend: qkv[t] = Q | K | V. qOut[t] = rope(Q); rope(K) and V go to the cache as kvAppend writes them
// Tensors  t0 qkv [T,(H+2Hkv)*D] f32|bf16, t1 positions i32[T] (angles), t2 cos f32[P,D/2], t3 sin f32[P,D/2],
//          t4 qOut [T,H*D] f32|bf16, t5 kCache [pages,Hkv,pageSize,D] f32|bf16|e4m3, t6 vCache, t7 pageTable i32[B,P],
//          t8 rowOf i32[T], t9 cachePositions i32[T] (< 0: the token is not stored), t10 qNorm? [D], t11 kNorm? [D],
//          t12 kScaleInv? f32[Hkv], t13 vScaleInv? f32[Hkv]; D even, <= 256
// Attrs    a0 heads, a1 kvHeads, a2 headDim, a3 interleaved, a4 eps, a5 zeroCenteredGamma, a6 castBeforeWeight
// Traffic  qkv once; qOut and the cache rows once.  Floor T=64, Gemma-7B: 3 MB, launch-bound
// Launch   a warp per head, 8 per block; starts before the previous kernel has ended
#include "launch.cuh"
#include "rope_rows.cuh"

namespace octet::cuda {

struct Angles {
  const int32_t* positions;
  Rows<const float> cosine, sine;
  int64_t count;
};

template <class X, class Y, class C>
__global__ void __launch_bounds__(kHeadWarps * 32)
    rope_kv_append(Rows<const X> qkv, Angles angles, Rows<Y> q_out, PagedCache kc, PagedCache vc, PageTable table, const int32_t* row_of, const int32_t* cache_positions, int64_t tokens, int heads, int kv_heads, HeadShape s, HeadNorm q_norm, HeadNorm k_norm, int32_t* fault) {
  overlap_wait();
  const int all = heads + 2 * kv_heads;
  const uint32_t i = blockIdx.x * kHeadWarps + (threadIdx.x >> 5);  // 32 bits: a 64-bit division is a call that spills
  if (i >= tokens * all) return;
  const int64_t t = i / all, slot = cache_positions[t];
  const int h = static_cast<int>(i % all);
  if (h >= heads && slot < 0) return;
  Head v = load_head(qkv[t] + static_cast<int64_t>(h) * s.d, s);
  if (h >= heads + kv_heads) return write_head<C>(vc, table, row_of[t], slot, h - heads - kv_heads, v, s, fault);
  const int64_t p = angles.positions[t];
  if (p < 0 || p >= angles.count) {
    *fault = static_cast<int32_t>(Status::bad_index);
    return;
  }
  norm_head<X>(v, s, h < heads ? q_norm : k_norm);
  rotate(v, s, angles.cosine[p], angles.sine[p]);
  if (h < heads) store_head<Y>(q_out[t] + static_cast<int64_t>(h) * s.d, v, s);
  else write_head<C>(kc, table, row_of[t], slot, h - heads, v, s, fault);
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &qkv = call.t[0], &cosine = call.t[2], &q_out = call.t[4], &kc = call.t[5], &q_norm = call.t[10], &k_norm = call.t[11];
  const int heads = static_cast<int>(call.i(0)), kv_heads = static_cast<int>(call.i(1)), d = static_cast<int>(call.i(2)), all = heads + 2 * kv_heads;
  if (qkv.rows() * all == 0) return Status::ok;
  if (d > 64 * kPairs || kc.dtype != call.t[6].dtype) return Status::unsupported;
  const float eps = call.f(4), gamma0 = call.b(5) ? 1.f : 0.f;
  const HeadNorm qn{q_norm.data, q_norm.dtype == DType::f32, call.b(6), eps, gamma0}, kn{k_norm.data, k_norm.dtype == DType::f32, call.b(6), eps, gamma0};
  const Angles angles{call.t[1].as<const int32_t>(), rows_of<const float>(cosine), rows_of<const float>(call.t[3]), cosine.rows()};
  return dispatch_compute(qkv.dtype, [&](auto xt) {
    return dispatch_compute(q_out.dtype, [&](auto yt) {
      return dispatch_cache(kc.dtype, [&](auto ct) {
        using X = typename decltype(xt)::type;
        using Y = typename decltype(yt)::type;
        using C = typename decltype(ct)::type;
        return launch_overlapped(ctx, rope_kv_append<X, Y, C>, dim3(blocks_for(qkv.rows() * all, kHeadWarps, INT32_MAX)), kHeadWarps * 32, 0, rows_of<const X>(qkv), angles, rows_of<Y>(q_out), cache_of(kc, call.t[12]), cache_of(call.t[6], call.t[13]), table_of(call.t[7]), call.t[8].as<const int32_t>(),
            call.t[9].as<const int32_t>(), qkv.rows(), heads, kv_heads, HeadShape{d, d / 2, call.b(3)}, qn, kn, ctx.fault_word());
      });
    });
  });
}

static const Variant kRows[] = {{"portable", 80, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(ropeKvAppend, kRows)
