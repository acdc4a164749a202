// attentionDense: attention over K and V as they lie in memory, for sequences that are slices of packed rows
// Tensors  t0 q [Tq,H*D] f32|bf16, t1 k [Tk,Hkv*D] f32|bf16, t2 v [Tk,Hkv*D] of k's dtype, t3 startsQ i32[B], t4 lensQ i32[B],
//          t5 startsKv i32[B], t6 lensKv i32[B], t7 mask? u8 [B or 1,Sq,Sk] (1 = masked out), t8 out [Tq,H*D] f32|bf16
// Attrs    a0 heads, a1 kvHeads, a2 headDim (even, <= 256), a3 scale, a4 causal 0 none 1 top-left 2 bottom-right,
//          a5 windowLeft, a6 windowRight (-1 none), a7 softcap (0 none)
// Masks    query i stands at p = i for top-left, else at p = lenKv - lenQ + i; key j counts when j <= p (causal),
//          j >= p - windowLeft, j <= p + windowRight and mask[b,i,j] is 0. Rows that see no key, and rows of q outside every
//          sequence, are 0
// Values, order and traffic as attention's.   Fails with bad_index for a slice outside q, k or the mask
#include "attention_plan.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
template <class T> struct DenseSource {
  const OpCall& call;
  int64_t d;

  int64_t number(int tensor, int64_t b) const { return call.t[tensor].as<const int32_t>()[b]; }

  int64_t sequences() const { return call.t[3].cols(); }
  Sequence sequence(int64_t b) const { return {number(3, b), number(4, b), number(6, b)}; }
  Span keys_of(const Sequence& s, int64_t i) const {
    const int64_t causal = call.i(4), left = call.i(5), right = call.i(6);
    const int64_t p = causal == 1 ? i : s.kv_len - s.q_len + i;
    int64_t hi = s.kv_len;
    if (causal != 0) hi = min_of(hi, p + 1);
    if (right >= 0) hi = min_of(hi, p + right + 1);
    return {left >= 0 ? max_of<int64_t>(0, p - left) : 0, max_of<int64_t>(0, hi)};
  }
  bool rows(int64_t b, int64_t head, int64_t begin, int64_t end, const void** kp, const void** vp) const {
    const TensorArg &k = call.t[1], &v = call.t[2];
    const int64_t start = number(5, b);
    if (start < 0 || start + end > k.rows()) return false;
    for (int64_t j = start + begin; j < start + end; ++j) {
      *kp++ = k.as<const T>() + j * k.row_stride + head * d;
      *vp++ = v.as<const T>() + j * v.row_stride + head * d;
    }
    return true;
  }
  const uint8_t* mask(int64_t b, int64_t i) const {
    const TensorArg& m = call.t[7];
    return m ? m.as<const uint8_t>() + ((m.shape[0] == 1 ? 0 : b) * m.shape[1] + i) * m.row_stride : nullptr;
  }
  bool mask_covers() const {
    const TensorArg& m = call.t[7];
    if (!m) return true;
    if (m.shape[0] != 1 && m.shape[0] < sequences()) return false;
    for (int64_t b = 0; b < sequences(); ++b) {
      if (sequence(b).q_len > m.shape[1] || sequence(b).kv_len > m.shape[2]) return false;
    }
    return true;
  }
};
}  // namespace

Status op_attentionDense(const OpCall& call, Context& ctx) {
  const int64_t d = call.i(2);
  const AttentionCall c{call.t[0], call.t[8], nullptr, nullptr, call.i(0), call.i(1), call.f(3), {d, round_up(d, kLanes), call.f(7)}};
  if (!attention_supports(c) || call.t[1].dtype != call.t[2].dtype) return Status::unsupported;
  return by_activation(call.t[1].dtype, [&]<class T>(T*) {
    const DenseSource<T> source{call, d};
    if (!source.mask_covers()) return Status::bad_index;
    return Attention<T, DenseSource<T>>(ctx, c, source).run();
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
