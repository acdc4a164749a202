// linear, e4m3 weights (scale per row or tensor) and activations (scale per token or tensor): at most 128 rows of x at once.
// Kernel: gemm_decode_sm90.cuh.
#include "linear_decode_sm90.cuh"

namespace octet::cuda {

Status launch_tiled_e4m3_blocked(const LinearArgs&, CudaContext&);

bool fits_tiled_e4m3(const OpCall& call, const DeviceInfo&) {
  const LinearArgs a = linear_args(call);
  return a.x->dtype == DType::e4m3 && a.weight->dtype == DType::e4m3 && decode_scales_fit(a) && decode_operands_fit(a, 1);
}
bool fits_decode_e4m3(const OpCall& call, const DeviceInfo& device) { return call.t[0].rows() <= kDecodeTokens && fits_tiled_e4m3(call, device); }
Status launch_tiled_e4m3(const OpCall& call, CudaContext& ctx) {
  const LinearArgs a = linear_args(call);
  return decode_scales_blocked(a) ? launch_tiled_e4m3_blocked(a, ctx) : launch_decode_spans<__nv_fp8_e4m3, false>(a, ctx);
}

}  // namespace octet::cuda
