// The tensors of a linear call by name (native/include/octet/ops.def: linear) and its variants' launchers.
#pragma once
#include "context.h"

namespace octet::cuda {

enum class Granularity : int { none = 0, tensor = 1, row = 2, block1x128 = 3, block128x128 = 4 };

struct LinearArgs {
  const TensorArg *x, *weight, *weight_scale, *bias, *residual, *out, *x_scale;
  Granularity weight_granularity, x_granularity;
  int64_t m, n, k;
};

inline LinearArgs linear_args(const OpCall& c) {
  LinearArgs a{&c.t[0], &c.t[1], &c.t[2], &c.t[3], &c.t[4], &c.t[5], &c.t[6], static_cast<Granularity>(c.i(0)), static_cast<Granularity>(c.i(1)), 0, 0, 0};
  a.m = c.t[0].rows();
  a.n = c.t[1].rows();
  a.k = c.t[1].cols();
  return a;
}

inline int64_t stride_of(const TensorArg& t) { return t.ndim > 1 ? t.row_stride : t.cols(); }

bool fits_gemv_bf16(const OpCall&, const DeviceInfo&);
Status launch_gemv_bf16(const OpCall&, CudaContext&);
bool fits_gemv_e4m3(const OpCall&, const DeviceInfo&);
Status launch_gemv_e4m3(const OpCall&, CudaContext&);
bool fits_decode_bf16(const OpCall&, const DeviceInfo&);
bool fits_tiled_bf16(const OpCall&, const DeviceInfo&);
Status launch_tiled_bf16(const OpCall&, CudaContext&);
bool fits_decode_e4m3(const OpCall&, const DeviceInfo&);
bool fits_tiled_e4m3(const OpCall&, const DeviceInfo&);
Status launch_tiled_e4m3(const OpCall&, CudaContext&);
bool fits_cublaslt(const OpCall&, const DeviceInfo&);
Status launch_cublaslt(const OpCall&, CudaContext&);
Status launch_linear_portable(const OpCall&, CudaContext&);

}  // namespace octet::cuda
