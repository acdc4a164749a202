// Checks and times gemv (gemv_sm90.cuh) over decode shapes: double reference on the device, then graph replays over rotated
// weights. Prints one row per shape, type and configuration.
// Build: nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I../../../packages/kernels/native/cuda -I../../../packages/kernels/native/include gemv_bench.cu -o gemv_bench
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <cmath>
#include <vector>
#include "gemv_sm90.cuh"
#include "launch.cuh"
using namespace octet::cuda;
using namespace octet::cuda::sm90;
#define CK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)

__device__ uint32_t hash32(uint64_t x) { x ^= x >> 33; x *= 0xff51afd7ed558ccdull; x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53ull; x ^= x >> 33; return (uint32_t)x; }
template <class T> __global__ void fill(T* p, int64_t n, uint64_t seed) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) p[i] = T((hash32(i + seed * 0x9E3779B97F4A7C15ull) >> 8) / 16777216.f * 2 - 1);
}
template <class T, bool kBlocked> __global__ void reference(const T* w, const T* x, const float* ws, const float* xs, double* y, int M, int N, int K) {
  const int64_t id = blockIdx.x * 8ll + threadIdx.x / 32;
  const int lane = threadIdx.x % 32, m = id / N, n = id % N, lines = (K + 127) / 128;
  if (id >= (int64_t)M * N) return;
  double s = 0;
  for (int k = lane; k < K; k += 32) {
    const double scale = !ws ? 1. : kBlocked ? (double)ws[n / 128 * lines + k / 128] * xs[m * lines + k / 128] : (double)ws[n] * xs[m];
    s += (double)float(w[(int64_t)n * K + k]) * (double)float(x[(int64_t)m * K + k]) * scale;
  }
  for (int o = 16; o; o >>= 1) s += __shfl_down_sync(~0u, s, o);
  if (!lane) y[id] = s;
}

