// Checks and times gemm_decode over decode shapes: float reference on the device, then graph replays over rotated weights.
// Build: nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I../../../packages/kernels/native/cuda gemm_decode_bench.cu -o gemm_decode_bench
#include "gemm_decode_sm90.cuh"
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <algorithm>
using namespace octet::cuda::sm90;
#define CK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)

typedef CUresult (*EncodeFn)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
static EncodeFn encode_fn() {
  static EncodeFn f = nullptr;
  if (!f) { cudaDriverEntryPointQueryResult q; CK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void**)&f, 12000, cudaEnableDefault, &q)); }
  return f;
}
static CUtensorMap make_map(void* p, int esize, int64_t rows, int64_t k, int box_rows) {
  CUtensorMap m; cuuint64_t dims[2] = {(cuuint64_t)k, (cuuint64_t)rows}; cuuint64_t strides[1] = {(cuuint64_t)(k * esize)};
  cuuint32_t box[2] = {(cuuint32_t)(128 / esize), (cuuint32_t)box_rows}; cuuint32_t es[2] = {1, 1};
  CUresult r = encode_fn()(&m, esize == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, p, dims, strides, box, es, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r != CUDA_SUCCESS) { printf("encode %d\n", r); exit(1); }
  return m;
}
__device__ uint32_t hash32(uint64_t x) { x ^= x >> 33; x *= 0xff51afd7ed558ccdull; x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53ull; x ^= x >> 33; return (uint32_t)x; }
template <class T> __global__ void fill(T* p, int64_t n, uint64_t seed, float s) { for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) p[i] = T(((hash32(i + seed * 0x9E3779B97F4A7C15ull) >> 8) / 16777216.f * 2 - 1) * s); }
template <class T> __global__ void ref(const T* w, const T* x, const float* ws, const float* xs, float* y, int M, int N, int K) {
  int64_t id = blockIdx.x * 8ll + threadIdx.x / 32; int lane = threadIdx.x % 32; if (id >= (int64_t)M * N) return; int m = id / N, n = id % N;
  double s = 0; for (int k = lane; k < K; k += 32) s += (double)float(w[(int64_t)n * K + k]) * (double)float(x[(int64_t)m * K + k]);
  for (int o = 16; o; o >>= 1) s += __shfl_down_sync(~0u, s, o); if (!lane) y[id] = s * (ws ? ws[n] : 1.f) * (xs ? xs[m] : 1.f);
}
template <class T, int TOK, int C> void run(int M, int N, int K, bool pdl) {
  using S = GemmDecodeShape<T, TOK, C>;
  auto kern = gemm_decode<T, TOK, C, false>;
  CK(cudaFuncSetAttribute(kern, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSmem));
  int sms; CK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  int copies = std::max<int64_t>(2, std::min<int64_t>(20, 260000000ll / ((int64_t)N * K * sizeof(T)) + 1));
  std::vector<T*> w(copies); for (int i = 0; i < copies; ++i) { CK(cudaMalloc(&w[i], (int64_t)N * K * sizeof(T))); fill<T><<<2048, 256>>>(w[i], (int64_t)N * K, i + 1, 1.f); }
  T* x; CK(cudaMalloc(&x, (int64_t)M * K * sizeof(T))); fill<T><<<512, 256>>>(x, (int64_t)M * K, 77, 1.f);
  float *ws = nullptr, *xs = nullptr, *yr; if (sizeof(T) == 1) { CK(cudaMalloc(&ws, N * 4)); CK(cudaMalloc(&xs, M * 4)); fill<float><<<64, 256>>>(ws, N, 5, 1.f); fill<float><<<1, 256>>>(xs, M, 6, 1.f); }
  __nv_bfloat16* y; CK(cudaMalloc(&y, (int64_t)M * N * 2)); CK(cudaMalloc(&yr, (int64_t)M * N * 4)); CK(cudaMemset(y, 0xff, (int64_t)M * N * 2));
  GemmDecodeArgs a{}; a.m = M; a.n = N; a.tiles = (N + S::kTileRows - 1) / S::kTileRows; a.k_blocks = (K * sizeof(T) + 127) / 128; a.w_scale = ws; a.x_scale = xs; a.w_scale_stride = a.x_scale_stride = 1; a.out = Epilogue{nullptr, nullptr, y, N, false, false};
  int grid = (int)std::min<int64_t>(sms, (int64_t)a.tiles * a.k_blocks);
  CK(cudaMalloc(&a.partial, (size_t)grid * 2 * C * TOK / 2 * 128 * 4)); CK(cudaMalloc(&a.arrivals, a.tiles * C * 4)); CK(cudaMemset(a.arrivals, 0, a.tiles * C * 4));
  CUtensorMap xm = make_map(x, sizeof(T), M, K, TOK); std::vector<CUtensorMap> wm(copies); for (int i = 0; i < copies; ++i) wm[i] = make_map(w[i], sizeof(T), N, K, S::kTileRows);
  cudaStream_t st; CK(cudaStreamCreate(&st));
  auto launch = [&](int i) {
    cudaLaunchConfig_t c{}; c.gridDim = grid; c.blockDim = S::kThreads; c.dynamicSmemBytes = S::kSmem; c.stream = st; cudaLaunchAttribute at{}; at.id = cudaLaunchAttributeProgrammaticStreamSerialization; at.val.programmaticStreamSerializationAllowed = 1; c.attrs = &at; c.numAttrs = pdl ? 1 : 0;
    CK(cudaLaunchKernelEx(&c, kern, wm[i % copies], xm, a));
  };
  ref<T><<<((int64_t)M * N + 7) / 8, 256>>>(w[0], x, ws, xs, yr, M, N, K); CK(cudaDeviceSynchronize());
  std::vector<__nv_bfloat16> h((int64_t)M * N), h2(h.size()); std::vector<float> hr(h.size());
  launch(0); CK(cudaStreamSynchronize(st)); CK(cudaMemcpy(h.data(), y, h.size() * 2, cudaMemcpyDeviceToHost)); CK(cudaMemcpy(hr.data(), yr, hr.size() * 4, cudaMemcpyDeviceToHost));
  double e = 0, r = 0; for (size_t i = 0; i < h.size(); ++i) { double d = (double)__bfloat162float(h[i]) - hr[i]; e += d * d; r += (double)hr[i] * hr[i]; if (!(d == d)) { e = 1e30; break; } }
  launch(1 % copies); launch(0); CK(cudaStreamSynchronize(st)); CK(cudaMemcpy(h2.data(), y, h.size() * 2, cudaMemcpyDeviceToHost)); bool same = !memcmp(h.data(), h2.data(), h.size() * 2);
  cudaGraph_t g; cudaGraphExec_t ge; CK(cudaStreamBeginCapture(st, cudaStreamCaptureModeGlobal)); int reps = N > 100000 ? 6 : 20; for (int i = 0; i < reps; ++i) launch(i); CK(cudaStreamEndCapture(st, &g)); CK(cudaGraphInstantiate(&ge, g, 0));
  for (int i = 0; i < 3; ++i) CK(cudaGraphLaunch(ge, st)); cudaEvent_t e0, e1; cudaEventCreate(&e0); cudaEventCreate(&e1); std::vector<float> ts; for (int i = 0; i < 15; ++i) { cudaEventRecord(e0, st); CK(cudaGraphLaunch(ge, st)); cudaEventRecord(e1, st); CK(cudaEventSynchronize(e1)); float ms; cudaEventElapsedTime(&ms, e0, e1); ts.push_back(ms * 1e3 / reps); }
  std::sort(ts.begin(), ts.end()); float us = ts[7];
  printf("%s N=%d K=%d M=%d tok=%d wg=%d pdl=%d stages=%d relerr=%.2e repeat=%d us=%.1f TBps=%.2f\n", sizeof(T) == 1 ? "e4m3" : "bf16", N, K, M, TOK, C, pdl, S::kStages, sqrt(e / r), same, us, (double)N * K * sizeof(T) / us / 1e6); fflush(stdout);
  for (auto p : w) cudaFree(p); cudaFree(x); cudaFree(ws); cudaFree(xs); cudaFree(y); cudaFree(yr); cudaFree(a.partial); cudaFree(a.arrivals);
}
int main() {
  int shapes[][2] = {{49152, 3072}, {3072, 24576}, {12288, 3072}, {3072, 4096}, {28672, 4096}, {4096, 14336}, {6144, 4096}, {4096, 4096}, {1000, 528}, {256000, 3072}};
  for (auto& s : shapes) {
    run<__nv_fp8_e4m3, 64, 2>(64, s[0], s[1], 1); run<__nv_fp8_e4m3, 64, 4>(64, s[0], s[1], 1);
    run<__nv_bfloat16, 64, 2>(64, s[0], s[1], 1);
    run<__nv_fp8_e4m3, 8, 2>(1, s[0], s[1], 1); run<__nv_bfloat16, 8, 2>(1, s[0], s[1], 1);
    run<__nv_fp8_e4m3, 128, 2>(128, s[0], s[1], 1);
  }
}
