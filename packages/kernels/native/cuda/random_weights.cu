// randomWeights: out[i] = a * (2u - 1), a = float32(std * sqrt(3)): uniform with standard deviation `std`
// Tensors  t0 out f32|bf16|f16|e4m3|e5m2; i counts logical elements
// Attrs    a0 seedLo, a1 seedHi, a2 std, a3 stream
// Values   u = ((w >> 8) + 0.5) / 2^24, w = word i % 4 of Philox4x32-10 with counter (i / 4 low, i / 4 high, stream, 1) and
//          key (seedLo, seedHi); equal to the bit to native/cpu/random_weights.cc
// Traffic  out once
#include "philox.cuh"

namespace octet::cuda {

template <class Y>
__global__ void __launch_bounds__(256) random_weights(Rows<Y> out, int64_t rows, int64_t cols, uint32_t k0, uint32_t k1, uint32_t stream, float amplitude) {
  const int64_t total = rows * cols;
  for (int64_t quad = blockIdx.x * 256ll + threadIdx.x; quad * 4 < total; quad += gridDim.x * 256ll) {
    const uint4 w = philox4x32(static_cast<uint32_t>(quad), static_cast<uint32_t>(quad >> 32), stream, 1, k0, k1);
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t i = quad * 4 + k;
      if (i >= total) break;
      const int32_t numerator = 2 * static_cast<int32_t>(words[k] >> 8) + 1 - (1 << 24);
      out[i / cols][i % cols] = from_float<Y>(amplitude * (static_cast<float>(numerator) * 0x1p-24f));
    }
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg& out = call.t[0];
  if (out.rows() * out.cols() == 0) return Status::ok;
  const float amplitude = static_cast<float>(call.attr[2] * 1.7320508075688772);
  return dispatch_any_float(out.dtype, [&](auto t) {
    using Y = typename decltype(t)::type;
    random_weights<Y><<<blocks_for(out.rows() * out.cols(), 1024, ctx.device().sms * 32), 256, 0, ctx.stream()>>>(
        rows_of<Y>(out), out.rows(), out.cols(), static_cast<uint32_t>(call.i(0)), static_cast<uint32_t>(call.i(1)), static_cast<uint32_t>(call.i(3)), amplitude);
    return launched();
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(randomWeights, kRows)
