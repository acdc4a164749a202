// attention_prefill: causal attention of new tokens over the paged cache that already holds their K and V
//   out[i,h,:] = softmax_t(mask(scale * q[i,h,:] . k[t,:])) v[t,:],   t <= kvLen - n + i (bottom-right causal), t > that - W
// Shapes   q, out [T, H*D] packed rows of cuSeqlensQ i32 [B+1]; caches [pages, Hkv, pageSize, D]; pageTable i32 [B, P];
//          kvLens i32 [B] (after the append); D in {64, 128, 256}; pageSize % 16 == 0
// Dtypes   q, out bf16; cache bf16 or e4m3 (f32 scale per KV head); scores and sums f32, P rounded to bf16
// Work     4 * T * kv/2 * H * D flops when causal.  Floor T=2048, H=32, D=128: 34 GFLOP / 797 TFLOP/s = 43 us
// Launch   grid (query tiles, heads, rows), longest tiles first; 8 warps of 16 query rows; K and V tiles of 64 tokens,
//          two stages, by the bulk tensor engine.
// Order    tiles by absolute position, ascending: a query row's result does not depend on how its prompt was chunked, on
//          batch-mates or on the page size.
// Faults   a length or page outside its tensor raises the fault word and is not followed
#pragma once
#include "attention_decode_sm90.cuh"

namespace octet::cuda::sm90 {

constexpr int kPrefillTokens = 64;

struct AttentionPrefillArgs {
  const __nv_bfloat16* q;
  __nv_bfloat16* out;
  int64_t ldq, ldo;
  const int32_t* page_table;
  const int32_t* cu_seqlens_q;
  const int32_t* kv_lens;
  AttentionBounds bounds;
  const float* k_scale;
  const float* v_scale;
  int kv_heads, group, page_size, table_width;
  int causal, window;
  float scale, softcap;
};

template <class T, int D> struct PrefillShape {
  static constexpr int kWarps = D == 256 ? 4 : 8;
  static constexpr int kRows = kWarps * 16;                   // query rows per block
  static constexpr int kSpan = AttnShape<T, D>::kSpan;
  static constexpr int kBoxes = AttnShape<T, D>::kBoxes;
  static constexpr int kBoxBytes = kPrefillTokens * kSpan;    // a box column: 64 tokens of one span, four copies of 16
  static constexpr int kTile = kBoxes * kBoxBytes;
  static constexpr int kWideBoxes = D * 2 / 128;
  static constexpr int kWideTile = kPrefillTokens * D * 2;    // the same tile in bf16, 128-byte spans
  static constexpr int kQ = kRows * D * 2;
  static constexpr int kSmem = 1024 + kQ + 4 * kTile + (sizeof(T) == 1 ? 2 * kWideTile : 0) + 64;
};

__device__ __forceinline__ float tanh_fast(float x) {  // 1 - 2/(e^2x + 1); exact limits, about 2 ulp near 1
  return 1.f - 2.f / (__expf(2.f * x) + 1.f);
}

// Widens a tile of e4m3 into bf16 (exact), both swizzled.
template <int D, int kThreads> __device__ __forceinline__ void widen_tile(const uint8_t* from, uint8_t* to) {
  constexpr int kSpan = D < 128 ? D : 128, kPieces = D / 16;
  for (int i = threadIdx.x; i < kPrefillTokens * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces;
    const uint4 v = *reinterpret_cast<const uint4*>(from + (piece * 16 / kSpan) * (kPrefillTokens * kSpan) + swizzled<uint8_t>(row, piece & (kSpan / 16 - 1), kSpan));
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
    uint32_t o[8];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t f16 = e4m3x2_to_f16x2(w[j] >> (16 * h));
        const float2 f = __half22float2(reinterpret_cast<const __half2&>(f16));
        o[j * 2 + h] = pack2<__nv_bfloat16>(f.x, f.y);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int wide = piece * 2 + h;
      *reinterpret_cast<uint4*>(to + (wide / 8) * (kPrefillTokens * 128) + swizzled<uint16_t>(row, wide & 7, 128)) = make_uint4(o[h * 4], o[h * 4 + 1], o[h * 4 + 2], o[h * 4 + 3]);
    }
  }
}

