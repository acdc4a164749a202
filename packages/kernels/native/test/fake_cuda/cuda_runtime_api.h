// A CUDA runtime without a GPU, for the test of the queues alone: what the files under native/cuda/runtime call, and no more. A
// stream does everything at once, in the calling thread; a capture keeps it for the graph's launches. Counts what is alive, and
// fails where a test says so.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define CUDART_VERSION 13000

enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidResourceHandle = 400, cudaErrorNotReady = 600, cudaErrorIllegalAddress = 700 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor, cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventBlockingSync = 1 };
struct cudaDeviceProp {
  char name[16];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};

namespace fake {
using Work = std::vector<std::function<void()>>;
struct Stream {
  Work* captured = nullptr;
};
struct Handle {};
inline std::atomic<int> memory{0}, pinned{0}, streams{0}, events{0}, graphs{0}, launches{0};
inline std::atomic<bool> no_memory{false}, no_events{false}, no_records{false}, lost{false};
inline thread_local cudaError_t last = cudaSuccess;

inline cudaError_t give(cudaError_t e) {
  if (lost) e = cudaErrorIllegalAddress;
  if (e != cudaSuccess && e != cudaErrorNotReady) last = e;
  return e;
}
template <class T> cudaError_t make(T** out, std::atomic<int>& alive, bool refused, T* value) {
  if (refused || lost) {
    delete value;
    return give(cudaErrorMemoryAllocation);
  }
  ++alive;
  *out = value;
  return cudaSuccess;
}
template <class T> cudaError_t drop(T* handle, std::atomic<int>& alive) {
  if (handle == nullptr) return give(cudaErrorInvalidResourceHandle);
  --alive;
  delete handle;
  return cudaSuccess;
}
// A kernel.
inline cudaError_t launch(Stream* stream, std::function<void()> work) {
  if (lost) return give(cudaErrorIllegalAddress);
  if (stream->captured != nullptr) {
    stream->captured->push_back(std::move(work));
  } else {
    ++launches;
    work();
  }
  return cudaSuccess;
}
}  // namespace fake

using cudaStream_t = fake::Stream*;
using cudaEvent_t = fake::Handle*;
using cudaGraph_t = fake::Work*;
using cudaGraphExec_t = fake::Work*;
static const cudaStream_t cudaStreamLegacy = nullptr;

inline cudaError_t cudaGetLastError() {
  const cudaError_t e = fake::last;
  fake::last = cudaSuccess;
  return fake::give(e);
}
inline cudaError_t cudaPeekAtLastError() { return fake::last; }
inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }
inline cudaError_t cudaGetDeviceCount(int* n) { return *n = 2, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) { return *p = {"fake", 9, 0, 132, 1u << 30}, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* v) { return *v = 13000, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return fake::give(cudaSuccess); }
inline cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) { return *v = a == cudaDevAttrComputeCapabilityMajor ? 9 : a == cudaDevAttrMultiProcessorCount ? 132 : 0, cudaSuccess; }
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = *total = 1u << 30, cudaSuccess; }

inline cudaError_t cudaMalloc(void** p, size_t n) {
  if (fake::no_memory) return fake::give(cudaErrorMemoryAllocation);
  ++fake::memory;
  return *p = std::malloc(n), cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  if (p != nullptr) --fake::memory;
  return std::free(p), cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** p, size_t n) {
  ++fake::pinned;
  return *p = std::malloc(n), cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* p) { return --fake::pinned, std::free(p), cudaSuccess; }
inline cudaError_t cudaMemset(void* p, int v, size_t n) { return std::memset(p, v, n), fake::give(cudaSuccess); }
inline cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t) { return cudaMemset(p, v, n); }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t) { return std::memcpy(to, from, n), fake::give(cudaSuccess); }
inline cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t n, size_t rows, cudaMemcpyKind, cudaStream_t) {
  for (size_t r = 0; r < rows; ++r) std::memcpy(static_cast<char*>(to) + r * to_pitch, static_cast<const char*>(from) + r * from_pitch, n);
  return fake::give(cudaSuccess);
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return fake::make(s, fake::streams, false, new fake::Stream); }
inline cudaError_t cudaStreamDestroy(cudaStream_t s) { return fake::drop(s, fake::streams); }
inline cudaError_t cudaStreamQuery(cudaStream_t) { return fake::give(cudaSuccess); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return fake::give(cudaSuccess); }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t e, unsigned) { return fake::give(e == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess); }

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return fake::make(e, fake::events, fake::no_events, new fake::Handle); }
inline cudaError_t cudaEventDestroy(cudaEvent_t e) { return fake::drop(e, fake::events); }
inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) { return fake::give(e == nullptr || fake::no_records ? cudaErrorInvalidResourceHandle : cudaSuccess); }
inline cudaError_t cudaEventQuery(cudaEvent_t e) { return fake::give(e == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess); }
inline cudaError_t cudaEventSynchronize(cudaEvent_t e) { return cudaEventQuery(e); }

inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) { return fake::make(&s->captured, fake::graphs, false, new fake::Work); }
inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  *g = s->captured;
  s->captured = nullptr;
  return fake::give(cudaSuccess);
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* x, cudaGraph_t g, unsigned) { return fake::make(x, fake::graphs, false, new fake::Work(*g)); }
inline cudaError_t cudaGraphDestroy(cudaGraph_t g) { return fake::drop(g, fake::graphs); }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) { return fake::drop(x, fake::graphs); }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s) {
  for (const auto& work : *x) fake::launch(s, work);
  return fake::give(cudaSuccess);
}
