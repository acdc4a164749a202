// attention_decode over e4m3 caches, head dimensions 64, 128 and 256.
#include "attention_decode_launch.cuh"

namespace octet::cuda {

Status launch_decode_e4m3_cache(const AttentionArgs& a, CudaContext& ctx) {
  switch (a.d) {
    case 64: return launch_decode_as<__nv_fp8_e4m3, 64>(a, ctx);
    case 128: return launch_decode_as<__nv_fp8_e4m3, 128>(a, ctx);
    default: return launch_decode_as<__nv_fp8_e4m3, 256>(a, ctx);
  }
}
Status launch_cluster_e4m3_cache(const AttentionArgs& a, CudaContext& ctx) {
  switch (a.d) {
    case 64: return launch_cluster_as<__nv_fp8_e4m3, 64>(a, ctx);
    case 128: return launch_cluster_as<__nv_fp8_e4m3, 128>(a, ctx);
    default: return launch_cluster_as<__nv_fp8_e4m3, 256>(a, ctx);
  }
}

}  // namespace octet::cuda
