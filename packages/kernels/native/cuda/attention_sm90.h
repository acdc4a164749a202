// What the two Hopper attention launchers ask of a call, and the tensor maps of its caches.
#pragma once
#include "attention_args.h"
#include "tensor_map.h"

namespace octet::cuda {

inline bool attention_sm90_fits(const AttentionArgs& a) {
  const auto aligned = [](const TensorArg& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (t.ndim < 2 || t.row_stride % 8 == 0); };
  return a.q->dtype == DType::bf16 && a.out->dtype == DType::bf16 && a.k->dtype == a.v->dtype && (a.k->dtype == DType::bf16 || a.k->dtype == DType::e4m3) &&
         (a.d == 64 || a.d == 128 || a.d == 256) && a.k->rows() > 0 && a.v->rows() > 0 && a.k->shape[2] % 16 == 0 && a.k->row_stride == a.d && a.v->row_stride == a.d && aligned(*a.q) && aligned(*a.out) &&
         aligned(*a.k) && aligned(*a.v);
}

// Boxes of `box_rows` tokens, which divide a page.
inline bool encode_caches(const AttentionArgs& a, int span, int box_rows, CUtensorMap* k, CUtensorMap* v) {
  const int item = a.k->dtype == DType::bf16 ? 2 : 1;
  return encode_rows(k, a.k->data, item, a.k->rows(), a.d, a.d, box_rows, span) && encode_rows(v, a.v->data, item, a.v->rows(), a.d, a.d, box_rows, span);
}

}  // namespace octet::cuda
