// gemv: y[m,n] = (sum_k w[n,k] * x[m,k]) * w_scale[n] * x_scale[m] + bias[n] + residual[m,n] for at most eight tokens
// Shapes   w [N,K] row-major, x [M,K] row-major, y [M,N] with row stride ldy; 1 <= M <= 8, any N, K*size % 16 == 0
// Dtypes   w and x both e4m3 (scales f32: per weight row and token, or per 128x128 and 1x128 block) or both bf16 (none);
//          y bf16 or f32; products exact, accumulated in f32, rounded once
// Traffic  N*K*size + (N/8)*M*K*size from L1.  Floor 4096x4096 bf16: 33.6 MB / 4.55 TB/s = 7.4 us
// Launch   min(tiles, kBlocks per SM) persistent blocks over tiles of 8 * kGroups weight rows. A block's eight warps take
//          128-byte lines of K in turn, straight from device memory into registers (no shared memory, hence no fill and
//          drain): kAhead lines in flight each, over the ends of tiles, the first asked for before the previous kernel ends.
// Order    lines of a warp in ascending order, then warps in order: results repeat and do not depend on M or the SM count.
#pragma once
#include "sm90.cuh"

namespace octet::cuda::sm90 {

constexpr int kGemvWarps = 8, kGemvTokens = 8;

struct GemvArgs {
  const uint8_t* w;
  const uint8_t* x;
  int64_t w_pitch, x_pitch;          // bytes between rows
  int m, n, k_bytes;
  const float* w_scale;              // [N], one for all with stride 0, [ceil(N/128), lines] when blocked, or nullptr
  const float* x_scale;              // [M], one for all with stride 0, [M, lines] when blocked, or nullptr
  int w_scale_stride, x_scale_stride;
  Epilogue out;
};

__device__ __forceinline__ uint4 stream16(const uint8_t* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

__device__ __forceinline__ void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a2, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%5}, {%7,%8}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(0u), "r"(a2), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_f16(float (&c)[4], uint32_t a0, uint32_t a2, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%5}, {%7,%8}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(0u), "r"(a2), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t two_e4m3_to_f16(uint32_t pair) {
  uint32_t r;
  asm("{\n.reg .b16 lo;\ncvt.u16.u32 lo, %1;\ncvt.rn.f16x2.e4m3x2 %0, lo;\n}" : "=r"(r) : "r"(pair));
  return r;
}

// c += x (tokens by k) * w (k by eight rows) over 64 bytes of K: a lane holds 16 bytes of its token and of its row, and both
// are given to the tensor core in the same permuted order of k.
template <class T> __device__ __forceinline__ void multiply(float (&c)[4], const uint4& x, const uint4& w) {
  if constexpr (sizeof(T) == 2) {
    mma_bf16(c, x.x, x.y, w.x, w.y);
    mma_bf16(c, x.z, x.w, w.z, w.w);
  } else {
    const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) mma_f16(c, two_e4m3_to_f16(xs[i]), two_e4m3_to_f16(xs[i] >> 16), two_e4m3_to_f16(ws[i]), two_e4m3_to_f16(ws[i] >> 16));
  }
}

