#include "cuda_device.h"

#include <cuda_runtime_api.h>

namespace octet::cuda {

// Ops declare their tables with OCTET_CUDA_OP; one that CUDA lacks leaves its weak symbol null (readFile: the queue's own).
#define X(name) extern const OpVariants octet_cuda_##name __attribute__((weak));
}  // namespace octet::cuda
using octet::cuda::OpVariants;
#include "octet/ops.def"
#undef X
namespace octet::cuda {

OpVariants variants_of(int op) {
  static const OpVariants* const table[] = {
#define X(name) &::octet_cuda_##name,
#include "octet/ops.def"
#undef X
  };
  const OpVariants* const v = table[op];
  return v == nullptr ? OpVariants{nullptr, 0} : *v;
}

std::vector<DeviceReport> list_devices(std::string* why) {
  int count = 0;
  if (const cudaError_t e = cudaGetDeviceCount(&count); e != cudaSuccess) {
    *why = cudaGetErrorString(e);
    cudaGetLastError();
    return {};
  }
  std::vector<DeviceReport> out;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    out.push_back({i, p.name, p.major, p.minor, p.multiProcessorCount, p.totalGlobalMem});
  }
  if (out.empty()) *why = "the driver reports no device";
  return out;
}

int driver_version() {
  int v = 0;
  return cudaDriverGetVersion(&v) == cudaSuccess ? v : 0;
}
int runtime_version() { return CUDART_VERSION; }

bool CudaDevice::open(int ordinal) {
  if (cudaSetDevice(ordinal) != cudaSuccess || cudaFree(nullptr) != cudaSuccess) return false;
  int major = 0, minor = 0;
  info_.ordinal = ordinal;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal);
  cudaDeviceGetAttribute(&info_.sms, cudaDevAttrMultiProcessorCount, ordinal);
  cudaDeviceGetAttribute(&info_.smem_optin, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  info_.arch = major * 10 + minor;
  cublaslt_ = open_cublaslt();
  info_.has_cublaslt = cublaslt_ != nullptr;
  return true;
}

CudaDevice::~CudaDevice() { close_cublaslt(cublaslt_); }

void* CudaDevice::reserve(size_t bytes) const {
  cudaSetDevice(info_.ordinal);
  void* p = nullptr;
  if (cudaMalloc(&p, bytes) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  // Queues run on streams that do not wait for the default one: the zeros must be there before any of them starts.
  if (cudaMemset(p, 0, bytes) != cudaSuccess || cudaStreamSynchronize(cudaStreamLegacy) != cudaSuccess) {
    cudaFree(p);
    return nullptr;
  }
  return p;
}

void CudaDevice::release(void* block) const {
  cudaSetDevice(info_.ordinal);
  cudaFree(block);
}

bool CudaDevice::memory(size_t* free, size_t* total) const {
  cudaSetDevice(info_.ordinal);
  return cudaMemGetInfo(free, total) == cudaSuccess;
}

}  // namespace octet::cuda
