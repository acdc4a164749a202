// The producing side of attention_prefill (attention_prefill_sm90.cuh): what a block works on, and K and V tiles into shared memory.
#pragma once
#include "attention_decode_sm90.cuh"

namespace octet::cuda::sm90 {

struct AttentionPrefillArgs {
  __nv_bfloat16* out;
  int64_t ldo;
  const int32_t* page_table;
  const int32_t* cu_seqlens_q;
  const int32_t* kv_lens;
  AttentionBounds bounds;
  const float* k_scale;
  const float* v_scale;
  int rows, heads, kv_heads, group, page_size, table_width;
  int causal, window;
  float scale, softcap;
  int tiles;            // query tiles of the longest sequence
  int section;          // heads of rows whose items are drawn together, so that their K and V stay in L2
  int items;            // tiles * heads * rows
  int box_shift;        // base 2 logarithm of the tokens in a box of the tensor maps: pageSize and kN are multiples
  uint32_t* tickets;    // [2]: items drawn, blocks done; zero before and after
};

// kN: tokens per tile of K and V.
template <class T_, int D_, int kN_> struct PrefillShape {
  using T = T_;
  static constexpr int D = D_, kN = kN_, kGroups = 2 /* consumer warpgroups */, kStages = 2;
  static constexpr bool kWiden = sizeof(T) == 1;
  static constexpr int kRows = kGroups * 64;                 // query rows per item
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kProducers = kWiden ? 4 : 1;          // warps that hand a tile over
  static constexpr int kSlabs = D / 64;                      // a tile of bf16: slabs of 64 elements, rows of 128 bytes
  static constexpr int kSlab = kN * 128;
  static constexpr int kTile = kSlabs * kSlab;
  static constexpr int kQ = kRows * D * 2;                   // [kGroups][kSlabs][64 rows][128 bytes]
  static constexpr int kSpan = kWiden && D < 128 ? D : 128;  // bytes of a box's row
  static constexpr int kBoxes = D * static_cast<int>(sizeof(T)) / kSpan;
  static constexpr int kRawTile = kWiden ? kN * D : 0;       // a tile of e4m3 as it is fetched
  static constexpr int kRest = 227 * 1024 - 2048 - kQ - 2 * kStages * kTile;
  static constexpr int kRaw = kWiden ? (kRest / (kN * D) < 4 ? kRest / (kN * D) : 4) : 0;  // raw tiles in flight
  static constexpr int kSmem = 1024 + kQ + 2 * kStages * kTile + kRaw * kRawTile + 256;
  // Registers after the hand-over (setmaxnreg), of a producer's and of a consumer's thread.
  static constexpr int kProducerRegs = kWiden && D < 256 ? 88 : 72;  // with the consumers' as many as the launch takes: 384 x 168
  static constexpr int kConsumerRegs = kWiden && D < 256 ? 208 : 216;
  static_assert(kN % 64 == 0 && kN / 16 * kBoxes <= 32 /* a box a lane */ && kRest >= 0 && (!kWiden || kRaw >= 2));
};

// What the consumers must know of an item; rows < 0 ends them.
struct PrefillItem {
  int row, out_row, rows, head, kv_head;
  int position;             // of query row 0
  int len, first;           // tokens of the sequence; the first that some row sees
  int tile_begin, tile_end;
};

template <class S> struct PrefillSmem {
  uint8_t *q, *k, *v, *raw;
  uint64_t *q_full, *q_empty, *k_full, *k_empty, *v_full, *v_empty, *raw_full;  // raw_full[0] also holds back edge tiles of bf16
  PrefillItem* items;       // [2], in turns: registers are few among producers
  int* next;

  __device__ __forceinline__ explicit PrefillSmem(uint8_t* base) {
    q = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(base) + 1023) & ~static_cast<uintptr_t>(1023));
    k = q + S::kQ;
    v = k + S::kStages * S::kTile;
    raw = v + S::kStages * S::kTile;
    q_full = reinterpret_cast<uint64_t*>(raw + S::kRaw * S::kRawTile);
    q_empty = q_full + 1;
    k_full = q_full + 2;
    k_empty = k_full + S::kStages;
    v_full = k_empty + S::kStages;
    v_empty = v_full + S::kStages;
    raw_full = v_empty + S::kStages;
    items = reinterpret_cast<PrefillItem*>(raw_full + 4);
    next = reinterpret_cast<int*>(items + 2);
  }
  __device__ __forceinline__ void init() const {
    mbar_init(q_full, 1);
    mbar_init(q_empty, S::kGroups * 4);
    for (int i = 0; i < S::kStages; ++i) {
      mbar_init(&k_full[i], S::kProducers);
      mbar_init(&v_full[i], S::kProducers);
      mbar_init(&k_empty[i], S::kGroups * 4);
      mbar_init(&v_empty[i], S::kGroups * 4);
    }
    for (int i = 0; i < 4; ++i) mbar_init(&raw_full[i], 1);
    mbar_fence_init();
  }
};

