// How fast this machine reads memory: the bound that decode (which reads every weight once per token) is held against.
#pragma once
#include <cstddef>

namespace octet::cpu::OCTET_LEVEL {

// The best rate in 10^9 bytes per second over `repeats` rounds of three read-only kernels (one linear stream a thread;
// eight streams a thread; eight streams with software prefetch), each thread on its own contiguous share of a buffer of
// `bytes`. Take bytes >= 8 times the last-level cache. 0 when the buffer cannot be had. Blocks for about
// 4 * repeats * bytes / rate; allocates and frees the buffer itself (huge pages where the system grants them).
double read_probe_gbps(int threads, size_t bytes, int repeats = 5);

}  // namespace octet::cpu::OCTET_LEVEL
