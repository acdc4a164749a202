// copy: out = x, bit for bit
// Tensors  t0 x, t1 out; same shape and dtype, each with its own row stride; they do not overlap
// Traffic  x once, out once
#include "bytes.cuh"

namespace octet::cuda {

template <class W> __global__ void __launch_bounds__(256) copy_words(Rows<const W> x, Rows<W> y, int64_t rows, int64_t words) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < rows * words; i += gridDim.x * 256ll) y[i / words][i % words] = x[i / words][i % words];
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t rows = x.rows(), bytes = x.cols() * item_bytes(x.dtype);
  if (rows * bytes == 0) return Status::ok;
  return by_word(x, out, [&](auto tag, int word) {
    using W = typename decltype(tag)::type;
    const int64_t words = bytes / word;
    copy_words<W><<<blocks_for(rows * words, 256, ctx.device().sms * 16), 256, 0, ctx.stream()>>>(word_rows<const W>(x, word), word_rows<W>(out, word), rows, words);
    return launched();
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(copy, kRows)
