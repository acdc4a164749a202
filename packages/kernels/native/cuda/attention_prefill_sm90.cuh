// attention_prefill: causal attention of new tokens over the paged cache that already holds their K and V
//   out[i,h,:] = softmax_t(mask(scale * q[i,h,:] . k[t,:])) v[t,:],   t <= kvLen - n + i (bottom-right causal), t > that - W
// Shapes   q, out [T, H*D] packed rows of cuSeqlensQ i32 [B+1]; caches [pages, Hkv, pageSize, D]; pageTable i32 [B, P];
//          kvLens i32 [B] (after the append); D in {64, 128, 256}; pageSize % 16 == 0
// Dtypes   q, out bf16; cache bf16 or e4m3 (f32 scale per KV head; widened to bf16 in shared memory, which is exact); scores and
//          sums f32, P rounded to bf16
// Work     4 * T * kv/2 * H * D flops when causal.  Floor 8 x 2048, H=32, D=128: 275 GFLOP / 797 TFLOP/s = 345 us
// Launch   one block an SM: a producer warpgroup and kGroups consumer warpgroups of 64 query rows each. Work items (query tile,
//          head, row) are drawn from a counter, heavy tiles first. The producer fetches K and V tiles by the bulk tensor engine
//          and runs ahead over the ends of items. A consumer issues the scores of tile t and the weighted sums of tile t-1
//          together and does its softmax beside the latter; consumers take turns at issuing, so that the softmax of one runs
//          beside the products of the others.
// Order    tiles by absolute position, ascending: a query row's result does not depend on how its prompt was chunked, on
//          batch-mates, on the page size or on the block that drew it. A masked tile changes nothing: its weights are 0.
// Faults   a length or page outside its tensor raises the fault word and is not followed
#pragma once
#include "attention_prefill_producer_sm90.cuh"
#include "wgmma_attention_sm90.cuh"

namespace octet::cuda::sm90 {

// For the compiler, which moves products out of branches that it believes to diverge: a value that is the same in all lanes.
__device__ __forceinline__ int warp_uniform(int v) { return __shfl_sync(~0u, v, 0); }
template <int kRegs> __device__ __forceinline__ void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegs)); }
template <int kRegs> __device__ __forceinline__ void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegs)); }
__device__ __forceinline__ void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ float exp2_fast(float x) {  // 2 ulp; results under 2^-126 are 0
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float tanh_fast(float x) {  // 1 - 2/(e^2x + 1); exact limits, about 2 ulp near 1
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(exp2_fast(2.8853900817779268f * x) + 1.f));
  return fmaf(-2.f, r, 1.f);
}

// What a consumer's thread keeps of its two rows, octet and octet + 8 of its warp's sixteen.
struct RowState {
  float top[2], sum[2];  // of the scores before `unit`, of the weights
};

// Masks the scores of tile t for rows at positions `pos` and pos + 8.
template <class S> __device__ __forceinline__ void mask_scores(float (&s)[S::kN / 2], const AttentionPrefillArgs& a, int len, int t, int pos) {
  const int t0 = t * S::kN + (threadIdx.x & 3) * 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int end = a.causal && pos + h * 8 < len ? pos + h * 8 + 1 - t0 : len - t0;
    const int begin = a.window > 0 ? pos + h * 8 - a.window + 1 - t0 : INT32_MIN;
#pragma unroll
    for (int j = 0; j < S::kN / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (j * 8 + i >= end || j * 8 + i < begin) s[j * 4 + h * 2 + i] = -INFINITY;
      }
    }
  }
}

// Scores to weights exp2(unit * (s - top)), in place; `keep`: what the sums over earlier tiles are worth beside them.
template <int kCount> __device__ __forceinline__ void softmax_tile(float (&s)[kCount], RowState& r, float (&keep)[2], float unit) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float top = r.top[h];
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) top = fmaxf(top, fmaxf(s[j * 4 + h * 2], s[j * 4 + h * 2 + 1]));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const float base = top == -INFINITY ? 0.f : top * unit;  // a row without any token yet: exp2(-inf) = 0
    keep[h] = r.top[h] == top ? 1.f : exp2_fast(fmaf(r.top[h], unit, -base));
    r.top[h] = top;
    float sum[2] = {0.f, 0.f};
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& v = s[j * 4 + h * 2 + i];
        v = exp2_fast(fmaf(v, unit, -base));
        sum[i] += v;
      }
    }
    r.sum[h] = fmaf(r.sum[h], keep[h], sum[0] + sum[1]);
  }
}

