#include "levels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace octet {

namespace cpu {
#define X(level)                                                            \
  namespace level {                                                         \
  extern const OpFn kTable[];                                               \
  double read_probe_gbps(int threads, size_t bytes, int repeats);           \
  }
#include "octet/levels.def"
#undef X
}  // namespace cpu

namespace {

// These run on any CPU: this file is compiled for the lowest one. __builtin_cpu_supports also checks that the
// operating system saves the wide registers.
#if defined(__x86_64__)
[[maybe_unused]] bool supports_baseline() { return true; }
// Clang's __builtin_cpu_supports has no name for F16C.
[[maybe_unused]] bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
[[maybe_unused]] bool supports_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
}
[[maybe_unused]] bool supports_avx512() {
  return supports_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool supports_avx512bf16() {
  return supports_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni");
}
#elif defined(__aarch64__)
bool supports_neon() { return true; }
#else
bool supports_baseline() { return true; }
#endif

constexpr Level kLevels[] = {
#define X(level) {#level, supports_##level, cpu::level::kTable, cpu::level::read_probe_gbps},
#include "octet/levels.def"
#undef X
};

}  // namespace

std::span<const Level> levels() { return kLevels; }

}  // namespace octet
