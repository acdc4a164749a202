// quantize: data = fp8(x * scale), scaleInv = 1 / scale, one scale per block of the granularity
// Tensors  t0 x [N,K] f32|bf16, t1 data [N,K] e4m3|e5m2, t2 scaleInv f32, t3 scale? f32 (static: given, of scaleInv's shape):
//          [1], [N], [N, ceil(K/128)] or [ceil(N/128), ceil(K/128)], contiguous
// Attrs    a0 granularity 1 tensor 2 row 3 1x128 4 128x128, a1 powerOf2, a2 epsilon
// Values   scale from the block's amax by scale_of_amax (scales.h); the product is float32, then one rounding to nearest
//          even, saturating (infinity too), NaN to 0x7f; scaleInv = 1 / scale in float32
// Traffic  x once with a given scale or when a block's rows stay cached, twice for kTensor; data once
#include "scales.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
template <class X, class Y> struct Quantizer {
  const OpCall& call;
  Context& ctx;
  const TensorArg &x, &data;
  Blocks b;

  const X* from(int64_t row, int64_t column) const { return x.as<const X>() + row * x.row_stride + column; }

  void cast(int64_t row, int64_t begin, int64_t end, float scale) const {
    Y* const to = data.as<Y>() + row * data.row_stride;
    for (int64_t i = begin; i < end; i += kLanes) store_n(to + i, load_n(from(row, i), end - i) * scale, end - i);
  }
  // Takes the given scale or makes one of `amax`; stores its inverse.
  template <class Amax> float scale(int64_t block, Amax&& amax) const {
    const float largest = data.dtype == DType::e4m3 ? 448.0f : 57344.0f;
    const float s = call.t[3] ? call.t[3].as<const float>()[block] : scale_of_amax(amax(), largest, call.f(2), call.b(1));
    call.t[2].as<float>()[block] = 1.0f / s;
    return s;
  }

  // One scale for everything: the amax of pieces first, then the cast.
  Status whole() const {
    const Extent e = extent_of(x, data);
    const int64_t per_row = ceil_div(e.cols, kPiece), count = e.rows * per_row;
    float* const partial = scratch_of<float>(ctx, max_of<int64_t>(count, 1));
    if (partial == nullptr) return Status::out_of_memory;
    if (!call.t[3]) {
      for_pieces(ctx, e, kPiece, [&](int64_t row, int64_t begin, int64_t end) {
        partial[row * per_row + begin / kPiece] = amax_of_lanes(amax_vectors(from(row, begin), end - begin, zero()));
      });
      if (ctx.cancelled()) return Status::cancelled;
    }
    const float s = scale(0, [&] {
      float top = 0;
      for (int64_t i = 0; i < count; ++i) top = amax_join(top, partial[i]);
      return top;
    });
    for_pieces(ctx, e, kPiece, [&](int64_t row, int64_t begin, int64_t end) { cast(row, begin, end, s); });
    return finish(ctx);
  }

  // A scale per block: each block is read for its amax and, still cached, cast.
  Status blocks() const {
    const int64_t rows = x.rows(), cols = x.cols();
    const int64_t grain = max_of<int64_t>(1, kPiece / (b.height * min_of(b.width, max_of<int64_t>(cols, 1))));
    ctx.parallel(b.down * b.across, grain, [&](int64_t first, int64_t last, int) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t r0 = block / b.across * b.height, r1 = min_of(r0 + b.height, rows);
        const int64_t c0 = block % b.across * b.width, c1 = min_of(c0 + b.width, cols);
        const float s = scale(block, [&] {
          F32 top = zero();
          for (int64_t r = r0; r < r1; ++r) top = amax_vectors(from(r, c0), c1 - c0, top);
          return amax_of_lanes(top);
        });
        for (int64_t r = r0; r < r1; ++r) cast(r, c0, c1, s);
      }
    });
    return finish(ctx);
  }
};

template <class X, class Y> Status run(const OpCall& call, Context& ctx, const Blocks& b) {
  const Quantizer<X, Y> q{call, ctx, call.t[0], call.t[1], b};
  return call.i(0) == kTensor ? q.whole() : q.blocks();
}
}  // namespace

Status op_quantize(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &data = call.t[1];
  Blocks b;
  if (!blocks_of(call.i(0), x.rows(), x.cols(), &b)) return Status::unsupported;
  return by_activation(x.dtype, [&]<class X>(X*) {
    switch (data.dtype) {
      case DType::e4m3: return run<X, e4m3>(call, ctx, b);
      case DType::e5m2: return run<X, e5m2>(call, ctx, b);
      default: return Status::unsupported;
    }
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
