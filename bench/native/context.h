// A Context over the runtime's own pool, and memory whose end is guarded, for running ops outside the addon.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../packages/kernels/native/runtime/pool.h"
#include "octet/op.h"

namespace bench {

class PoolContext : public octet::Context {
 public:
  explicit PoolContext(int threads, int spin_micros = 50) : pool_(threads, spin_micros) {}
  ~PoolContext() override { free(scratch_); }
  int threads() const override { return pool_.threads(); }
  void parallel_for(int64_t n, int64_t grain, void (*body)(void*, int64_t, int64_t, int), void* user) override {
    pool_.run(n, grain, body, user, stop_);
  }
  void* scratch(size_t bytes) override {
    if (bytes > scratch_bytes_) {
      free(scratch_);
      scratch_bytes_ = (bytes + (size_t{2} << 20) - 1) & ~((size_t{2} << 20) - 1);
      scratch_ = aligned_alloc(size_t{2} << 20, scratch_bytes_);
      madvise(scratch_, scratch_bytes_, MADV_HUGEPAGE);
    }
    if (poison_) memset(scratch_, 0xff, bytes);  // NaN in every format: unwritten scratch must not reach a result
    return scratch_;
  }
  bool cancelled() const override { return stop_.load(); }
  void poison(bool on) { poison_ = on; }

 private:
  octet::Pool pool_;
  std::atomic<bool> stop_{false};
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  bool poison_ = false;
};

// `bytes` that end exactly at an inaccessible page: any read or write past the end faults.
class Guarded {
 public:
  explicit Guarded(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    mapped_ = (bytes + page - 1) / page * page + page;
    base_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) abort();
    mprotect(base_ + mapped_ - page, page, PROT_NONE);
    data_ = base_ + mapped_ - page - bytes;
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  char* data() const { return data_; }

 private:
  char* base_;
  char* data_;
  size_t mapped_;
};

// The levels linked into this program.
struct LevelLinear {
  const char* name;
  octet::OpFn linear;
  bool supported;
};

}  // namespace bench

namespace octet::cpu {
#define OCTET_BENCH_LEVEL(level) \
  namespace level { \
  Status op_linear(const OpCall&, Context&); \
  double read_probe_gbps(int threads, size_t bytes, int repeats); \
  }
#if defined(__x86_64__)
OCTET_BENCH_LEVEL(baseline)
OCTET_BENCH_LEVEL(avx2)
OCTET_BENCH_LEVEL(avx512)
OCTET_BENCH_LEVEL(avx512bf16)
#else
OCTET_BENCH_LEVEL(neon)
#endif
#undef OCTET_BENCH_LEVEL
}  // namespace octet::cpu

namespace bench {
inline std::vector<LevelLinear> levels() {
#if defined(__x86_64__)
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return {
      {"baseline", octet::cpu::baseline::op_linear, true},
      {"avx2", octet::cpu::avx2::op_linear, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {"avx512", octet::cpu::avx512::op_linear, v4},
      {"avx512bf16", octet::cpu::avx512bf16::op_linear, v4 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi")},
  };
#else
  return {{"neon", octet::cpu::neon::op_linear, true}};
#endif
}
}  // namespace bench