// Four lanes of a row hold two neighbouring columns of every eight; afterwards lane `quad` holds all eight of block quad of four.
__device__ __forceinline__ uint4 gather_row(uint32_t (&w)[4]) {
  const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
  const uint32_t a = __shfl_xor_sync(~0u, odd ? w[0] : w[1], 1), b = __shfl_xor_sync(~0u, odd ? w[2] : w[3], 1);
  if (odd) w[0] = a, w[2] = b;
  else w[1] = a, w[3] = b;
  const uint32_t c = __shfl_xor_sync(~0u, high ? w[0] : w[2], 2), d = __shfl_xor_sync(~0u, high ? w[1] : w[3], 2);
  return high ? make_uint4(c, d, w[2], w[3]) : make_uint4(w[0], w[1], c, d);
}

template <class S> __device__ __forceinline__ void consume(const PrefillSmem<S>& sm, const AttentionPrefillArgs& a) {
  constexpr int D = S::D, kN = S::kN;
  constexpr float kLog2e = 1.4426950408889634f;
  const int group = warp_uniform(threadIdx.x / 128) - 1, lane = threadIdx.x & 31, quad = lane & 3, octet = lane >> 2;
  const int my_row = group * 64 + (threadIdx.x >> 5 & 3) * 16 + octet;  // and the row eight further
  const int turn = 1 + group, next_turn = 1 + (group + 1) % S::kGroups;
  const auto leave = [&](uint64_t* bar) {
    if (lane == 0) mbar_arrive(bar);
  };
  const uint64_t q_desc = wgmma_desc(sm.q + group * (S::kSlabs * 8192)), k_desc = wgmma_desc(sm.k), v_desc = wgmma_desc_n(sm.v, S::kSlab);
  if (group == S::kGroups - 1) named_arrive(1, 256);
  float o[D / 2], s[kN / 2];
  uint32_t p[kN / 4];
  uint32_t q_phase = 0, phase = 0, v_phase = 0;
  int stage = 0, v_stage = 0;

  const auto scores = [&] {
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
      WgmmaBf16<kN>::mma(s, q_desc + ((k / 4 * 8192 + k % 4 * 32) >> 4), k_desc + ((stage * S::kTile + k / 4 * S::kSlab + k % 4 * 32) >> 4), k > 0);
    wgmma_commit();
  };
  const auto weigh = [&] {
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) WgmmaWeights<D>::mma(o, p + k * 4, v_desc + ((v_stage * S::kTile + k * 2048) >> 4));
    wgmma_commit();
  };
  const auto pack = [&] {
#pragma unroll
    for (int k = 0; k < kN / 4; ++k) p[k] = pack2<__nv_bfloat16>(s[k * 2], s[k * 2 + 1]);
  };
  const auto step_k = [&] {
    if (++stage == S::kStages) stage = 0, phase ^= 1;
  };
  const auto step_v = [&] {
    if (++v_stage == S::kStages) v_stage = 0, v_phase ^= 1;
  };

  for (;; q_phase ^= 1) {
    mbar_wait(sm.q_full, q_phase);
    PrefillItem it = sm.items[q_phase];
    it.rows = warp_uniform(it.rows);
    it.tile_begin = warp_uniform(it.tile_begin);
    it.tile_end = warp_uniform(it.tile_end);
    if (it.rows < 0) break;
    const float scale = a.scale * (a.k_scale ? a.k_scale[it.kv_head] : 1.f) * kLog2e;
    const bool plain = a.softcap <= 0.f && scale > 0.f && scale <= 1.f;  // then the factor enters in the exponential
    const float unit = plain ? scale : 1.f;
    const int pos = it.position + my_row;
    RowState r{{-INFINITY, -INFINITY}, {0.f, 0.f}};
    float keep[2];
    const auto soften = [&](int t) {
      if (a.softcap > 0.f) {
        const float cap = a.softcap * kLog2e, inward = scale / cap;
#pragma unroll
        for (int i = 0; i < kN / 2; ++i) s[i] = cap * tanh_fast(s[i] * inward);
      } else if (!plain) {
#pragma unroll
        for (int i = 0; i < kN / 2; ++i) s[i] *= scale;
      }
      const int warp_pos = pos - octet, end = (t + 1) * kN;
      if (end > it.len || (a.causal && end > warp_pos + 1) || (a.window > 0 && t * kN <= warp_pos + 15 - a.window)) mask_scores<S>(s, a, it.len, t, pos);
      softmax_tile(s, r, keep, unit);
    };
#pragma unroll
    for (int i = 0; i < D / 2; ++i) o[i] = 0.f;

    if (it.tile_begin == it.tile_end) {
      leave(sm.q_empty);
    } else {
      mbar_wait(&sm.k_full[stage], phase);
      wgmma_fence();
      scores();
      wgmma_wait<0>();
      leave(&sm.k_empty[stage]);
      step_k();
      if (it.tile_begin + 1 == it.tile_end) leave(sm.q_empty);
      soften(it.tile_begin);
      pack();
      for (int t = it.tile_begin + 1; t < it.tile_end; ++t) {
        mbar_wait(&sm.k_full[stage], phase);
        named_barrier(turn, 256);
        wgmma_fence();
        scores();
        mbar_wait(&sm.v_full[v_stage], v_phase);
        weigh();
        named_arrive(next_turn, 256);
        wgmma_wait<1>();
        leave(&sm.k_empty[stage]);
        step_k();
        if (t + 1 == it.tile_end) leave(sm.q_empty);
        soften(t);
        wgmma_wait<0>();
        leave(&sm.v_empty[v_stage]);
        step_v();
#pragma unroll
        for (int i = 0; i < D / 2; ++i) o[i] *= keep[i >> 1 & 1];
        pack();
      }
      mbar_wait(&sm.v_full[v_stage], v_phase);
      wgmma_fence();
      weigh();
      wgmma_wait<0>();
      leave(&sm.v_empty[v_stage]);
      step_v();
    }

    const float v_scale = a.v_scale ? a.v_scale[it.kv_head] : 1.f;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = r.sum[h];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const float f = sum > 0.f ? v_scale / sum : 0.f;
      const int row = my_row + h * 8;
      __nv_bfloat16* const to = a.out + (it.out_row + row) * a.ldo + static_cast<int64_t>(it.head) * D + quad * 8;
#pragma unroll
      for (int i = 0; i < D / 32; ++i) {
        uint32_t w[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) w[j] = pack2<__nv_bfloat16>(o[i * 16 + j * 4 + h * 2] * f, o[i * 16 + j * 4 + h * 2 + 1] * f);
        const uint4 whole = gather_row(w);
        if (row < it.rows) *reinterpret_cast<uint4*>(to + i * 32) = whole;
      }
    }
  }
  if (group == 0) named_barrier(1, 256);  // the last turn that was given
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    attention_prefill(const __grid_constant__ CUtensorMap qmap, const __grid_constant__ CUtensorMap kmap, const __grid_constant__ CUtensorMap vmap, const AttentionPrefillArgs a) {
  extern __shared__ uint8_t base[];
  const PrefillSmem<S> sm(base);
  if (threadIdx.x == 0) {
    tma_prefetch_desc(&qmap);
    tma_prefetch_desc(&kmap);
    tma_prefetch_desc(&vmap);
    sm.init();
  }
  grid_launch_dependents();
  grid_wait();
  __syncthreads();
  if (warp_uniform(threadIdx.x >> 7) == 0) {
    fewer_registers<S::kProducerRegs>();
    if constexpr (S::kWiden) produce_widened<S>(sm, a, &qmap, &kmap, &vmap);
    else if (threadIdx.x < 32) produce<S>(sm, a, &qmap, &kmap, &vmap);
    if (threadIdx.x == 0) {
      __threadfence();
      if (atomicAdd(&a.tickets[1], 1u) == gridDim.x - 1) a.tickets[0] = a.tickets[1] = 0;
    }
    // Rows outside every sequence give zeros.
    const int begin = a.cu_seqlens_q[0], end = a.cu_seqlens_q[a.rows], pieces = a.heads * S::D / 8;
    for (int t = static_cast<int>(blockIdx.x); t < a.bounds.tokens; t += static_cast<int>(gridDim.x)) {
      if (t >= begin && t < end) continue;
#pragma unroll 1
      for (int i = threadIdx.x; i < pieces; i += 128) reinterpret_cast<uint4*>(a.out + t * a.ldo)[i] = make_uint4(0, 0, 0, 0);
    }
  } else {
    more_registers<S::kConsumerRegs>();
    consume<S>(sm, a);
  }
}

}  // namespace octet::cuda::sm90
