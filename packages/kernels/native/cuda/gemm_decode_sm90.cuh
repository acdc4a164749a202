// gemm_decode: y[m,n] = (sum_k w[n,k] * x[m,k]) * w_scale[n] * x_scale[m] + bias[n] + residual[m,n]
// Shapes   w [N,K] row-major, x [M,K] row-major, y [M,N] with row stride ldy; 1 <= M <= kTokens, any N, K*size % 16 == 0
// Dtypes   w and x both e4m3 (scales f32 per weight row and token, or per 128x128 and 1x128 block) or both bf16 (scales
//          absent); y bf16 or f32; accumulate f32. Hopper's e4m3 accumulator keeps about 14 bits, so partial sums are promoted to f32 every 128 bytes of K.
// Traffic  N*K*size + M*K*size + 2*M*N.  Floor 49152x3072 e4m3, M=64: 157 MB / 4.55 TB/s = 34.6 us
// Launch   min(SMs, work) persistent blocks: one producer warp, two or four consumer warpgroups of 64
//          weight rows each (four halve the activation traffic from L2).
//          0 spills.
// Order    The work is row tiles x K blocks laid end to end and cut into equal runs (stream-K). A tile cut between blocks
//          is summed by its last arriver in block order, so results repeat bit for bit; the cuts depend on N, K and the
//          SM count alone, hence not on M.
#pragma once
#include "wgmma_sm90.cuh"

