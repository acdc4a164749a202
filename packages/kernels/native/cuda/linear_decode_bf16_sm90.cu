// linear, bf16 weights and activations: at most 128 rows of x at once. Kernel: gemm_decode_sm90.cuh.
#include "linear_decode_sm90.cuh"

namespace octet::cuda {

bool fits_tiled_bf16(const OpCall& call, const DeviceInfo&) {
  const LinearArgs a = linear_args(call);
  return a.x->dtype == DType::bf16 && a.weight->dtype == DType::bf16 && a.weight_granularity == Granularity::none && decode_operands_fit(a, 2);
}
bool fits_decode_bf16(const OpCall& call, const DeviceInfo& device) { return call.t[0].rows() <= kDecodeTokens && fits_tiled_bf16(call, device); }
Status launch_tiled_bf16(const OpCall& call, CudaContext& ctx) { return launch_decode_spans<__nv_bfloat16, false>(linear_args(call), ctx); }

}  // namespace octet::cuda
