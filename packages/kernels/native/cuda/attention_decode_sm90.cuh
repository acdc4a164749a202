// attention_decode: out[b,h,:] = softmax_t(scale * q[b,h,:] . k[t,:]) v[t,:] over the cached tokens of row b (one query token)
// Shapes   q, out [B, H*D]; caches [pages, Hkv, pageSize, D]; pageTable i32 [B, P]; cuSeqlensQ i32 [B+1], at most one token a
//          row; kvLens i32 [B]; group = H/Hkv <= 8; D in {64, 128, 256}; pageSize % 16 == 0
// Dtypes   q, out bf16; cache bf16 or e4m3 (f32 scale per KV head); scores, softmax and sums f32, P rounded to the V type
//          of the MMA (bf16, or f16 for e4m3)
// Traffic  K and V of every row once.  Floor B=64, Hkv=16, D=256, 266 tokens, bf16: 279 MB / 4.55 TB/s = 61.3 us
// Launch   one block per SM; every warp takes whole chunks and streams their 16-token tiles through its own ring with the
//          bulk tensor engine, so warps hide each other's latencies and nothing but the last combine is shared.
//          Where rows and heads are few, chunks are shorter, so that more warps share a sequence.
// Order    KV is cut into chunks of 32 to 256 tokens by position (their size from the row's length and the static number of rows), tiles and chunks combine in order: a row's result does not
//          depend on its batch-mates, its slot or the page size. Only keys of the row's own window are read.
// Faults   a length or page outside its tensor raises the fault word and is not followed
#pragma once
#include <cuda_fp16.h>
#include "attention_args.h"
#include "sm90.cuh"

