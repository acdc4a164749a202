// ropeKvAppend: qkv[t] = Q | K | V. qOut[t] = rope(Q); rope(K) and V go to the cache as kvAppend writes them
// Tensors  t0 qkv [T,(H+2Hkv)*D] f32|bf16, t1 positions i32[T] (angles), t2 cos f32[P,D/2], t3 sin f32[P,D/2],
//          t4 qOut [T,H*D] f32|bf16, t5 kCache [pages,Hkv,pageSize,D] f32|bf16|e4m3, t6 vCache, t7 pageTable i32[B,P],
//          t8 rowOf i32[T], t9 cachePositions i32[T] (< 0: the token is not stored), t10 qNorm? [D], t11 kNorm? [D],
//          t12 kScaleInv? f32[Hkv], t13 vScaleInv? f32[Hkv]
// Attrs    a0 heads, a1 kvHeads, a2 headDim, a3 interleaved, a4 eps, a5 zeroCenteredGamma, a6 castBeforeWeight
// Values   equal to the bit to rope on Q and K (K rounded to qkv's dtype only if the cache has that dtype) and kvAppend
// Traffic  qkv once; qOut and the cache rows once.   Fails with bad_index as rope and kvAppend do
#include "rope_rows.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_ropeKvAppend(const OpCall& call, Context& ctx) {
  const TensorArg &qkv = call.t[0], &positions = call.t[1], &cosine = call.t[2], &sine = call.t[3], &q_out = call.t[4];
  const TensorArg &table = call.t[7], &row_of = call.t[8], &cache_positions = call.t[9];
  const PagedCache keys{&call.t[5], &table, call.t[12] ? &call.t[12] : nullptr};
  const PagedCache values{&call.t[6], &table, call.t[13] ? &call.t[13] : nullptr};
  const int64_t heads = call.i(0), kv_heads = call.i(1), d = call.i(2), all = heads + 2 * kv_heads;
  const bool interleaved = call.b(3);
  const float eps = call.f(4);
  const NormWeight q_norm{&call.t[10], nullptr, call.b(5), call.b(6), qkv.dtype};
  const NormWeight k_norm{&call.t[11], nullptr, call.b(5), call.b(6), qkv.dtype};
  if (!is_activation(qkv.dtype) || !is_activation(q_out.dtype)) return Status::unsupported;
  if (!is_cache(keys.cache->dtype) || !is_cache(values.cache->dtype)) return Status::unsupported;
  Fault fault;
  const Status status = for_rows(ctx, qkv.rows() * all, d, [&](int64_t i, float* row) {
    const int64_t t = i / all, h = i % all;
    const int64_t b = row_of.as<const int32_t>()[t], slot = cache_positions.as<const int32_t>()[t];
    if (h >= heads && slot < 0) return;
    load_row(qkv, t, h * d, d, row);
    if (h >= heads + kv_heads) {
      const Status s = write_token(values, b, slot, h - heads - kv_heads, row);
      return s != Status::ok ? fault.set(s) : void();
    }
    const int64_t p = positions.as<const int32_t>()[t];
    if (!in_range(p, cosine.rows())) return fault.set(Status::bad_index);
    const NormWeight& norm = h < heads ? q_norm : k_norm;
    if (*norm.weight) norm_head(row, d, eps, norm);
    rotate(row, d, cosine.as<const float>() + p * cosine.row_stride, sine.as<const float>() + p * sine.row_stride, interleaved);
    if (h < heads) {
      store_row(q_out, t, h * d, d, row);
    } else {
      const Status s = write_token(keys, b, slot, h - heads, row);
      if (s != Status::ok) fault.set(s);
    }
  });
  return status != Status::ok ? status : fault.finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
