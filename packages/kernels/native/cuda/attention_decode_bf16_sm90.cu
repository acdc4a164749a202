// attention_decode over bf16 caches, head dimensions 64, 128 and 256.
#include "attention_decode_launch.cuh"

namespace octet::cuda {

Status launch_decode_bf16_cache(const AttentionArgs& a, CudaContext& ctx) {
  switch (a.d) {
    case 64: return launch_decode_as<__nv_bfloat16, 64>(a, ctx);
    case 128: return launch_decode_as<__nv_bfloat16, 128>(a, ctx);
    default: return launch_decode_as<__nv_bfloat16, 256>(a, ctx);
  }
}
Status launch_cluster_bf16_cache(const AttentionArgs& a, CudaContext& ctx) {
  switch (a.d) {
    case 64: return launch_cluster_as<__nv_bfloat16, 64>(a, ctx);
    case 128: return launch_cluster_as<__nv_bfloat16, 128>(a, ctx);
    default: return launch_cluster_as<__nv_bfloat16, 256>(a, ctx);
  }
}

}  // namespace octet::cuda
