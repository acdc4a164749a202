// The arguments of an attention call by name (native/cpu/attention.cc has the contract) and its variants' launchers.
#pragma once
#include "context.h"

namespace octet::cuda {

struct AttentionArgs {
  const TensorArg *q, *k, *v, *table, *cu_seqlens, *kv_lens, *out;
  const float *k_scale, *v_scale;
  int heads, kv_heads, d;
  float scale, softcap;
  bool causal;
  int64_t window, max_q, max_kv, tokens, sequences;
};

inline AttentionArgs attention_args(const OpCall& c) {
  return {&c.t[0], &c.t[1], &c.t[2], &c.t[3], &c.t[4], &c.t[5], &c.t[6], c.t[7].as<const float>(), c.t[8].as<const float>(),
          static_cast<int>(c.i(0)), static_cast<int>(c.i(1)), static_cast<int>(c.i(2)), c.f(3), c.f(6), c.b(4), c.i(5), c.i(7), c.i(8),
          c.t[0].rows(), c.t[5].cols()};
}

bool fits_decode_attention(const OpCall&, const DeviceInfo&);
Status launch_decode_attention(const OpCall&, CudaContext&);
bool fits_prefill_attention(const OpCall&, const DeviceInfo&);
Status launch_prefill_attention(const OpCall&, CudaContext&);
Status launch_attention_portable(const OpCall&, CudaContext&);

}  // namespace octet::cuda
