// The last step of ops that leave their rows in FP8, and of quantize itself: a block owns a row and holds it in registers.
// Values as native/cpu/quantize.cc, equal to the bit.
#pragma once
#include "scales.cuh"

namespace octet::cuda {

// Where rows go. granularity 1 tensor (scale given), 2 row, 3 1x128.
struct RowTarget {
  float* scale_inv;
  const float* given;  // of scale_inv's shape, or nullptr: from the row's own amax
  int granularity;
  float epsilon;
  bool power_of_2;
};
// Attributes from `first`: granularity (0: not quantized), powerOf2, epsilon.
inline RowTarget row_target(const OpCall& c, const TensorArg& scale_inv, const TensorArg& scale, int first) {
  return {scale_inv.as<float>(), scale.as<const float>(), static_cast<int>(c.i(first)), c.f(first + 2), c.b(first + 1)};
}
inline bool row_target_fits(const RowTarget& t) {
  return t.scale_inv != nullptr && (t.granularity == 2 || t.granularity == 3 || (t.granularity == 1 && t.given != nullptr));
}

constexpr int kMostSpans = 256;  // 1x128 blocks of a row: D <= 32768

struct Alone {  // the block has the whole row
  __device__ __forceinline__ uint32_t operator()(uint32_t top) const { return top; }
};

// v: columns [begin, end) of row n by (held, thread, k) as norm.cuh lays them out, zero past the end; begin is a multiple of 128.
// Every thread of the block calls it. join: the block's largest magnitude to the row's.
template <int kThreads, int kN, int kHeld, class Y, class Join = Alone>
__device__ __forceinline__ void quantize_held(float (&v)[kHeld][kN], Y* out, const RowTarget& t, int64_t n, int64_t cols, int64_t begin, int64_t end, Join join = {}) {
  __shared__ uint32_t tops[kMostSpans];
  const int span = static_cast<int>(end - begin);
  const auto place = [&](int i) { return (i * kThreads + static_cast<int>(threadIdx.x)) * kN; };  // from begin on
  Y* const to = out + begin;
  const auto top_of = [&](int i) {
    uint32_t top = 0;
#pragma unroll
    for (int k = 0; k < kN; ++k) top = max(top, magnitude_bits(v[i][k]));
    return top;
  };
  const auto emit = [&](int i, float s) {
#pragma unroll
    for (int k = 0; k < kN; ++k) v[i][k] *= s;
    store<Y, kN>(to + place(i), v[i]);
  };
  if (t.granularity == 3) {
    const int64_t first = n * ((cols + 127) / 128) + begin / 128;
    if (t.given == nullptr) {
      for (int b = threadIdx.x; b * 128 < span; b += kThreads) tops[b] = 0;
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        if (place(i) < span) atomicMax(&tops[place(i) / 128], top_of(i));  // a maximum of bits: exact in any order
      }
      __syncthreads();
    }
    // A block's scale is made once and handed to its threads.
    for (int b = threadIdx.x; b * 128 < span; b += kThreads) {
      const float s = t.given != nullptr ? t.given[first + b] : scale_of_amax(__uint_as_float(tops[b]), kLargest<Y>, t.epsilon, t.power_of_2);
      t.scale_inv[first + b] = __fdiv_rn(1.f, s);
      tops[b] = __float_as_uint(s);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (place(i) < span) emit(i, __uint_as_float(tops[place(i) / 128]));
    }
    return;
  }
  const int64_t at = t.granularity == 2 ? n : 0;
  float s;
  if (t.given != nullptr) {
    s = t.given[at];
  } else {
    uint32_t top = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) top = max(top, top_of(i));
    s = scale_of_amax(__uint_as_float(join(block_max_bits(top, tops))), kLargest<Y>, t.epsilon, t.power_of_2);
  }
  if (begin == 0 && threadIdx.x == 0 && (t.granularity == 2 || n == 0)) t.scale_inv[at] = __fdiv_rn(1.f, s);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    if (place(i) < span) emit(i, s);
  }
}

// Every row starts on 8 elements' boundary and holds whole vectors of eight.
template <class T> inline bool eight_rows(const TensorArg& t) {
  constexpr size_t kBytes = sizeof(T) * 8 < 16 ? sizeof(T) * 8 : 16;
  return t.cols() % 8 == 0 && reinterpret_cast<uintptr_t>(t.data) % kBytes == 0 && (t.rows() <= 1 || t.row_stride * sizeof(T) % kBytes == 0);
}

}  // namespace octet::cuda
