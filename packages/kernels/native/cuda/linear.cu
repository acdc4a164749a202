// linear: out[m,n] = sum_k x[m,k] * weight[n,k] (+ bias[n]) (+ residual[m,n])
// Tensors  t0 x [M,K], t1 weight [N,K], t2 scaleInv?, t3 bias? [N], t4 residual? [M,N], t5 out [M,N], t6 xScaleInv?
// Attrs    a0 weight granularity, a1 x granularity (0 none 1 tensor 2 row 3 1x128 4 128x128)
// The variants, first fit wins: own kernels for decode shapes, the vendor library for large ones, the decode kernels over 128
// rows at a time where the library is absent or lacks the scales, and one portable kernel for every legal call.
#include "linear_args.h"

namespace octet::cuda {

static const Variant kRows[] = {
    {"gemv_e4m3_sm90", kSm90, fits_gemv_e4m3, launch_gemv_e4m3},
    {"gemv_bf16_sm90", kSm90, fits_gemv_bf16, launch_gemv_bf16},
    {"decode_e4m3_sm90", kSm90, fits_decode_e4m3, launch_tiled_e4m3},
    {"decode_bf16_sm90", kSm90, fits_decode_bf16, launch_tiled_bf16},
    {"cublaslt", kAnyArch, fits_cublaslt, launch_cublaslt},
    {"tiled_e4m3_sm90", kSm90, fits_tiled_e4m3, launch_tiled_e4m3},
    {"tiled_bf16_sm90", kSm90, fits_tiled_bf16, launch_tiled_bf16},
    {"portable", kAnyArch, always, launch_linear_portable},
};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(linear, kRows)
