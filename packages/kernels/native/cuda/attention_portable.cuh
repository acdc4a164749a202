// Attention for any legal shape and dtype, paged or dense: the specification in CUDA, used where no fast row fits.
// A block computes one query row of one head. Keys are walked in chunks of 256 by absolute position, joined in order, so a
// row's result does not depend on the batch, the prefill's chunks, padding or the page size. All arithmetic is float32.
#pragma once
#include "common.cuh"

namespace octet::cuda {

constexpr int kKeysPerChunk = 256, kAttentionThreads = 256;

struct AttentionShape {
  int heads, kv_heads, d;
  float scale, softcap;
  const float* k_scale;  // f32 [Hkv] or nullptr
  const float* v_scale;
};

// Where a query row's keys are; `rows` of q that belong to no sequence have empty spans.
struct KeySpan {
  int64_t begin, end;
};

// Source: device struct with KeySpan span(int64_t row, Place*), offsets k_at / v_at(place, head, key) in elements (-1: bad
// index), k(), v() base pointers of type C, and masked(place, key).
template <class Source, class X, class Y>
__global__ void __launch_bounds__(kAttentionThreads, 4) attention_rows(Rows<const X> q, Rows<Y> out, Source source, AttentionShape s, int32_t* fault) {
  using C = typename Source::Cache;
  __shared__ float qs[256], scores[kKeysPerChunk], slots[kAttentionThreads / 32];
  const int64_t row = blockIdx.y + static_cast<int64_t>(blockIdx.z) * gridDim.y;
  if (row >= source.rows()) return;
  const int head = blockIdx.x, kv_head = head / (s.heads / s.kv_heads), warp = threadIdx.x >> 5, lane = threadIdx.x & 31, d = threadIdx.x;
  typename Source::Place place;
  const KeySpan span = source.span(row, &place);
  if (d < s.d) qs[d] = to_float(q[row][static_cast<int64_t>(head) * s.d + d]);
  __syncthreads();
  const float k_scale = s.k_scale != nullptr ? s.k_scale[kv_head] : 1.f, v_scale = s.v_scale != nullptr ? s.v_scale[kv_head] : 1.f;
  float top = -INFINITY, total = 0.f, acc = 0.f;
  for (int64_t c0 = span.begin / kKeysPerChunk * kKeysPerChunk; c0 < span.end; c0 += kKeysPerChunk) {
    for (int j = warp; j < kKeysPerChunk; j += kAttentionThreads / 32) {
      const int64_t key = c0 + j;
      float v = -INFINITY;
      if (key >= span.begin && key < span.end && !source.masked(place, key)) {
        const int64_t at = source.k_at(place, kv_head, key);
        if (at < 0) {
          if (lane == 0) *fault = static_cast<int32_t>(Status::bad_index);
        } else {
          const C* const k = source.k() + at;
          float sum = 0.f;
          for (int i = lane; i < s.d; i += 32) sum = fmaf(qs[i], to_float(k[i]), sum);
#pragma unroll
          for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
          v = sum * k_scale * s.scale;
          if (s.softcap > 0.f) v = s.softcap * tanhf(v / s.softcap);
        }
      }
      if (lane == 0) scores[j] = v;
    }
    __syncthreads();
    const float mine = scores[threadIdx.x];
    const float m = block_reduce(mine, slots, -INFINITY, [](float a, float b) { return a != a || b != b ? NAN : fmaxf(a, b); });
    if (m != -INFINITY) {
      const float p = mine == -INFINITY ? 0.f : expf(mine - m);
      scores[threadIdx.x] = p;
      const float l = block_sum(p, slots);
      float part = 0.f;
      if (d < s.d) {
        for (int j = 0; j < kKeysPerChunk; ++j) {
          const float w = scores[j];
          const int64_t key = c0 + j;
          // Keys outside the span are not read: their memory may hold anything, and 0 times NaN is NaN.
          if (w == 0.f && (key < span.begin || key >= span.end || source.masked(place, key))) continue;
          const int64_t at = source.v_at(place, kv_head, key);
          if (at >= 0) part = fmaf(w, to_float(source.v()[at + d]), part);
        }
      }
      const float next = fmaxf(top, m), keep = top == next ? 1.f : expf(top - next), f = m == next ? 1.f : expf(m - next);
      total = total * keep + l * f;
      acc = acc * keep + part * f;
      top = m != m ? m : next;
    }
    __syncthreads();
  }
  if (d < s.d) out[row][static_cast<int64_t>(head) * s.d + d] = from_float<Y>(top == -INFINITY ? 0.f : acc / total * v_scale);
}

// grid (heads, rows): rows beyond 65535 go on in z.
inline dim3 attention_grid(int heads, int64_t rows) {
  const int64_t y = rows < 32768 ? rows : 32768;
  return dim3(static_cast<unsigned>(heads), static_cast<unsigned>(y), static_cast<unsigned>((rows + y - 1) / y));
}

}  // namespace octet::cuda