template <class T, int D>
__global__ void __launch_bounds__(PrefillShape<T, D>::kWarps * 32, 1)
    attention_prefill(const __grid_constant__ CUtensorMap kmap, const __grid_constant__ CUtensorMap vmap, const AttentionPrefillArgs a) {
  using S = PrefillShape<T, D>;
  constexpr int kThreads = S::kWarps * 32, kSteps = D / 16, kN = kPrefillTokens / 8;
  constexpr float kLog2e = 1.4426950408889634f;
  extern __shared__ uint8_t raw[];
  uint8_t* qs = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~static_cast<uintptr_t>(1023));
  uint8_t* stages = qs + S::kQ;  // K0 V0 K1 V1
  uint8_t* wide = stages + 4 * S::kTile;
  uint64_t* full = reinterpret_cast<uint64_t*>(wide + (sizeof(T) == 1 ? 2 * S::kWideTile : 0));  // [stage][K, V]
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, quad = lane & 3, octet = lane >> 2;
  const int row = blockIdx.z, head = blockIdx.y, kv_head = head / a.group;

  if (threadIdx.x == 0) {
    tma_prefetch_desc(&kmap);
    tma_prefetch_desc(&vmap);
    for (int i = 0; i < 4; ++i) mbar_init(&full[i], 1);
    mbar_fence_init();
  }
  grid_launch_dependents();
  grid_wait();
  if (row == 0 && blockIdx.x == 0) {  // rows outside every sequence give zeros
    const auto clear = [&](int t, int end) {
      for (t += warp; t < end; t += S::kWarps) {
        for (int i = lane; i < D; i += 32) a.out[t * a.ldo + static_cast<int64_t>(head) * D + i] = __float2bfloat16(0.f);
      }
    };
    clear(0, min(a.cu_seqlens_q[0], a.bounds.tokens));
    clear(max(a.cu_seqlens_q[gridDim.z], 0), a.bounds.tokens);
  }
  const int q_begin = a.cu_seqlens_q[row], n = a.cu_seqlens_q[row + 1] - q_begin, len = a.kv_lens[row];
  if (!a.bounds.hold(q_begin, q_begin + n, len) || n > static_cast<int>(gridDim.x) * S::kRows) {
    if (threadIdx.x == 0) a.bounds.raise();
    return;
  }
  const int q0 = static_cast<int>(gridDim.x - 1 - blockIdx.x) * S::kRows;  // longest first
  if (q0 >= n) return;
  const int offset = len - n;  // position of query row 0
  const int rows_here = n - q0 < S::kRows ? n - q0 : S::kRows;
  const int last = a.causal ? offset + q0 + rows_here - 1 : len - 1;
  const int first = a.window > 0 && offset + q0 - a.window + 1 > 0 ? offset + q0 - a.window + 1 : 0;
  const int t_begin = first / kPrefillTokens, t_end = last >= first ? last / kPrefillTokens + 1 : t_begin;

  // Q rows into shared memory, 128-byte swizzled spans; rows past the end are zero.
  for (int i = threadIdx.x; i < S::kRows * (D / 8); i += kThreads) {
    const int r = i / (D / 8), piece = i % (D / 8);
    uint4 v = make_uint4(0, 0, 0, 0);
    if (r < rows_here) v = *reinterpret_cast<const uint4*>(a.q + (q_begin + q0 + r) * a.ldq + static_cast<int64_t>(head) * D + piece * 8);
    *reinterpret_cast<uint4*>(qs + (piece / 8) * (S::kRows * 128) + swizzled<uint16_t>(r, piece & 7, 128)) = v;
  }
  __syncthreads();

  auto issue = [&](int tile, int stage) {
    uint8_t* k = stages + stage * 2 * S::kTile;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      uint64_t* bar = &full[stage * 2 + which];
      mbar_expect_tx(bar, S::kTile);
      for (int g = 0; g < kPrefillTokens / 16; ++g) {
        int token = tile * kPrefillTokens + g * 16;
        if (token >= len) token = (len - 1) & ~15;  // masked: any mapped tokens will do
        int page = a.page_table[static_cast<int64_t>(row) * a.table_width + token / a.page_size];
        if (page < 0 || page >= a.bounds.pages) {
          if (token + 16 > first && token <= last) a.bounds.raise();
          page = 0;
        }
        const int at = (page * a.kv_heads + kv_head) * a.page_size + token % a.page_size;
#pragma unroll
        for (int b = 0; b < S::kBoxes; ++b)
          tma_load_2d(k + which * S::kTile + b * S::kBoxBytes + g * 16 * S::kSpan, which == 0 ? &kmap : &vmap, bar, b * (S::kSpan / sizeof(T)), at, L2Hint::evict_normal);
      }
    }
  };
  if (threadIdx.x == 0) {
    if (t_begin < t_end) issue(t_begin, 0);
    if (t_begin + 1 < t_end) issue(t_begin + 1, 1);
  }

  const float s_scale = a.scale * (a.k_scale ? a.k_scale[kv_head] : 1.f);
  float o[D / 8][4];
