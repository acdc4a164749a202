// fill: out[...] = value
// Tensors  t0 out, any dtype, rows with a stride
// Attrs    a0 value: to floats by one rounding from float32 (float64 exactly); to integers by truncation
// Traffic  out once
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
template <class T> void fill_rows(Context& ctx, const TensorArg& out, T value) {
  for_pieces(ctx, extent_of(out), kPiece, [&](int64_t row, int64_t begin, int64_t end) {
    T* const p = out.as<T>() + row * out.row_stride;
    for (int64_t i = begin; i < end; ++i) p[i] = value;
  });
}

template <class T> auto bits_of(float value) {
  T t;
  store_one(&t, value);
  return t.bits;
}
}  // namespace

Status op_fill(const OpCall& call, Context& ctx) {
  const TensorArg& out = call.t[0];
  const double v = call.attr[0];
  switch (out.dtype) {
    case DType::f64: fill_rows<double>(ctx, out, v); break;
    case DType::f32: fill_rows<float>(ctx, out, static_cast<float>(v)); break;
    case DType::bf16: fill_rows<uint16_t>(ctx, out, bits_of<bf16>(static_cast<float>(v))); break;
    case DType::f16: fill_rows<uint16_t>(ctx, out, bits_of<f16>(static_cast<float>(v))); break;
    case DType::e4m3: fill_rows<uint8_t>(ctx, out, bits_of<e4m3>(static_cast<float>(v))); break;
    case DType::e5m2: fill_rows<uint8_t>(ctx, out, bits_of<e5m2>(static_cast<float>(v))); break;
    case DType::i64: fill_rows<int64_t>(ctx, out, static_cast<int64_t>(v)); break;
    case DType::i32: fill_rows<int32_t>(ctx, out, static_cast<int32_t>(v)); break;
    case DType::u8: fill_rows<uint8_t>(ctx, out, static_cast<uint8_t>(v)); break;
    case DType::bool8: fill_rows<uint8_t>(ctx, out, v != 0); break;
    default: return Status::unsupported;
  }
  return finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
