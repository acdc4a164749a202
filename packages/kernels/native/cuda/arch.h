// Which devices a row of an op's table has machine code for, and which the addon was built for. No CUDA: tests include it alone.
#pragma once
#include <climits>
#include <cstdlib>

namespace octet::cuda {

// Compute capabilities as major * 10 + minor, both ends included.
struct Archs {
  int least, most;
  constexpr bool hold(int arch) const { return least <= arch && arch <= most; }
};
// The portable rows are built for whatever the addon is built for; the *_sm90 rows for sm_90a, whose instructions no other
// device has, a later one neither.
constexpr Archs kAnyArch{80, INT_MAX}, kSm90{90, 90};

// Whether code for `built` ("80;90a", as CMake lists it; no PTX) runs on a device: that of its own generation with the same minor
// number or an earlier one, and 90a on 9.0 alone.
inline bool built_for(const char* built, int arch) {
  for (const char* at = built; *at != 0;) {
    char* end = nullptr;
    const long each = std::strtol(at, &end, 10);
    if (end == at) return false;
    const bool exact = *end == 'a';
    if (exact ? each == arch : each / 10 == arch / 10 && each <= arch) return true;
    while (*end != 0 && *end != ';') ++end;
    at = *end == ';' ? end + 1 : end;
  }
  return false;
}

}  // namespace octet::cuda
