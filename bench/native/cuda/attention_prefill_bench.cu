// Checks attention_prefill against a double-precision device reference and times it.
// Build: nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I../../../packages/kernels/native/cuda -I../../../packages/kernels/native/include attention_prefill_bench.cu -o attention_prefill_bench
#include "attention_prefill_sm90.cuh"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>
using namespace octet::cuda::sm90;
#define CK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)
typedef CUresult (*EncodeFn)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
static CUtensorMap make_map(void* p, int esize, int64_t rows, int d, int span, int box_rows, int64_t pitch) {
  static EncodeFn f = nullptr; if (!f) { cudaDriverEntryPointQueryResult q; CK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void**)&f, 12000, cudaEnableDefault, &q)); }
  CUtensorMap m; cuuint64_t dims[2] = {(cuuint64_t)d, (cuuint64_t)rows}; cuuint64_t strides[1] = {(cuuint64_t)(pitch * esize)}; cuuint32_t box[2] = {(cuuint32_t)(span / esize), (cuuint32_t)box_rows}; cuuint32_t es[2] = {1, 1};
  CUresult r = f(&m, esize == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, p, dims, strides, box, es, CU_TENSOR_MAP_INTERLEAVE_NONE, span == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r != CUDA_SUCCESS) { printf("encode %d\n", r); exit(1); } return m;
}
__device__ uint32_t hash32(uint64_t x) { x ^= x >> 33; x *= 0xff51afd7ed558ccdull; x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53ull; x ^= x >> 33; return (uint32_t)x; }
template <class T> __global__ void fill(T* p, int64_t n, uint64_t seed, float s) { for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) p[i] = T(((hash32(i + seed * 0x9E3779B97F4A7C15ull) >> 8) / 16777216.f * 2 - 1) * s); }

