// Philox 4x32-10 (Salmon et al., SC 2011), word for word as core's philox.ts and native/cpu/philox.h.
#pragma once
#include "common.cuh"

namespace octet::cuda {

__device__ __forceinline__ uint4 philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t hi0 = __umulhi(0xd2511f53u, c0), lo0 = 0xd2511f53u * c0, hi1 = __umulhi(0xcd9e8d57u, c2), lo1 = 0xcd9e8d57u * c2;
    c0 = hi1 ^ c1 ^ k0;
    c1 = lo1;
    c2 = hi0 ^ c3 ^ k1;
    c3 = lo0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return make_uint4(c0, c1, c2, c3);
}

// core's philoxUniform as its numerator over 2^25: 2 * (word >> 8) + 1, counter (position, 0, sequence, 0).
__device__ __forceinline__ uint32_t philox_numerator(uint32_t seed_lo, uint32_t seed_hi, uint32_t sequence, uint32_t position) {
  return 2 * (philox4x32(position, 0, sequence, 0, seed_lo, seed_hi).x >> 8) + 1;
}

}  // namespace octet::cuda