// Item w of the launch: sections of heads, in each the last query tiles first. False where the sequence has no such tile.
// By one lane, for all of its warp.
template <class S> __device__ __forceinline__ bool item_at(const AttentionPrefillArgs& a, int w, PrefillItem& it) {
  const int first_pair = w / (a.tiles * a.section) * a.section, left = a.rows * a.heads - first_pair;
  const int pairs = left < a.section ? left : a.section, at = w - first_pair * a.tiles;
  const int q0 = (a.tiles - 1 - at / pairs) * S::kRows, pair = first_pair + at % pairs, row = pair / a.heads;
  const int q_begin = a.cu_seqlens_q[row], n = a.cu_seqlens_q[row + 1] - q_begin, len = a.kv_lens[row];
  if (!a.bounds.hold(q_begin, q_begin + n, len) || n > a.tiles * S::kRows) {
    a.bounds.raise();
    return false;
  }
  if (q0 >= n) return false;
  it.row = row;
  it.out_row = q_begin + q0;
  it.rows = n - q0 < S::kRows ? n - q0 : S::kRows;
  it.head = pair - row * a.heads;
  it.kv_head = it.head / a.group;
  it.position = len - n + q0;
  it.len = len;
  const int last = a.causal ? it.position + it.rows - 1 : len - 1, oldest = it.position - a.window + 1;
  it.first = a.window > 0 && oldest > 0 ? oldest : 0;
  it.tile_begin = it.first / S::kN;
  it.tile_end = last >= it.first ? last / S::kN + 1 : it.tile_begin;
  return true;
}

// Where the lane's box of tile t lies in the caches, K's as V's: boxes of rows of kSpan bytes, kBoxes beside each other.
template <class S> __device__ __forceinline__ int box_row(const AttentionPrefillArgs& a, const PrefillItem& it, int t, int lane) {
  const int tokens = 1 << a.box_shift, last = a.causal && it.position + it.rows < it.len ? it.position + it.rows : it.len;
  int token = t * S::kN + (lane / S::kBoxes << a.box_shift);
  if (t >= it.tile_end || lane >= (S::kN >> a.box_shift) * S::kBoxes) return 0;
  if (token >= it.len) token = (it.len - 1) >> a.box_shift << a.box_shift;  // masked: any mapped tokens will do
  const int column = token / a.page_size;
  int page = a.page_table[static_cast<int64_t>(it.row) * a.table_width + column];
  if (page < 0 || page >= a.bounds.pages) {
    if (token + tokens > it.first && token < last) a.bounds.raise();
    page = 0;
  }
  return (page * a.kv_heads + it.kv_head) * a.page_size + token - column * a.page_size;
}
// The lane's box into its place among slabs of kN rows; `tile` bytes will arrive at the barrier.
template <class S> __device__ __forceinline__ void fetch_tile(const AttentionPrefillArgs& a, const CUtensorMap* map, int row, uint8_t* to, uint64_t* bar, int tile, int lane) {
  if (lane == 0) mbar_expect_tx(bar, tile);
  __syncwarp();
  if (lane >= (S::kN >> a.box_shift) * S::kBoxes) return;
  const int box = lane % S::kBoxes, at = lane / S::kBoxes << a.box_shift;
  tma_load_2d(to + box * S::kN * S::kSpan + at * S::kSpan, map, bar, box * (S::kSpan / static_cast<int>(sizeof(typename S::T))), row, L2Hint::evict_normal);
}

// The rows of tile t of V whose tokens some query may see: [from, to). The others' weights are 0, and 0 times a stale NaN is not.
template <class S> __device__ __forceinline__ int2 live_rows(const PrefillItem& it, int t) {
  const int from = it.first - t * S::kN, to = it.len - t * S::kN;
  return make_int2(from > 0 ? from : 0, to < S::kN ? to : S::kN);
}

