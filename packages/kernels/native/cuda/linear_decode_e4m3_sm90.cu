// linear, decode shapes, e4m3 weights (scale per row or tensor) and activations (scale per token or tensor).
// Kernel: gemm_decode_sm90.cuh.
#include "linear_decode_sm90.cuh"

namespace octet::cuda {

bool fits_decode_e4m3(const OpCall& call, const DeviceInfo&) {
  const LinearArgs a = linear_args(call);
  const auto coarse = [](Granularity g) { return g == Granularity::row || g == Granularity::tensor; };
  return a.x->dtype == DType::e4m3 && a.weight->dtype == DType::e4m3 && coarse(a.weight_granularity) && coarse(a.x_granularity) && decode_shape_fits(a, 1);
}
Status launch_decode_e4m3(const OpCall& call, CudaContext& ctx) { return launch_decode_bucket<__nv_fp8_e4m3>(linear_args(call), ctx); }

}  // namespace octet::cuda
