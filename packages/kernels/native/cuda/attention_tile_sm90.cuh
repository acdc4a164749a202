// Decode attention of one KV head's query group over tiles of 16 cached tokens, by one warp: what the decode kernels share.
#pragma once
#include <cuda_fp16.h>
#include "attention_args.h"
#include "sm90.cuh"

namespace octet::cuda::sm90 {

constexpr int kTileTokens = 16;
constexpr int kGroup = 8;         // query heads per KV head, padded: the N of the MMA

// How tiles lie in shared memory: K, then V, each in boxes of `kSpan` bytes a row, swizzled.
template <class T, int D> struct TileShape {
  static constexpr int kSpan = D * sizeof(T) < 128 ? static_cast<int>(D * sizeof(T)) : 128;  // bytes per swizzled box row
  static constexpr int kBoxes = D * sizeof(T) / kSpan;
  static constexpr int kBoxBytes = kTileTokens * kSpan;
  static constexpr int kTile = kBoxes * kBoxBytes;   // one of K or V
  static constexpr int kStages = 2 * kTile >= 16384 ? 2 : 3;
  static constexpr int kRing = kStages * 2 * kTile;
};

template <class T> __device__ __forceinline__ uint32_t swizzled(int row, int chunk, int span) {
  return span == 128 ? row * 128 + (((chunk ^ row) & 7) << 4) : row * 64 + (((chunk ^ (row >> 1)) & 3) << 4);
}
// Zeroes the rows of a V tile outside the sequence or its window: their weights are 0, and 0 times a stale NaN is not.
template <int kBoxes, int kBoxBytes, int kSpan>
__device__ __forceinline__ void clear_rows(uint8_t* tile, int first, int rows, int thread, int threads) {
  constexpr int kPieces = kSpan / 16;
  for (int i = thread; i < (rows - first) * kPieces * kBoxes; i += threads) {
    const int row = first + i / (kPieces * kBoxes), piece = i % (kPieces * kBoxes);
    *reinterpret_cast<uint4*>(tile + (piece / kPieces) * kBoxBytes + row * kSpan + (piece % kPieces) * 16) = make_uint4(0, 0, 0, 0);
  }
  fence_proxy_async();  // the copy engine writes this tile next
  __syncwarp();
}
__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], uint32_t addr) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(addr));
}
__device__ __forceinline__ void ldmatrix4_trans(uint32_t (&r)[4], uint32_t addr) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(addr));
}
__device__ __forceinline__ uint32_t movmatrix(uint32_t v) {
  uint32_t r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
  return r;
}
template <class T> __device__ __forceinline__ void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (sizeof(T) == 2) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}
__device__ __forceinline__ uint32_t e4m3x2_to_f16x2(uint32_t pair) {
  uint32_t r;
  asm volatile("{\n.reg .b16 lo;\ncvt.u16.u32 lo, %1;\ncvt.rn.f16x2.e4m3x2 %0, lo;\n}" : "=r"(r) : "r"(pair));
  return r;
}
template <class T> __device__ __forceinline__ uint32_t pack2(float lo, float hi) {
  if constexpr (sizeof(T) == 2) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return reinterpret_cast<const uint32_t&>(v);
  } else {
    const __half2 v = __floats2half2_rn(lo, hi);
    return reinterpret_cast<const uint32_t&>(v);
  }
}

// Query fragments from bf16 to f16, whose range is smaller: a head that would overflow is multiplied by a power of two, and
// `scale` takes it back in the scores of heads 2*quad and 2*quad + 1.
template <int kSteps> __device__ __forceinline__ void query_to_f16(uint32_t (&qf)[kSteps][2], float (&scale)[2]) {
  const auto widen = [](uint32_t pair) { return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair)); };
  const auto finite = [](float v) { return fabsf(v) < INFINITY ? fabsf(v) : 0.f; };
  float top = 0.f;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 v = widen(qf[s][i]);
      top = fmaxf(top, fmaxf(finite(v.x), finite(v.y)));
    }
  }
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
  const int shift = top > 32768.f ? ilogbf(top) - 14 : 0;
  const float factor = ldexpf(1.f, -shift);
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 v = widen(qf[s][i]);
      qf[s][i] = pack2<uint8_t>(v.x * factor, v.y * factor);
    }
  }
  const int quad = threadIdx.x & 3;
