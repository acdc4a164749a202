// scatterRows: out[rows[r],:] = x[r,:], bit for bit
// Tensors  t0 x [R,D] any dtype, t1 rows i32[R] without repeats, t2 out [N,D] of x's dtype
// Traffic  R rows twice.   A row outside [0, N) raises the fault word and writes nothing
#include "bytes.cuh"

namespace octet::cuda {

template <class W> __global__ void __launch_bounds__(256) move_rows(Rows<const W> x, const int32_t* rows, Rows<W> y, int64_t count, int64_t limit, int64_t words, int32_t* fault) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < count * words; i += gridDim.x * 256ll) {
    const int64_t r = i / words, c = i % words, other = rows[r];
    if (other < 0 || other >= limit) {
      if (c == 0) *fault = static_cast<int32_t>(Status::bad_index);
      continue;
    }
    y[other][c] = x[r][c];
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &rows = call.t[1], &out = call.t[2];
  const int64_t count = x.rows(), limit = out.rows(), bytes = x.cols() * item_bytes(x.dtype);
  if (count * bytes == 0) return Status::ok;
  return by_word(x, out, [&](auto tag, int word) {
    using W = typename decltype(tag)::type;
    const int64_t words = bytes / word;
    move_rows<W><<<blocks_for(count * words, 256, ctx.device().sms * 16), 256, 0, ctx.stream()>>>(
        word_rows<const W>(x, word), rows.as<const int32_t>(), word_rows<W>(out, word), count, limit, words, ctx.fault_word());
    return launched();
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(scatterRows, kRows)
