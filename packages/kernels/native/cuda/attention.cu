// attention: out[t,h,:] = softmax_j(cap(q[t,h,:] . k[j] * scale)) v[j] over a paged cache, for packed sequences
// Tensors  t0 q [T,H*D], t1 kCache [pages,Hkv,pageSize,D], t2 vCache, t3 pageTable i32[B,P], t4 cuSeqlensQ i32[B+1],
//          t5 kvLens i32[B] (these queries included), t6 out [T,H*D], t7 kScaleInv? f32[Hkv], t8 vScaleInv? f32[Hkv]
// Attrs    a0 heads, a1 kvHeads, a2 headDim, a3 scale, a4 causal, a5 window (0 none), a6 softcap (0 none), a7 maxSeqlenQ,
//          a8 maxSeqlenKv: both static bounds, so the choice and the grid do not depend on the lengths on the device
#include "attention_args.h"
#include "attention_sm90.h"

namespace octet::cuda {

Status launch_decode_bf16_cache(const AttentionArgs&, CudaContext&);
Status launch_decode_e4m3_cache(const AttentionArgs&, CudaContext&);
Status launch_cluster_bf16_cache(const AttentionArgs&, CudaContext&);
Status launch_cluster_e4m3_cache(const AttentionArgs&, CudaContext&);
Status launch_prefill_bf16_cache(const AttentionArgs&, CudaContext&);
Status launch_prefill_e4m3_cache(const AttentionArgs&, CudaContext&);

// One query token per sequence: then row b of q is sequence b.
bool fits_decode_attention(const OpCall& call, const DeviceInfo&) {
  const AttentionArgs a = attention_args(call);
  return attention_sm90_fits(a) && a.max_q == 1 && a.tokens == a.sequences && a.heads / a.kv_heads <= 8 && a.sequences <= 1024 && a.max_kv > 0;
}
Status launch_decode_attention(const OpCall& call, CudaContext& ctx) {
  const AttentionArgs a = attention_args(call);
  if (a.tokens == 0) return Status::ok;
  return a.k->dtype == DType::bf16 ? launch_decode_bf16_cache(a, ctx) : launch_decode_e4m3_cache(a, ctx);
}

// So few rows and heads that a cluster of eight blocks for each leaves multiprocessors idle.
bool fits_cluster_attention(const OpCall& call, const DeviceInfo& device) {
  const AttentionArgs a = attention_args(call);
  return a.sequences * a.kv_heads * 8 <= device.sms && fits_decode_attention(call, device);
}
Status launch_cluster_attention(const OpCall& call, CudaContext& ctx) {
  const AttentionArgs a = attention_args(call);
  if (a.tokens == 0) return Status::ok;
  return a.k->dtype == DType::bf16 ? launch_cluster_bf16_cache(a, ctx) : launch_cluster_e4m3_cache(a, ctx);
}

bool fits_prefill_attention(const OpCall& call, const DeviceInfo& device) {
  const AttentionArgs a = attention_args(call);
  return device.arch == 90 && attention_sm90_fits(a) && a.max_q > 0 && a.sequences > 0 && (a.max_q / 128 + 1) * a.sequences * a.heads <= INT32_MAX / 2;
}
Status launch_prefill_attention(const OpCall& call, CudaContext& ctx) {
  const AttentionArgs a = attention_args(call);
  if (a.tokens == 0) return Status::ok;
  return a.k->dtype == DType::bf16 ? launch_prefill_bf16_cache(a, ctx) : launch_prefill_e4m3_cache(a, ctx);
}

static const Variant kRows[] = {
    {"decode_cluster_sm90", kSm90, fits_cluster_attention, launch_cluster_attention},
    {"decode_sm90", kSm90, fits_decode_attention, launch_decode_attention},
    {"prefill_sm90", kSm90, fits_prefill_attention, launch_prefill_attention},
    {"portable", kAnyArch, always, launch_attention_portable},
};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(attention, kRows)
