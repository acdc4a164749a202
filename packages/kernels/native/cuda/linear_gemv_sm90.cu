// linear, at most eight rows of x: bf16, or e4m3 with scales per row or tensor, or per 128x128 and 1x128. Kernel: gemv_sm90.cuh.
#include "gemv_sm90.cuh"
#include "linear_decode_sm90.cuh"

namespace octet::cuda {

constexpr int kGemvMost = 4;  // beyond, the decode GEMM reads the activations once for more rows

template <class T, int kGroups, int kAhead, int kBlocks, bool kBlocked> static Status launch_gemv_as(const LinearArgs& a, CudaContext& ctx) {
  using namespace sm90;
  GemvArgs g{};
  g.w = a.weight->as<const uint8_t>();
  g.x = a.x->as<const uint8_t>();
  g.w_pitch = stride_of(*a.weight) * static_cast<int64_t>(sizeof(T));
  g.x_pitch = stride_of(*a.x) * static_cast<int64_t>(sizeof(T));
  g.m = static_cast<int>(a.m);
  g.n = static_cast<int>(a.n);
  g.k_bytes = static_cast<int>(a.k * sizeof(T));
  set_scales(g, a);
  const int64_t tiles = (a.n + 8 * kGroups - 1) / (8 * kGroups), most = static_cast<int64_t>(ctx.device().sms) * kBlocks;
  const unsigned blocks = static_cast<unsigned>(tiles < most ? tiles : most);
  return launch_overlapped(ctx, gemv<T, kGroups, kAhead, kBlocks, kBlocked>, dim3(blocks), kGemvWarps * 32, 0, g);
}

// How even the last round of `slots` blocks is: the share of the time in which all of them have a tile.
static double evenness(int64_t rows, int64_t tile, int64_t slots) {
  const int64_t tiles = (rows + tile - 1) / tile, rounds = (tiles + slots - 1) / slots;
  return static_cast<double>(tiles) / static_cast<double>(rounds * slots);
}

// Tiles of eight rows in three blocks an SM, or of sixteen in two where those come out clearly more even. Same results.
template <class T, bool kBlocked> static Status launch_gemv(const LinearArgs& a, CudaContext& ctx) {
  const int64_t sms = ctx.device().sms;
  if (evenness(a.n, 16, sms * 2) > evenness(a.n, 8, sms * 3) + 0.1) return launch_gemv_as<T, 2, 4, 2, kBlocked>(a, ctx);
  return launch_gemv_as<T, 1, 4, 3, kBlocked>(a, ctx);
}

static bool common(const LinearArgs& a, int item) { return a.m <= kGemvMost && a.n <= INT32_MAX / 16 && a.k * item <= INT32_MAX / 2 && decode_operands_fit(a, item); }

bool fits_gemv_bf16(const OpCall& call, const DeviceInfo&) {
  const LinearArgs a = linear_args(call);
  return a.x->dtype == DType::bf16 && a.weight->dtype == DType::bf16 && a.weight_granularity == Granularity::none && common(a, 2);
}
Status launch_gemv_bf16(const OpCall& call, CudaContext& ctx) { return launch_gemv<__nv_bfloat16, false>(linear_args(call), ctx); }

bool fits_gemv_e4m3(const OpCall& call, const DeviceInfo&) {
  const LinearArgs a = linear_args(call);
  return a.x->dtype == DType::e4m3 && a.weight->dtype == DType::e4m3 && decode_scales_fit(a) && common(a, 1);
}
Status launch_gemv_e4m3(const OpCall& call, CudaContext& ctx) {
  const LinearArgs a = linear_args(call);
  return decode_scales_blocked(a) ? launch_gemv<__nv_fp8_e4m3, true>(a, ctx) : launch_gemv<__nv_fp8_e4m3, false>(a, ctx);
}

}  // namespace octet::cuda
