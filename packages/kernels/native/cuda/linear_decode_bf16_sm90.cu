// linear, decode shapes, bf16 weights and activations: at most 128 rows of x. Kernel: gemm_decode_sm90.cuh.
#include "linear_decode_sm90.cuh"

namespace octet::cuda {

bool fits_decode_bf16(const OpCall& call, const DeviceInfo&) {
  const LinearArgs a = linear_args(call);
  return a.x->dtype == DType::bf16 && a.weight->dtype == DType::bf16 && a.weight_granularity == Granularity::none && decode_shape_fits(a, 2);
}
Status launch_decode_bf16(const OpCall& call, CudaContext& ctx) { return launch_decode_bucket<__nv_bfloat16>(linear_args(call), ctx); }

}  // namespace octet::cuda
