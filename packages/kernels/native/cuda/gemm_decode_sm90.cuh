// gemm_decode: y[m,n] = (sum_k w[n,k] * x[m,k]) * w_scale[n] * x_scale[m] + bias[n] + residual[m,n]
// Shapes   w [N,K] row-major, x [M,K] row-major, y [M,N] with row stride ldy; 1 <= M <= kTokens, any N, K*size % 16 == 0
// Dtypes   w and x both e4m3 (scales f32 per weight row and token, or per 128x128 and 1x128 block) or both bf16 (scales
//          absent); y bf16 or f32; accumulate f32. Hopper's e4m3 accumulator keeps about 14 bits, so partial sums are promoted to f32 every 128 bytes of K.
// Traffic  N*K*size + M*K*size + 2*M*N.  Floor 49152x3072 e4m3, M=64: 157 MB / 4.55 TB/s = 34.6 us
// Launch   min(SMs, work) persistent blocks: one producer warp, two or four consumer warpgroups of 64
//          weight rows each (four halve the activation traffic from L2). Up to 64 tokens a block leaves registers and shared
//          memory for a small kernel's block beside it.
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
  // Up to 64 tokens a block leaves room for one of a small kernel beside it: 128 registers a thread (which the bound on threads
  // asks the assembler for) and 48 KB. Neither then waits for the other to leave before it starts.
  static constexpr bool kLean = kTokens <= 64 && kConsumers == 2;
  static constexpr int kBound = kLean ? 512 : kThreads;
  static constexpr int kRegisters = kLean ? 168 : kConsumers == 2 ? 232 : 112;  // of a consumer, once the producer gave up its own
  static constexpr int kBudget = (kLean ? 180 : 227) * 1024 - 1024 /* alignment */ - 256 /* barriers */ - kOutBytes;
  static constexpr int kMost = kLean ? 9 : 10;
  static constexpr int kStages = kBudget / kStageBytes > kMost ? kMost : kBudget / kStageBytes;
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