namespace octet::cuda::sm90 {

constexpr int kBlockBytes = 128;     // bytes of K per stage: one swizzle span

struct GemmDecodeArgs {
  int m, n, k_blocks, tiles;
  const float* w_scale;              // [N], one for all with stride 0, [tiles, k_blocks] when blocked, or nullptr
  const float* x_scale;              // [M], one for all with stride 0, [M, k_blocks] when blocked, or nullptr
  int w_scale_stride, x_scale_stride;
  Epilogue out;
  float* partial;                    // [blocks][2][kConsumers][kTokens/2][128] f32: cut tiles, by block, slot, warpgroup, register, thread
  uint32_t* arrivals;                // [tiles][kConsumers], zero before and after
};

template <class T, int kTokens, int kConsumers> struct GemmDecodeShape {
  static constexpr int kTileRows = 64 * kConsumers;              // weight rows per block
  static constexpr int kThreads = 128 * (kConsumers + 1);        // producer warpgroup (one active thread) + consumers
  static constexpr int kStageW = kTileRows * kBlockBytes;
  static constexpr int kStageX = (kTokens < 8 ? 8 : kTokens) * kBlockBytes;
  static constexpr int kStageBytes = kStageW + ((kStageX + 1023) & ~1023);
  static constexpr int kOutPitch = 64 + 8;  // +8 spreads the transposed stores over the banks
  static constexpr int kOutBytes = kConsumers * kTokens * kOutPitch * 2;
  static constexpr int kBudget = 227 * 1024 - 1024 /* alignment */ - 256 /* barriers */ - kOutBytes;
  static constexpr int kStages = kBudget / kStageBytes > 10 ? 10 : kBudget / kStageBytes;
  static constexpr int kSmem = kStages * kStageBytes + kOutBytes + 256 + 1024;
  static_assert(kStages >= 4);
};

template <class T, int kTokens> struct Mma;
template <int kTokens> struct Mma<__nv_bfloat16, kTokens> : WgmmaBf16<kTokens> {};
template <int kTokens> struct Mma<__nv_fp8_e4m3, kTokens> : WgmmaE4m3<kTokens> {};

// The run of (tile, K block) units that belongs to block `b` of `blocks`.
__device__ __forceinline__ int64_t run_begin(int64_t units, int b, int blocks) { return units * b / blocks; }
// The block whose run holds unit u (inverse of run_begin).
__device__ __forceinline__ int run_owner(int64_t units, int64_t u, int blocks) {
  int b = static_cast<int>((u * blocks + blocks) / units);
  if (b >= blocks) b = blocks - 1;
  while (b > 0 && run_begin(units, b, blocks) > u) --b;
  while (b + 1 < blocks && run_begin(units, b + 1, blocks) <= u) ++b;
  return b;
}

template <class T, int kTokens, int kConsumers>
__device__ __forceinline__ void produce(const CUtensorMap* wmap, const CUtensorMap* xmap, const GemmDecodeArgs& a, uint8_t* stages,
                                        uint64_t* full, uint64_t* empty) {
  using S = GemmDecodeShape<T, kTokens, kConsumers>;
  constexpr int kElems = kBlockBytes / sizeof(T);
  const int64_t units = static_cast<int64_t>(a.tiles) * a.k_blocks;
  const int64_t begin = run_begin(units, blockIdx.x, gridDim.x), end = run_begin(units, blockIdx.x + 1, gridDim.x);
  // Weights do not depend on the previous kernel: fill the pipe with them before waiting for it.
  const int64_t ahead = end - begin < S::kStages ? end - begin : S::kStages;
  for (int64_t i = 0; i < ahead; ++i) {
    const int tile = static_cast<int>((begin + i) / a.k_blocks), kb = static_cast<int>((begin + i) % a.k_blocks);
    mbar_expect_tx(&full[i], S::kStageW + S::kStageX);
    tma_load_2d(stages + i * S::kStageBytes, wmap, &full[i], kb * kElems, tile * S::kTileRows, L2Hint::evict_first);
  }
  grid_wait();
  for (int64_t i = 0; i < ahead; ++i) {
    const int kb = static_cast<int>((begin + i) % a.k_blocks);
    tma_load_2d(stages + i * S::kStageBytes + S::kStageW, xmap, &full[i], kb * kElems, 0, L2Hint::evict_last);
  }
  int stage = ahead == S::kStages ? 0 : static_cast<int>(ahead);
  uint32_t phase = 0;
  for (int64_t u = begin + ahead; u < end; ++u) {
    const int tile = static_cast<int>(u / a.k_blocks), kb = static_cast<int>(u % a.k_blocks);
    mbar_wait(&empty[stage], phase);
    mbar_expect_tx(&full[stage], S::kStageW + S::kStageX);
    uint8_t* s = stages + stage * S::kStageBytes;
    tma_load_2d(s, wmap, &full[stage], kb * kElems, tile * S::kTileRows, L2Hint::evict_first);
    tma_load_2d(s + S::kStageW, xmap, &full[stage], kb * kElems, 0, L2Hint::evict_last);
    if (++stage == S::kStages) { stage = 0; phase ^= 1; }
  }
}

// Scales, adds bias and residual, and stores one warpgroup's 64 x kTokens block: f32 from registers (eight neighbours fill a
// sector), bf16 through shared memory, so that each token's 64 outputs leave as one 128-byte line.
template <int kTokens, bool kBlocked>
__device__ __forceinline__ void store_tile(const float (&acc)[kTokens / 2], const GemmDecodeArgs& a, int row0, int wg, __nv_bfloat16* out) {
  constexpr int kPitch = 64 + 8;
  const int tid = threadIdx.x & 127, warp = tid >> 5, lane = tid & 31;
  const int r = warp * 16 + (lane >> 2);
  const int n0 = row0 + r, n1 = n0 + 8;
  float ws0 = 1.f, ws1 = 1.f, xs[kTokens / 4];
  if constexpr (!kBlocked) {
    ws0 = a.w_scale && n0 < a.n ? a.w_scale[n0 * a.w_scale_stride] : 1.f;
    ws1 = a.w_scale && n1 < a.n ? a.w_scale[n1 * a.w_scale_stride] : 1.f;
    // All scales are fetched before the first shared store: the compiler may not move loads across it.
#pragma unroll
    for (int i = 0; i < kTokens / 4; ++i) {
      const int c = (i >> 1) * 8 + (lane & 3) * 2 + (i & 1);
      xs[i] = a.x_scale && c < a.m ? a.x_scale[c * a.x_scale_stride] : 1.f;
    }
  }
  const float b0 = a.out.bias && n0 < a.n ? a.out.bias_at(n0) : 0.f, b1 = a.out.bias && n1 < a.n ? a.out.bias_at(n1) : 0.f;
  const auto sum = [&](int i, int c, float& v0, float& v1) {  // token c, which is the thread's i-th
    v0 = acc[(i >> 1) * 4 + (i & 1)];
    v1 = acc[(i >> 1) * 4 + 2 + (i & 1)];
    if constexpr (!kBlocked) {
      v0 *= ws0 * xs[i];
      v1 *= ws1 * xs[i];
    }
    v0 += b0;
    v1 += b1;
    if (a.out.residual && c < a.m) {
      if (n0 < a.n) v0 += __bfloat162float(a.out.residual[c * a.out.ldy + n0]);
      if (n1 < a.n) v1 += __bfloat162float(a.out.residual[c * a.out.ldy + n1]);
    }
  };
  if (a.out.y_f32) {
    float* const y = static_cast<float*>(a.out.y);
#pragma unroll
    for (int i = 0; i < kTokens / 4; ++i) {
      const int c = (i >> 1) * 8 + (lane & 3) * 2 + (i & 1);
      float v0, v1;
      sum(i, c, v0, v1);
      if (c < a.m && n0 < a.n) y[c * a.out.ldy + n0] = v0;
      if (c < a.m && n1 < a.n) y[c * a.out.ldy + n1] = v1;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kTokens / 4; ++i) {
    const int c = (i >> 1) * 8 + (lane & 3) * 2 + (i & 1);
    float v0, v1;
    sum(i, c, v0, v1);
    out[c * kPitch + r] = __float2bfloat16(v0);
    out[c * kPitch + r + 8] = __float2bfloat16(v1);
  }
  named_barrier(1 + wg, 128);
  auto* const y = static_cast<__nv_bfloat16*>(a.out.y);
  const bool wide = (a.out.ldy & 7) == 0 && row0 + 64 <= a.n && (reinterpret_cast<uintptr_t>(y) & 15) == 0;
  for (int i = tid; i < kTokens * 8; i += 128) {
    const int c = i >> 3, piece = (i & 7) * 8;
    if (c >= a.m) break;
    const __nv_bfloat16* src = out + c * kPitch + piece;
    __nv_bfloat16* dst = y + c * a.out.ldy + row0 + piece;
    if (wide) {
      *reinterpret_cast<uint4*>(dst) = *reinterpret_cast<const uint4*>(src);
    } else {
      for (int e = 0; e < 8 && row0 + piece + e < a.n; ++e) dst[e] = src[e];
    }
  }
  named_barrier(1 + wg, 128);  // the next tile writes `out` again
}

template <class T, int kTokens, int kConsumers, bool kBlocked>
__device__ __forceinline__ void consume(const GemmDecodeArgs& a, uint8_t* stages, uint64_t* full, uint64_t* empty, __nv_bfloat16* out, uint32_t* flag) {
  using S = GemmDecodeShape<T, kTokens, kConsumers>;
  constexpr int kRegs = kTokens / 2;
  const int wg = (threadIdx.x >> 7) - 1, tid = threadIdx.x & 127;
  const int blocks = gridDim.x;
  const int64_t units = static_cast<int64_t>(a.tiles) * a.k_blocks;
  const int64_t begin = run_begin(units, blockIdx.x, blocks), end = run_begin(units, blockIdx.x + 1, blocks);
  grid_wait();
  int stage = 0;
  uint32_t phase = 0;
  for (int64_t u = begin; u < end;) {
    const int tile = static_cast<int>(u / a.k_blocks), kb0 = static_cast<int>(u % a.k_blocks);
    const int kb1 = static_cast<int>(end - u < a.k_blocks - kb0 ? kb0 + (end - u) : a.k_blocks);
    float acc[kRegs];
#pragma unroll
    for (int i = 0; i < kRegs; ++i) acc[i] = 0.f;
    for (int kb = kb0; kb < kb1; ++kb) {
      float scales[kBlocked ? kTokens / 4 : 1];  // of this block of K, asked for before the wait for its data
      if constexpr (kBlocked) {
        const float ws = a.w_scale[tile * a.k_blocks + kb];
#pragma unroll
        for (int i = 0; i < kTokens / 4; ++i) {
          const int c = (i >> 1) * 8 + (tid & 3) * 2 + (i & 1);
          scales[i] = c < a.m ? ws * a.x_scale[static_cast<int64_t>(c) * a.k_blocks + kb] : 0.f;
        }
      }
      mbar_wait(&full[stage], phase);
      const uint8_t* s = stages + stage * S::kStageBytes;
      const uint64_t da = wgmma_desc(s + wg * 64 * kBlockBytes), db = wgmma_desc(s + S::kStageW);
      if constexpr (sizeof(T) == 1) {
        float part[kRegs];
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) Mma<T, kTokens>::mma(part, da + 2 * i, db + 2 * i, i > 0);
        wgmma_commit();
        wgmma_wait<0>();
        if (tid == 0) mbar_arrive(&empty[stage]);
#pragma unroll
        for (int i = 0; i < kRegs; ++i) acc[i] = kBlocked ? fmaf(part[i], scales[(i >> 2) * 2 + (i & 1)], acc[i]) : acc[i] + part[i];
      } else {
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) Mma<T, kTokens>::mma(acc, da + 2 * i, db + 2 * i, true);
        wgmma_commit();
        wgmma_wait<0>();
        if (tid == 0) mbar_arrive(&empty[stage]);
      }
      if (++stage == S::kStages) { stage = 0; phase ^= 1; }
    }
    u += kb1 - kb0;
    const int row0 = tile * S::kTileRows + wg * 64;
    __nv_bfloat16* wg_out = out + wg * kTokens * S::kOutPitch;
    if (kb0 == 0 && kb1 == a.k_blocks) {
      store_tile<kTokens, kBlocked>(acc, a, row0, wg, wg_out);
      continue;
    }
    // A cut tile: slot 0 holds a piece that started inside the tile, slot 1 one that ran past the end of the run.
    const int64_t t0 = static_cast<int64_t>(tile) * a.k_blocks;
    const int first = run_owner(units, t0, blocks), last = run_owner(units, t0 + a.k_blocks - 1, blocks);
    auto slot_of = [&](int b) { return run_begin(units, b, blocks) > t0 ? 0 : 1; };
    auto at = [&](int b) { return a.partial + ((static_cast<int64_t>(b) * 2 + slot_of(b)) * kConsumers + wg) * (kRegs * 128) + tid; };
    float* mine = at(blockIdx.x);
#pragma unroll
    for (int i = 0; i < kRegs; ++i) mine[i * 128] = acc[i];
    named_barrier(1 + wg, 128);
    if (tid == 0) {
      // One fence by one thread: the barrier has ordered the others' stores before it.
      asm volatile("fence.acq_rel.gpu;" ::: "memory");
      const uint32_t n = atomicAdd(&a.arrivals[tile * kConsumers + wg], 1u);
      const bool done = n == static_cast<uint32_t>(last - first);
      if (done) a.arrivals[tile * kConsumers + wg] = 0;
      asm volatile("fence.acq_rel.gpu;" ::: "memory");
      flag[wg] = done;
    }
    named_barrier(1 + wg, 128);
    if (flag[wg]) {
#pragma unroll
      for (int i = 0; i < kRegs; ++i) acc[i] = 0.f;
      // Pieces are fetched a few at a time, so that their latencies overlap, and added in block order.
      constexpr int kAhead = kRegs <= 8 ? 8 : kRegs <= 32 && kConsumers == 2 ? 4 : kConsumers == 2 ? 2 : 1;
      for (int b = first; b <= last; b += kAhead) {
        float piece[kAhead][kRegs];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          const float* p = at(b + j <= last ? b + j : last);
#pragma unroll
          for (int i = 0; i < kRegs; ++i) piece[j][i] = __ldcg(p + i * 128);
        }
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
#pragma unroll
          for (int i = 0; i < kRegs; ++i) acc[i] += b + j <= last ? piece[j][i] : 0.f;
        }
      }
      store_tile<kTokens, kBlocked>(acc, a, row0, wg, wg_out);
    }
    named_barrier(1 + wg, 128);  // flag is read by all before the next cut tile writes it
  }
}

