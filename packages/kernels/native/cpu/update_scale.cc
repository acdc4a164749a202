// updateScale: the end of a step of delayed scaling: each history rolls and gives the next scale
// Tensors  t0 amaxHistory f32[N,L] in place (entry 0 collects the current step, then oldest to newest), t1 scale f32[N] in place
// Attrs    a0 scaledMax = fp8Max * 2^-margin, a1 algorithm 0 max, 1 most_recent
// Values   last = history[0]. last == 0: as it was. Else history = [0, history[2..], last]; amax = last, or the largest of
//          history[1..] and last, NaN passed over; finite and positive: scale = scaledMax / amax. Then an infinite scale
//          becomes the largest float32. Source: TransformerEngine, common/recipe/delayed_scaling.cu
// Traffic  2 * L words a row.   One thread: histories are short
#include <cfloat>
#include <cmath>
#include <cstring>

#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_updateScale(const OpCall& call, Context& ctx) {
  const TensorArg &history = call.t[0], &scale = call.t[1];
  const float scaled_max = call.f(0);
  const bool most_recent = call.i(1) == 1;
  const int64_t length = history.cols();
  for (int64_t n = 0; n < history.rows(); ++n) {
    float* const h = history.as<float>() + n * history.row_stride;
    float& s = scale.as<float>()[n];
    const float last = h[0];
    if (last != 0) {
      float amax = last;
      if (!most_recent) {
        amax = last > 0 ? last : 0;  // comparisons are false for NaN
        for (int64_t i = 1; i < length; ++i) amax = h[i] > amax ? h[i] : amax;
      }
      std::memmove(h, h + 1, static_cast<size_t>(length - 1) * sizeof(float));
      h[length - 1] = last;
      h[0] = 0;
      if (amax > 0 && amax <= FLT_MAX) s = scaled_max / amax;
    }
    if (std::isinf(s)) s = FLT_MAX;
  }
  return finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