// What one warpgroup's 64 x kTokens block is finished with. Asked for when its first K block is, so that no finished sum waits
// for memory: scales and bias in registers, the residual by asynchronous copies into the buffer that the block leaves through.
template <int kTokens, bool kBlocked> struct Finish {
  static constexpr int kPitch = 64 + 8;
  static constexpr int kScales = kBlocked ? 1 : kTokens / 4;
  static constexpr bool kEarly = kTokens <= 64;  // more tokens leave no registers for these terms
  struct Terms {
    float ws[2], bias[2], xs[kScales];
  };
  Terms early;
  bool wide;  // 16-byte pieces of y and of the residual

  __device__ __forceinline__ Finish(const GemmDecodeArgs& a, int row0, __nv_bfloat16* out) {
    const int tid = threadIdx.x & 127;
    const auto vectors = [](const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; };
    wide = (a.out.ldy & 7) == 0 && row0 + 64 <= a.n && vectors(a.out.y) && vectors(a.out.residual);
    if (a.out.residual && !a.out.y_f32 && wide) {
      for (int i = tid; i < kTokens * 8; i += 128) {
        const int c = i >> 3, piece = (i & 7) * 8;
        if (c < a.m) copy_async_16(out + c * kPitch + piece, a.out.residual + c * a.out.ldy + row0 + piece);
      }
    }
    if constexpr (kEarly) load_terms(a, row0, early);
  }
  __device__ __forceinline__ static void load_terms(const GemmDecodeArgs& a, int row0, Terms& t) {
    const int tid = threadIdx.x & 127, lane = tid & 31, n0 = row0 + (tid >> 5) * 16 + (lane >> 2);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int n = n0 + h * 8;
      t.ws[h] = !kBlocked && a.w_scale && n < a.n ? a.w_scale[n * a.w_scale_stride] : 1.f;
      t.bias[h] = a.out.bias && n < a.n ? a.out.bias_at(n) : 0.f;
    }
#pragma unroll
    for (int i = 0; i < kScales; ++i) {
      const int c = (i >> 1) * 8 + (lane & 3) * 2 + (i & 1);
      t.xs[i] = !kBlocked && a.x_scale && c < a.m ? a.x_scale[c * a.x_scale_stride] : 1.f;
    }
  }

  // Stores the block: f32 from registers (eight neighbours fill a sector), bf16 through shared memory, so that each token's 64
  // outputs leave as one 128-byte line.
  __device__ __forceinline__ void store(const float (&acc)[kTokens / 2], const GemmDecodeArgs& a, int row0, int wg, __nv_bfloat16* out) const {
    const int tid = threadIdx.x & 127, lane = tid & 31, r = (tid >> 5) * 16 + (lane >> 2);
    Terms t;
    if constexpr (kEarly) t = early;
    else load_terms(a, row0, t);
    const auto sum = [&](int i, int h) {  // of the thread's i-th token and h-th row
      const float v = acc[(i >> 1) * 4 + h * 2 + (i & 1)];
      return (kBlocked ? v : v * (t.ws[h] * t.xs[kBlocked ? 0 : i])) + t.bias[h];
    };
    if (a.out.y_f32) {
      float* const y = static_cast<float*>(a.out.y);
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) {
        const int c = (i >> 2) * 8 + (lane & 3) * 2 + (i & 1), h = (i >> 1) & 1, n = row0 + r + h * 8;
        if (c >= a.m || n >= a.n) continue;
        y[c * a.out.ldy + n] = sum((i >> 2) * 2 + (i & 1), h) + (a.out.residual ? __bfloat162float(a.out.residual[c * a.out.ldy + n]) : 0.f);
      }
      return;
    }
    copy_async_wait();
    if (a.out.residual && !wide) {
      for (int i = tid; i < kTokens * 64; i += 128) {
        const int c = i >> 6, n = row0 + (i & 63);
        if (c < a.m && n < a.n) out[c * kPitch + (i & 63)] = a.out.residual[c * a.out.ldy + n];
      }
    }
    if (a.out.residual) named_barrier(1 + wg, 128);
#pragma unroll
    for (int i = 0; i < kTokens / 4; ++i) {
      const int c = (i >> 1) * 8 + (lane & 3) * 2 + (i & 1);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        __nv_bfloat16* const at = out + c * kPitch + r + h * 8;
        *at = __float2bfloat16(sum(i, h) + (a.out.residual ? __bfloat162float(*at) : 0.f));
      }
    }
    named_barrier(1 + wg, 128);
    auto* const y = static_cast<__nv_bfloat16*>(a.out.y);
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
    named_barrier(1 + wg, 128);  // the next tile uses `out` again
  }
};

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
    const int row0 = tile * S::kTileRows + wg * 64;
    __nv_bfloat16* const wg_out = out + wg * kTokens * S::kOutPitch;
    const Finish<kTokens, kBlocked> finish(a, row0, wg_out);
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
    if (kb0 == 0 && kb1 == a.k_blocks) {
      finish.store(acc, a, row0, wg, wg_out);
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
      constexpr int kAhead = kRegs <= 8 ? 8 : kConsumers == 2 ? 2 : 1;
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
      finish.store(acc, a, row0, wg, wg_out);
    }
    copy_async_wait();           // the next tile copies to the same places
    named_barrier(1 + wg, 128);  // flag is read by all before the next cut tile writes it
  }
}

template <class T, int kTokens, int kConsumers, bool kBlocked = false>
__global__ void __launch_bounds__(GemmDecodeShape<T, kTokens, kConsumers>::kBound, 1)
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
    reg_alloc<S::kRegisters>();
    consume<T, kTokens, kConsumers, kBlocked>(a, stages, full, empty, out, flag);
  }
}

}  // namespace octet::cuda::sm90