#pragma unroll
  for (int i = 0; i < D / 8; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0.f, 0.f};
  const int pos0 = offset + q0 + warp * 16 + octet;  // positions of this thread's two rows: pos0, pos0 + 8

  for (int t = t_begin; t < t_end; ++t) {
    const int stage = (t - t_begin) & 1;
    const uint32_t parity = ((t - t_begin) >> 1) & 1;
    uint8_t* kt = stages + stage * 2 * S::kTile;
    uint8_t* vt = kt + S::kTile;
    mbar_wait(&full[stage * 2], parity);
    if constexpr (sizeof(T) == 1) {
      mbar_wait(&full[stage * 2 + 1], parity);
      widen_tile<D, kThreads>(kt, wide);
      widen_tile<D, kThreads>(vt, wide + S::kWideTile);
      __syncthreads();
      kt = wide;
      vt = wide + S::kWideTile;
    }
    float s[kN][4];
#pragma unroll
    for (int j = 0; j < kN; ++j) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.f;
    const uint32_t qaddr = smem_addr(qs), kaddr = smem_addr(kt), vaddr = smem_addr(vt);
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      uint32_t f[4];
      {
        const int r = warp * 16 + (lane & 15), chunk = k * 2 + (lane >> 4);
        ldmatrix4(f, qaddr + (chunk / 8) * (S::kRows * 128) + swizzled<uint16_t>(r, chunk & 7, 128));
      }
#pragma unroll
      for (int j = 0; j < kN; j += 2) {  // two blocks of 8 tokens a load
        uint32_t b[4];
        const int r = j * 8 + (lane & 7) + (lane >> 4) * 8, chunk = k * 2 + ((lane >> 3) & 1);
        ldmatrix4(b, kaddr + (chunk / 8) * (kPrefillTokens * 128) + swizzled<uint16_t>(r, chunk & 7, 128));
        mma16816<__nv_bfloat16>(s[j], f, b[0], b[1]);
        mma16816<__nv_bfloat16>(s[j + 1], f, b[2], b[3]);
      }
    }
    const int t0 = t * kPrefillTokens + quad * 2;
    const bool edge = (t + 1) * kPrefillTokens > len || (a.causal && (t + 1) * kPrefillTokens > offset + q0 + warp * 16 + 1) ||
                      (a.window > 0 && t * kPrefillTokens <= offset + q0 + warp * 16 + 15 - a.window);
