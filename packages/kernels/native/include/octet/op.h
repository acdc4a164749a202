// The contract between the runtime (queues, addon) and the op implementations of one backend.
//
// JavaScript validates and enqueues an OpCall; a queue's worker thread later calls the op's function once, and the op
// spreads its own work over the queue's pool with Context::parallel_for. Ops never allocate from the system, throw,
// exit or touch JavaScript; they return a Status. Scratch memory comes from Context::scratch.
#pragma once
#include <cstddef>
#include <cstdint>

namespace octet {

// Raised, with ABI_REVISION of src/op-table.ts, whenever an argument that crosses from JavaScript changes its meaning.
constexpr int kAbiRevision = 4;

// Order is part of the ABI shared with src/dtype-codes.ts.
enum class DType : int32_t { f32 = 0, bf16 = 1, f16 = 2, e4m3 = 3, e5m2 = 4, i32 = 5, u8 = 6, f64 = 7, i64 = 8, bool8 = 9 };

constexpr int kMaxDims = 5;
constexpr int kMaxTensors = 16;
constexpr int kMaxAttrs = 24;

// A tensor argument. The innermost axis is contiguous; rows (all axes but the last, flattened) are `row_stride`
// elements apart. data == nullptr marks an absent optional argument.
struct TensorArg {
  void* data = nullptr;
  DType dtype = DType::f32;
  int32_t ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t row_stride = 0;

  explicit operator bool() const { return data != nullptr; }
  int64_t cols() const { return ndim == 0 ? 1 : shape[ndim - 1]; }
  int64_t rows() const {
    int64_t n = 1;
    for (int i = 0; i + 1 < ndim; ++i) n *= shape[i];
    return n;
  }
  template <class T> T* as() const { return static_cast<T*>(data); }
};

struct OpCall {
  int32_t op = 0;
  int32_t tensor_count = 0;
  int32_t attr_count = 0;
  TensorArg t[kMaxTensors];
  double attr[kMaxAttrs] = {};

  int64_t i(int k) const { return static_cast<int64_t>(attr[k]); }
  float f(int k) const { return static_cast<float>(attr[k]); }
  bool b(int k) const { return attr[k] != 0; }
};

enum class Status : int32_t { ok = 0, cancelled = 1, unsupported = 2, bad_index = 3, io_error = 4, short_read = 5, out_of_memory = 6, internal = 7, device_lost = 8 };

// What an op may use while it runs. One Context per queue; an op runs alone on it.
class Context {
 public:
  virtual ~Context() = default;
  virtual int threads() const = 0;
  // Calls body(user, begin, end, thread) over [0, n) in chunks of `grain`, on all pool threads including the caller;
  // returns when all chunks are done. Chunk boundaries are multiples of grain whatever the thread count; chunks are
  // claimed dynamically. Stops claiming once the queue is cancelled.
  virtual void parallel_for(int64_t n, int64_t grain, void (*body)(void* user, int64_t begin, int64_t end, int thread), void* user) = 0;
  // Scratch that lives until the op returns, 64-byte aligned. nullptr when memory is out. Call from the op's own thread.
  virtual void* scratch(size_t bytes) = 0;
  virtual bool cancelled() const = 0;

  template <class F> void parallel(int64_t n, int64_t grain, F&& f) {
    parallel_for(n, grain, [](void* u, int64_t b, int64_t e, int t) { (*static_cast<F*>(u))(b, e, t); }, &f);
  }
};

using OpFn = Status (*)(const OpCall&, Context&);

// One table per instruction-set level, indexed by op number (native/include/octet/ops.def); missing rows are nullptr.
struct Level {
  const char* name;            // "baseline" | "avx2" | "avx512" | "avx512bf16" | "neon"
  bool (*supported)();         // by CPUID at run time
  const OpFn* table;
  double (*read_probe)(int threads, size_t bytes, int repeats);  // native/cpu/read_probe.h; blocks
};

}  // namespace octet
