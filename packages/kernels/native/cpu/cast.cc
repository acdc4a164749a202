// cast: out = x in another dtype
// Tensors  t0 x [N,D] f64|f32|bf16|f16|e4m3|e5m2|i64|i32|u8|bool, t1 out [N,D] f64|f32|bf16|f16|e4m3|e5m2|i32
// Values   to floats: nearest even by way of float32 (f64 and i64 round to float32 first, as PyTorch's do); FP8
//          saturates; NaN becomes the target's canonical code. To i32: truncation, saturating, NaN is 0.
//          f32 -> f32 and f32 -> f64 keep every value; f64 -> f64 is not offered (copy it)
// Traffic  x once, out once
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
// Integers and doubles load by the compiler's own conversion.
template <class T> OCTET_INLINE F32 load_converted(const T* p, int64_t n) {
  F32 v = zero();
  for (int64_t i = 0; i < min_of<int64_t>(n, kLanes); ++i) v[i] = static_cast<float>(p[i]);
  return v;
}
OCTET_INLINE F32 load_any(const double* p, int64_t n) { return load_converted(p, n); }
OCTET_INLINE F32 load_any(const int64_t* p, int64_t n) { return load_converted(p, n); }
OCTET_INLINE F32 load_any(const int32_t* p, int64_t n) { return load_converted(p, n); }
OCTET_INLINE F32 load_any(const uint8_t* p, int64_t n) { return load_converted(p, n); }
template <class T> OCTET_INLINE F32 load_any(const T* p, int64_t n) { return load_n(p, n); }

OCTET_INLINE void store_any(double* p, F32 v, int64_t n) {
  for (int64_t i = 0; i < min_of<int64_t>(n, kLanes); ++i) p[i] = v[i];
}
OCTET_INLINE void store_any(int32_t* p, F32 v, int64_t n) {
  for (int64_t i = 0; i < min_of<int64_t>(n, kLanes); ++i) {
    const float f = v[i];
    p[i] = f != f ? 0 : f >= 0x1p31f ? INT32_MAX : f < -0x1p31f ? INT32_MIN : static_cast<int32_t>(f);
  }
}
template <class T> OCTET_INLINE void store_any(T* p, F32 v, int64_t n) { store_n(p, v, n); }

template <class X, class Y> Status cast_rows(Context& ctx, const TensorArg& x, const TensorArg& out) {
  for_pieces(ctx, extent_of(x, out), kPiece, [&](int64_t row, int64_t begin, int64_t end) {
    const X* const from = x.as<const X>() + row * x.row_stride;
    Y* const to = out.as<Y>() + row * out.row_stride;
    for (int64_t i = begin; i < end; i += kLanes) store_any(to + i, load_any(from + i, end - i), end - i);
  });
  return finish(ctx);
}

template <class Y> Status cast_to(Context& ctx, const TensorArg& x, const TensorArg& out) {
  switch (x.dtype) {
    case DType::f64: return cast_rows<double, Y>(ctx, x, out);
    case DType::i64: return cast_rows<int64_t, Y>(ctx, x, out);
    case DType::i32: return cast_rows<int32_t, Y>(ctx, x, out);
    case DType::u8: case DType::bool8: return cast_rows<uint8_t, Y>(ctx, x, out);
    default: return by_float(x.dtype, [&]<class X>(X*) { return cast_rows<X, Y>(ctx, x, out); });
  }
}
}  // namespace

Status op_cast(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  switch (out.dtype) {
    case DType::f64: return x.dtype == DType::f64 ? Status::unsupported : cast_to<double>(ctx, x, out);
    case DType::i32: return cast_to<int32_t>(ctx, x, out);
    default: return by_float(out.dtype, [&]<class Y>(Y*) { return cast_to<Y>(ctx, x, out); });
  }
}

}  // namespace octet::cpu::OCTET_LEVEL
