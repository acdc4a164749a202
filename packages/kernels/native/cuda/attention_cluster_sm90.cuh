// attention_cluster: attention_decode (attention_decode_sm90.cuh: shapes, dtypes and values are its) for few rows and heads
// Traffic  K and V of every row once.  One row, Hkv=8, D=128, 300 tokens: 1.2 MB, a chain of latencies
// Launch   a cluster of eight blocks of four warps per row and KV head. A row's 16-token tiles go round its 32 warps, whose sums
//          meet in shared memory: of the block, then of the cluster. Which pages a warp reads is known before the row's length
//          is, so lengths and page numbers are read together.
// Order    warp w has tiles w, w + 32, ... in order; warps of a block, then blocks, are added in order: a row's result depends
//          on its own length alone.
// Faults   a length or page outside its tensor raises the fault word and is not followed
#pragma once
#include "attention_decode_sm90.cuh"

namespace octet::cuda::sm90 {

constexpr int kClusterBlocks = 8, kClusterWarps = 4, kClusterStep = kClusterBlocks * kClusterWarps;

template <class T, int D> struct ClusterShape : TileShape<T, D> {
  static constexpr int kStages = 2, kRing = kStages * 2 * TileShape<T, D>::kTile;
  // What a block adds up, beside its warps' rings: sums [group][D], then maxima and sums of weights [group].
  static constexpr int kSums = kGroup * D * 4, kShare = kSums + kGroup * 8;
  static constexpr int kSmem = 1024 + kClusterWarps * (kRing + kStages * 8) + kShare;
  static_assert(kSums <= kRing);  // a warp leaves its own sums where its tiles were
};

// Shared memory of the cluster's block `rank` at the place that `mine` is in this one.
__device__ __forceinline__ uint32_t in_block(const void* mine, int rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(smem_addr(mine)), "r"(rank));
  return there;
}
__device__ __forceinline__ float read_block(uint32_t at) {
  float v;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
  return v;
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The pages of the next 32 tiles of a warp, one a lane; -1 past the row's end of the table.
__device__ __forceinline__ int page_of_lane(const AttentionDecodeArgs& a, int row, int first_tile) {
  const int64_t token = (static_cast<int64_t>(first_tile) + static_cast<int64_t>(threadIdx.x & 31) * kClusterStep) * kTileTokens;
  return token < a.bounds.capacity ? a.page_table[static_cast<int64_t>(row) * a.table_width + token / a.page_size] : -1;
}

template <class T, int D>
__global__ void __cluster_dims__(kClusterBlocks, 1, 1) __launch_bounds__(kClusterWarps * 32, 1)
    attention_cluster(const __grid_constant__ CUtensorMap kmap, const __grid_constant__ CUtensorMap vmap, const AttentionDecodeArgs a) {
  using S = ClusterShape<T, D>;
  extern __shared__ uint8_t raw[];
  uint8_t* const rings = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~static_cast<uintptr_t>(1023));
  float* const sums = reinterpret_cast<float*>(rings + kClusterWarps * S::kRing);
  float2* const weights = reinterpret_cast<float2*>(sums + kGroup * D);
  uint64_t* const bars = reinterpret_cast<uint64_t*>(weights + kGroup);
  __shared__ float2 warp_weights[kClusterWarps][kGroup];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, quad = lane & 3, octet = lane >> 2;
  const int pair = blockIdx.x / kClusterBlocks, rank = blockIdx.x % kClusterBlocks, row = pair / a.kv_heads, head = pair % a.kv_heads;
  uint8_t* const ring = rings + warp * S::kRing;
  uint64_t* const my_bars = bars + warp * S::kStages;
  if (lane == 0) {
    for (int i = 0; i < S::kStages; ++i) mbar_init(&my_bars[i], 1);
    mbar_fence_init();
  }
  if (threadIdx.x == 0) {
    tma_prefetch_desc(&kmap);
    tma_prefetch_desc(&vmap);
  }
  __syncwarp();
  grid_launch_dependents();
  grid_wait();

  const int first = rank + kClusterBlocks * warp;  // neighbouring tiles in different blocks
  int pages = page_of_lane(a, row, first);
  const int begin = a.cu_seqlens_q[row], end = a.cu_seqlens_q[row + 1], all_begin = a.cu_seqlens_q[0], all_end = a.cu_seqlens_q[a.rows];
  int len = a.kv_lens[row];
  const bool good = a.bounds.hold(begin, end, len) && end - begin <= 1, live = good && end > begin;
  if (!good && threadIdx.x == 0) a.bounds.raise();
  if (!live) len = 0;
  const int oldest = a.window > 0 && len > a.window ? len - a.window : 0;
  const int tiles = (len + kTileTokens - 1) / kTileTokens, unseen = oldest / kTileTokens;

  int issue_at = 0, issue_stage = 0;  // the warp's tile to ask for next
  const auto issue = [&] {
    while (first + issue_at * kClusterStep < unseen) {
      if ((++issue_at & 31) == 0) pages = page_of_lane(a, row, first + issue_at * kClusterStep);
    }
    const int tile = first + issue_at * kClusterStep;
    if (tile >= tiles) return;
    int page = __shfl_sync(~0u, pages, issue_at & 31);
    if (lane == 0) {
      if (page < 0 || page >= a.bounds.pages) {
        a.bounds.raise();
        page = 0;
      }
      const int at = (page * a.kv_heads + head) * a.page_size + tile * kTileTokens % a.page_size;
      uint8_t* const dst = ring + issue_stage * 2 * S::kTile;
      uint64_t* const bar = &my_bars[issue_stage];
      mbar_expect_tx(bar, 2 * S::kTile);
#pragma unroll
      for (int i = 0; i < S::kBoxes; ++i) {
        tma_load_2d(dst + i * S::kBoxBytes, &kmap, bar, i * (S::kSpan / sizeof(T)), at, L2Hint::evict_first);
        tma_load_2d(dst + S::kTile + i * S::kBoxBytes, &vmap, bar, i * (S::kSpan / sizeof(T)), at, L2Hint::evict_first);
      }
    }
    if (++issue_stage == S::kStages) issue_stage = 0;
    if ((++issue_at & 31) == 0) pages = page_of_lane(a, row, first + issue_at * kClusterStep);
  };
  for (int i = 0; i < S::kStages; ++i) issue();

  QueryGroup<T, D> g;
  g.begin(a.q + (live ? begin : 0) * a.ldq + static_cast<int64_t>(head * a.group) * D, a.group);
  const float s_scale = a.scale * (a.k_scale ? a.k_scale[head] : 1.f), v_scale = a.v_scale ? a.v_scale[head] : 1.f;
  int stage = 0;
  uint32_t phase = 0;
  for (int tile = first; tile < tiles; tile += kClusterStep) {
    if (tile < unseen) continue;
    mbar_wait(&my_bars[stage], phase);
    g.attend(ring + stage * 2 * S::kTile, tile * kTileTokens, oldest, len, s_scale, a.softcap);
    __syncwarp();
    if (++stage == S::kStages) { stage = 0; phase ^= 1; }
    issue();
  }

  // The warps' sums, by [head][d], where their tiles were.
  g.settle();
  float* const mine = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int q = quad * 2 + h;
    if (q >= a.group) continue;
    if (octet == 0) warp_weights[warp][q] = make_float2(g.m[h], g.l[h]);
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      mine[q * D + g.d_of(i, 0)] = g.o[i][h];
      mine[q * D + g.d_of(i, 1)] = g.o[i][2 + h];
    }
  }
  __syncthreads();
  const auto factor = [](float m, float top) { return m == -INFINITY ? 0.f : exp2f(m - top); };
  const int count = a.group * D;
  for (int e = threadIdx.x; e < count; e += kClusterWarps * 32) {
    const int q = e / D;
    float top = -INFINITY, sum = 0.f, weight = 0.f;
#pragma unroll
    for (int w = 0; w < kClusterWarps; ++w) top = fmaxf(top, warp_weights[w][q].x);
#pragma unroll
    for (int w = 0; w < kClusterWarps; ++w) {
      const float f = factor(warp_weights[w][q].x, top);
      weight = fmaf(f, warp_weights[w][q].y, weight);
      sum = fmaf(f, reinterpret_cast<const float*>(rings + w * S::kRing)[e], sum);
    }
    sums[e] = sum;
    if (e % D == 0) weights[q] = make_float2(top, weight);
  }
  __syncwarp();
  cluster_arrive();
  cluster_wait();
  // The blocks', each for its share of the columns.
  const int share = count / kClusterBlocks;
  for (int i = threadIdx.x; i < share; i += kClusterWarps * 32) {
    const int e = rank * share + i, q = e / D;
    float m[kClusterBlocks], l[kClusterBlocks], v[kClusterBlocks], top = -INFINITY, sum = 0.f, weight = 0.f;
#pragma unroll
    for (int r = 0; r < kClusterBlocks; ++r) {
      m[r] = read_block(in_block(&weights[q].x, r));
      l[r] = read_block(in_block(&weights[q].y, r));
      v[r] = read_block(in_block(&sums[e], r));
      top = fmaxf(top, m[r]);
    }
#pragma unroll
    for (int r = 0; r < kClusterBlocks; ++r) {
      const float f = factor(m[r], top);
      weight = fmaf(f, l[r], weight);
      sum = fmaf(f, v[r], sum);
    }
    if (live) a.out[begin * a.ldo + static_cast<int64_t>(head * a.group) * D + e] = __float2bfloat16(sum * (weight > 0.f ? v_scale / weight : 0.f));
  }
  __syncwarp();
  cluster_arrive();
  // Rows outside every sequence give zeros.
  for (int t = blockIdx.x; t < a.bounds.tokens; t += gridDim.x) {
    if (t >= all_begin && t < all_end) continue;
    for (int i = threadIdx.x; i < a.heads * D; i += kClusterWarps * 32) a.out[t * a.ldo + i] = __float2bfloat16(0.f);
  }
  __syncwarp();
  cluster_wait();  // no block ends while another reads its sums
}

}  // namespace octet::cuda::sm90
