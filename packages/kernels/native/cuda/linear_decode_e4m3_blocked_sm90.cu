// linear, e4m3 weights with a scale per 128x128 block and activations with one per 1x128. Kernel: gemm_decode_sm90.cuh.
#include "linear_decode_sm90.cuh"

namespace octet::cuda {

Status launch_tiled_e4m3_blocked(const LinearArgs& a, CudaContext& ctx) { return launch_decode_spans<__nv_fp8_e4m3, true>(a, ctx); }

}  // namespace octet::cuda