template <class T, int D> __global__ void ref(AttentionPrefillArgs a, const __nv_bfloat16* q, int64_t ldq, const T* k, const T* v, float* out, int rows, int H) {
  int i = blockIdx.x / H, h = blockIdx.x % H, hk = h / a.group, d = threadIdx.x, b = 0; while (a.cu_seqlens_q[b + 1] <= i) ++b; int n = a.cu_seqlens_q[b + 1] - a.cu_seqlens_q[b], len = a.kv_lens[b], pos = len - n + i - a.cu_seqlens_q[b]; __shared__ double red[D]; __shared__ double sc;
  double m = -1e300, l = 0, o = 0; int lo = a.window > 0 && pos + 1 > a.window ? pos + 1 - a.window : 0, hi = a.causal ? pos : len - 1;
  for (int t = lo; t <= hi; ++t) {
    int64_t row = ((int64_t)a.page_table[b * a.table_width + t / a.page_size] * a.kv_heads + hk) * a.page_size + t % a.page_size;
    red[d] = (double)__bfloat162float(q[i * ldq + h * D + d]) * (double)float(k[row * D + d]) * (a.k_scale ? a.k_scale[hk] : 1.f); __syncthreads();
    for (int s = D / 2; s; s >>= 1) { if (d < s) red[d] += red[d + s]; __syncthreads(); }
    if (d == 0) { double x = red[0] * a.scale; if (a.softcap > 0) x = a.softcap * tanh(x / a.softcap); sc = x; } __syncthreads();
    double x = sc, mn = fmax(m, x), f = exp(m - mn), p = exp(x - mn); l = l * f + p; o = o * f + p * (double)float(v[row * D + d]); m = mn; __syncthreads();
  }
  out[(int64_t)i * H * D + h * D + d] = l > 0 ? o / l * (a.v_scale ? a.v_scale[hk] : 1.f) : 0;
}
template <class S> void run(int B, int H, int HK, int nq, int past, int spread, int ps, int window, float cap, bool time) {
  using T = typename S::T; constexpr int D = S::D; auto kern = attention_prefill<S>; int g = H / HK; CK(cudaFuncSetAttribute(kern, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSmem));
  std::mt19937 rng(1); std::vector<int> cu(B + 1, 0), lens(B); int maxq = 0; for (int b = 0; b < B; ++b) { int n = std::max(1, nq + (spread ? (int)(rng() % (2 * spread + 1)) - spread : 0)); cu[b + 1] = cu[b] + n; lens[b] = n + (past ? (int)(rng() % (past + 1)) : 0); maxq = std::max(maxq, n); } int T_ = cu[B];
  int maxlen = *std::max_element(lens.begin(), lens.end()), width = (maxlen + ps - 1) / ps + 1, pages = 0; std::vector<int> table(B * width, 0); for (int b = 0; b < B; ++b) for (int i = 0; i < (lens[b] + ps - 1) / ps; ++i) table[b * width + i] = pages++; std::vector<int> perm(pages); for (int i = 0; i < pages; ++i) perm[i] = i; std::shuffle(perm.begin(), perm.end(), rng); for (auto& x : table) x = perm[x];
  int64_t n = (int64_t)pages * HK * ps * D; T *k, *v; CK(cudaMalloc(&k, n * sizeof(T))); CK(cudaMalloc(&v, n * sizeof(T))); fill<T><<<1024, 256>>>(k, n, 10, 1.5f); fill<T><<<1024, 256>>>(v, n, 90, 1.f);
  AttentionPrefillArgs a{}; a.kv_heads = HK; a.group = g; a.page_size = ps; a.table_width = width; a.window = window; a.causal = 1; a.scale = 1.f / sqrtf(D); a.softcap = cap; a.ldo = H * D; int64_t ldq = H * D; __nv_bfloat16 *q, *o; CK(cudaMalloc(&q, (int64_t)T_ * H * D * 2)); CK(cudaMalloc(&o, (int64_t)T_ * H * D * 2)); fill<__nv_bfloat16><<<256, 256>>>(q, (int64_t)T_ * H * D, 3, 3.f); CK(cudaMemset(o, 0xff, (int64_t)T_ * H * D * 2)); a.out = o;
  int *pt, *kl, *cq; CK(cudaMalloc(&pt, table.size() * 4)); CK(cudaMalloc(&kl, B * 4)); CK(cudaMalloc(&cq, (B + 1) * 4)); CK(cudaMemcpy(pt, table.data(), table.size() * 4, cudaMemcpyHostToDevice)); CK(cudaMemcpy(kl, lens.data(), B * 4, cudaMemcpyHostToDevice)); CK(cudaMemcpy(cq, cu.data(), (B + 1) * 4, cudaMemcpyHostToDevice)); a.page_table = pt; a.kv_lens = kl; a.cu_seqlens_q = cq;
  float* sc = nullptr; if (sizeof(T) == 1) { CK(cudaMalloc(&sc, HK * 8)); std::vector<float> h(2 * HK); for (int i = 0; i < 2 * HK; ++i) h[i] = 0.5f + 0.03f * i; CK(cudaMemcpy(sc, h.data(), HK * 8, cudaMemcpyHostToDevice)); a.k_scale = sc; a.v_scale = sc + HK; }
  int shift = 4; while (shift < 6 && ps % (2 << shift) == 0 && S::kN % (2 << shift) == 0) ++shift; a.box_shift = shift; a.rows = B; a.heads = H; a.tiles = (maxq + S::kRows - 1) / S::kRows; a.items = a.tiles * B * H;
  {  // as prefill_section
    int64_t each = 2ll * maxlen * D * sizeof(T), fit = (32ll << 20) / each; if (fit < 1) fit = 1; fit *= g; a.section = fit < B * H ? fit : B * H; }
  a.bounds.tokens = T_; a.bounds.pages = pages; a.bounds.capacity = width * ps; int32_t* fault; CK(cudaMalloc(&fault, 4)); CK(cudaMemset(fault, 0, 4)); a.bounds.fault = fault; CK(cudaMalloc(&a.tickets, 8)); CK(cudaMemset(a.tickets, 0, 8)); int sms = 132; const int blocks = a.items < sms ? a.items : sms;
  const int span = S::kSpan; CUtensorMap km = make_map(k, sizeof(T), n / D, D, span, 1 << shift, D), vm = make_map(v, sizeof(T), n / D, D, span, 1 << shift, D), qm = make_map(q, 2, T_, H * D, 128, 64, H * D); cudaStream_t st; CK(cudaStreamCreate(&st));
  auto launch = [&]() { kern<<<blocks, S::kThreads, S::kSmem, st>>>(qm, km, vm, a); CK(cudaGetLastError()); };
  double e = 0, rr = 1e-30; bool same = true; if (!time) { float* r; CK(cudaMalloc(&r, (int64_t)T_ * H * D * 4)); ref<T, D><<<T_ * H, D>>>(a, q, ldq, k, v, r, B, H); CK(cudaDeviceSynchronize()); launch(); CK(cudaStreamSynchronize(st)); std::vector<__nv_bfloat16> h((int64_t)T_ * H * D), h2(h.size()); std::vector<float> hr(h.size()); CK(cudaMemcpy(h.data(), o, h.size() * 2, cudaMemcpyDeviceToHost)); CK(cudaMemcpy(hr.data(), r, hr.size() * 4, cudaMemcpyDeviceToHost)); for (size_t i = 0; i < h.size(); ++i) { double d = (double)__bfloat162float(h[i]) - hr[i]; e += d * d; rr += (double)hr[i] * hr[i]; if (d != d) { e = 1e30; break; } } launch(); CK(cudaStreamSynchronize(st)); CK(cudaMemcpy(h2.data(), o, h.size() * 2, cudaMemcpyDeviceToHost)); same = !memcmp(h.data(), h2.data(), h.size() * 2); cudaFree(r); }
  float us = 0; double flops = 0; for (int b = 0; b < B; ++b) for (int i = 0; i < cu[b + 1] - cu[b]; ++i) flops += 4.0 * H * D * (lens[b] - (cu[b + 1] - cu[b]) + i + 1);
  if (time) { for (int i = 0; i < 3; ++i) launch(); cudaEvent_t e0, e1; cudaEventCreate(&e0); cudaEventCreate(&e1); std::vector<float> ts; for (int i = 0; i < 15; ++i) { cudaEventRecord(e0, st); launch(); launch(); cudaEventRecord(e1, st); CK(cudaEventSynchronize(e1)); float ms; cudaEventElapsedTime(&ms, e0, e1); ts.push_back(ms * 1e3 / 2); } std::sort(ts.begin(), ts.end()); us = ts[7]; }
  int32_t bad = 0; CK(cudaMemcpy(&bad, fault, 4, cudaMemcpyDeviceToHost)); printf("%s D=%d N=%d B=%d H=%d/%d q=%d past=%d page=%d win=%d cap=%g relerr=%.2e repeat=%d us=%.1f TFLOPs=%.0f fault=%d sec=%d\n", sizeof(T) == 1 ? "e4m3" : "bf16", D, S::kN, B, H, HK, nq, past, ps, window, cap, sqrt(e / rr), same, us, us ? flops / us / 1e6 : 0, bad, a.section); fflush(stdout); cudaFree(k); cudaFree(v); cudaFree(q); cudaFree(o); cudaFree(pt); cudaFree(kl); cudaFree(cq); if (sc) cudaFree(sc);
}

