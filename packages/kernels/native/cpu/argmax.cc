// argmax: out[n] = the index of the largest x[n,:]; ties go to the lowest index; NaN never wins unless all are NaN (then 0)
// Tensors  t0 x [N,V] f32|bf16, t1 out i32[N]
// Traffic  x once.   Rows are cut in pieces of 16384 for the pool
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
struct Best {
  float value;
  int32_t index;  // -1: all NaN
};

template <class X> Best best_of(const X* x, int64_t n) {
  F32 top = set1(-__builtin_inff());
  I32 where = iota() * 0 - 1;  // where each lane's best was seen first; -1: only NaN so far
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32 v = load_n(x + i, n - i);
    const I32 index = iota() + static_cast<int32_t>(i);
    const I32 better = ((v > top) | ((where < 0) & (v == v))) & (index < static_cast<int32_t>(n));
    top = select(better, v, top);
    where = better ? index : where;
  }
  Best best{0, -1};
  for (int k = 0; k < kLanes; ++k) {
    if (where[k] < 0) continue;
    if (best.index < 0 || top[k] > best.value || (top[k] == best.value && where[k] < best.index)) best = {top[k], where[k]};
  }
  return best;
}
}  // namespace

Status op_argmax(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t rows = x.rows(), v = x.cols(), pieces = max_of<int64_t>(1, ceil_div(v, kPiece));
  if (rows <= 0) return Status::ok;
  Best* const best = scratch_of<Best>(ctx, rows * pieces);
  if (best == nullptr) return Status::out_of_memory;
  return by_activation(x.dtype, [&]<class X>(X*) {
    ctx.parallel(rows * pieces, max_of<int64_t>(1, kPiece / max_of<int64_t>(1, v)), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t c = i % pieces * kPiece;
        best[i] = best_of(x.as<const X>() + i / pieces * x.row_stride + c, min_of(kPiece, v - c));
      }
    });
    if (ctx.cancelled()) return Status::cancelled;
    for (int64_t r = 0; r < rows; ++r) {
      int64_t index = -1;
      float value = 0;
      for (int64_t p = 0; p < pieces; ++p) {
        const Best& b = best[r * pieces + p];
        if (b.index >= 0 && (index < 0 || b.value > value)) {
          value = b.value;
          index = p * kPiece + b.index;
        }
      }
      out.as<int32_t>()[r] = static_cast<int32_t>(max_of<int64_t>(index, 0));
    }
    return Status::ok;
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