// Hands an item to the consumers, and has Q fetched for it, once they are done with the Q before.
template <class S> __device__ __forceinline__ void hand_over(const PrefillSmem<S>& sm, const PrefillItem& it, const CUtensorMap* qmap, uint32_t phase) {
  mbar_wait(sm.q_empty, phase ^ 1);
  if (it.tile_begin == it.tile_end) return mbar_arrive(sm.q_full);
  mbar_expect_tx(sm.q_full, S::kQ);
#pragma unroll 1
  for (int i = 0; i < S::kGroups * S::kSlabs; ++i)
    tma_load_2d(sm.q + i * 8192, qmap, sm.q_full, it.head * S::D + i % S::kSlabs * 64, it.out_row + i / S::kSlabs * 64, L2Hint::evict_first);
}

template <class S> __device__ __forceinline__ void dismiss(const PrefillSmem<S>& sm, uint32_t phase) {
  mbar_wait(sm.q_empty, phase ^ 1);
  sm.items[phase].rows = -1;
  mbar_arrive(sm.q_full);
}

// Producer over a bf16 cache: one warp fetches K and V tiles as they are.
template <class S> __device__ __forceinline__ void produce(const PrefillSmem<S>& sm, const AttentionPrefillArgs& a, const CUtensorMap* qmap, const CUtensorMap* kmap, const CUtensorMap* vmap) {
  const int lane = threadIdx.x & 31;
  uint32_t q_phase = 0, edge_phase = 0, phase = 0;
  int stage = 0, ticket = 0;
  const auto draw = [&] {  // one ahead: nobody waits for the counter
    if (lane == 0) ticket = static_cast<int>(gridDim.x + atomicAdd(&a.tickets[0], 1u));
  };
  draw();
  for (int w = static_cast<int>(blockIdx.x); w < a.items;) {
    const PrefillItem& it = sm.items[q_phase];
    const bool there = __any_sync(~0u, lane == 0 && item_at<S>(a, w, sm.items[q_phase]));
    __syncwarp();
    w = __shfl_sync(~0u, ticket, 0);
    if (w < a.items) draw();
    if (!there) continue;
    int row = box_row<S>(a, it, it.tile_begin, lane);
    for (int t = it.tile_begin; t < it.tile_end; ++t) {
      mbar_wait(&sm.k_empty[stage], phase ^ 1);
      fetch_tile<S>(a, kmap, row, sm.k + stage * S::kTile, &sm.k_full[stage], S::kTile, lane);
      if (t == it.tile_begin) {
        if (lane == 0) hand_over<S>(sm, it, qmap, q_phase);
        __syncwarp();
      }
      mbar_wait(&sm.v_empty[stage], phase ^ 1);
      uint8_t* const v = sm.v + stage * S::kTile;
      const int2 live = live_rows<S>(it, t);
      const bool edge = live.x > 0 || live.y < S::kN;  // comes by another barrier, is cleared, then handed over
      uint64_t* const bar = edge ? sm.raw_full : &sm.v_full[stage];
      fetch_tile<S>(a, vmap, row, v, bar, S::kTile, lane);
      row = box_row<S>(a, it, t + 1, lane);
      if (edge) {
        mbar_wait(bar, edge_phase);
        edge_phase ^= 1;
        clear_rows<S::kSlabs, S::kSlab, 128>(v, 0, live.x, lane, 32);
        clear_rows<S::kSlabs, S::kSlab, 128>(v, live.y, S::kN, lane, 32);
        if (lane == 0) mbar_arrive(&sm.v_full[stage]);
      }
      if (++stage == S::kStages) stage = 0, phase ^= 1;
    }
    if (it.tile_begin == it.tile_end && lane == 0) hand_over<S>(sm, it, qmap, q_phase);
    __syncwarp();
    q_phase ^= 1;
  }
  if (lane == 0) dismiss<S>(sm, q_phase);
}

