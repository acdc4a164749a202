// kvAppend: kCache[page, h, slot, :] = k[t,h,:] and the same for v, where position p = positions[t] of sequence row
//           b = rowOf[t] lies in page = pageTable[b, p / pageSize], slot = p % pageSize; p < 0 skips the token
// Tensors  t0 k [T,Hkv*D] f32|bf16, t1 v, t2 kCache [pages,Hkv,pageSize,D] f32|bf16|e4m3, t3 vCache, t4 pageTable i32[B,P],
//          t5 rowOf i32[T], t6 positions i32[T], t7 kScaleInv? f32[Hkv], t8 vScaleInv? f32[Hkv]
// Attrs    a0 kvHeads, a1 headDim
// Values   stored = round(x * (1 / scaleInv[h])), saturating to e4m3
// Traffic  k, v once; their cache rows once.   Fails with bad_index where p, b or the page lies outside
#include "rope_rows.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_kvAppend(const OpCall& call, Context& ctx) {
  const TensorArg &k = call.t[0], &v = call.t[1], &table = call.t[4], &row_of = call.t[5], &positions = call.t[6];
  const PagedCache keys{&call.t[2], &table, call.t[7] ? &call.t[7] : nullptr};
  const PagedCache values{&call.t[3], &table, call.t[8] ? &call.t[8] : nullptr};
  const int64_t heads = call.i(0), d = call.i(1);
  if (!is_activation(k.dtype) || !is_activation(v.dtype)) return Status::unsupported;
  if (!is_cache(keys.cache->dtype) || !is_cache(values.cache->dtype)) return Status::unsupported;
  Fault fault;
  const Status status = for_rows(ctx, k.rows() * heads, d, [&](int64_t i, float* row) {
    const int64_t t = i / heads, h = i % heads;
    const int64_t p = positions.as<const int32_t>()[t], b = row_of.as<const int32_t>()[t];
    if (p < 0) return;
    load_row(k, t, h * d, d, row);
    Status s = write_token(keys, b, p, h, row);
    if (s == Status::ok) {
      load_row(v, t, h * d, d, row);
      s = write_token(values, b, p, h, row);
    }
    if (s != Status::ok) fault.set(s);
  });
  return status != Status::ok ? status : fault.finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
