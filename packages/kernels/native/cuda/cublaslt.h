// The vendor's matrix library, opened at run time with the few calls we need: the addon runs with or without it.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace octet::cuda {

struct CublasLt;

// Opens libcublasLt (13, then 12, then unversioned; OCTET_CUBLASLT names another file first). nullptr when none loads or
// a call is missing. One per device and process; calls are made from that device's queues.
CublasLt* open_cublaslt();
void close_cublaslt(CublasLt*);
size_t cublaslt_version(const CublasLt*);  // e.g. 130100
const char* cublaslt_path(const CublasLt*);

// Values of cudaDataType that we pass.
enum class LtType : int { f32 = 0, bf16 = 14, e4m3 = 28, e5m2 = 29 };
enum class LtScale : int { none = -1, scalar = 0, outer_vector = 3 };

// y[m,n] = sum_k x[m,k] w[n,k] (times scales) (+ bias[n]) (+ residual[m,n]), all row-major.
struct LtGemm {
  int64_t m, n, k, ldx, ldw, ldy;
  LtType x_type, w_type, y_type;
  LtScale scale;           // of both x and w
  bool bias, residual;     // bias in y's type; residual in y's layout
};

struct LtPointers {
  const void *x, *w, *x_scale, *w_scale, *bias, *residual;
  void* y;
};

constexpr size_t kLtWorkspace = 32u << 20;

// False where the library has no algorithm for the shape. Plans are cached by LtGemm and device.
bool cublaslt_gemm(CublasLt*, const LtGemm&, const LtPointers&, void* workspace, cudaStream_t);

}  // namespace octet::cuda