// Widens a tile of e4m3 into bf16 (exact), both swizzled; rows outside `live` become 0.
template <class S> __device__ __forceinline__ void widen_tile(const uint8_t* from, uint8_t* to, int2 live, int thread) {
  constexpr int kSpan = S::kSpan, kPieces = S::D / 16;
#pragma unroll (S::D < 256 ? 4 : 2)
  for (int i = thread; i < S::kN * kPieces; i += 128) {
    const int row = i / kPieces, piece = i % kPieces;
    const uint4 v = *reinterpret_cast<const uint4*>(from + piece * 16 / kSpan * (S::kN * kSpan) + swizzled<uint8_t>(row, piece & (kSpan / 16 - 1), kSpan));
    const bool seen = row >= live.x && row < live.y;
    const uint32_t w[4] = {seen ? v.x : 0, seen ? v.y : 0, seen ? v.z : 0, seen ? v.w : 0};
    uint32_t o[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const uint32_t f16 = e4m3x2_to_f16x2(w[j >> 1] >> (16 * (j & 1)));
      const float2 f = __half22float2(reinterpret_cast<const __half2&>(f16));
      o[j] = pack2<__nv_bfloat16>(f.x, f.y);
    }
    const bool swap = (piece & 4) != 0;  // neighbouring slabs share banks: their halves take turns
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bool upper = (h == 1) != swap;
      const int wide = piece * 2 + upper;
      const uint4 half = upper ? make_uint4(o[4], o[5], o[6], o[7]) : make_uint4(o[0], o[1], o[2], o[3]);
      *reinterpret_cast<uint4*>(to + wide / 8 * S::kSlab + swizzled<uint16_t>(row, wide & 7, 128)) = half;
    }
  }
}

// Producer over an e4m3 cache: a warpgroup. Its first warp fetches raw tiles, K and V in turn; all widen them.
template <class S> __device__ __forceinline__ void produce_widened(const PrefillSmem<S>& sm, const AttentionPrefillArgs& a, const CUtensorMap* qmap, const CUtensorMap* kmap, const CUtensorMap* vmap) {
  constexpr int kBarrier = 8;  // of the producers alone
  const int thread = threadIdx.x, lane = thread & 31;
  uint32_t q_phase = 0, phase = 0, raw_phase = 0;
  int stage = 0, raw = 0, ahead = 0;  // ahead: the raw slot that is filled next
  if (thread == 0) *sm.next = static_cast<int>(blockIdx.x);
  for (;;) {
    const PrefillItem& it = sm.items[q_phase];
    int there = 0;
    if (thread == 0) {  // the next item of this block that is one
      for (int w = *sm.next; !there && w < a.items; w = static_cast<int>(gridDim.x + atomicAdd(&a.tickets[0], 1u)), *sm.next = w) there = item_at<S>(a, w, sm.items[q_phase]);
      sm.next[1] = there;
    }
    named_barrier(kBarrier, 128);
    if (sm.next[1] == 0) break;
    const int loads = 2 * (it.tile_end - it.tile_begin);
    int row = thread < 32 ? box_row<S>(a, it, it.tile_begin, lane) : 0;
    const auto fetch = [&](int i) {
      if (i >= loads || thread >= 32) return;
      fetch_tile<S>(a, i % 2 == 0 ? kmap : vmap, row, sm.raw + ahead * S::kRawTile, &sm.raw_full[ahead], S::kRawTile, lane);
      if (i % 2 != 0) row = box_row<S>(a, it, it.tile_begin + i / 2 + 1, lane);
      if (++ahead == S::kRaw) ahead = 0;
    };
    for (int i = 0; i < S::kRaw - 1; ++i) fetch(i);
    if (thread == 0) hand_over<S>(sm, it, qmap, q_phase);
    __syncwarp();
    for (int i = 0; i < loads; ++i) {
      fetch(i + S::kRaw - 1);  // into the slot that was read last
      const bool values = i % 2 != 0;
      uint64_t* const full = values ? sm.v_full : sm.k_full;
      mbar_wait(&sm.raw_full[raw], raw_phase);
      mbar_wait(&(values ? sm.v_empty : sm.k_empty)[stage], phase ^ 1);
      widen_tile<S>(sm.raw + raw * S::kRawTile, (values ? sm.v : sm.k) + stage * S::kTile, values ? live_rows<S>(it, it.tile_begin + i / 2) : make_int2(0, S::kN), thread);
      fence_proxy_async();
      __syncwarp();
      if (lane == 0) mbar_arrive(&full[stage]);
      if (++raw == S::kRaw) raw = 0, raw_phase ^= 1;
      if (values && ++stage == S::kStages) stage = 0, phase ^= 1;
      named_barrier(kBarrier, 128);
    }
    named_barrier(kBarrier, 128);
    q_phase ^= 1;
  }
  if (thread == 0) dismiss<S>(sm, q_phase);
}

}  // namespace octet::cuda::sm90
