// Spinning and parking: the two ways a thread waits here. A wait first spins for a bounded time (the next command or
// chunk usually comes within microseconds), then sleeps in the kernel so that an idle device costs nothing.
#pragma once
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octet {

inline void cpu_relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

using Word = std::atomic<uint32_t>;

// Sleeps while `word` holds `expected`. May return early: callers loop.
inline void park(Word& word, uint32_t expected) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
#else
  word.wait(expected);
#endif
}

inline void unpark_all(Word& word) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  word.notify_all();
#endif
}

// Spins until done() or `micros` have passed; returns whether done() held.
template <class Done> bool spin_until(Done&& done, int micros) {
  if (done()) return true;
  if (micros <= 0) return false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(micros);
  do {
    for (int i = 0; i < 32; ++i) {
      cpu_relax();
      if (done()) return true;
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace octet
