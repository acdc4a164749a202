// attention_decode: out[b,h,:] = softmax_t(scale * q[b,h,:] . k[t,:]) v[t,:] over the cached tokens of row b (one query token)
// Shapes   q, out [B, H*D]; caches [pages, Hkv, pageSize, D]; pageTable i32 [B, P]; cuSeqlensQ i32 [B+1], at most one token a
//          row; kvLens i32 [B]; group = H/Hkv <= 8; D in {64, 128, 256}; pageSize % 16 == 0
// Dtypes   q, out bf16; cache bf16 or e4m3 (f32 scale per KV head); scores, softmax and sums f32, P rounded to the V type
//          of the MMA (bf16, or f16 for e4m3)
// Traffic  K and V of every row once.  Floor B=64, Hkv=16, D=256, 266 tokens, bf16: 279 MB / 4.55 TB/s = 61.3 us
// Launch   one block per SM; every warp takes whole chunks and streams their 16-token tiles through its own ring with the
//          bulk tensor engine, so warps hide each other's latencies and nothing but the last combine is shared.
//          Where rows and heads are few, chunks are shorter, so that more warps share a sequence.
// Order    KV is cut into chunks of 32 to 384 tokens by position (their size from the row's length and the static number of rows), tiles and chunks combine in order: a row's result does not
//          depend on its batch-mates, its slot or the page size. Only keys of the row's own window are read.
// Faults   a length or page outside its tensor raises the fault word and is not followed
#pragma once
#include "attention_tile_sm90.cuh"

namespace octet::cuda::sm90 {

constexpr int kChunk = 256;       // tokens per unit of work, at most
constexpr int kLeastChunk = 32;
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

template <class T, int D, int kMost = 12> struct AttnShape : TileShape<T, D> {
  using TileShape<T, D>::kRing;
  using TileShape<T, D>::kStages;
  // Warps by what fits in 192 KB of rings; more than 12 would leave too few registers for D = 128. A grid of short chunks
  // has few: the next kernel's first blocks then fit beside them.
  static constexpr int kFit = 196608 / kRing;
  static constexpr int kWarps = kFit > kMost ? kMost : kFit;
  static constexpr int kSmem = 1024 + kWarps * (kRing + kStages * 8) + (4 * kMaxRows + 2) * 4;
};

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

// Tokens per chunk of a row: at most 64 chunks while they are shorter than kChunk. From there on they are evened out, to whole
// tiles of about kChunk tokens, so that none is a short rest, which would cost a join and little else.
__device__ __forceinline__ int chunk_of(int len, int shortest) {
  int chunk = shortest;
  while (chunk < kChunk && len > chunk * 64) chunk *= 2;
  if (chunk < kChunk) return chunk;
  const int pieces = len < kChunk + kChunk / 2 ? 1 : (len + kChunk / 2) / kChunk, tiles = (len + kTileTokens - 1) / kTileTokens;
  return len <= 0 ? kChunk : (tiles + pieces - 1) / pieces * kTileTokens;
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
    QueryGroup<T, D> g;
    g.begin(a.q + work.at[unit.row] * a.ldq + static_cast<int64_t>(unit.head * a.group) * D, a.group);
    const float s_scale = a.scale * (a.k_scale ? a.k_scale[unit.head] : 1.f);
    const int tiles = (unit.tokens + kTileTokens - 1) / kTileTokens;
    for (int tile = unit.first_tile; tile < tiles; ++tile) {
      mbar_wait(&my_bars[stage], phase);
      g.attend(my_ring + stage * 2 * S::kTile, unit.begin + tile * kTileTokens, oldest, len, s_scale, a.softcap);
      __syncwarp();
      if (++stage == S::kStages) { stage = 0; phase ^= 1; }
      issue();
    }
    const float v_scale = a.v_scale ? a.v_scale[unit.head] : 1.f;
    const int64_t pair = static_cast<int64_t>(unit.row) * a.kv_heads + unit.head;
    g.settle();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int head = quad * 2 + h;
      if (head >= a.group) continue;
      if (unit.chunks == 1) {
        const float f = g.l[h] > 0.f ? v_scale / g.l[h] : 0.f;
        __nv_bfloat16* dst = a.out + work.at[unit.row] * a.ldo + static_cast<int64_t>(unit.head * a.group + head) * D;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          dst[g.d_of(i, 0)] = __float2bfloat16(g.o[i][h] * f);
          dst[g.d_of(i, 1)] = __float2bfloat16(g.o[i][2 + h] * f);
        }
      } else {
        const int64_t at = (pair * a.max_chunks + unit.chunk - unit.first_chunk) * a.group + head;
        if (octet == 0) a.partial_ml[at] = make_float2(g.m[h], g.l[h]);
        float* dst = a.partial + at * D;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          dst[g.d_of(i, 0)] = g.o[i][h];
          dst[g.d_of(i, 1)] = g.o[i][2 + h];
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
