// Launch of a kernel that may start before the one before it has ended (programmatic dependent launch).
#pragma once
#include <cuda_runtime.h>

#include "context.h"
#include "once_per_device.h"

namespace octet::cuda {

// For the device side: lets the next kernel start, then waits until everything earlier has ended and is visible. A kernel
// launched by launch_overlapped executes it in every thread before it touches what an earlier kernel reads or writes; only its
// weight it may read before, since CudaContext::overlaps rules out that an earlier kernel still writes that.
__device__ __forceinline__ void overlap_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
#endif
}

// Lets a kernel have `bytes` of dynamic shared memory on the context's device; `once` is the kernel's own.
template <class Kernel> inline bool allow_shared(OncePerDevice& once, const CudaContext& ctx, Kernel kernel, int bytes) {
  return once(ctx.device().ordinal, [&] { return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) == cudaSuccess; });
}

struct LaunchHints {
  bool overlaps;
  int shared_percent = -1;  // of an SM's memory that is to be shared memory, not L1; -1, or a driver that knows no such wish: its own choice
};

template <class... P, class... A>
inline Status launch_on(cudaStream_t stream, LaunchHints hints, void (*kernel)(P...), dim3 grid, unsigned threads, size_t smem, A&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = smem;
  config.stream = stream;
  cudaLaunchAttribute attributes[2]{};
  config.attrs = attributes;
  if (hints.overlaps) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a.val.programmaticStreamSerializationAllowed = 1;
  }
  if (hints.shared_percent >= 0) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributePreferredSharedMemoryCarveout;
    a.val.sharedMemCarveout = static_cast<unsigned>(hints.shared_percent);
  }
  if (cudaLaunchKernelEx(&config, kernel, args...) == cudaSuccess) return Status::ok;
  if (hints.shared_percent < 0) return Status::internal;
  cudaGetLastError();
  --config.numAttrs;  // the wish, which came last
  return cudaLaunchKernelEx(&config, kernel, args...) == cudaSuccess ? Status::ok : Status::internal;
}
template <class... P, class... A> inline Status launch_overlapped(CudaContext& ctx, void (*kernel)(P...), dim3 grid, unsigned threads, size_t smem, A&&... args) {
  return launch_on(ctx.stream(), {ctx.overlaps()}, kernel, grid, threads, smem, static_cast<A&&>(args)...);
}

}  // namespace octet::cuda