template <class T, int G, int A, int B, bool kBlocked = false> void run(int M, int N, int K, bool f32) {
  const auto kernel = gemv<T, G, A, B, kBlocked>;
  int sms; CK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  const int64_t bytes = (int64_t)N * K * sizeof(T), lines = (K + 127) / 128;
  const int copies = (int)std::max<int64_t>(2, std::min<int64_t>(24, 300000000ll / bytes + 1));
  std::vector<T*> w(copies);
  for (int i = 0; i < copies; ++i) { CK(cudaMalloc(&w[i], bytes)); fill<T><<<2048, 256>>>(w[i], (int64_t)N * K, i + 1); }
  T* x; CK(cudaMalloc(&x, (int64_t)M * K * sizeof(T))); fill<T><<<512, 256>>>(x, (int64_t)M * K, 77);
  float *ws = nullptr, *xs = nullptr;
  if (sizeof(T) == 1) { CK(cudaMalloc(&ws, std::max<int64_t>(N, (N + 127) / 128 * lines) * 4)); CK(cudaMalloc(&xs, M * lines * 4)); fill<float><<<64, 256>>>(ws, std::max<int64_t>(N, (N + 127) / 128 * lines), 5); fill<float><<<1, 256>>>(xs, M * lines, 6); }
  void* y; double* yr; CK(cudaMalloc(&y, (int64_t)M * N * 4)); CK(cudaMalloc(&yr, (int64_t)M * N * 8)); CK(cudaMemset(y, 0xff, (int64_t)M * N * 4));
  GemvArgs a{}; a.x = (const uint8_t*)x; a.w_pitch = a.x_pitch = K * (int64_t)sizeof(T); a.m = M; a.n = N; a.k_bytes = K * sizeof(T);
  a.w_scale = ws; a.x_scale = xs; a.w_scale_stride = a.x_scale_stride = 1; a.out = Epilogue{nullptr, nullptr, y, N, false, f32};
  cudaStream_t st; CK(cudaStreamCreate(&st));
  const auto launch = [&](int i) { GemvArgs b = a; b.w = (const uint8_t*)w[i % copies]; if (launch_on(st, {true}, kernel, dim3(std::min((N + 8 * G - 1) / (8 * G), sms * B)), 256, 0, b) != octet::Status::ok) { printf("launch\n"); exit(1); } };
  reference<T, kBlocked><<<((int64_t)M * N + 7) / 8, 256>>>(w[0], x, ws, xs, yr, M, N, K); CK(cudaDeviceSynchronize());
  const int64_t count = (int64_t)M * N; std::vector<uint8_t> h(count * (f32 ? 4 : 2)), h2(h.size()); std::vector<double> hr(count);
  launch(0); CK(cudaStreamSynchronize(st)); CK(cudaMemcpy(h.data(), y, h.size(), cudaMemcpyDeviceToHost)); CK(cudaMemcpy(hr.data(), yr, count * 8, cudaMemcpyDeviceToHost));
  double e = 0, r = 0; for (int64_t i = 0; i < count; ++i) { const double v = f32 ? (double)((float*)h.data())[i] : (double)__bfloat162float(((__nv_bfloat16*)h.data())[i]); const double d = v - hr[i]; e += d * d; r += hr[i] * hr[i]; if (!(d == d)) { e = 1e30; break; } }
  launch(1 % copies); launch(0); CK(cudaStreamSynchronize(st)); CK(cudaMemcpy(h2.data(), y, h.size(), cudaMemcpyDeviceToHost)); const bool same = !memcmp(h.data(), h2.data(), h.size());
  cudaGraph_t g; cudaGraphExec_t ge; const int reps = N > 100000 ? 8 : 40;
  CK(cudaStreamBeginCapture(st, cudaStreamCaptureModeGlobal)); for (int i = 0; i < reps; ++i) launch(i); CK(cudaStreamEndCapture(st, &g)); CK(cudaGraphInstantiate(&ge, g, 0));
  for (int i = 0; i < 3; ++i) CK(cudaGraphLaunch(ge, st));
  cudaEvent_t e0, e1; cudaEventCreate(&e0); cudaEventCreate(&e1); std::vector<float> ts;
  for (int i = 0; i < 11; ++i) { cudaEventRecord(e0, st); CK(cudaGraphLaunch(ge, st)); cudaEventRecord(e1, st); CK(cudaEventSynchronize(e1)); float ms; cudaEventElapsedTime(&ms, e0, e1); ts.push_back(ms * 1e3 / reps); }
  std::sort(ts.begin(), ts.end());
  printf("%s%s N=%-6d K=%-5d M=%d groups=%d ahead=%d blocks=%d f32=%d relerr=%.1e repeat=%d us=%6.2f TBps=%.2f\n", sizeof(T) == 1 ? "e4m3" : "bf16", kBlocked ? " blocked" : "", N, K, M, G, A, B, f32, sqrt(e / r), same, ts[5], bytes / ts[5] / 1e6); fflush(stdout);
  cudaGraphExecDestroy(ge); cudaGraphDestroy(g); cudaStreamDestroy(st);
  for (auto p : w) cudaFree(p); cudaFree(x); cudaFree(ws); cudaFree(xs); cudaFree(y); cudaFree(yr);
}
template <class T> void configurations(int M, int N, int K, bool f32) {
  run<T, 1, 4, 4>(M, N, K, f32); run<T, 1, 4, 3>(M, N, K, f32); run<T, 2, 2, 4>(M, N, K, f32); run<T, 2, 2, 3>(M, N, K, f32); run<T, 2, 4, 2>(M, N, K, f32);
}
int main() {
  const int shapes[][2] = {{4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}, {3072, 4096}, {3072, 24576}};
  for (const auto& s : shapes) { configurations<__nv_bfloat16>(1, s[0], s[1], false); configurations<__nv_fp8_e4m3>(1, s[0], s[1], false); }
  run<__nv_bfloat16, 1, 4, 4>(1, 128256, 4096, true); run<__nv_bfloat16, 2, 2, 4>(1, 128256, 4096, true); run<__nv_fp8_e4m3, 1, 4, 4>(1, 128256, 4096, true);
  for (int m : {2, 4, 8}) { run<__nv_bfloat16, 1, 4, 4>(m, 28672, 4096, false); run<__nv_fp8_e4m3, 1, 4, 4>(m, 28672, 4096, false); run<__nv_bfloat16, 1, 4, 4>(m, 4096, 4096, false); run<__nv_fp8_e4m3, 1, 4, 4>(m, 4096, 4096, false); }
  run<__nv_fp8_e4m3, 1, 4, 3, true>(1, 28672, 4096, false); run<__nv_fp8_e4m3, 1, 4, 3, true>(3, 1000, 528, true); run<__nv_fp8_e4m3, 1, 4, 4>(3, 1001, 528, true); run<__nv_bfloat16, 1, 4, 4>(3, 1003, 1032, false);
}
