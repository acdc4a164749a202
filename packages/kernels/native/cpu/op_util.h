// What the op files share: rows of any dtype as float32, choice by dtype, and the split of work over the pool.
#pragma once
#include "octet/op.h"
#include "simd.h"

namespace octet::cpu::OCTET_LEVEL {

OCTET_INLINE int64_t item_bytes(DType t) {
  switch (t) {
    case DType::f64: case DType::i64: return 8;
    case DType::f32: case DType::i32: return 4;
    case DType::bf16: case DType::f16: return 2;
    default: return 1;
  }
}

// Address of element [row, column].
OCTET_INLINE uint8_t* at(const TensorArg& t, int64_t row, int64_t column = 0) {
  return t.as<uint8_t>() + (row * t.row_stride + column) * item_bytes(t.dtype);
}

// Rows and columns of an elementwise op: one long row when every tensor is contiguous.
struct Extent {
  int64_t rows, cols;
};
template <class... T> OCTET_INLINE Extent extent_of(const TensorArg& first, const T&... rest) {
  const int64_t rows = first.rows(), cols = first.cols();
  const bool contiguous = ((first.row_stride == cols) && ... && (rest.row_stride == cols));
  return contiguous || rows == 1 ? Extent{1, rows * cols} : Extent{rows, cols};
}

// Calls f(row, begin, end) over [rows, cols] in pieces of at most `piece` columns. Pieces are fixed by the shape; which
// thread runs one is not.
template <class F> void for_pieces(Context& ctx, Extent e, int64_t piece, F&& f) {
  if (e.rows <= 0 || e.cols <= 0) return;
  const int64_t per_row = ceil_div(e.cols, piece);
  const int64_t grain = per_row > 1 ? 1 : max_of<int64_t>(1, piece / e.cols);
  ctx.parallel(e.rows * per_row, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / per_row, c = i % per_row * piece;
      f(row, c, min_of(c + piece, e.cols));
    }
  });
}

constexpr int64_t kPiece = 16384;  // elements: some microseconds of memory-bound work

// ---- choice by dtype: f gets a null T* ----

// Activations and their parameters.
template <class F> OCTET_INLINE Status by_activation(DType t, F&& f) {
  switch (t) {
    case DType::f32: return f(static_cast<float*>(nullptr));
    case DType::bf16: return f(static_cast<bf16*>(nullptr));
    default: return Status::unsupported;
  }
}

// Everything that loads as float32.
template <class F> OCTET_INLINE Status by_float(DType t, F&& f) {
  switch (t) {
    case DType::f32: return f(static_cast<float*>(nullptr));
    case DType::bf16: return f(static_cast<bf16*>(nullptr));
    case DType::f16: return f(static_cast<f16*>(nullptr));
    case DType::e4m3: return f(static_cast<e4m3*>(nullptr));
    case DType::e5m2: return f(static_cast<e5m2*>(nullptr));
    default: return Status::unsupported;
  }
}

OCTET_INLINE bool is_activation(DType t) { return t == DType::f32 || t == DType::bf16; }

// ---- rows as float32 ----

template <class T> OCTET_INLINE void load_as(const T* p, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += kLanes) store_n(to + i, load_n(p + i, n - i), n - i);
}
template <class T> OCTET_INLINE void store_as(T* p, const float* from, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store_n(p + i, load_n(from + i, n - i), n - i);
}

// Row `row` of a float tensor, columns [column, column + n), widened exactly.
inline void load_row(const TensorArg& t, int64_t row, int64_t column, int64_t n, float* to) {
  by_float(t.dtype, [&]<class T>(T*) {
    load_as(reinterpret_cast<const T*>(at(t, row, column)), n, to);
    return Status::ok;
  });
}
// The same into a tensor: one rounding to nearest even.
inline void store_row(const TensorArg& t, int64_t row, int64_t column, int64_t n, const float* from) {
  by_float(t.dtype, [&]<class T>(T*) {
    store_as(reinterpret_cast<T*>(at(t, row, column)), from, n);
    return Status::ok;
  });
}

// v rounded to a dtype and widened again.
OCTET_INLINE F32 round_to(DType t, F32 v) { return t == DType::bf16 ? widen_bf16(narrow_bf16(v)) : v; }

// 0, 1, 2, … by lane.
OCTET_INLINE I32 iota() {
  alignas(64) constexpr int32_t kIota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kIota);
}

OCTET_INLINE bool in_range(int64_t i, int64_t n) { return i >= 0 && i < n; }

// A fault found inside a parallel body. The first reason stays.
class Fault {
 public:
  OCTET_INLINE void set(Status s) {
    int32_t expected = 0;
    __atomic_compare_exchange_n(&status_, &expected, static_cast<int32_t>(s), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  }
  OCTET_INLINE Status finish(const Context& ctx) const {
    const int32_t s = __atomic_load_n(&status_, __ATOMIC_RELAXED);
    if (s != 0) return static_cast<Status>(s);
    return ctx.cancelled() ? Status::cancelled : Status::ok;
  }

 private:
  int32_t status_ = 0;
};
OCTET_INLINE Status finish(const Context& ctx) { return ctx.cancelled() ? Status::cancelled : Status::ok; }

template <class T> OCTET_INLINE T* scratch_of(Context& ctx, int64_t count) {
  return static_cast<T*>(ctx.scratch(static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace octet::cpu::OCTET_LEVEL