template <class T, int kTokens, int kConsumers, bool kBlocked = false>
__global__ void __launch_bounds__(128 * (kConsumers + 1), 1)
    gemm_decode(const __grid_constant__ CUtensorMap wmap, const __grid_constant__ CUtensorMap xmap, const GemmDecodeArgs a) {
  using S = GemmDecodeShape<T, kTokens, kConsumers>;
  extern __shared__ uint8_t raw[];
  uint8_t* stages = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~static_cast<uintptr_t>(1023));
  auto* out = reinterpret_cast<__nv_bfloat16*>(stages + S::kStages * S::kStageBytes);
  auto* full = reinterpret_cast<uint64_t*>(stages + S::kStages * S::kStageBytes + S::kOutBytes);
  uint64_t* empty = full + S::kStages;
  auto* flag = reinterpret_cast<uint32_t*>(empty + S::kStages);
  if (threadIdx.x == 0) {
    tma_prefetch_desc(&wmap);
    tma_prefetch_desc(&xmap);
    for (int i = 0; i < S::kStages; ++i) {
      mbar_init(&full[i], 1);
      mbar_init(&empty[i], kConsumers);
    }
    mbar_fence_init();
  }
  __syncthreads();
  grid_launch_dependents();
  if (threadIdx.x < 128) {
    reg_dealloc<kConsumers == 2 ? 40 : 24>();
    if (threadIdx.x == 0) produce<T, kTokens, kConsumers>(&wmap, &xmap, a, stages, full, empty);
  } else {
    reg_alloc<kConsumers == 2 ? 232 : 112>();
    consume<T, kTokens, kConsumers, kBlocked>(a, stages, full, empty, out, flag);
  }
}

}  // namespace octet::cuda::sm90
