// ropeKvAppend: qkv[t] = Q | K | V. qOut[t] = rope(Q); rope(K) and V go to the cache as kvAppend writes them
// Tensors  t0 qkv [T,(H+2Hkv)*D] f32|bf16, t1 positions i32[T] (angles), t2 cos f32[P,D/2], t3 sin f32[P,D/2],
//          t4 qOut [T,H*D] f32|bf16, t5 kCache [pages,Hkv,pageSize,D] f32|bf16|e4m3, t6 vCache, t7 pageTable i32[B,P],
//          t8 rowOf i32[T], t9 cachePositions i32[T] (< 0: the token is not stored), t10 qNorm? [D], t11 kNorm? [D],
//          t12 kScaleInv? f32[Hkv], t13 vScaleInv? f32[Hkv]; D even, <= 256
// Attrs    a0 heads, a1 kvHeads, a2 headDim, a3 interleaved, a4 eps, a5 zeroCenteredGamma, a6 castBeforeWeight
// Traffic  qkv once; qOut and the cache rows once.  Floor T=64, Gemma-7B: 3 MB, launch-bound
//          16384 tokens, H 32/8, D 128, bf16: 403 MB / 4.25 TB/s = 95 us
// Launch   wide: a thread per eight pairs of elements, a token per column of the grid; portable: a warp per head, 8 per block.
//          Both start before the previous kernel has ended
#include "launch.cuh"
#include "quantize_row.cuh"
#include "rope_rows.cuh"

