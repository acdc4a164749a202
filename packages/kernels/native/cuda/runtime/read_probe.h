// How fast the device reads its memory: the bound that decoding is held against.
#pragma once
#include <cstddef>

namespace octet::cuda {

// 10^9 bytes per second, the best of `repeats` passes over `bytes`; 0 when the buffer cannot be had. Uses a stream of its own.
double read_probe(int ordinal, size_t bytes, int repeats);

}  // namespace octet::cuda
