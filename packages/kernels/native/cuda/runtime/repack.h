// A strided host-layout tensor that was read as it lies, rewritten row-major on the device.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace octet::cuda {

// Element strides of `source`, outermost first; `target` is contiguous. False on a launch error.
bool launch_repack(const void* source, void* target, int item_bytes, int ndim, const int64_t* shape, const int64_t* strides, cudaStream_t stream);

}  // namespace octet::cuda
