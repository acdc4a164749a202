// attentionDense: attention over K and V as they lie in memory, for sequences that are slices of packed rows
// Tensors  t0 q [Tq,H*D], t1 k [Tk,Hkv*D], t2 v, t3 startsQ i32[B], t4 lensQ i32[B], t5 startsKv i32[B], t6 lensKv i32[B],
//          t7 mask? u8 [B or 1,Sq,Sk] (1 = masked out), t8 out [Tq,H*D]; f32|bf16
// Attrs    a0 heads, a1 kvHeads, a2 headDim (even, <= 256), a3 scale, a4 causal 0 none 1 top-left 2 bottom-right,
//          a5 windowLeft, a6 windowRight (-1 none), a7 softcap (0 none)
// Masks    as native/cpu/attention_dense.cc
#include "attention_portable.cuh"

namespace octet::cuda {

template <class C> struct DenseSource {
  using Cache = C;
  struct Place {
    int64_t b, i;
  };
  Rows<const C> key_rows, value_rows;
  int64_t key_count, tokens, sequences, d;
  const int32_t *starts_q, *lens_q, *starts_kv, *lens_kv;
  const uint8_t* mask;
  int64_t mask_batches, mask_rows, mask_cols, mask_stride;
  int causal;
  int64_t left, right;

  __device__ int64_t rows() const { return tokens; }
  __device__ const C* k() const { return key_rows.data; }
  __device__ const C* v() const { return value_rows.data; }
  __device__ KeySpan span(int64_t row, Place* place) const {
    for (int64_t b = 0; b < sequences; ++b) {
      const int64_t i = row - starts_q[b], n = lens_q[b], len = lens_kv[b];
      if (i < 0 || i >= n) continue;
      *place = {b, i};
      const int64_t p = causal == 1 ? i : len - n + i;
      int64_t hi = len;
      if (causal != 0) hi = min(hi, p + 1);
      if (right >= 0) hi = min(hi, p + right + 1);
      return {left >= 0 ? max(static_cast<int64_t>(0), p - left) : 0, max(static_cast<int64_t>(0), hi)};
    }
    return {0, 0};
  }
  __device__ int64_t at(const Rows<const C>& rows, const Place& p, int64_t head, int64_t key) const {
    const int64_t row = starts_kv[p.b] + key;
    return row < 0 || row >= key_count ? -1 : row * rows.stride + head * d;
  }
  __device__ int64_t k_at(const Place& p, int64_t head, int64_t key) const { return at(key_rows, p, head, key); }
  __device__ int64_t v_at(const Place& p, int64_t head, int64_t key) const { return at(value_rows, p, head, key); }
  __device__ bool masked(const Place& p, int64_t key) const {
    if (mask == nullptr) return false;
    const int64_t b = mask_batches == 1 ? 0 : p.b;
    return b >= mask_batches || p.i >= mask_rows || key >= mask_cols || mask[(b * mask_rows + p.i) * mask_stride + key] != 0;
  }
};

// A slice outside q, k or the mask raises the fault word, as on the CPU.
static __global__ void check_slices(const int32_t* starts_q, const int32_t* lens_q, const int32_t* starts_kv, const int32_t* lens_kv, int64_t sequences, int64_t tokens, int64_t keys, int64_t mask_rows, int64_t mask_cols, bool masked, int32_t* fault) {
  const int64_t b = blockIdx.x * 256ll + threadIdx.x;
  if (b >= sequences) return;
  const int64_t sq = starts_q[b], nq = lens_q[b], sk = starts_kv[b], nk = lens_kv[b];
  const bool bad = sq < 0 || nq < 0 || sk < 0 || nk < 0 || sq + nq > tokens || sk + nk > keys || (masked && (nq > mask_rows || nk > mask_cols));
  if (bad) *fault = static_cast<int32_t>(Status::bad_index);
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &q = call.t[0], &k = call.t[1], &v = call.t[2], &mask = call.t[7], &out = call.t[8];
  const int heads = static_cast<int>(call.i(0)), kv_heads = static_cast<int>(call.i(1)), d = static_cast<int>(call.i(2));
  if (q.rows() * heads == 0) return Status::ok;
  if (d > 256 || k.dtype != v.dtype) return Status::unsupported;
  const int64_t sequences = call.t[3].cols();
  if (sequences > 0) {
    check_slices<<<blocks_for(sequences, 256), 256, 0, ctx.stream()>>>(call.t[3].as<const int32_t>(), call.t[4].as<const int32_t>(), call.t[5].as<const int32_t>(), call.t[6].as<const int32_t>(), sequences, q.rows(), k.rows(),
                                                                       mask.shape[1], mask.shape[2], static_cast<bool>(mask), ctx.fault_word());
  }
  const AttentionShape s{heads, kv_heads, d, call.f(3), call.f(7), nullptr, nullptr};
  return dispatch_compute(q.dtype, [&](auto xt) {
    return dispatch_compute(out.dtype, [&](auto yt) {
      return dispatch_compute(k.dtype, [&](auto ct) {
        using X = typename decltype(xt)::type;
        using Y = typename decltype(yt)::type;
        using C = typename decltype(ct)::type;
        const DenseSource<C> source{rows_of<const C>(k), rows_of<const C>(v), k.rows(), q.rows(), call.t[3].cols(), d, call.t[3].as<const int32_t>(), call.t[4].as<const int32_t>(),
                                    call.t[5].as<const int32_t>(), call.t[6].as<const int32_t>(), mask.as<const uint8_t>(), mask.shape[0], mask.shape[1], mask.shape[2],
                                    mask.row_stride, static_cast<int>(call.i(4)), call.i(5), call.i(6)};
        attention_rows<DenseSource<C>, X, Y><<<attention_grid(heads, q.rows()), kAttentionThreads, 0, ctx.stream()>>>(rows_of<const X>(q), rows_of<Y>(out), source, s, ctx.fault_word());
        return launched();
      });
    });
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(attentionDense, kRows)
