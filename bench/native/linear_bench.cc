// Times linear on the shapes of Llama-3.2-1B (or one given shape) against this machine's read bandwidth and the peak of
// its multiply-add instruction.
//
// Usage: linear_bench [--level L] [--w bf16|f32|f16|e4m3|e5m2] [--x bf16|f32|e4m3] [--wg 0..4] [--xg 0..3] [--m 1,128]
//                     [--threads 2] [--shape K,N] [--budget seconds per row]
// Weights rotate through buffers of at least 512 MiB, so decode reads memory, not cache; --hot keeps one copy.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

#include "context.h"

using octet::DType;

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Options {
  std::string level = "avx512bf16";
  DType w = DType::bf16, x = DType::bf16;
  int wg = 0, xg = 0, threads = 2;
  std::vector<int64_t> m{1, 128};
  std::vector<std::pair<int64_t, int64_t>> shapes{{2048, 3072}, {2048, 2048}, {2048, 16384}, {8192, 2048}, {2048, 128256}};
  double budget = 1;
  bool hot = false, probe = true;
};

int bytes_of(DType t) { return t == DType::f32 ? 4 : t == DType::bf16 || t == DType::f16 ? 2 : 1; }

DType type_named(const std::string& s) {
  const char* names[] = {"f32", "bf16", "f16", "e4m3", "e5m2"};
  for (int i = 0; i < 5; ++i) if (s == names[i]) return (DType)i;
  exit(2);
}

void* huge(size_t bytes) {
  const size_t page = size_t{2} << 20;
  void* p = aligned_alloc(page, (bytes + page - 1) / page * page);
  madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

// Pseudo-random codes of moderate values, written straight as bits.
void fill(void* p, DType t, int64_t n, uint32_t seed) {
  uint32_t s = seed * 2654435761u + 1;
  for (int64_t i = 0; i < n; ++i) {
    s = s * 1664525u + 1013904223u;
    const float v = ((float)(s >> 8) / (1 << 24) - 0.5f) * 0.2f;
    uint32_t u;
    memcpy(&u, &v, 4);
    if (t == DType::f32) ((uint32_t*)p)[i] = u;
    else if (t == DType::bf16) ((uint16_t*)p)[i] = (uint16_t)(u >> 16);
    else if (t == DType::f16) ((uint16_t*)p)[i] = (uint16_t)((s >> 31) << 15 | (0x2400 + (s >> 20 & 0x7ff)));
    else ((uint8_t*)p)[i] = (uint8_t)((s >> 31) << 7 | (0x20 + (s >> 20 & 0x1f)));
  }
}

octet::TensorArg matrix(void* data, DType t, int64_t rows, int64_t cols) {
  octet::TensorArg a;
  a.data = data, a.dtype = t, a.ndim = 2, a.shape[0] = rows, a.shape[1] = cols, a.row_stride = cols;
  return a;
}

double probe(const Options& o) {
#if defined(__x86_64__)
  const bool wide = o.level.rfind("avx512", 0) == 0;
  return (wide ? octet::cpu::avx512::read_probe_gbps : octet::cpu::baseline::read_probe_gbps)(o.threads, size_t{256} << 20, 4);
#else
  return octet::cpu::neon::read_probe_gbps(o.threads, size_t{256} << 20, 4);
#endif
}

void time_shape(const Options& o, octet::OpFn linear, octet::Context& ctx, int64_t M, int64_t K, int64_t N) {
  const size_t w_bytes = (size_t)(N * K * bytes_of(o.w));
  const int copies = o.hot ? 1 : (int)std::max<size_t>(1, (512u << 20) / w_bytes);
  char* w = (char*)huge(w_bytes * (size_t)copies);
  fill(w, o.w, N * K, 1);
  for (int i = 1; i < copies; ++i) memcpy(w + w_bytes * (size_t)i, w, w_bytes);
  void* x = huge((size_t)(M * K * 4));
  fill(x, o.x, M * K, 2);
  void* y = huge((size_t)(M * N * 4));
  const int64_t scales = std::max(N, M) * ((K + 127) / 128);
  float* s = (float*)huge((size_t)scales * 4);
  for (int64_t i = 0; i < scales; ++i) s[i] = 1;
  octet::OpCall c;
  c.tensor_count = 7, c.attr_count = 2;
  c.t[0] = matrix(x, o.x, M, K), c.t[5] = matrix(y, N > 100000 ? DType::f32 : DType::bf16, M, N);
  if (o.wg) c.t[2] = matrix(s, DType::f32, 1, scales);
  if (o.xg) c.t[6] = matrix(s, DType::f32, 1, scales);
  c.attr[0] = o.wg, c.attr[1] = o.xg;
  // A shared machine's bandwidth drifts: the probe runs right before and after, and the better one counts.
  double gbps = o.probe ? probe(o) : 0;
  std::vector<double> t;
  const double start = now();
  for (int i = 0; i < 3 || (now() - start < o.budget && i < 20000); ++i) {
    c.t[1] = matrix(w + w_bytes * (size_t)(i % copies), o.w, N, K);
    const double a = now();
    linear(c, ctx);
    t.push_back(now() - a);
  }
  if (o.probe) gbps = std::max(gbps, probe(o));
  std::sort(t.begin(), t.end());
  const double med = t[t.size() / 2], best = t[t.size() / 10], flops = 2.0 * (double)(M * N * K);
  const auto share = [&](double seconds) { return gbps > 0 ? (double)w_bytes / seconds / 1e7 / gbps : 0.0; };
  printf("  M=%-4ld K=%-5ld N=%-6ld  median %9.1f us %6.1f GB/s %5.1f%% %7.1f GFLOP/s | p10 %9.1f us %6.1f GB/s %5.1f%% %7.1f GFLOP/s | probe %.1f\n", M, K, N, med * 1e6,
         (double)w_bytes / med / 1e9, share(med), flops / med / 1e9, best * 1e6, (double)w_bytes / best / 1e9, share(best), flops / best / 1e9, gbps);
  fflush(stdout);
  free(w), free(x), free(y), free(s);
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i], v = i + 1 < argc ? argv[i + 1] : "";
    if (a == "--hot") { o.hot = true; continue; }
    if (a == "--no-probe") { o.probe = false; continue; }
    ++i;
    if (a == "--level") o.level = v;
    else if (a == "--w") o.w = type_named(v);
    else if (a == "--x") o.x = type_named(v);
    else if (a == "--wg") o.wg = atoi(v.c_str());
    else if (a == "--xg") o.xg = atoi(v.c_str());
    else if (a == "--threads") o.threads = atoi(v.c_str());
    else if (a == "--budget") o.budget = atof(v.c_str());
    else if (a == "--m") {
      o.m.clear();
      for (const char* p = v.c_str(); *p;) { char* e; o.m.push_back(strtol(p, &e, 10)); p = *e ? e + 1 : e; }
    } else if (a == "--shape") {
      long k = 0, n = 0;
      sscanf(v.c_str(), "%ld,%ld", &k, &n);
      o.shapes = {{k, n}};
    } else { fprintf(stderr, "unknown option %s\n", a.c_str()); return 2; }
  }
  for (const auto& level : bench::levels()) {
    if (level.name != o.level) continue;
    if (!level.supported) return 1;
    printf("%s, %d threads, w %d bytes\n", level.name, o.threads, bytes_of(o.w));
    bench::PoolContext ctx(o.threads);
    for (const int64_t m : o.m) for (const auto& [k, n] : o.shapes) if (m * n < 300000000) time_shape(o, level.linear, ctx, m, k, n);
  }
}
