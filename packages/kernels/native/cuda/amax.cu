// amax: out = max |x|, over the tensor or each row; NaN if any element is NaN, 0 if there are none
// Tensors  t0 x [N,K] f32|bf16, t1 out f32 [1] or [N]
// Attrs    a0 granularity 1 tensor, 2 row
// Traffic  x once.   Launch   a zeroing kernel, then grid (pieces, N) with integer atomic maxima: exact in any order
#include "scales.cuh"

namespace octet::cuda {

static __global__ void zero_words(uint32_t* out, int64_t n) {
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i < n) out[i] = 0;
}

template <class X> __global__ void __launch_bounds__(256) amax(Rows<const X> x, uint32_t* out, int64_t rows, int64_t cols, bool by_row) {
  __shared__ uint32_t slots[8];
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    uint32_t top = 0;
    for (int64_t c = blockIdx.x * 256ll + threadIdx.x; c < cols; c += gridDim.x * 256ll) top = max(top, magnitude_bits(to_float(x[row][c])));
    top = block_max_bits(top, slots);
    if (threadIdx.x == 0) atomicMax(&out[by_row ? row : 0], top > 0x7f800000u ? 0x7fc00000u : top);
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const bool by_row = call.i(0) == 2;
  if (call.i(0) != 1 && !by_row) return Status::unsupported;
  const int64_t rows = x.rows(), cols = x.cols(), n = by_row ? rows : 1;
  if (n == 0) return Status::ok;
  zero_words<<<blocks_for(n, 256, INT32_MAX), 256, 0, ctx.stream()>>>(out.as<uint32_t>(), n);
  if (rows * cols == 0) return launched();
  return dispatch_compute(x.dtype, [&](auto t) {
    using X = typename decltype(t)::type;
    const dim3 grid(blocks_for(cols, 4096, 64), blocks_for(rows, 1, 65535));
    amax<X><<<grid, 256, 0, ctx.stream()>>>(rows_of<const X>(x), out.as<uint32_t>(), rows, cols, by_row);
    return launched();
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(amax, kRows)
