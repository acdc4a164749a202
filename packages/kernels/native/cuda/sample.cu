// sample: out[n] = a token drawn from softmax(logits[n,:] / temperature) after top-k, top-p and min-p
// Tensors  t0 logits [N,V] f32|bf16, t1 out i32[N], t2 sequenceIds i32[N], t3 positions i32[N]
// Attrs    a0 seedLo, a1 seedHi, a2 temperature (0: argmax), a3 topK (0: all), a4 topP (1: all), a5 minP (0: all)
// Values   the rule of native/cpu/sample.cc; weights exp(s - max s) are summed as integers of 2^-40, so every sum is exact
//          in any order and a draw repeats. (The CPU sums float64: a draw at the very edge of two tokens may differ.)
// Traffic  the row about eight times, from L2 after the first.   Launch   grid N, 1024 threads
#include "philox.cuh"

namespace octet::cuda {

constexpr int kSampleThreads = 1024;
constexpr float kUnit = 1099511627776.f;  // 2^40: 262144 weights of 1 stay below 2^58

__device__ __forceinline__ uint32_t order_key(float v) {
  const uint32_t u = __float_as_uint(v + 0.f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

struct SampleArgs {
  uint32_t seed_lo, seed_hi;
  float temperature, min_p;
  int64_t top_k;
  double top_p;
  const int32_t* sequences;
  const int32_t* positions;
  int32_t* out;
  int64_t v;
};

struct Shared {
  unsigned long long bucket[256];
  unsigned long long warp_sums[32];
  float slots[32];
  uint32_t prefix;
  unsigned long long above;
  unsigned long long result;
};

// Inclusive prefix sums over the block in thread order; returns this thread's sum before its own value.
__device__ __forceinline__ unsigned long long scan_before(unsigned long long v, Shared& sh, unsigned long long* total) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  unsigned long long sum = v;
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    const unsigned long long up = __shfl_up_sync(~0u, sum, o);
    if (lane >= o) sum += up;
  }
  if (lane == 31) sh.warp_sums[warp] = sum;
  __syncthreads();
  unsigned long long before = 0, all = 0;
  for (int w = 0; w < kSampleThreads / 32; ++w) {
    if (w < warp) before += sh.warp_sums[w];
    all += sh.warp_sums[w];
  }
  __syncthreads();
  *total = all;
  return before + sum - v;
}

template <class X> struct RowView {
  const X* logits;
  float temperature, top;
  __device__ __forceinline__ float score(int64_t i) const { return to_float(logits[i]) / temperature; }
  __device__ __forceinline__ unsigned long long weight(float s) const {
    return static_cast<unsigned long long>((s == top ? 1.f : __expf(s - top)) * kUnit);
  }
};

// The largest order key such that the tokens at or above it amount to `target`; *above gets the amount strictly above it.
// Only tokens with a key of at least `floor` count.
template <class X, class Amount>
__device__ uint32_t threshold(const RowView<X>& row, int64_t v, uint32_t floor, unsigned long long target, Amount amount, Shared& sh, unsigned long long* above) {
  if (threadIdx.x == 0) {
    sh.prefix = 0;
    sh.above = 0;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) sh.bucket[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t prefix = sh.prefix;
    for (int64_t i = threadIdx.x; i < v; i += kSampleThreads) {
      const float s = row.score(i);
      const uint32_t key = order_key(s);
      if (s != s || key < floor || (shift < 24 && key >> (shift + 8) != prefix)) continue;
      const unsigned long long a = amount(s);
      if (a > 0) atomicAdd(&sh.bucket[(key >> shift) & 255], a);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255;
      while (digit > 0 && sh.above + sh.bucket[digit] < target) sh.above += sh.bucket[digit--];
      sh.prefix = prefix << 8 | static_cast<uint32_t>(digit);
    }
    __syncthreads();
  }
  *above = sh.above;
  return sh.prefix;
}

template <class X> __global__ void __launch_bounds__(kSampleThreads) sample(Rows<const X> logits, SampleArgs a) {
  __shared__ Shared sh;
  const int64_t n = blockIdx.x, v = a.v;
  const bool greedy = !(a.temperature > 0.f);
  RowView<X> row{logits[n], greedy ? 1.f : a.temperature, 0.f};
  float top = -INFINITY;
  for (int64_t i = threadIdx.x; i < v; i += kSampleThreads) top = fmaxf(top, row.score(i));
  row.top = top = block_max(top, sh.slots);

  // Greedy, a row of NaN or of -infinity: the first token at the maximum, or 0.
  if (greedy || top == -INFINITY) {
    if (threadIdx.x == 0) sh.result = ~0ull;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < v; i += kSampleThreads) {
      if (row.score(i) == top) {
        atomicMin(&sh.result, static_cast<unsigned long long>(i));
        break;
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) a.out[n] = sh.result == ~0ull ? 0 : static_cast<int32_t>(sh.result);
    return;
  }

  uint32_t least = 0;
  unsigned long long above = 0;
  if (a.top_k > 0 && a.top_k < v) {
    least = threshold(row, v, 0u, static_cast<unsigned long long>(a.top_k), [](float) { return 1ull; }, sh, &above);
  }
  // Each thread owns a run of neighbouring tokens from here on: order of ids is order of threads.
  const int64_t per = (v + kSampleThreads - 1) / kSampleThreads, begin = min(threadIdx.x * per, v), end = min(begin + per, v);
  unsigned long long total;
  const auto live = [&](float s) { return s == s && order_key(s) >= least; };
  unsigned long long tie_from = 0;  // ties at `tie_key` with a rank (in order of id) below this are out
  uint32_t tie_key = 0;
  bool ties = false;
  if (a.top_p < 1.0) {
    unsigned long long mine = 0;
    for (int64_t i = begin; i < end; ++i) {
      const float s = row.score(i);
      if (live(s)) mine += row.weight(s);
    }
    scan_before(mine, sh, &total);
    const unsigned long long mass = max(1ull, static_cast<unsigned long long>(ceil(a.top_p * static_cast<double>(total))));
    tie_key = threshold(row, v, least, mass, [&](float s) { return row.weight(s); }, sh, &above);
    // Tokens at the threshold: those of the largest ids, as many as the mass needs.
    unsigned long long at = 0, all;
    float tied = 0.f;
    for (int64_t i = begin; i < end; ++i) {
      const float s = row.score(i);
      if (s == s && order_key(s) == tie_key) {
        ++at;
        tied = s;
      }
    }
    if (at > 0) sh.slots[0] = tied;  // every writer writes the same value
    scan_before(at, sh, &all);
    const unsigned long long each = row.weight(sh.slots[0]), need = each == 0 ? all : (mass - min(mass, above) + each - 1) / each;
    tie_from = all - min(all, max(1ull, need));
    ties = true;
    least = tie_key;
    __syncthreads();
  }
  // Ranks of this thread's ties, then the weights that stay.
  unsigned long long rank = 0;
  if (ties) {
    unsigned long long at = 0, all;
    for (int64_t i = begin; i < end; ++i) {
      const float s = row.score(i);
      at += s == s && order_key(s) == tie_key;
    }
    rank = scan_before(at, sh, &all);
  }
  const auto kept = [&](int64_t i, unsigned long long& r) -> unsigned long long {
    const float s = row.score(i);
    if (!live(s)) return 0;
    if (ties && order_key(s) == tie_key && r++ < tie_from) return 0;
    const float w = s == top ? 1.f : __expf(s - top);
    return w < a.min_p ? 0 : row.weight(s);
  };
  unsigned long long mine = 0, r = rank;
  for (int64_t i = begin; i < end; ++i) mine += kept(i, r);
  const unsigned long long before = scan_before(mine, sh, &total);
  // u * total, u = numerator / 2^25, exactly in 128 bits; the first token whose running sum passes it.
  const uint32_t u = philox_numerator(a.seed_lo, a.seed_hi, static_cast<uint32_t>(a.sequences[n]), static_cast<uint32_t>(a.positions[n]));
  const unsigned long long target = (__umul64hi(total, static_cast<unsigned long long>(u)) << 39) | ((total * u) >> 25);
  if (mine > 0 && before <= target && target < before + mine) {
    unsigned long long sum = before;
    r = rank;
    for (int64_t i = begin; i < end; ++i) {
      sum += kept(i, r);
      if (sum > target) {
        a.out[n] = static_cast<int32_t>(i);
        break;
      }
    }
  }
}

static Status launch(const OpCall& call, CudaContext& ctx) {
  const TensorArg& logits = call.t[0];
  const int64_t rows = logits.rows(), v = logits.cols();
  if (rows == 0) return Status::ok;
  if (v > 262144) return Status::unsupported;  // the integer sums are sized for it
  const SampleArgs a{static_cast<uint32_t>(call.i(0)), static_cast<uint32_t>(call.i(1)), call.f(2), call.f(5), call.i(3), call.attr[4],
                     call.t[2].as<const int32_t>(), call.t[3].as<const int32_t>(), call.t[1].as<int32_t>(), v};
  return dispatch_compute(logits.dtype, [&](auto t) {
    using X = typename decltype(t)::type;
    sample<X><<<static_cast<unsigned>(rows), kSampleThreads, 0, ctx.stream()>>>(rows_of<const X>(logits), a);
    return launched();
  });
}

static const Variant kRows[] = {{"portable", kAnyArch, always, launch}};

}  // namespace octet::cuda

using namespace octet::cuda;
OCTET_CUDA_OP(sample, kRows)
