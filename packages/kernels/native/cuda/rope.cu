// rope: out[t,h,:] = rotation of x[t,h,:] (after an optional RMSNorm over the head) by the angles of positions[t]
// Tensors  t0 x [T,H*D] f32|bf16, t1 positions i32[T], t2 cos f32[P,D/2], t3 sin f32[P,D/2], t4 out [T,H*D] (may be x),
//          t5 normWeight? [D] f32|bf16; D even, <= 256
// Attrs    a0 heads, a1 headDim, a2 interleaved, a3 eps, a4 zeroCenteredGamma, a5 castBeforeWeight
// Traffic  x once, out once.   A position outside [0, P) raises the fault word
// Launch   a warp per head, 8 per block
#include "rope_rows.cuh"

namespace octet::cuda {

template <class X, class Y>
__global__ void __launch_bounds__(kHeadWarps * 32)
    rope(Rows<const X> x, const int32_t* positions, Rows<const float> cosine, Rows<const float> sine, int64_t angles, Rows<Y> out, int64_t tokens, int heads, HeadShape s, HeadNorm norm, int32_t* fault) {
  const uint32_t i = blockIdx.x * kHeadWarps + (threadIdx.x >> 5);  // 32 bits: a 64-bit division is a call that spills
  if (i >= tokens * heads) return;
  const int64_t t = i / heads, column = i % heads * s.d, p = positions[t];
  if (p < 0 || p >= angles) {
    *fault = static_cast<int32_t>(Status::bad_index);
    return;
  }
  Head h = load_head(x[t] + column, s);
  norm_head<X>(h, s, norm);
  rotate(h, s, cosine[p], sine[p]);
  store_head<Y>(out[t] + column, h, s);
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &cosine = call.t[2], &sine = call.t[3], &out = call.t[4], &norm = call.t[5];
  const int heads = static_cast<int>(call.i(0)), d = static_cast<int>(call.i(1));
  if (x.rows() * heads == 0) return Status::ok;
  if (d > 64 * kPairs) return Status::unsupported;
  const HeadShape s{d, d / 2, call.b(2)};
  const HeadNorm n{norm.data, norm.dtype == DType::f32, call.b(5), call.f(3), call.b(4) ? 1.f : 0.f};
  return dispatch_compute(x.dtype, [&](auto xt) {
    return dispatch_compute(out.dtype, [&](auto yt) {
      using X = typename decltype(xt)::type;
      using Y = typename decltype(yt)::type;
      rope<X, Y><<<blocks_for(x.rows() * heads, kHeadWarps, INT32_MAX), kHeadWarps * 32, 0, ctx.stream()>>>(
          rows_of<const X>(x), call.t[1].as<const int32_t>(), rows_of<const float>(cosine), rows_of<const float>(sine), cosine.rows(), rows_of<Y>(out), x.rows(), heads, s, n, ctx.fault_word());
      return launched();
    });
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(rope, kRows)
