// logSoftmax: out[n,v] = x[n,v] - m - log(sum_v exp(x[n,v] - m)), m = max_v x[n,v]
// Tensors  t0 x [N,V] f32|bf16, t1 out [N,V] f32
// Values   a row that holds NaN or +infinity, or only -infinity, is all NaN, as in PyTorch
// Traffic  x three times (a row of 16384 stays in the near caches), out once
// Order    pieces of 16384 columns, each by a fixed tree; pieces are added in order in float64
#include "norm_rows.h"

namespace octet::cpu::OCTET_LEVEL {

Status op_logSoftmax(const OpCall& call, Context& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t rows = x.rows(), v = x.cols();
  if (rows <= 0 || v <= 0) return Status::ok;
  const int64_t pieces = ceil_div(v, kPiece), grain = max_of<int64_t>(1, kPiece / v);
  float* const top = scratch_of<float>(ctx, rows * pieces);
  float* const sum = scratch_of<float>(ctx, rows * pieces);
  if (top == nullptr || sum == nullptr) return Status::out_of_memory;
  const auto row_max = [&](int64_t row) {
    float m = top[row * pieces];
    for (int64_t p = 1; p < pieces; ++p) m = max_of(m, top[row * pieces + p]);
    return m;
  };
  return by_activation(x.dtype, [&]<class X>(X*) {
    const auto piece = [&](int64_t i, auto&& f) {
      const int64_t row = i / pieces, c = i % pieces * kPiece;
      f(row, x.as<const X>() + row * x.row_stride + c, out.as<float>() + row * out.row_stride + c, min_of(kPiece, v - c));
    };
    ctx.parallel(rows * pieces, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        piece(i, [&](int64_t, const X* from, float*, int64_t n) {
          F32 m = set1(-__builtin_inff());
          for (int64_t k = 0; k < n; k += kLanes) {
            const I32 inside = iota() < static_cast<int32_t>(min_of<int64_t>(n - k, kLanes));
            m = max(select(inside, load_n(from + k, n - k), m), m);  // passes NaN over: the sum brings it back
          }
          top[i] = hmax(m);
        });
      }
    });
    ctx.parallel(rows * pieces, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        piece(i, [&](int64_t row, const X* from, float* to, int64_t n) {
          const float m = row_max(row);
          for (int64_t k = 0; k < n; k += kLanes) store_n(to + k, load_n(from + k, n - k) - m, n - k);
          sum[i] = sum_row(to, n, [](F32 d) { return exp(d); });
        });
      }
    });
    ctx.parallel(rows * pieces, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        piece(i, [&](int64_t row, const X*, float* to, int64_t n) {
          double total = 0;
          for (int64_t p = 0; p < pieces; ++p) total += sum[row * pieces + p];
          const float log_total = static_cast<float>(__builtin_log(total));
          for (int64_t k = 0; k < n; k += kLanes) store_n(to + k, load_n(to + k, n - k) - log_total, n - k);
        });
      }
    });
    return finish(ctx);
  });
}

}  // namespace octet::cpu::OCTET_LEVEL
