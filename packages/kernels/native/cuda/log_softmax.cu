// logSoftmax: out[n,v] = x[n,v] - m - log(sum_v exp(x[n,v] - m)), m = max_v x[n,v]
// Tensors  t0 x [N,V] f32|bf16, t1 out [N,V] f32
// Values   a row that holds NaN or +infinity, or only -infinity, is all NaN
// Traffic  x three times (a row stays in L2), out once.   Launch   grid N, 512 threads, fixed trees
#include "common.cuh"

namespace octet::cuda {

template <class X> __global__ void __launch_bounds__(512) log_softmax(Rows<const X> x, Rows<float> out, int64_t v) {
  __shared__ float slots[32];
  const X* const from = x[blockIdx.x];
  float* const to = out[blockIdx.x];
  float top = -INFINITY;
  for (int64_t i = threadIdx.x; i < v; i += 512) top = fmaxf(top, to_float(from[i]));  // passes NaN over: the sum brings it back
  top = block_max(top, slots);
  float sum = 0.f;
  for (int64_t i = threadIdx.x; i < v; i += 512) sum += expf(to_float(from[i]) - top);
  const float log_total = logf(block_sum(sum, slots));
  for (int64_t i = threadIdx.x; i < v; i += 512) to[i] = to_float(from[i]) - top - log_total;
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  if (x.rows() * x.cols() == 0) return Status::ok;
  return dispatch_compute(x.dtype, [&](auto t) {
    using X = typename decltype(t)::type;
    log_softmax<X><<<static_cast<unsigned>(x.rows()), 512, 0, ctx.stream()>>>(rows_of<const X>(x), rows_of<float>(out), x.cols());
    return launched();
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(logSoftmax, kRows)