#pragma unroll
  for (int h = 0; h < 2; ++h) scale[h] = ldexpf(1.f, __shfl_sync(~0u, shift, (quad * 2 + h) * 4));
}

// One warp's running softmax over keys of one KV head: query fragments, scores' scale, and the sums so far.
template <class T, int D> struct QueryGroup {
  using S = TileShape<T, D>;
  static constexpr int kSteps = D / 16;
  uint32_t qf[kSteps][2];
  float q_scale[2];  // of heads 2*quad and 2*quad + 1, as m and l
  float o[kSteps][4];
  float m[2], l[2];  // running maximum (base 2) and this lane's share of the sum

  // Query fragments of heads head0, head0 + D, ... (head = octet; those past `group` are zero) and an empty sum.
  __device__ __forceinline__ void begin(const __nv_bfloat16* head0, int group) {
    const int lane = threadIdx.x & 31, quad = lane & 3, octet = lane >> 2;
    const bool live = octet < group;
    const __nv_bfloat16* qh = head0 + (live ? octet : 0) * D;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      // Cached e4m3 rows are read 16 bytes a lane, which permutes d inside 64: the query follows the same order.
      const int d0 = sizeof(T) == 2 ? s * 16 + quad * 2 : (s / 4) * 64 + quad * 16 + (s % 4) * 4;
      const int d1 = sizeof(T) == 2 ? d0 + 8 : d0 + 2;
      qf[s][0] = live ? *reinterpret_cast<const uint32_t*>(qh + d0) : 0;
      qf[s][1] = live ? *reinterpret_cast<const uint32_t*>(qh + d1) : 0;
    }
    q_scale[0] = q_scale[1] = 1.f;
    if constexpr (sizeof(T) == 1) query_to_f16<kSteps>(qf, q_scale);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;
    m[0] = m[1] = -INFINITY;
    l[0] = l[1] = 0.f;
  }
  // Adds the tile at `kt` in shared memory: positions [first, first + 16), of which the row sees [oldest, len).
  __device__ __forceinline__ void attend(uint8_t* kt, int first, int oldest, int len, float s_scale, float softcap) {
    const int lane = threadIdx.x & 31, quad = lane & 3, octet = lane >> 2;
    const int valid = len - first, stale = oldest - first;
    if (stale > 0) clear_rows<S::kBoxes, S::kBoxBytes, S::kSpan>(kt + S::kTile, 0, stale, lane, 32);
    if (valid < kTileTokens) clear_rows<S::kBoxes, S::kBoxBytes, S::kSpan>(kt + S::kTile, valid, kTileTokens, lane, 32);
    const uint32_t kaddr = smem_addr(kt), vaddr = kaddr + S::kTile;
    float c[4][4] = {};  // four chains hide the MMA latency; added in order
    if constexpr (sizeof(T) == 2) {
      const int row = lane & 15, half = lane >> 4;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        uint32_t f[4];
        const int chunk = s * 2 + half;
        ldmatrix4(f, kaddr + (chunk / 8) * S::kBoxBytes + swizzled<T>(row, chunk & 7, 128));
        mma16816<T>(c[s & 3], f, qf[s][0], qf[s][1]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        const int chunk = j * 4 + quad;
        const uint8_t* box = kt + (chunk * 16 / S::kSpan) * S::kBoxBytes;
        const uint4 r0 = *reinterpret_cast<const uint4*>(box + swizzled<T>(octet, chunk & (S::kSpan / 16 - 1), S::kSpan));
        const uint4 r1 = *reinterpret_cast<const uint4*>(box + swizzled<T>(octet + 8, chunk & (S::kSpan / 16 - 1), S::kSpan));
        const uint32_t w0[4] = {r0.x, r0.y, r0.z, r0.w}, w1[4] = {r1.x, r1.y, r1.z, r1.w};
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          const uint32_t f[4] = {e4m3x2_to_f16x2(w0[s]), e4m3x2_to_f16x2(w1[s]), e4m3x2_to_f16x2(w0[s] >> 16), e4m3x2_to_f16x2(w1[s] >> 16)};
          mma16816<T>(c[s], f, qf[j * 4 + s][0], qf[j * 4 + s][1]);
        }
      }
    }
    // Scores of tokens (octet, octet + 8) for heads (2*quad, 2*quad + 1), in base-2 units.
    const int t0 = first + octet;
    float s[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float v = ((c[0][i] + c[1][i]) + (c[2][i] + c[3][i])) * s_scale;
      if constexpr (sizeof(T) == 1) v *= q_scale[i & 1];
      if (softcap > 0.f) v = softcap * tanhf(v / softcap);
      const int t = t0 + (i >> 1) * 8;
      s[i] = t < len && t >= oldest ? v * 1.4426950408889634f : -INFINITY;
    }
    float p[4];
    bool moved = false;
    float rescale[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = fmaxf(s[h], s[2 + h]);
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 4));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 8));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 16));
      const float next = fmaxf(m[h], top);
      rescale[h] = m[h] == next ? 1.f : exp2f(m[h] - next);  // equal covers -inf - -inf
      moved |= m[h] != next;
      m[h] = next;
      const float base = next == -INFINITY ? 0.f : next;  // no score yet: exp2(-inf) = 0, and NaN stays
      p[h] = exp2f(s[h] - base);
      p[2 + h] = exp2f(s[2 + h] - base);
      l[h] = l[h] * rescale[h] + (p[h] + p[2 + h]);
    }
    if (__any_sync(~0u, moved)) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        o[i][0] *= rescale[0]; o[i][1] *= rescale[1];
        o[i][2] *= rescale[0]; o[i][3] *= rescale[1];
      }
    }
    const uint32_t b0 = movmatrix(pack2<T>(p[0], p[1])), b1 = movmatrix(pack2<T>(p[2], p[3]));
    if constexpr (sizeof(T) == 2) {
      const int row = (lane & 7) + (lane >> 4) * 8, half = (lane >> 3) & 1;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        uint32_t f[4];
        const int chunk = i * 2 + half;
        ldmatrix4_trans(f, vaddr + (chunk / 8) * S::kBoxBytes + swizzled<T>(row, chunk & 7, 128));
        mma16816<T>(o[i], f, b0, b1);
      }
    } else {
      const int row = (lane & 7) + ((lane >> 3) & 1) * 8;
#pragma unroll
      for (int i = 0; i < kSteps; i += 2) {
        uint32_t f[4];
        const int chunk = i + (lane >> 4);
        ldmatrix4_trans(f, vaddr + (chunk * 16 / S::kSpan) * S::kBoxBytes + swizzled<T>(row, chunk & (S::kSpan / 16 - 1), S::kSpan));
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          // Each register holds two tokens x two neighbouring d: gather per d, then widen.
          const uint32_t lo = f[h * 2], hi = f[h * 2 + 1];
          const uint32_t g[4] = {e4m3x2_to_f16x2(__byte_perm(lo, 0, 0x4420)), e4m3x2_to_f16x2(__byte_perm(lo, 0, 0x4431)),
                                 e4m3x2_to_f16x2(__byte_perm(hi, 0, 0x4420)), e4m3x2_to_f16x2(__byte_perm(hi, 0, 0x4431))};
          mma16816<T>(o[i + h], g, b0, b1);
        }
      }
    }
  }
  // Of sums o[i][h] and o[i][2 + h]: their column.
  __device__ __forceinline__ static int d_of(int i, int half) {
    const int octet = (threadIdx.x & 31) >> 2;
    return i * 16 + (sizeof(T) == 2 ? octet + half * 8 : octet * 2 + half);
  }
  // The lanes' shares of the sums, added.
  __device__ __forceinline__ void settle() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      l[h] += __shfl_xor_sync(~0u, l[h], 4);
      l[h] += __shfl_xor_sync(~0u, l[h], 8);
      l[h] += __shfl_xor_sync(~0u, l[h], 16);
    }
  }
};

}  // namespace octet::cuda::sm90