template <class S> void check() {
  run<S>(3, 4, 4, 40, 0, 39, 16, 0, 0, false); run<S>(3, 8, 1, 130, 300, 100, 64, 0, 0, false); run<S>(4, 8, 2, 200, 77, 150, 64, 0, 50.f, false); run<S>(4, 8, 2, 300, 300, 250, 32, 100, 0, false); run<S>(5, 8, 8, 257, 0, 200, 256, 0, 0, false); run<S>(2, 4, 4, 1, 500, 0, 48, 0, 0, false);
}
template <class S> void measure(int HQ, int HK) {
  run<S>(8, HQ, HK, 2048, 0, 0, 64, 0, 0, true); run<S>(1, HQ, HK, 8192, 0, 0, 64, 0, 0, true); run<S>(8, HQ, HK, 2048, 0, 0, 16, 0, 0, true); run<S>(1, HQ, HK, 512, 0, 0, 64, 0, 0, true); run<S>(64, HQ, HK, 20, 0, 0, 64, 0, 0, true); run<S>(8, HQ, HK, 256, 4096, 0, 64, 0, 0, true); run<S>(8, HQ, HK, 2048, 0, 0, 64, 0, 30.f, true);
}
template <class T, int kN64, int kN256> void all() {
  check<PrefillShape<T, 128, 128>>(); check<PrefillShape<T, 64, kN64>>(); check<PrefillShape<T, 256, kN256>>();
  measure<PrefillShape<T, 128, 128>>(32, 8); measure<PrefillShape<T, 64, kN64>>(32, 8); measure<PrefillShape<T, 256, kN256>>(16, 16);
}
int main() { all<__nv_bfloat16, 192, 64>(); all<__nv_fp8_e4m3, 128, 64>(); }
