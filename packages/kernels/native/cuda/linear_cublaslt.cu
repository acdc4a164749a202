// linear through cuBLASLt: large GEMMs in bf16 (to bf16 or f32), f32 (no TF32) and e4m3 (to bf16) with one scale or one per
// row of each side.
#include "cublaslt.h"
#include "linear_args.h"

namespace octet::cuda {

static bool lt_type(DType d, LtType* t) {
  switch (d) {
    case DType::f32: *t = LtType::f32; return true;
    case DType::bf16: *t = LtType::bf16; return true;
    case DType::e4m3: *t = LtType::e4m3; return true;
    case DType::e5m2: *t = LtType::e5m2; return true;
    default: return false;
  }
}

static bool lt_gemm(const LinearArgs& a, LtGemm* g) {
  *g = {a.m, a.n, a.k, stride_of(*a.x), stride_of(*a.weight), stride_of(*a.out), LtType::f32, LtType::f32, LtType::f32, LtScale::none, static_cast<bool>(*a.bias), static_cast<bool>(*a.residual)};
  if (!lt_type(a.x->dtype, &g->x_type) || !lt_type(a.weight->dtype, &g->w_type) || !lt_type(a.out->dtype, &g->y_type)) return false;
  const bool fp8 = a.x->dtype == DType::e4m3;
  if (fp8) {
    if (a.weight->dtype != DType::e4m3 && a.weight->dtype != DType::e5m2) return false;
    if (a.out->dtype != DType::bf16 || a.weight_granularity != a.x_granularity) return false;
    if (a.x_granularity == Granularity::tensor) g->scale = LtScale::scalar;
    else if (a.x_granularity == Granularity::row) g->scale = LtScale::outer_vector;
    else return false;
  } else if (a.x->dtype != a.weight->dtype || a.weight_granularity != Granularity::none) {
    return false;
  } else if (a.out->dtype != a.x->dtype && (a.x->dtype != DType::bf16 || a.out->dtype != DType::f32 || *a.bias || *a.residual)) {
    return false;
  }
  if (*a.bias && a.bias->dtype != a.out->dtype) return false;
  if (*a.residual && (a.residual->dtype != a.out->dtype || stride_of(*a.residual) != g->ldy)) return false;
  const int64_t item = fp8 ? 1 : a.x->dtype == DType::bf16 ? 2 : 4;
  const auto aligned = [](const TensorArg& t, int64_t bytes) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && stride_of(t) * bytes % 16 == 0; };
  return a.k * item % 16 == 0 && aligned(*a.x, item) && aligned(*a.weight, item) && aligned(*a.out, a.out->dtype == DType::f32 ? 4 : 2) && a.m > 0 && a.n > 0 && a.k > 0;
}

bool fits_cublaslt(const OpCall& call, const DeviceInfo& device) {
  LtGemm g;
  return device.has_cublaslt && lt_gemm(linear_args(call), &g);
}

Status launch_cublaslt(const OpCall& call, CudaContext& ctx) {
  const LinearArgs a = linear_args(call);
  LtGemm g;
  if (ctx.cublaslt() == nullptr || !lt_gemm(a, &g)) return Status::unsupported;
  void* const workspace = ctx.workspace(kLtWorkspace);
  if (workspace == nullptr) return Status::out_of_memory;
  const LtPointers p{a.x->data, a.weight->data, a.x_scale->data, a.weight_scale->data, a.bias->data, a.residual->data, a.out->data};
  if (cublaslt_gemm(ctx.cublaslt(), g, p, workspace, ctx.stream())) return Status::ok;
  // No algorithm for this shape (the library is free to have none): the next variant takes it.
  if (ctx.device().arch >= 90 && fits_tiled_e4m3(call, ctx.device())) return launch_tiled_e4m3(call, ctx);
  if (ctx.device().arch >= 90 && fits_tiled_bf16(call, ctx.device())) return launch_tiled_bf16(call, ctx);
  return launch_linear_portable(call, ctx);
}

}  // namespace octet::cuda