namespace octet::cuda {

struct Angles {
  const int32_t* positions;
  Rows<const float> cosine, sine;
  int64_t count;
};

template <class X, class Y, class C>
__global__ void __launch_bounds__(kHeadWarps * 32)
    rope_kv_append(Rows<const X> qkv, Angles angles, Rows<Y> q_out, PagedCache kc, PagedCache vc, PageTable table, const int32_t* row_of, const int32_t* cache_positions, int64_t tokens, int heads, int kv_heads, HeadShape s, HeadNorm q_norm, HeadNorm k_norm, int32_t* fault) {
  overlap_wait();
  const int all = heads + 2 * kv_heads;
  const uint32_t i = blockIdx.x * kHeadWarps + (threadIdx.x >> 5);  // 32 bits: a 64-bit division is a call that spills
  if (i >= tokens * all) return;
  const int64_t t = i / all, slot = cache_positions[t];
  const int h = static_cast<int>(i % all);
  if (h >= heads && slot < 0) return;
  Head v = load_head(qkv[t] + static_cast<int64_t>(h) * s.d, s);
  if (h >= heads + kv_heads) return write_head<C>(vc, table, row_of[t], slot, h - heads - kv_heads, v, s, fault);
  const int64_t p = angles.positions[t];
  if (p < 0 || p >= angles.count) {
    *fault = static_cast<int32_t>(Status::bad_index);
    return;
  }
  norm_head<X>(v, s, h < heads ? q_norm : k_norm);
  rotate(v, s, angles.cosine[p], angles.sine[p]);
  if (h < heads) store_head<Y>(q_out[t] + static_cast<int64_t>(h) * s.d, v, s);
  else write_head<C>(kc, table, row_of[t], slot, h - heads, v, s, fault);
}

constexpr int kWideThreads = 128;

// Heads of whole vectors, turned by halves, without norms: element 8j + k pairs with D/2 + 8j + k.
template <class C>
__global__ void __launch_bounds__(kWideThreads)
    rope_kv_append_wide(Rows<const bf16> qkv, Angles angles, Rows<bf16> q_out, PagedCache kc, PagedCache vc, PageTable table, const int32_t* row_of, const int32_t* cache_positions, int heads, int kv_heads, int d, int32_t* fault) {
  overlap_wait();
  const int64_t t = blockIdx.x;
  const int parts = d / 16, i = static_cast<int>(blockIdx.y) * kWideThreads + static_cast<int>(threadIdx.x), h = i / parts, c = (i - h * parts) * 8, half = d / 2;
  if (h >= heads + 2 * kv_heads) return;
  const int slot = cache_positions[t];
  if (h >= heads && slot < 0) return;
  float a[8], b[8];
  load<bf16, 8>(a, qkv[t] + h * d + c);
  load<bf16, 8>(b, qkv[t] + h * d + half + c);
  const bool values = h >= heads + kv_heads;
  if (!values) {
    const int64_t p = angles.positions[t];
    if (p < 0 || p >= angles.count) {
      *fault = static_cast<int32_t>(Status::bad_index);
      return;
    }
    float cosine[8], sine[8];
    load<float, 8>(cosine, angles.cosine[p] + c);
    load<float, 8>(sine, angles.sine[p] + c);
#pragma unroll
    for (int k = 0; k < 8; ++k) turn(a[k], b[k], cosine[k], sine[k]);
  }
  if (h < heads) {
    store<bf16, 8>(q_out[t] + h * d + c, a);
    store<bf16, 8>(q_out[t] + h * d + half + c, b);
    return;
  }
  const auto put = [&](const PagedCache& cache, int head) {
    const int64_t at = cache_row(cache, table, row_of[t], slot, head);
    if (at < 0) {
      *fault = static_cast<int32_t>(Status::bad_index);
      return;
    }
    if (cache.scale_inv != nullptr) {
      const float factor = 1.f / cache.scale_inv[head];
#pragma unroll
      for (int k = 0; k < 8; ++k) a[k] *= factor, b[k] *= factor;
    }
    store<C, 8>(static_cast<C*>(cache.data) + at + c, a);
    store<C, 8>(static_cast<C*>(cache.data) + at + half + c, b);
  };
  if (values) put(vc, h - heads - kv_heads);
  else put(kc, h - heads);
}

static bool fits_wide(const OpCall& call, const DeviceInfo&) {
  const TensorArg &qkv = call.t[0], &q_out = call.t[4], &kc = call.t[5], &vc = call.t[6];
  const int64_t d = call.i(2), all = call.i(0) + 2 * call.i(1);
  const auto cache_fits = [](const TensorArg& c) { return c.dtype == DType::bf16 ? eight_rows<bf16>(c) : c.dtype == DType::e4m3 && eight_rows<e4m3>(c); };
  return qkv.dtype == DType::bf16 && q_out.dtype == DType::bf16 && kc.dtype == vc.dtype && cache_fits(kc) && cache_fits(vc) && d % 16 == 0 && d <= 256 && !call.b(3) && !call.t[10] && !call.t[11] &&
         wide_rows<bf16>(qkv) && wide_rows<bf16>(q_out) && wide_rows<float>(call.t[2]) && wide_rows<float>(call.t[3]) && all * d / 16 <= 65535 * kWideThreads;
}

static Status launch_wide(const OpCall& call, CudaContext& ctx) {
  const TensorArg &qkv = call.t[0], &cosine = call.t[2], &kc = call.t[5];
  const int heads = static_cast<int>(call.i(0)), kv_heads = static_cast<int>(call.i(1)), d = static_cast<int>(call.i(2));
  const int threads = (heads + 2 * kv_heads) * (d / 16);
  if (qkv.rows() * threads == 0) return Status::ok;
  const Angles angles{call.t[1].as<const int32_t>(), rows_of<const float>(cosine), rows_of<const float>(call.t[3]), cosine.rows()};
  const auto run = [&](auto ct) {
    using C = typename decltype(ct)::type;
    return launch_overlapped(ctx, rope_kv_append_wide<C>, dim3(static_cast<unsigned>(qkv.rows()), blocks_for(threads, kWideThreads)), kWideThreads, 0, rows_of<const bf16>(qkv), angles, rows_of<bf16>(call.t[4]), cache_of(kc, call.t[12]), cache_of(call.t[6], call.t[13]),
                             table_of(call.t[7]), call.t[8].as<const int32_t>(), call.t[9].as<const int32_t>(), heads, kv_heads, d, ctx.fault_word());
  };
  return kc.dtype == DType::bf16 ? run(Tag<bf16>{}) : run(Tag<e4m3>{});
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg &qkv = call.t[0], &cosine = call.t[2], &q_out = call.t[4], &kc = call.t[5], &q_norm = call.t[10], &k_norm = call.t[11];
  const int heads = static_cast<int>(call.i(0)), kv_heads = static_cast<int>(call.i(1)), d = static_cast<int>(call.i(2)), all = heads + 2 * kv_heads;
  if (qkv.rows() * all == 0) return Status::ok;
  if (d > 64 * kPairs || kc.dtype != call.t[6].dtype) return Status::unsupported;
  const float eps = call.f(4), gamma0 = call.b(5) ? 1.f : 0.f;
  const HeadNorm qn{q_norm.data, q_norm.dtype == DType::f32, call.b(6), eps, gamma0}, kn{k_norm.data, k_norm.dtype == DType::f32, call.b(6), eps, gamma0};
  const Angles angles{call.t[1].as<const int32_t>(), rows_of<const float>(cosine), rows_of<const float>(call.t[3]), cosine.rows()};
  return dispatch_compute(qkv.dtype, [&](auto xt) {
    return dispatch_compute(q_out.dtype, [&](auto yt) {
      return dispatch_cache(kc.dtype, [&](auto ct) {
        using X = typename decltype(xt)::type;
        using Y = typename decltype(yt)::type;
        using C = typename decltype(ct)::type;
        return launch_overlapped(ctx, rope_kv_append<X, Y, C>, dim3(blocks_for(qkv.rows() * all, kHeadWarps, INT32_MAX)), kHeadWarps * 32, 0, rows_of<const X>(qkv), angles, rows_of<Y>(q_out), cache_of(kc, call.t[12]), cache_of(call.t[6], call.t[13]), table_of(call.t[7]), call.t[8].as<const int32_t>(),
            call.t[9].as<const int32_t>(), qkv.rows(), heads, kv_heads, HeadShape{d, d / 2, call.b(3)}, qn, kn, ctx.fault_word());
      });
    });
  });
}

static const Variant kRows[] = {{"wide", kAnyArch, fits_wide, launch_wide}, {"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(ropeKvAppend, kRows)
