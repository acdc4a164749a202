// updateScale: the end of a step of delayed scaling: each history rolls and gives the next scale
// Tensors  t0 amaxHistory f32[N,L] in place (entry 0 collects the current step, then oldest to newest), t1 scale f32[N] in place
// Attrs    a0 scaledMax = fp8Max * 2^-margin, a1 algorithm 0 max, 1 most_recent
// Values   the rule of native/cpu/update_scale.cc. Division is IEEE: equal to the CPU's to the bit
// Traffic  2 * L words a row: launch-bound.   Launch   a block per row, 256 threads, which move the row 256 words at a time
#include <cfloat>

#include "common.cuh"

namespace octet::cuda {

__global__ void __launch_bounds__(256) update_scale(Rows<float> history, float* scale, int64_t length, float scaled_max, bool most_recent) {
  __shared__ float slots[8];
  float* const h = history[blockIdx.x];
  const float last = h[0];
  if (last != 0.f) {
    float top = last > 0.f ? last : 0.f;
    if (!most_recent) {
      for (int64_t i = 1 + threadIdx.x; i < length; i += 256) top = h[i] > top ? h[i] : top;
    }
    // Every thread has read `last` once it is through the barriers of the maximum.
    const float amax = block_max(top, slots);
    for (int64_t begin = 0; begin < length; begin += 256) {
      const int64_t i = begin + threadIdx.x;
      const float next = i + 1 < length ? h[i + 1] : last;
      __syncthreads();
      if (i < length) h[i] = i == 0 ? 0.f : next;
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      const float used = most_recent ? last : amax;
      if (used > 0.f && used <= FLT_MAX) scale[blockIdx.x] = scaled_max / used;
    }
  }
  if (threadIdx.x == 0 && isinf(scale[blockIdx.x])) scale[blockIdx.x] = FLT_MAX;
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &history = call.t[0], &scale = call.t[1];
  const int64_t rows = history.rows();
  if (rows == 0) return Status::ok;
  if (rows > INT32_MAX) return Status::unsupported;
  update_scale<<<static_cast<unsigned>(rows), 256, 0, ctx.stream()>>>(rows_of<float>(history), scale.as<float>(), history.cols(), call.f(0), call.i(1) == 1);
  return launched();
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(updateScale, kRows)