#pragma unroll
    for (int j = 0; j < kN; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float v = s[j][i] * s_scale;
        if (a.softcap > 0.f) v = a.softcap * tanh_fast(v / a.softcap);
        v *= kLog2e;
        if (edge) {
          const int kv = t0 + j * 8 + (i & 1), pos = pos0 + (i >> 1) * 8;
          if (kv >= len || (a.causal && kv > pos) || (a.window > 0 && kv <= pos - a.window)) v = -INFINITY;
        }
        s[j][i] = v;
      }
    }
    float keep[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = m[h];
#pragma unroll
      for (int j = 0; j < kN; ++j) top = fmaxf(top, fmaxf(s[j][h * 2], s[j][h * 2 + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      keep[h] = m[h] == top ? 1.f : exp2f(m[h] - top);
      m[h] = top;
      const float base = top == -INFINITY ? 0.f : top;  // a row without any token yet: exp2(-inf) = 0
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        s[j][h * 2] = exp2f(s[j][h * 2] - base);
        s[j][h * 2 + 1] = exp2f(s[j][h * 2 + 1] - base);
        sum += s[j][h * 2] + s[j][h * 2 + 1];
      }
      l[h] = l[h] * keep[h] + sum;
    }
#pragma unroll
    for (int i = 0; i < D / 8; ++i) {
      o[i][0] *= keep[0]; o[i][1] *= keep[0];
      o[i][2] *= keep[1]; o[i][3] *= keep[1];
    }
    if constexpr (sizeof(T) == 2) mbar_wait(&full[stage * 2 + 1], parity);
    if (first > t * kPrefillTokens) {  // rows that no query of the block sees: see clear_rows
      clear_rows<S::kWideBoxes, kPrefillTokens * 128, 128>(vt, 0, first - t * kPrefillTokens, threadIdx.x, kThreads);
      __syncthreads();
    }
    if ((t + 1) * kPrefillTokens > len) {  // stale rows past the sequence
      clear_rows<S::kWideBoxes, kPrefillTokens * 128, 128>(vt, len - t * kPrefillTokens, kPrefillTokens, threadIdx.x, kThreads);
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < kPrefillTokens / 16; ++k) {
      const uint32_t p[4] = {pack2<__nv_bfloat16>(s[2 * k][0], s[2 * k][1]), pack2<__nv_bfloat16>(s[2 * k][2], s[2 * k][3]),
                             pack2<__nv_bfloat16>(s[2 * k + 1][0], s[2 * k + 1][1]), pack2<__nv_bfloat16>(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
      for (int i = 0; i < D / 8; i += 2) {
        uint32_t b[4];
        const int r = k * 16 + (lane & 15), chunk = i + (lane >> 4);
        ldmatrix4_trans(b, vaddr + (chunk / 8) * (kPrefillTokens * 128) + swizzled<uint16_t>(r, chunk & 7, 128));
        mma16816<__nv_bfloat16>(o[i], p, b[0], b[1]);
        mma16816<__nv_bfloat16>(o[i + 1], p, b[2], b[3]);
      }
    }
    __syncthreads();
    if (threadIdx.x == 0 && t + 2 < t_end) issue(t + 2, stage);
  }

  const float v_scale = a.v_scale ? a.v_scale[kv_head] : 1.f;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    l[h] += __shfl_xor_sync(~0u, l[h], 1);
    l[h] += __shfl_xor_sync(~0u, l[h], 2);
    const int r = warp * 16 + octet + h * 8;
    if (r >= rows_here) continue;
    const float f = l[h] > 0.f ? v_scale / l[h] : 0.f;
    __nv_bfloat16* dst = a.out + (q_begin + q0 + r) * a.ldo + static_cast<int64_t>(head) * D + quad * 2;
#pragma unroll
    for (int i = 0; i < D / 8; ++i) *reinterpret_cast<uint32_t*>(dst + i * 8) = pack2<__nv_bfloat16>(o[i][h * 2] * f, o[i][h * 2 + 1] * f);
  }
}

}  // namespace octet::cuda::sm90
