// gatedActivation into e4m3 for few rows: a cluster of eight blocks per row, so that a decode step's activation is spread over
// the chip; the blocks tell each other their largest magnitude through distributed shared memory.
// Tensors, attributes and values as gated_activation.cu.
// Traffic  x once, out once.  Floor 1 x 2*14336 bf16: launch-bound
// Launch   8 blocks of 128 threads per row (I <= 32768), started before the previous kernel has ended
#include "activation_math.cuh"
#include "launch.cuh"
#include "quantize_row.cuh"

namespace octet::cuda {

constexpr int kCluster = 8, kClusterThreads = 128, kFewRows = 128;

// The largest of the cluster's numbers.
struct ClusterMax {
  uint32_t* mine;  // shared memory, one word
  __device__ __forceinline__ uint32_t operator()(uint32_t top) const {
    if (threadIdx.x == 0) *mine = top;
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    const uint32_t here = static_cast<uint32_t>(__cvta_generic_to_shared(mine));
#pragma unroll
    for (int r = 0; r < kCluster; ++r) {
      uint32_t there, other;
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(r));
      asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(other) : "r"(there) : "memory");
      top = max(top, other);
    }
    // No block may end while another still reads its word.
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    return top;
  }
};

template <int kHeld, class T, class F>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(kClusterThreads, 8) gated_cluster(Rows<const T> x, Rows<e4m3> y, int64_t width, RowTarget target, F act) {
  __shared__ uint32_t word;
  const int64_t n = blockIdx.x / kCluster, span = (width + kCluster * 128 - 1) / (kCluster * 128) * 128;
  const int64_t from = blockIdx.x % kCluster * span, begin = from < width ? from : width, end = begin + span < width ? begin + span : width;
  overlap_wait();
  float v[kHeld][8];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t c = begin + (static_cast<int64_t>(i) * kClusterThreads + threadIdx.x) * 8;
    float u[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) v[i][k] = u[k] = 0.f;
    if (c >= end) continue;
    load<T, 8>(v[i], x[n] + c);
    load<T, 8>(u, x[n] + width + c);
#pragma unroll
    for (int k = 0; k < 8; ++k) v[i][k] = to_float(from_float<T>(act(v[i][k]) * u[k]));
  }
  quantize_held<kClusterThreads, 8, kHeld, e4m3>(v, y[n], target, n, width, begin, end, ClusterMax{&word});
}

bool fits_gated_cluster(const OpCall& call, const DeviceInfo&) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const bool vectors = x.dtype == DType::bf16 ? wide_rows<bf16>(x) : x.dtype == DType::f32 && wide_rows<float>(x);
  return row_target_fits(row_target(call, call.t[2], call.t[3], 1)) && out.dtype == DType::e4m3 && vectors && eight_rows<e4m3>(out) && out.rows() > 0 &&
         out.rows() <= kFewRows && out.cols() > 0 && out.cols() <= 4 * 8 * kClusterThreads * kCluster;
}

Status launch_gated_cluster(const OpCall& call, CudaContext& ctx) {
  const TensorArg &x = call.t[0], &out = call.t[1];
  const int64_t width = out.cols(), span = (width + kCluster * 128 - 1) / (kCluster * 128) * 128;
  const RowTarget target = row_target(call, call.t[2], call.t[3], 1);
  return by_kind(call.i(0), [&](auto act) {
    return dispatch_compute(x.dtype, [&](auto xt) {
      using T = typename decltype(xt)::type;
      using F = decltype(act);
      const auto kernel = span <= 2 * 8 * kClusterThreads ? gated_cluster<2, T, F> : gated_cluster<4, T, F>;
      return launch_overlapped(ctx, kernel, dim3(static_cast<unsigned>(out.rows() * kCluster)), kClusterThreads, 0, rows_of<const T>(x), rows_of<e4m3>(out), width, target, act);
    });
  });
}

}  // namespace octet::cuda
