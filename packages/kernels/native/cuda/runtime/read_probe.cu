#include "read_probe.h"

#include <cuda_runtime_api.h>

#include <cstdint>

namespace octet::cuda {

namespace {
constexpr int kThreads = 256, kAhead = 8;

__global__ void __launch_bounds__(kThreads) write_words(uint4* out, int64_t count) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const uint32_t w = static_cast<uint32_t>(i) * 2654435761u;
    out[i] = make_uint4(w, ~w, w ^ 0x9e3779b9u, w * 3);
  }
}

// Each block reads runs of kAhead * kThreads consecutive 16-byte words, all loads of a run in flight at once. The sum is
// stored only for one value that it never has, so the loads stay.
__global__ void __launch_bounds__(kThreads) read_words(const uint4* in, int64_t count, uint32_t* out) {
  constexpr int64_t kRun = static_cast<int64_t>(kAhead) * kThreads;
  uint32_t sum = 0;
  for (int64_t run = blockIdx.x * kRun; run + kRun <= count; run += gridDim.x * kRun) {
    uint4 w[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) w[k] = __ldcs(in + run + k * kThreads + threadIdx.x);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) sum |= w[k].x & w[k].y & w[k].z & w[k].w;  // x & ~x: always 0
  }
  if (sum != 0) *out = sum;
}
}  // namespace

double read_probe(int ordinal, size_t bytes, int repeats) {
  if (cudaSetDevice(ordinal) != cudaSuccess) return 0;
  constexpr size_t kGrain = static_cast<size_t>(kAhead) * kThreads * sizeof(uint4);
  bytes = bytes / kGrain * kGrain;
  uint4* data = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  int sms = 0;
  cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, ordinal);
  bool ok = bytes > 0 && cudaMalloc(reinterpret_cast<void**>(&data), bytes + sizeof(uint32_t)) == cudaSuccess;
  ok = ok && cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess && cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess;
  const int64_t count = static_cast<int64_t>(bytes / sizeof(uint4));
  float best = 0;
  if (ok) write_words<<<sms * 8, kThreads, 0, stream>>>(data, count);
  for (int i = 0; ok && i <= repeats; ++i) {
    cudaEventRecord(begin, stream);
    read_words<<<sms * 8, kThreads, 0, stream>>>(data, count, reinterpret_cast<uint32_t*>(data + count));
    cudaEventRecord(end, stream);
    float ms = 0;
    ok = cudaEventSynchronize(end) == cudaSuccess && cudaEventElapsedTime(&ms, begin, end) == cudaSuccess && ms > 0;
    if (i > 0 && ok && (best == 0 || ms < best)) best = ms;  // the first pass warms up
  }
  if (begin != nullptr) cudaEventDestroy(begin);
  if (end != nullptr) cudaEventDestroy(end);
  if (stream != nullptr) cudaStreamDestroy(stream);
  cudaFree(data);
  cudaGetLastError();
  return ok && best > 0 ? static_cast<double>(bytes) / best / 1e6 : 0;
}

}  // namespace octet::cuda
