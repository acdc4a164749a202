// Checks attention_decode against a double-precision device reference and times it in a graph over rotated caches.
// Build: nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I../../../packages/kernels/native/cuda -I../../../packages/kernels/native/include attention_decode_bench.cu -o attention_decode_bench
#include "attention_decode_sm90.cuh"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>
using namespace octet::cuda::sm90;
#define CK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)
typedef CUresult (*EncodeFn)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
static CUtensorMap make_map(void* p, int esize, int64_t rows, int d, int span) {
  static EncodeFn f = nullptr; if (!f) { cudaDriverEntryPointQueryResult q; CK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void**)&f, 12000, cudaEnableDefault, &q)); }
  CUtensorMap m; cuuint64_t dims[2] = {(cuuint64_t)d, (cuuint64_t)rows}; cuuint64_t strides[1] = {(cuuint64_t)(d * esize)}; cuuint32_t box[2] = {(cuuint32_t)(span / esize), 16}; cuuint32_t es[2] = {1, 1};
  CUresult r = f(&m, esize == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, p, dims, strides, box, es, CU_TENSOR_MAP_INTERLEAVE_NONE, span == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r != CUDA_SUCCESS) { printf("encode %d\n", r); exit(1); } return m;
}
__device__ uint32_t hash32(uint64_t x) { x ^= x >> 33; x *= 0xff51afd7ed558ccdull; x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53ull; x ^= x >> 33; return (uint32_t)x; }
template <class T> __global__ void fill(T* p, int64_t n, uint64_t seed, float s) { for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) p[i] = T(((hash32(i + seed * 0x9E3779B97F4A7C15ull) >> 8) / 16777216.f * 2 - 1) * s); }
template <class T, int D> __global__ void ref(AttentionDecodeArgs a, const T* k, const T* v, float* out) {
  int b = blockIdx.x / a.heads, h = blockIdx.x % a.heads, hk = h / a.group, len = a.kv_lens[b], d = threadIdx.x; __shared__ double red[D]; __shared__ double sc;
  double m = -1e300, l = 0, o = 0; int lo = a.window > 0 && len > a.window ? len - a.window : 0;
  for (int t = lo; t < len; ++t) {
    int64_t row = ((int64_t)a.page_table[b * a.table_width + t / a.page_size] * a.kv_heads + hk) * a.page_size + t % a.page_size;
    red[d] = (double)__bfloat162float(a.q[b * a.ldq + h * D + d]) * (double)float(k[row * D + d]) * (a.k_scale ? a.k_scale[hk] : 1.f); __syncthreads();
    for (int s = D / 2; s; s >>= 1) { if (d < s) red[d] += red[d + s]; __syncthreads(); }
    if (d == 0) { double x = red[0] * a.scale; if (a.softcap > 0) x = a.softcap * tanh(x / a.softcap); sc = x; } __syncthreads();
    double x = sc, mn = fmax(m, x), f = exp(m - mn), p = exp(x - mn); l = l * f + p; o = o * f + p * (double)float(v[row * D + d]); m = mn; __syncthreads();
  }
  out[(int64_t)b * a.heads * D + h * D + d] = l > 0 ? o / l * (a.v_scale ? a.v_scale[hk] : 1.f) : 0;
}
template <class T, int D> void run(int B, int H, int HK, int len, int spread, int ps, int window, float cap, bool time) {
  using S = AttnShape<T, D>; auto kern = attention_decode<T, D, 12>; int g = H / HK, smem = S::kSmem; CK(cudaFuncSetAttribute(kern, cudaFuncAttributeMaxDynamicSharedMemorySize, smem)); int sms; CK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  std::vector<int> lens(B); std::mt19937 rng(1); for (auto& x : lens) x = std::max(0, len + (spread ? (int)(rng() % (2 * spread + 1)) - spread : 0)); int maxlen = *std::max_element(lens.begin(), lens.end()), width = (maxlen + ps - 1) / ps + 1, pages = 0; std::vector<int> table(B * width, 0); for (int b = 0; b < B; ++b) for (int i = 0; i < (lens[b] + ps - 1) / ps; ++i) table[b * width + i] = pages++; std::vector<int> perm(pages); for (int i = 0; i < pages; ++i) perm[i] = i; std::shuffle(perm.begin(), perm.end(), rng); for (auto& x : table) if (pages) x = perm[x];
  int64_t n = (int64_t)std::max(pages, 1) * HK * ps * D; int copies = time ? (int)std::max<int64_t>(2, 300000000ll / (2 * n * sizeof(T)) + 1) : 1; std::vector<T*> ks(copies), vs(copies); for (int i = 0; i < copies; ++i) { CK(cudaMalloc(&ks[i], n * sizeof(T))); CK(cudaMalloc(&vs[i], n * sizeof(T))); fill<T><<<1024, 256>>>(ks[i], n, 10 + i, 1.5f); fill<T><<<1024, 256>>>(vs[i], n, 90 + i, 1.f); }
  AttentionDecodeArgs a{}; a.rows = B; a.heads = H; a.kv_heads = HK; a.group = g; a.page_size = ps; a.table_width = width; a.window = window; a.scale = 1.f / sqrtf(D); a.softcap = cap; a.ldq = a.ldo = H * D; a.chunk = kChunk; a.max_chunks = (maxlen + 255) / 256 + 1;
  __nv_bfloat16 *q, *o; CK(cudaMalloc(&q, (int64_t)B * H * D * 2)); CK(cudaMalloc(&o, (int64_t)B * H * D * 2)); fill<__nv_bfloat16><<<64, 256>>>(q, (int64_t)B * H * D, 3, 3.f); CK(cudaMemset(o, 0xff, (int64_t)B * H * D * 2)); a.q = q; a.out = o;
  int *pt, *kl; CK(cudaMalloc(&pt, table.size() * 4)); CK(cudaMalloc(&kl, B * 4)); CK(cudaMemcpy(pt, table.data(), table.size() * 4, cudaMemcpyHostToDevice)); CK(cudaMemcpy(kl, lens.data(), B * 4, cudaMemcpyHostToDevice)); a.page_table = pt; a.kv_lens = kl;
  std::vector<int> cu(B + 1); for (int i = 0; i <= B; ++i) cu[i] = i; int* cq; CK(cudaMalloc(&cq, (B + 1) * 4)); CK(cudaMemcpy(cq, cu.data(), (B + 1) * 4, cudaMemcpyHostToDevice)); a.cu_seqlens_q = cq; int32_t* fault; CK(cudaMalloc(&fault, 4)); CK(cudaMemset(fault, 0, 4)); a.bounds = {B, std::max(pages, 1), width * ps, fault};
  float *sc = nullptr; if (sizeof(T) == 1) { CK(cudaMalloc(&sc, HK * 8)); std::vector<float> h(2 * HK); for (int i = 0; i < 2 * HK; ++i) h[i] = 0.5f + 0.03f * i; CK(cudaMemcpy(sc, h.data(), HK * 8, cudaMemcpyHostToDevice)); a.k_scale = sc; a.v_scale = sc + HK; }
  CK(cudaMalloc(&a.partial, (size_t)B * HK * a.max_chunks * g * D * 4)); CK(cudaMalloc(&a.partial_ml, (size_t)B * HK * a.max_chunks * g * 8)); CK(cudaMalloc(&a.arrivals, B * HK * 4)); CK(cudaMemset(a.arrivals, 0, B * HK * 4));
  float* r; CK(cudaMalloc(&r, (int64_t)B * H * D * 4)); ref<T, D><<<B * H, D>>>(a, ks[0], vs[0], r); CK(cudaDeviceSynchronize());
  std::vector<CUtensorMap> km(copies), vm(copies); for (int i = 0; i < copies; ++i) { km[i] = make_map(ks[i], sizeof(T), n / D, D, S::kSpan); vm[i] = make_map(vs[i], sizeof(T), n / D, D, S::kSpan); }
  cudaStream_t st; CK(cudaStreamCreate(&st)); auto launch = [&](int i) { cudaLaunchConfig_t c{}; c.gridDim = sms; c.blockDim = S::kWarps * 32; c.dynamicSmemBytes = smem; c.stream = st; cudaLaunchAttribute at{}; at.id = cudaLaunchAttributeProgrammaticStreamSerialization; at.val.programmaticStreamSerializationAllowed = 1; c.attrs = &at; c.numAttrs = 1; CK(cudaLaunchKernelEx(&c, kern, km[i % copies], vm[i % copies], a)); };
  launch(0); CK(cudaStreamSynchronize(st)); std::vector<__nv_bfloat16> h((int64_t)B * H * D), h2(h.size()); std::vector<float> hr(h.size()); CK(cudaMemcpy(h.data(), o, h.size() * 2, cudaMemcpyDeviceToHost)); CK(cudaMemcpy(hr.data(), r, hr.size() * 4, cudaMemcpyDeviceToHost)); double e = 0, rr = 0; for (size_t i = 0; i < h.size(); ++i) { double d = (double)__bfloat162float(h[i]) - hr[i]; e += d * d; rr += (double)hr[i] * hr[i]; if (d != d) { e = 1e30; break; } }
  launch(1 % copies); launch(0); CK(cudaStreamSynchronize(st)); CK(cudaMemcpy(h2.data(), o, h.size() * 2, cudaMemcpyDeviceToHost)); bool same = !memcmp(h.data(), h2.data(), h.size() * 2); float us = 0;
  int64_t bytes = 0; for (int x : lens) bytes += (int64_t)x * HK * D * 2 * sizeof(T);
  if (time) { cudaGraph_t gr; cudaGraphExec_t ge; CK(cudaStreamBeginCapture(st, cudaStreamCaptureModeGlobal)); for (int i = 0; i < 20; ++i) launch(i); CK(cudaStreamEndCapture(st, &gr)); CK(cudaGraphInstantiate(&ge, gr, 0)); for (int i = 0; i < 3; ++i) CK(cudaGraphLaunch(ge, st)); cudaEvent_t e0, e1; cudaEventCreate(&e0); cudaEventCreate(&e1); std::vector<float> ts; for (int i = 0; i < 15; ++i) { cudaEventRecord(e0, st); CK(cudaGraphLaunch(ge, st)); cudaEventRecord(e1, st); CK(cudaEventSynchronize(e1)); float ms; cudaEventElapsedTime(&ms, e0, e1); ts.push_back(ms * 1e3 / 20); } std::sort(ts.begin(), ts.end()); us = ts[7]; }
  int32_t bad = 0; CK(cudaMemcpy(&bad, fault, 4, cudaMemcpyDeviceToHost)); printf("%s D=%d B=%d H=%d/%d len=%d±%d page=%d win=%d cap=%g warps=%d stages=%d relerr=%.2e repeat=%d us=%.1f TBps=%.2f fault=%d\n", sizeof(T) == 1 ? "e4m3" : "bf16", D, B, H, HK, len, spread, ps, window, cap, S::kWarps, S::kStages, sqrt(e / (rr + 1e-30)), same, us, us ? bytes / us / 1e6 : 0, bad); fflush(stdout);
  for (auto p : ks) cudaFree(p); for (auto p : vs) cudaFree(p); cudaFree(q); cudaFree(o); cudaFree(pt); cudaFree(kl); cudaFree(cq); cudaFree(fault); cudaFree(a.partial); cudaFree(a.partial_ml); cudaFree(a.arrivals); cudaFree(r); if (sc) cudaFree(sc);
}
template <class T> void all() {
  run<T, 256>(3, 4, 4, 40, 39, 16, 0, 0, false); run<T, 256>(5, 8, 1, 300, 290, 64, 0, 0, false); run<T, 128>(7, 16, 4, 700, 600, 64, 0, 50.f, false); run<T, 128>(4, 8, 2, 700, 300, 32, 300, 0, false); run<T, 64>(9, 32, 8, 513, 512, 256, 0, 0, false);
  run<T, 256>(64, 16, 16, 266, 0, 64, 0, 0, true); run<T, 256>(64, 16, 16, 266, 246, 64, 0, 0, true); run<T, 256>(64, 8, 1, 266, 0, 64, 0, 0, true); run<T, 128>(64, 32, 8, 266, 0, 64, 0, 0, true); run<T, 128>(64, 32, 8, 2048, 0, 64, 0, 0, true); run<T, 128>(1, 32, 8, 2048, 0, 64, 0, 0, true); run<T, 64>(64, 32, 8, 1024, 0, 64, 0, 0, true);
}
int main() { all<__nv_bfloat16>(); all<__nv_fp8_e4m3>(); }
