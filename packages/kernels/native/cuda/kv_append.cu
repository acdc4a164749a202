// kvAppend: kCache[page, h, slot, :] = k[t,h,:] and the same for v, where position p = positions[t] of sequence row
//           b = rowOf[t] lies in page = pageTable[b, p / pageSize], slot = p % pageSize; p < 0 skips the token
// Tensors  t0 k [T,Hkv*D] f32|bf16, t1 v, t2 kCache [pages,Hkv,pageSize,D] f32|bf16|e4m3, t3 vCache, t4 pageTable i32[B,P],
//          t5 rowOf i32[T], t6 positions i32[T], t7 kScaleInv? f32[Hkv], t8 vScaleInv? f32[Hkv]; D even, <= 256
// Attrs    a0 kvHeads, a1 headDim
// Traffic  k, v once; their cache rows once.   A place outside table or cache raises the fault word
// Launch   a warp per head of k and of v, 8 per block
#include "rope_rows.cuh"

namespace octet::cuda {

template <class X, class C>
__global__ void __launch_bounds__(kHeadWarps * 32)
    kv_append(Rows<const X> k, Rows<const X> v, PagedCache kc, PagedCache vc, PageTable table, const int32_t* row_of, const int32_t* positions, int64_t tokens, int heads, HeadShape s, int32_t* fault) {
  const uint32_t i = blockIdx.x * kHeadWarps + (threadIdx.x >> 5);  // 32 bits: a 64-bit division is a call that spills
  if (i >= tokens * heads * 2) return;
  const int64_t t = i / (heads * 2);
  const int h = static_cast<int>(i % (heads * 2));
  if (positions[t] < 0) return;
  const bool key = h < heads;
  const int head = key ? h : h - heads;
  write_head<C>(key ? kc : vc, table, row_of[t], positions[t], head, load_head((key ? k[t] : v[t]) + head * s.d, s), s, fault);
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &k = call.t[0], &v = call.t[1], &kc = call.t[2];
  const int heads = static_cast<int>(call.i(0)), d = static_cast<int>(call.i(1));
  if (k.rows() * heads == 0) return Status::ok;
  if (d > 64 * kPairs || k.dtype != v.dtype || kc.dtype != call.t[3].dtype) return Status::unsupported;
  return dispatch_compute(k.dtype, [&](auto xt) {
    return dispatch_cache(kc.dtype, [&](auto ct) {
      using X = typename decltype(xt)::type;
      using C = typename decltype(ct)::type;
      kv_append<X, C><<<blocks_for(k.rows() * heads * 2, kHeadWarps, INT32_MAX), kHeadWarps * 32, 0, ctx.stream()>>>(
          rows_of<const X>(k), rows_of<const X>(v), cache_of(kc, call.t[7]), cache_of(call.t[3], call.t[8]), table_of(call.t[4]), call.t[5].as<const int32_t>(),
          call.t[6].as<const int32_t>(), k.rows(), heads, HeadShape{d, d / 2, false}, ctx.fault_word());
      return launched();
    });
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(kvAppend, kRows)