template <class T, int kGroups, int kAhead, int kBlocks, bool kBlocked>
__global__ void __launch_bounds__(kGemvWarps * 32, kBlocks) gemv(const GemvArgs a) {
  constexpr int kRows = 8 * kGroups;
  __shared__ float sums[2][kGemvWarps][kGemvTokens][kRows];  // one side is read while the other is written
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, quad = lane & 3, octet = lane >> 2;
  const int tiles = (a.n + kRows - 1) / kRows, lines = (a.k_bytes + 127) >> 7;
  const int per_warp = (lines + kGemvWarps - 1) / kGemvWarps;  // of every warp alike; those past the end read nothing
  const int last = a.k_bytes - 16 - quad * 16;                 // the last offset of a lane's 16 bytes that lies inside a row

  uint4 held[kAhead][kGroups][2];
  const uint8_t* wp[kGroups];
  int fetch_tile = blockIdx.x, fetch_at = warp * 128;
  const auto rows_of_tile = [&] {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int row = fetch_tile * kRows + g * 8 + octet;
      wp[g] = a.w + (row < a.n ? row : a.n - 1) * a.w_pitch + quad * 16;
    }
  };
  int fetch_left = per_warp;
  const auto fetch = [&](uint4 (&to)[kGroups][2]) {
    if (fetch_tile >= tiles) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) to[g][h] = fetch_at + h * 64 <= last ? stream16(wp[g] + fetch_at + h * 64) : make_uint4(0, 0, 0, 0);
    }
    fetch_at += kGemvWarps * 128;
    if (--fetch_left > 0) return;
    fetch_left = per_warp;
    fetch_at = warp * 128;
    fetch_tile += gridDim.x;
    rows_of_tile();
  };
  rows_of_tile();
#pragma unroll
  for (int j = 0; j < kAhead; ++j) fetch(held[j]);
  grid_launch_dependents();
  grid_wait();

  const uint8_t* const xp = a.x + octet * a.x_pitch + quad * 16;
  const bool live = octet < a.m;
  const int token = threadIdx.x / kRows, row_in_tile = threadIdx.x % kRows;
  int tile = blockIdx.x, done = 0, side = 0;
  float acc[kGroups][4] = {};
  const int total = tile < tiles ? ((tiles - 1 - tile) / static_cast<int>(gridDim.x) + 1) * per_warp : 0;
  for (int p0 = 0; p0 < total; p0 += kAhead) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (p0 + j >= total) break;
      const int line = done * kGemvWarps + warp;
      uint4 x[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) x[h] = live && line * 128 + h * 64 <= last ? *reinterpret_cast<const uint4*>(xp + line * 128 + h * 64) : make_uint4(0, 0, 0, 0);
      const float block_scale = kBlocked && live && line < lines ? a.x_scale[octet * lines + line] : 0.f;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        if constexpr (kBlocked) {
          float part[4] = {};
          multiply<T>(part, x[0], held[j][g][0]);
          multiply<T>(part, x[1], held[j][g][1]);
          const int row = tile * kRows + g * 8;
          const float both = line < lines ? block_scale * a.w_scale[((row < a.n ? row : a.n - 1) >> 7) * lines + line] : 0.f;
          acc[g][0] = fmaf(part[0], both, acc[g][0]);
          acc[g][1] = fmaf(part[1], both, acc[g][1]);
        } else {
          multiply<T>(acc[g], x[0], held[j][g][0]);
          multiply<T>(acc[g], x[1], held[j][g][1]);
        }
      }
      fetch(held[j]);
      if (++done < per_warp) continue;
      // The end of a tile: sums over the warps, in order.
      if (live) {
#pragma unroll
        for (int g = 0; g < kGroups; ++g) *reinterpret_cast<float2*>(&sums[side][warp][octet][g * 8 + quad * 2]) = make_float2(acc[g][0], acc[g][1]);
      }
      __syncthreads();
      const int row = tile * kRows + row_in_tile;
      if (token < a.m && row < a.n) {
        float v = 0.f;
#pragma unroll
        for (int w = 0; w < kGemvWarps; ++w) v += sums[side][w][token][row_in_tile];
        if constexpr (!kBlocked) v *= (a.w_scale ? a.w_scale[row * a.w_scale_stride] : 1.f) * (a.x_scale ? a.x_scale[token * a.x_scale_stride] : 1.f);
        a.out.store(v, token, row);
      }
#pragma unroll
      for (int g = 0; g < kGroups; ++g) acc[g][0] = acc[g][1] = 0.f;
      side ^= 1;
      done = 0;
      tile += gridDim.x;
    }
  }
}

}  // namespace octet::cuda::sm90
