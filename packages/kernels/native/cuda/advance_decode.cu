// advanceDecode: the end of a decode step on the device: each live row takes its chosen token, or stops
// Tensors  t0 chosen i32[N], t1 groups i32[N], t2 eos i32[N,E] (ids that end a row; < 0: none), and in place t3 remaining
//          i32[N] (new tokens a row may still have; <= 0: idle), t4 tokens i32[N] (next input), t5 kvLens i32[N],
//          t6 starts i32[N], t7 positions i32[N]; t8 out i32[N]
// Attrs    a0 group: only rows of this group are touched, a1 pad: input of a row that has stopped
// Values   the rule of native/cpu/advance_decode.cc
// Traffic  (9 + E) words a row: launch-bound.   Launch   a thread per row, 128 per block
#include "common.cuh"
#include "launch.cuh"

namespace octet::cuda {

struct DecodeRows {
  const int32_t *chosen, *groups;
  int32_t *remaining, *tokens, *kv_lens, *starts, *positions, *out;
};

__global__ void __launch_bounds__(128) advance_decode(DecodeRows r, Rows<const int32_t> eos, int64_t ends, int64_t rows, int32_t group, int32_t pad) {
  overlap_wait();
  const int64_t n = blockIdx.x * 128ll + threadIdx.x;
  if (n >= rows || r.groups[n] != group) return;
  int32_t left = r.remaining[n];
  if (left <= 0) {
    r.out[n] = -1;
    return;
  }
  const int32_t token = r.chosen[n];
  left -= 1;
  for (int64_t i = 0; i < ends; ++i) {
    const int32_t end = eos[n][i];
    if (end >= 0 && end == token) left = 0;
  }
  const bool live = left > 0;
  r.out[n] = token;
  r.remaining[n] = left;
  r.tokens[n] = live ? token : pad;
  r.kv_lens[n] = live ? r.kv_lens[n] + 1 : 0;
  r.starts[n] = live ? r.starts[n] + 1 : 0;
  r.positions[n] = live ? r.positions[n] + 1 : -1;
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg& eos = call.t[2];
  const int64_t rows = call.t[0].cols();
  if (rows == 0) return Status::ok;
  const DecodeRows r{call.t[0].as<const int32_t>(), call.t[1].as<const int32_t>(), call.t[3].as<int32_t>(), call.t[4].as<int32_t>(),
                     call.t[5].as<int32_t>(), call.t[6].as<int32_t>(), call.t[7].as<int32_t>(), call.t[8].as<int32_t>()};
  return launch_overlapped(ctx, advance_decode, dim3(blocks_for(rows, 128, INT32_MAX)), 128, 0, r, rows_of<const int32_t>(eos), eos.cols(), rows, static_cast<int32_t>(call.i(0)), static_cast<int32_t>(call.i(1)));
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(advanceDecode, kRows)
