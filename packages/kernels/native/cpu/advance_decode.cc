// advanceDecode: the end of a decode step on the device: each live row takes its chosen token, or stops
// Tensors  t0 chosen i32[N], t1 groups i32[N], t2 eos i32[N,E] (ids that end a row; < 0: none), and in place t3 remaining
//          i32[N] (new tokens a row may still have; <= 0: idle), t4 tokens i32[N] (next input), t5 kvLens i32[N],
//          t6 starts i32[N], t7 positions i32[N]; t8 out i32[N]
// Attrs    a0 group: only rows of this group are touched, a1 pad: input of a row that has stopped
// Values   a live row: out = chosen, remaining -= 1, and unless chosen is among eos or remaining is 0: tokens = chosen,
//          kvLens, starts and positions += 1. A row that stops: remaining = 0, tokens = pad, kvLens = starts = 0,
//          positions = -1 (its keys are stored nowhere). An idle row: out = -1, nothing else
// Traffic  (9 + E) words a row.   One thread: a batch is a few hundred rows
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_advanceDecode(const OpCall& call, Context& ctx) {
  const TensorArg& eos = call.t[2];
  const int32_t *const chosen = call.t[0].as<const int32_t>(), *const groups = call.t[1].as<const int32_t>();
  int32_t *const remaining = call.t[3].as<int32_t>(), *const tokens = call.t[4].as<int32_t>();
  int32_t *const kv_lens = call.t[5].as<int32_t>(), *const starts = call.t[6].as<int32_t>();
  int32_t *const positions = call.t[7].as<int32_t>(), *const out = call.t[8].as<int32_t>();
  const int32_t group = static_cast<int32_t>(call.i(0)), pad = static_cast<int32_t>(call.i(1));
  const int64_t rows = call.t[0].cols();
  for (int64_t n = 0; n < rows; ++n) {
    if (groups[n] != group) continue;
    if (remaining[n] <= 0) {
      out[n] = -1;
      continue;
    }
    const int32_t token = chosen[n];
    out[n] = token;
    remaining[n] -= 1;
    const int32_t* const ends = eos.as<const int32_t>() + n * eos.row_stride;
    for (int64_t i = 0; i < eos.cols(); ++i) {
      if (ends[i] >= 0 && ends[i] == token) remaining[n] = 0;
    }
    const bool live = remaining[n] > 0;
    tokens[n] = live ? token : pad;
    kv_lens[n] = live ? kv_lens[n] + 1 : 0;
    starts[n] = live ? starts[n] + 1 : 0;
    positions[n] = live ? positions[n] + 1 : -1;
  }
  return finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
