// Ops that move elements without reading them as numbers work on words of one, two, four or eight bytes.
#pragma once
#include "common.cuh"

namespace octet::cuda {

inline int item_bytes(DType t) {
  switch (t) {
    case DType::f64: case DType::i64: return 8;
    case DType::f32: case DType::i32: return 4;
    case DType::bf16: case DType::f16: return 2;
    default: return 1;
  }
}

// f(Tag<word>{}, columns per word) with the widest word that every row of both tensors can move.
template <class F> inline Status by_word(const TensorArg& a, const TensorArg& b, F&& f) {
  const int64_t item = item_bytes(a.dtype);
  const auto bits = reinterpret_cast<uintptr_t>(a.data) | reinterpret_cast<uintptr_t>(b.data) | static_cast<uintptr_t>(a.cols() * item) |
                    static_cast<uintptr_t>((a.ndim > 1 ? a.row_stride : 0) * item) | static_cast<uintptr_t>((b.ndim > 1 ? b.row_stride : 0) * item);
  if (bits % 16 == 0) return f(Tag<uint4>{}, 16);
  if (bits % 8 == 0) return f(Tag<uint2>{}, 8);
  if (bits % 4 == 0) return f(Tag<uint32_t>{}, 4);
  if (bits % 2 == 0) return f(Tag<uint16_t>{}, 2);
  return f(Tag<uint8_t>{}, 1);
}

// A tensor's rows as words.
template <class W> inline Rows<W> word_rows(const TensorArg& t, int word) {
  const int64_t item = item_bytes(t.dtype);
  return {static_cast<W*>(t.data), (t.ndim > 1 ? t.row_stride : t.cols()) * item / word};
}

}  // namespace octet::cuda
