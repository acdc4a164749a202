// Launch of a kernel that may start before the one before it has ended (programmatic dependent launch).
#pragma once
#include <cuda_runtime.h>

#include "context.h"

namespace octet::cuda {

// For the device side: lets the next kernel start, then waits until everything earlier has ended and is visible. A kernel
// launched by launch_overlapped executes it in every thread before it touches what an earlier kernel reads or writes.
__device__ __forceinline__ void overlap_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
#endif
}

template <class... P, class... A>
inline Status launch_overlapped(void (*kernel)(P...), dim3 grid, unsigned threads, size_t smem, cudaStream_t stream, A&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = smem;
  config.stream = stream;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<A&&>(args)...) == cudaSuccess ? Status::ok : Status::internal;
}

}  // namespace octet::cuda
