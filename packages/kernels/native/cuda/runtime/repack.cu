#include "repack.h"

namespace octet::cuda {

struct Strided {
  int ndim;
  int64_t shape[8], strides[8], total;
};

template <class T> __global__ void __launch_bounds__(256) repack(const T* source, T* target, Strided s) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < s.total; i += gridDim.x * 256ll) {
    int64_t rest = i, at = 0;
    for (int d = s.ndim - 1; d >= 0; --d) {
      at += rest % s.shape[d] * s.strides[d];
      rest /= s.shape[d];
    }
    target[i] = source[at];
  }
}

bool launch_repack(const void* source, void* target, int item_bytes, int ndim, const int64_t* shape, const int64_t* strides, cudaStream_t stream) {
  Strided s{ndim, {}, {}, 1};
  for (int d = 0; d < ndim; ++d) {
    s.shape[d] = shape[d];
    s.strides[d] = strides[d];
    s.total *= shape[d];
  }
  if (s.total == 0) return true;
  const int64_t wanted = (s.total + 255) / 256;
  const unsigned blocks = static_cast<unsigned>(wanted < 65536 ? wanted : 65536);
  switch (item_bytes) {
    case 1: repack<<<blocks, 256, 0, stream>>>(static_cast<const uint8_t*>(source), static_cast<uint8_t*>(target), s); break;
    case 2: repack<<<blocks, 256, 0, stream>>>(static_cast<const uint16_t*>(source), static_cast<uint16_t*>(target), s); break;
    case 4: repack<<<blocks, 256, 0, stream>>>(static_cast<const uint32_t*>(source), static_cast<uint32_t*>(target), s); break;
    default: repack<<<blocks, 256, 0, stream>>>(static_cast<const uint64_t*>(source), static_cast<uint64_t*>(target), s); break;
  }
  return cudaPeekAtLastError() == cudaSuccess;
}

}  // namespace octet::cuda