namespace octet::cuda::sm90 {

constexpr int kChunk = 256;       // tokens per unit of work, at most
constexpr int kLeastChunk = 32;
constexpr int kTileTokens = 16;
constexpr int kGroup = 8;         // query heads per KV head, padded: the N of the MMA
constexpr int kMaxRows = 1024;

struct AttentionDecodeArgs {
  const __nv_bfloat16* q;
  __nv_bfloat16* out;
  int64_t ldq, ldo;
  const int32_t* page_table;
  const int32_t* cu_seqlens_q;
  const int32_t* kv_lens;
  AttentionBounds bounds;         // capacity: also what max_chunks can hold
  const float* k_scale;           // [Hkv] or nullptr
  const float* v_scale;
  int rows, heads, kv_heads, group, page_size, table_width;
  int window;                     // 0: none
  float scale, softcap;           // softcap 0: none
  float* partial;                 // [rows][Hkv][chunks][group][D] f32
  float2* partial_ml;             // [rows][Hkv][chunks][group]: running maximum (base 2) and sum
  uint32_t* arrivals;             // [rows][Hkv], zero before and after
  int max_chunks;
  int chunk;                      // tokens per unit of a short row: a power of two from kLeastChunk to kChunk
};

template <class T, int D, int kMost = 12> struct AttnShape {
  static constexpr int kSpan = D * sizeof(T) < 128 ? static_cast<int>(D * sizeof(T)) : 128;  // bytes per swizzled box row
  static constexpr int kBoxes = D * sizeof(T) / kSpan;
  static constexpr int kBoxBytes = kTileTokens * kSpan;
  static constexpr int kTile = kBoxes * kBoxBytes;   // one of K or V
  static constexpr int kStages = 2 * kTile >= 16384 ? 2 : 3;
  // Warps by what fits in 192 KB of rings; more than 12 would leave too few registers for D = 128. A grid of short chunks
  // has few: the next kernel's first blocks then fit beside them.
  static constexpr int kFit = 196608 / (2 * kTile * kStages);
  static constexpr int kWarps = kFit > kMost ? kMost : kFit;
  static constexpr int kRing = kStages * 2 * kTile;
  static constexpr int kSmem = 1024 + kWarps * (kRing + kStages * 8) + (4 * kMaxRows + 2) * 4;
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

// Work list: first every full chunk, row by row, then every row's last partial chunk, so the long units go out first.
struct WorkList {
  int* lens;   // [rows]
  int* full;   // [rows + 1] running count of full chunks
  int* tails;  // [rows + 1] running count of rows with a partial chunk
  int* at;     // [rows] the row's token in q and out, or -1
};
struct Unit {
  int row, head, chunk, tokens, chunks, first_chunk, len, first_tile;
  int begin;  // position of the chunk's first token
};

// Tokens per chunk of a row: at most 64 chunks while they are shorter than kChunk.
__device__ __forceinline__ int chunk_of(int len, int shortest) {
  int chunk = shortest;
  while (chunk < kChunk && len > chunk * 64) chunk *= 2;
  return chunk;
}
__device__ __forceinline__ int first_chunk_of(int len, int window, int chunk) { return window > 0 && len > window ? (len - window) / chunk : 0; }

__device__ __forceinline__ int upper_row(const int* sums, int rows, int i) {
  int lo = 0, hi = rows - 1;
  while (lo < hi) {
    const int mid = (lo + hi) >> 1;
    if (sums[mid + 1] > i) hi = mid; else lo = mid + 1;
  }
  return lo;
}

__device__ __forceinline__ Unit unit_at(const AttentionDecodeArgs& a, const WorkList& w, int u) {
  Unit r;
  const int item = u / a.kv_heads;
  r.head = u % a.kv_heads;
  const int n_full = w.full[a.rows];
  const bool whole = item < n_full;
  r.row = whole ? upper_row(w.full, a.rows, item) : upper_row(w.tails, a.rows, item - n_full);
  r.len = w.lens[r.row];
  const int size = chunk_of(r.len, a.chunk);
  r.first_chunk = first_chunk_of(r.len, a.window, size);
  r.chunk = whole ? r.first_chunk + item - w.full[r.row] : r.len / size;
  r.tokens = whole ? size : r.len % size;
  r.begin = r.chunk * size;
  const int unseen = a.window > 0 ? r.len - a.window - r.begin : 0;  // keys of the chunk before the window
  r.first_tile = unseen > 0 ? unseen / kTileTokens : 0;
  r.chunks = (r.len + size - 1) / size - r.first_chunk;
  return r;
}

template <class T, int D, int kMost>
__global__ void __launch_bounds__(AttnShape<T, D, kMost>::kWarps * 32, 1)
    attention_decode(const __grid_constant__ CUtensorMap kmap, const __grid_constant__ CUtensorMap vmap, const AttentionDecodeArgs a) {
  using S = AttnShape<T, D, kMost>;
  constexpr int kSteps = D / 16;
  constexpr float kLog2e = 1.4426950408889634f;
  extern __shared__ uint8_t raw[];
  uint8_t* rings = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~static_cast<uintptr_t>(1023));
  uint64_t* bars = reinterpret_cast<uint64_t*>(rings + S::kWarps * S::kRing);  // [warps][stages]
  int* const lens = reinterpret_cast<int*>(bars + S::kWarps * S::kStages);
  const WorkList work{lens, lens + kMaxRows, lens + 2 * kMaxRows + 1, lens + 3 * kMaxRows + 2};

  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, quad = lane & 3, octet = lane >> 2;
  if (threadIdx.x == 0) {
    tma_prefetch_desc(&kmap);
    tma_prefetch_desc(&vmap);
    for (int i = 0; i < S::kWarps * S::kStages; ++i) mbar_init(&bars[i], 1);
    mbar_fence_init();
  }
  grid_launch_dependents();
  grid_wait();
  const int all_begin = a.cu_seqlens_q[0], all_end = a.cu_seqlens_q[a.rows];
  if (warp == 0) {  // running counts over rows, 32 at a time
    int full = 0, tail = 0;
    if (lane == 0) work.full[0] = work.tails[0] = 0;
    for (int r0 = 0; r0 < a.rows; r0 += 32) {
      const int r = r0 + lane;
      int len = 0;
      if (r < a.rows) {
        const int begin = a.cu_seqlens_q[r], end = a.cu_seqlens_q[r + 1];
        len = a.kv_lens[r];
        const bool good = a.bounds.hold(begin, end, len) && end - begin <= 1, live = good && end > begin;
        if (!good) a.bounds.raise();
        if (!live) len = 0;
        work.at[r] = live ? begin : -1;
        work.lens[r] = len;
      }
      const int size = chunk_of(len, a.chunk);
      int f = len > 0 ? len / size - first_chunk_of(len, a.window, size) : 0, t = len % size != 0;
      for (int o = 1; o < 32; o <<= 1) {
        const int uf = __shfl_up_sync(~0u, f, o), ut = __shfl_up_sync(~0u, t, o);
        if (lane >= o) { f += uf; t += ut; }
      }
      if (r < a.rows) { work.full[r + 1] = full + f; work.tails[r + 1] = tail + t; }
      full += __shfl_sync(~0u, f, 31);
      tail += __shfl_sync(~0u, t, 31);
    }
  }
  __syncthreads();
  const int units = (work.full[a.rows] + work.tails[a.rows]) * a.kv_heads;

  // Units go round-robin over blocks first, so that every SM gets its share of bytes, then over warps.
  const int first_unit = blockIdx.x + gridDim.x * warp, unit_step = gridDim.x * S::kWarps;
  uint8_t* my_ring = rings + warp * S::kRing;
  uint64_t* my_bars = bars + warp * S::kStages;
  // The issuing side runs ahead of the computing side, over unit boundaries.
  int issue_unit = first_unit, issue_tile = 0, issue_stage = 0;
  Unit iu{};
  if (issue_unit < units) {
    iu = unit_at(a, work, issue_unit);
    issue_tile = iu.first_tile;
  }
  int held_entry = -1, page = 0;
  auto issue = [&]() {
    if (issue_unit >= units) return;
    if (lane == 0) {
      const int token = iu.begin + issue_tile * kTileTokens;
      const int entry = iu.row * a.table_width + token / a.page_size;
      if (entry != held_entry) {  // neighbouring tiles share a page: its number is fetched once
        held_entry = entry;
        page = a.page_table[entry];
        if (page < 0 || page >= a.bounds.pages) {
          a.bounds.raise();
          page = 0;
        }
      }
      const int row = (page * a.kv_heads + iu.head) * a.page_size + token % a.page_size;
      uint8_t* dst = my_ring + issue_stage * 2 * S::kTile;
      uint64_t* bar = &my_bars[issue_stage];
      mbar_expect_tx(bar, 2 * S::kTile);
#pragma unroll
      for (int i = 0; i < S::kBoxes; ++i) tma_load_2d(dst + i * S::kBoxBytes, &kmap, bar, i * (S::kSpan / sizeof(T)), row, L2Hint::evict_first);
#pragma unroll
      for (int i = 0; i < S::kBoxes; ++i)
        tma_load_2d(dst + S::kTile + i * S::kBoxBytes, &vmap, bar, i * (S::kSpan / sizeof(T)), row, L2Hint::evict_first);
    }
    if (++issue_stage == S::kStages) issue_stage = 0;
    if (++issue_tile * kTileTokens >= iu.tokens) {
      issue_unit += unit_step;
      if (issue_unit < units) iu = unit_at(a, work, issue_unit);
      issue_tile = iu.first_tile;
    }
  };
  for (int i = 0; i < S::kStages; ++i) issue();

  int stage = 0;
  uint32_t phase = 0;
  for (int u = first_unit; u < units; u += unit_step) {
    const Unit unit = unit_at(a, work, u);
    const int len = unit.len;
    const int oldest = a.window > 0 && len > a.window ? len - a.window : 0;
    // B fragments of the query group: head = octet; padded heads are zero.
    uint32_t qf[kSteps][2];
    {
      const bool live = octet < a.group;
      const __nv_bfloat16* qh = a.q + work.at[unit.row] * a.ldq + static_cast<int64_t>(unit.head * a.group + (live ? octet : 0)) * D;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        // Cached e4m3 rows are read 16 bytes a lane, which permutes d inside 64: the query follows the same order.
        const int d0 = sizeof(T) == 2 ? s * 16 + quad * 2 : (s / 4) * 64 + quad * 16 + (s % 4) * 4;
        const int d1 = sizeof(T) == 2 ? d0 + 8 : d0 + 2;
        qf[s][0] = live ? *reinterpret_cast<const uint32_t*>(qh + d0) : 0;
        qf[s][1] = live ? *reinterpret_cast<const uint32_t*>(qh + d1) : 0;
      }
    }
    float q_scale[2] = {1.f, 1.f};  // of heads 2*quad and 2*quad + 1
    if constexpr (sizeof(T) == 1) query_to_f16<kSteps>(qf, q_scale);
    const float k_scale = a.k_scale ? a.k_scale[unit.head] : 1.f;
    const float s_scale = a.scale * k_scale;
    float o[kSteps][4];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;
    float m[2] = {-INFINITY, -INFINITY}, l[2] = {0.f, 0.f};
    const int tiles = (unit.tokens + kTileTokens - 1) / kTileTokens;
    for (int tile = unit.first_tile; tile < tiles; ++tile) {
      mbar_wait(&my_bars[stage], phase);
      const int valid = len - (unit.begin + tile * kTileTokens), stale = oldest - (unit.begin + tile * kTileTokens);
      if (stale > 0) clear_rows<S::kBoxes, S::kBoxBytes, S::kSpan>(my_ring + stage * 2 * S::kTile + S::kTile, 0, stale, lane, 32);
      if (valid < kTileTokens) clear_rows<S::kBoxes, S::kBoxBytes, S::kSpan>(my_ring + stage * 2 * S::kTile + S::kTile, valid, kTileTokens, lane, 32);
      const uint8_t* kt = my_ring + stage * 2 * S::kTile;
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
      const int t0 = unit.begin + tile * kTileTokens + octet;
      float s[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float v = ((c[0][i] + c[1][i]) + (c[2][i] + c[3][i])) * s_scale;
        if constexpr (sizeof(T) == 1) v *= q_scale[i & 1];
        if (a.softcap > 0.f) v = a.softcap * tanhf(v / a.softcap);
        const int t = t0 + (i >> 1) * 8;
        s[i] = t < len && t >= oldest ? v * kLog2e : -INFINITY;
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
      __syncwarp();
      if (++stage == S::kStages) { stage = 0; phase ^= 1; }
      issue();
    }
    const float v_scale = a.v_scale ? a.v_scale[unit.head] : 1.f;
    const int64_t pair = static_cast<int64_t>(unit.row) * a.kv_heads + unit.head;
    const auto d_of = [&](int i, int half) { return i * 16 + (sizeof(T) == 2 ? octet + half * 8 : octet * 2 + half); };
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      l[h] += __shfl_xor_sync(~0u, l[h], 4);
      l[h] += __shfl_xor_sync(~0u, l[h], 8);
      l[h] += __shfl_xor_sync(~0u, l[h], 16);
      const int head = quad * 2 + h;
      if (head >= a.group) continue;
      if (unit.chunks == 1) {
        const float f = l[h] > 0.f ? v_scale / l[h] : 0.f;
        __nv_bfloat16* dst = a.out + work.at[unit.row] * a.ldo + static_cast<int64_t>(unit.head * a.group + head) * D;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          dst[d_of(i, 0)] = __float2bfloat16(o[i][h] * f);
          dst[d_of(i, 1)] = __float2bfloat16(o[i][2 + h] * f);
        }
      } else {
        const int64_t at = (pair * a.max_chunks + unit.chunk - unit.first_chunk) * a.group + head;
        if (octet == 0) a.partial_ml[at] = make_float2(m[h], l[h]);
        float* dst = a.partial + at * D;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          dst[d_of(i, 0)] = o[i][h];
          dst[d_of(i, 1)] = o[i][2 + h];
        }
      }
    }
    if (unit.chunks == 1) continue;
    // The last chunk of a (row, head) to arrive combines them all, in order.
    __syncwarp();
    int last = 0;
    if (lane == 0) {
      asm volatile("fence.acq_rel.gpu;" ::: "memory");
      last = atomicAdd(&a.arrivals[pair], 1u) == static_cast<uint32_t>(unit.chunks - 1);
      if (last) a.arrivals[pair] = 0;
      asm volatile("fence.acq_rel.gpu;" ::: "memory");
    }
    if (!__shfl_sync(~0u, last, 0)) continue;
    // Several heads and pieces are fetched at once, so that their latencies overlap, and added in order.
    constexpr int kPer = D / 32, kHeads = D == 256 ? 2 : 4, kPieces = sizeof(T) == 2 ? 4 : 2;
    for (int h0 = 0; h0 < a.group; h0 += kHeads) {
      const auto at = [&](int h, int ch) { return (pair * a.max_chunks + ch) * a.group + h0 + h; };
      float top[kHeads], sum[kHeads], acc[kHeads][kPer];
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        top[h] = -INFINITY;
        sum[h] = 0.f;
#pragma unroll
        for (int i = 0; i < kPer; ++i) acc[h][i] = 0.f;
      }
      for (int ch = lane; ch < unit.chunks; ch += 32) {
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
          if (h0 + h < a.group) top[h] = fmaxf(top[h], __ldcg(&a.partial_ml[at(h, ch)]).x);
        }
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int o = 16; o > 0; o >>= 1) top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], o));
      }
      for (int ch = 0; ch < unit.chunks; ch += kPieces) {
        float2 ml[kPieces][kHeads];
        float piece[kPieces][kHeads][kPer];
#pragma unroll
        for (int j = 0; j < kPieces; ++j) {
#pragma unroll
          for (int h = 0; h < kHeads; ++h) {
            const bool there = ch + j < unit.chunks && h0 + h < a.group;
            ml[j][h] = there ? __ldcg(&a.partial_ml[at(h, ch + j)]) : make_float2(-INFINITY, 0.f);
#pragma unroll
            for (int i = 0; i < kPer; ++i) piece[j][h][i] = there ? __ldcg(&a.partial[at(h, ch + j) * D + i * 32 + lane]) : 0.f;
          }
        }
#pragma unroll
        for (int j = 0; j < kPieces; ++j) {
#pragma unroll
          for (int h = 0; h < kHeads; ++h) {
            const float f = ml[j][h].x == -INFINITY ? 0.f : exp2f(ml[j][h].x - top[h]);
            sum[h] = fmaf(f, ml[j][h].y, sum[h]);
#pragma unroll
            for (int i = 0; i < kPer; ++i) acc[h][i] = fmaf(f, piece[j][h][i], acc[h][i]);
          }
        }
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h0 + h >= a.group) continue;
        const float f = sum[h] > 0.f ? v_scale / sum[h] : 0.f;
        __nv_bfloat16* dst = a.out + work.at[unit.row] * a.ldo + static_cast<int64_t>(unit.head * a.group + h0 + h) * D + lane;
#pragma unroll
        for (int i = 0; i < kPer; ++i) dst[i * 32] = __float2bfloat16(acc[h][i] * f);
      }
    }
  }
  // Rows that see no key, and rows outside every sequence, give zeros.
  const auto clear_row = [&](int64_t t) {
    for (int i = threadIdx.x; i < a.heads * D; i += S::kWarps * 32) a.out[t * a.ldo + i] = __float2bfloat16(0.f);
  };
  for (int r = blockIdx.x; r < a.rows; r += gridDim.x) {
    if (work.lens[r] <= 0 && work.at[r] >= 0) clear_row(work.at[r]);
  }
  for (int t = blockIdx.x; t < a.bounds.tokens; t += gridDim.x) {
    if (t < all_begin || t >= all_end) clear_row(t);
  }
}

}  // namespace octet::cuda::sm90
