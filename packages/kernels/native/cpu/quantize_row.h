// The last step of ops that leave their rows in FP8: exactly what op_quantize makes of the same row.
#pragma once
#include "scales.h"

namespace octet::cpu::OCTET_LEVEL {

struct RowQuantizer {
  const TensorArg* data;       // [N,K] e4m3
  float* scale_inv;            // [1], [N] or [N, ceil(K/128)]
  const float* given;          // of scale_inv's shape, or nullptr: from the row's own amax
  Granularity granularity;
  bool power_of_2;
  float epsilon;

  // Attributes from `first`: granularity (0: the result is not quantized), powerOf2, epsilon.
  RowQuantizer(const OpCall& call, const TensorArg& out, const TensorArg& inverse, const TensorArg& scale, int first)
      : data(&out), scale_inv(inverse.as<float>()), given(scale.as<const float>()), granularity(static_cast<Granularity>(call.i(first))),
        power_of_2(call.b(first + 1)), epsilon(call.f(first + 2)) {}

  explicit operator bool() const { return granularity != 0; }
  bool supported() const {
    return data->dtype == DType::e4m3 && scale_inv != nullptr && (granularity == kRow || granularity == kBlock1x128 || (granularity == kTensor && given != nullptr));
  }

  // x: the row in float32, rounded to the dtype that it would have been stored in.
  void operator()(int64_t row, const float* x) const {
    const int64_t cols = data->cols(), width = granularity == kBlock1x128 ? 128 : cols, across = ceil_div(cols, width);
    e4m3* const to = data->as<e4m3>() + row * data->row_stride;
    for (int64_t block = 0; block < across; ++block) {
      const int64_t begin = block * width, n = min_of(width, cols - begin), at = granularity == kTensor ? 0 : row * across + block;
      const float s = given != nullptr ? given[at] : scale_of_amax(amax_of_lanes(amax_vectors(x + begin, n, zero())), 448.0f, epsilon, power_of_2);
      if (granularity != kTensor || row == 0) scale_inv[at] = 1.0f / s;
      for (int64_t i = 0; i < n; i += kLanes) store_n(to + begin + i, load_n(x + begin + i, n - i) * s, n - i);
    }
  }
};

}  // namespace octet::cpu::OCTET_LEVEL
