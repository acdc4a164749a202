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

// What a kernel holds the lengths and pages on the device against; whatever lies outside raises the fault word, and is not
// followed.
struct AttentionBounds {
  int tokens, pages, capacity;  // rows of q, pages of the cache, keys that a row of the page table can name
  int32_t* fault;

#ifdef __CUDACC__
  // Whether rows [begin, end) of q attend to `len` keys in bounds.
  __device__ __forceinline__ bool hold(int begin, int end, int len) const {
    return begin >= 0 && end >= begin && end <= tokens && len >= 0 && (end == begin || len <= capacity);
  }
  __device__ __forceinline__ void raise() const { *fault = static_cast<int32_t>(Status::bad_index); }
#endif
};

inline AttentionBounds attention_bounds(const AttentionArgs& a, CudaContext& ctx) {
  const int64_t capacity = a.table->cols() * a.k->shape[2], pages = a.k->shape[0] < a.v->shape[0] ? a.k->shape[0] : a.v->shape[0];
  return {static_cast<int>(a.tokens), static_cast<int>(pages), static_cast<int>(capacity < INT32_MAX ? capacity : INT32_MAX), ctx.fault_word()};
}

bool fits_decode_attention(const OpCall&, const DeviceInfo&);
Status launch_decode_attention(const OpCall&, CudaContext&);
bool fits_prefill_attention(const OpCall&, const DeviceInfo&);
Status launch_prefill_attention(const OpCall&, CudaContext&);
Status launch_attention_portable(const OpCall&, CudaContext&);

}  // namespace octet::cuda
