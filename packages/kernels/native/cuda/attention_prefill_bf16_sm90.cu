// attention_prefill over bf16 caches, head dimensions 64, 128 and 256.
#include "attention_prefill_launch.cuh"

namespace octet::cuda {

Status launch_prefill_bf16_cache(const AttentionArgs& a, CudaContext& ctx) {
  switch (a.d) {
    case 64: return launch_prefill_as<__nv_bfloat16, 64, 192>(a, ctx);
    case 128: return launch_prefill_as<__nv_bfloat16, 128, 128>(a, ctx);
    default: return launch_prefill_as<__nv_bfloat16, 256, 64>(a, ctx);
  }
}

}  // namespace octet::cuda
