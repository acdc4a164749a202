// See read_probe.h. Independent of the linear kernels on purpose: it shares neither loops nor blocking with them.
#include "read_probe.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#include "simd.h"

// The versions that every glibc has, so that a binary built on a new system also loads on older ones.
#if defined(__GLIBC__) && defined(__x86_64__)
asm(".symver pthread_create, pthread_create@GLIBC_2.2.5");
asm(".symver pthread_join, pthread_join@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
asm(".symver pthread_create, pthread_create@GLIBC_2.17");
asm(".symver pthread_join, pthread_join@GLIBC_2.17");
#endif

namespace octet::cpu::OCTET_LEVEL {
namespace {

constexpr int64_t kLine = 64 / (int64_t)sizeof(float);
constexpr int kStreams = 8;

// Eight independent accumulators hide the adds' latency; integer adds, so that no value is slow.
float read_linear(const float* p, int64_t n) {
  I32 acc[8] = {};
  for (int64_t i = 0; i + 8 * kLanes <= n; i += 8 * kLanes) {
    for (int j = 0; j < 8; ++j) acc[j] += (I32)load(p + i + j * kLanes);
  }
  for (int j = 1; j < 8; ++j) acc[0] += acc[j];
  return hsum(to_float(acc[0]));
}

template <int kPrefetch> float read_streams(const float* p, int64_t n) {
  const int64_t share = n / kStreams / kLine * kLine;
  I32 acc[kStreams] = {};
  for (int64_t i = 0; i < share; i += kLine) {
    for (int j = 0; j < kStreams; ++j) {
      const float* q = p + j * share + i;
      if (kPrefetch != 0) __builtin_prefetch(q + kPrefetch * kLine);
      for (int k = 0; k < kLine; k += kLanes) acc[j] += (I32)load(q + k);
    }
  }
  for (int j = 1; j < kStreams; ++j) acc[0] += acc[j];
  return hsum(to_float(acc[0]));
}

using Kernel = float (*)(const float*, int64_t);
constexpr Kernel kKernels[] = {read_linear, read_streams<0>, read_streams<16>};
constexpr int kKernelCount = 3;

// Meeting point of `members` threads; members is 0 until the last thread was started (or refused by the system).
struct Meeting {
  int members = 0;
  int64_t arrived = 0;

  void wait() {
    int n;
    while ((n = __atomic_load_n(&members, __ATOMIC_ACQUIRE)) == 0) sched_yield();
    const int64_t ticket = __atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL);
    const int64_t last = ceil_div(ticket, n) * n;
    while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < last) sched_yield();
  }
};

struct Share {
  float* data;
  int64_t count;
  int repeats;
  Meeting* meeting;
  double seconds[kKernelCount];
  volatile float sink;
};

double seconds_now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void* run_share(void* argument) {
  Share& s = *static_cast<Share*>(argument);
  memset(s.data, 1, (size_t)s.count * sizeof(float));  // first touch by the thread that reads
  for (int k = 0; k < kKernelCount; ++k) {
    s.seconds[k] = 1e30;
    for (int r = 0; r < s.repeats; ++r) {
      s.meeting->wait();
      const double start = seconds_now();
      s.sink = kKernels[k](s.data, s.count);
      s.meeting->wait();
      s.seconds[k] = min_of(s.seconds[k], seconds_now() - start);
    }
  }
  return nullptr;
}

}  // namespace

double read_probe_gbps(int threads, size_t bytes, int repeats) {
  constexpr int kMaxThreads = 256;
  constexpr size_t kHuge = size_t{2} << 20;
  const int n = max_of(1, min_of(threads, kMaxThreads));
  const size_t per_thread = bytes / (size_t)n / kHuge * kHuge;
  if (per_thread == 0) return 0;
  const size_t total = per_thread * (size_t)n + kHuge;
  void* base = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return 0;
#ifdef MADV_HUGEPAGE
  madvise(base, total, MADV_HUGEPAGE);
#endif
  char* aligned = (char*)(((uintptr_t)base + kHuge - 1) / kHuge * kHuge);

  Share shares[kMaxThreads];
  pthread_t ids[kMaxThreads];
  Meeting meeting;
  int started = 0;
  for (int i = 0; i < n; ++i) {
    shares[i] = {(float*)(aligned + per_thread * (size_t)i), (int64_t)(per_thread / sizeof(float)), repeats, &meeting, {}, 0};
    if (i > 0 && pthread_create(&ids[i], nullptr, run_share, &shares[i]) != 0) break;
    ++started;
  }
  __atomic_store_n(&meeting.members, started, __ATOMIC_RELEASE);
  run_share(&shares[0]);
  for (int i = 1; i < started; ++i) pthread_join(ids[i], nullptr);
  munmap(base, total);
  double best = 1e30;
  for (int k = 0; k < kKernelCount; ++k) best = min_of(best, shares[0].seconds[k]);
  return (double)per_thread * started / best * 1e-9;
}

}  // namespace octet::cpu::OCTET_LEVEL
