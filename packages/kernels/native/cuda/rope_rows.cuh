// One warp holds one head: its optional RMSNorm, its rotation and its write into a paged cache. Shared by rope, kvAppend
// and ropeKvAppend, whose results are equal to the bit.
#pragma once
#include "common.cuh"

namespace octet::cuda {

constexpr int kPairs = 4;  // pairs of elements a lane holds: head dimensions up to 32 * 4 * 2 = 256

// A head in registers: lane l holds the pairs l, l + 32, ... of d / 2; pair i is (i, i + d/2), or (2i, 2i + 1).
struct Head {
  float a[kPairs], b[kPairs];
};

struct HeadShape {
  int d, half;
  bool interleaved;
  __device__ __forceinline__ int first(int pair) const { return interleaved ? 2 * pair : pair; }
  __device__ __forceinline__ int second(int pair) const { return interleaved ? 2 * pair + 1 : pair + half; }
};

template <class T> __device__ __forceinline__ Head load_head(const T* p, const HeadShape& s) {
  Head h;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int pair = j * 32 + (threadIdx.x & 31);
    h.a[j] = pair < s.half ? to_float(p[s.first(pair)]) : 0.f;
    h.b[j] = pair < s.half ? to_float(p[s.second(pair)]) : 0.f;
  }
  return h;
}
template <class T> __device__ __forceinline__ void store_head(T* p, const Head& h, const HeadShape& s) {
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int pair = j * 32 + (threadIdx.x & 31);
    if (pair >= s.half) continue;
    p[s.first(pair)] = from_float<T>(h.a[j]);
    p[s.second(pair)] = from_float<T>(h.b[j]);
  }
}

// RMSNorm over the head, in place. `weight` is f32 or bf16 by `weight_f32`; T is the activation's type.
struct HeadNorm {
  const void* weight;  // nullptr: none
  bool weight_f32, cast_first;
  float eps, gamma0;
};
template <class T> __device__ __forceinline__ void norm_head(Head& h, const HeadShape& s, const HeadNorm& n) {
  if (n.weight == nullptr) return;
  float sum = 0.f;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) sum = fmaf(h.a[j], h.a[j], fmaf(h.b[j], h.b[j], sum));
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
  const float factor = rsqrtf(sum / static_cast<float>(s.d) + n.eps);
  const auto weight = [&](int i) { return n.weight_f32 ? static_cast<const float*>(n.weight)[i] : to_float(static_cast<const bf16*>(n.weight)[i]); };
  const auto apply = [&](float v, int i) {
    const float normed = v * factor;
    return (n.cast_first ? to_float(from_float<T>(normed)) : normed) * (n.gamma0 + weight(i));
  };
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int pair = j * 32 + (threadIdx.x & 31);
    if (pair >= s.half) continue;
    h.a[j] = apply(h.a[j], s.first(pair));
    h.b[j] = apply(h.b[j], s.second(pair));
  }
}

// One pair by its angle; written out, so that every kernel rounds alike.
__device__ __forceinline__ void turn(float& a, float& b, float cosine, float sine) {
  const float first = fmaf(a, cosine, -__fmul_rn(b, sine)), second = fmaf(b, cosine, __fmul_rn(a, sine));
  a = first;
  b = second;
}
__device__ __forceinline__ void rotate(Head& h, const HeadShape& s, const float* cosine, const float* sine) {
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int pair = j * 32 + (threadIdx.x & 31);
    if (pair >= s.half) continue;
    turn(h.a[j], h.b[j], cosine[pair], sine[pair]);
  }
}

// The paged cache: [pages, Hkv, pageSize, D]; token at position p of sequence row b lies in page table[b][p / pageSize].
struct PagedCache {
  void* data;
  const float* scale_inv;  // f32 [Hkv] or nullptr: a stored value v means v * scale_inv[h]
  int64_t pages, heads, page_size, row_stride;
};
struct PageTable {
  const int32_t* data;
  int64_t rows, width, stride;
};
inline PagedCache cache_of(const TensorArg& t, const TensorArg& scale) {
  return {t.data, scale.as<const float>(), t.shape[0], t.shape[1], t.shape[2], t.row_stride};
}
inline PageTable table_of(const TensorArg& t) { return {t.as<const int32_t>(), t.rows(), t.cols(), t.ndim > 1 ? t.row_stride : t.cols()}; }

// Elements before the row of `position`, or -1 when the arguments lead outside the table or the cache.
__device__ __forceinline__ int64_t cache_row(const PagedCache& c, const PageTable& t, int64_t b, int64_t position, int64_t head) {
  if (b < 0 || b >= t.rows || position < 0) return -1;
  const uint32_t size = static_cast<uint32_t>(c.page_size), column = static_cast<uint32_t>(position) / size;  // positions are i32
  if (column >= t.width) return -1;
  const int64_t page = t.data[b * t.stride + column];
  if (page < 0 || page >= c.pages) return -1;
  return ((page * c.heads + head) * c.page_size + (static_cast<uint32_t>(position) - column * size)) * c.row_stride;
}

// Writes a head to its place: x * (1 / scaleInv), rounded once (saturating to FP8).
template <class C>
__device__ __forceinline__ void write_head(const PagedCache& c, const PageTable& t, int64_t b, int64_t position, int64_t head, Head h, const HeadShape& s, int32_t* fault) {
  const int64_t at = cache_row(c, t, b, position, head);
  if (at < 0) {
    *fault = static_cast<int32_t>(Status::bad_index);
    return;
  }
  if (c.scale_inv != nullptr) {
    const float factor = 1.f / c.scale_inv[head];
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      h.a[j] *= factor;
      h.b[j] *= factor;
    }
  }
  store_head<C>(static_cast<C*>(c.data) + at, h, s);
}

template <class F> inline Status dispatch_cache(DType d, F&& f) { return d == DType::e4m3 ? f(Tag<e4m3>{}) : dispatch_compute(d, f); }

constexpr int kHeadWarps = 8;  // heads per block

}  // namespace octet::cuda
