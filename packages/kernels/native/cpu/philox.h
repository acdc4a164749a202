// Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), word for word as core's
// philox.ts: counter and key in, four 32-bit words out.
#pragma once
#include <cstdint>

#include "simd.h"

namespace octet::cpu::OCTET_LEVEL {

struct Words {
  uint32_t w[4];
};

OCTET_INLINE Words philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53u} * c0, p1 = uint64_t{0xcd9e8d57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

// A float32 in (0, 1) of the top 24 bits, exact: (word >> 8) + 0.5 over 2^24.
OCTET_INLINE double uniform_of(uint32_t word) { return (static_cast<double>(word >> 8) + 0.5) / 16777216.0; }

// core's philoxUniform: counter (position, 0, sequence, 0).
OCTET_INLINE double philox_uniform(uint32_t seed_lo, uint32_t seed_hi, uint32_t sequence, uint32_t position) {
  return uniform_of(philox4x32(position, 0, sequence, 0, seed_lo, seed_hi).w[0]);
}

}  // namespace octet::cpu::OCTET_LEVEL
