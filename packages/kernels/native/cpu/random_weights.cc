// randomWeights: out[i] = a * (2u - 1), a = float32(std * sqrt(3)): uniform with standard deviation `std`
// Tensors  t0 out f32|bf16|f16|e4m3|e5m2; i counts logical elements, so values do not depend on strides or threads
// Attrs    a0 seedLo, a1 seedHi, a2 std, a3 stream
// Values   u = ((w >> 8) + 0.5) / 2^24, w = word i % 4 of Philox4x32-10 with counter (i / 4 low, i / 4 high, stream, 1) and
//          key (seedLo, seedHi). 2u - 1 is exact in float32; the product rounds once, then once more to a narrower dtype.
//          The last counter word keeps these draws apart from sampling's
// Traffic  out once
#include "op_util.h"
#include "philox.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
constexpr int64_t kBatch = 256;  // elements made at a time

// Elements [first, first + kBatch), first a multiple of 4. Structure of arrays, so that the compiler makes vectors of it.
void make_batch(int64_t first, uint32_t stream, uint32_t k0, uint32_t k1, float amplitude, float* to) {
  for (int64_t j = 0; j < kBatch / 4; ++j) {
    const uint64_t counter = static_cast<uint64_t>(first) / 4 + static_cast<uint64_t>(j);
    const Words w = philox4x32(static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), stream, 1, k0, k1);
    for (int k = 0; k < 4; ++k) {
      // 2u - 1 = (2 * (w >> 8) + 1 - 2^24) / 2^24
      const int32_t numerator = 2 * static_cast<int32_t>(w.w[k] >> 8) + 1 - (1 << 24);
      to[4 * j + k] = amplitude * (static_cast<float>(numerator) * 0x1p-24f);
    }
  }
}
}  // namespace

Status op_randomWeights(const OpCall& call, Context& ctx) {
  const TensorArg& out = call.t[0];
  const uint32_t k0 = static_cast<uint32_t>(call.i(0)), k1 = static_cast<uint32_t>(call.i(1));
  const uint32_t stream = static_cast<uint32_t>(call.i(3));
  const float amplitude = static_cast<float>(call.attr[2] * 1.7320508075688772);
  return by_float(out.dtype, [&]<class Y>(Y*) {
    for_pieces(ctx, extent_of(out), kPiece, [&](int64_t row, int64_t begin, int64_t end) {
      Y* const to = out.as<Y>() + row * out.row_stride;
      const int64_t base = row * out.cols();  // 0 when the rows are one
      alignas(64) float batch[kBatch];
      for (int64_t c = begin; c < end;) {
        const int64_t skip = (base + c) % 4, n = min_of(end - c, kBatch - skip);
        make_batch(base + c - skip, stream, k0, k1, amplitude, batch);
        store_as(to + c, batch + skip, n);
        c += n;
      }
    });
    return finish(ctx);
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
