// The geometry of scales and the rule that makes one, shared by amax, quantize and dequantize.
#pragma once
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

// Codes of src/ops: which elements share a scale.
enum Granularity : int64_t { kTensor = 1, kRow = 2, kBlock1x128 = 3, kBlock128x128 = 4 };

// Rows and columns of one scale's block, and how many blocks lie side by side.
struct Blocks {
  int64_t height, width, down, across;
};

// False for a code that is none of the four.
inline bool blocks_of(int64_t granularity, int64_t rows, int64_t cols, Blocks* b) {
  const int64_t n = max_of<int64_t>(rows, 1), k = max_of<int64_t>(cols, 1);
  switch (granularity) {
    case kTensor: *b = {n, k, 1, 1}; return true;
    case kRow: *b = {1, k, rows, 1}; return true;
    case kBlock1x128: *b = {1, 128, rows, ceil_div(cols, 128)}; return true;
    case kBlock128x128: *b = {128, 128, ceil_div(rows, 128), ceil_div(cols, 128)}; return true;
    default: return false;
  }
}

// Largest magnitude of n values and what came before; NaN if any is.
template <class X> F32 amax_vectors(const X* x, int64_t n, F32 so_far) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32 v = abs(load_n(x + i, n - i));  // missing lanes load as 0
    so_far = select(is_nan(so_far), so_far, max(so_far, v));  // max gives v where v is NaN
  }
  return so_far;
}
OCTET_INLINE float amax_of_lanes(F32 v) {
  for (int k = 0; k < kLanes; ++k) {
    if (v[k] != v[k]) return v[k];
  }
  return hmax(v);
}
OCTET_INLINE float amax_join(float a, float b) { return a != a || b != b ? __builtin_nanf("") : max_of(a, b); }

// Current and block scaling's rule: floor amax at epsilon; 0, infinity and NaN give 1; else max / amax in float32,
// infinity becomes the largest float32, and powerOf2 clears the mantissa.
inline float scale_of_amax(float amax, float largest, float epsilon, bool power_of_2) {
  if (amax < epsilon) amax = epsilon;
  if (!(amax > 0) || amax > 0x1.fffffep127f) return 1.0f;
  float scale = largest / amax;
  if (scale > 0x1.fffffep127f) scale = 0x1.fffffep127f;
  if (power_of_2) {
    uint32_t u;
    memcpy(&u, &scale, sizeof u);
    u &= 0xff800000u;
    memcpy(&scale, &u, sizeof u);
  }
  return scale;
}

}  // namespace octet::cpu::OCTET_LEVEL
