// linear against a double-precision reference, on every level this machine runs.
//
//   exact       operands are small integers and scales powers of two, so every order of additions gives one answer: any
//               difference is a fault. Sizes around vectors, tiles, blocks and chunks; all dtypes and granularities;
//               strided rows whose gaps hold NaN; buffers that end at a guard page; sentinels around the output.
//   real        normal operands, error held to the a-priori bound of the level's chain (see check_real).
//   special     NaN and infinity reach their row or column and no other; denormals; extremes.
//   invariance  every row alone, in other batches, at other columns and with 1..3 threads: equal to the bit.
// Usage: linear_check [level] [fuzz cases]; exits 1 at the first difference, with the case that shows it.
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>

#include "context.h"

using octet::DType;
using octet::OpCall;

namespace {

constexpr const char* kTypeNames[] = {"f32", "bf16", "f16", "e4m3", "e5m2"};
constexpr int kTypeBytes[] = {4, 2, 2, 1, 1};

double decode(uint32_t code, int exponent_bits, int mantissa_bits, bool has_infinity) {
  const int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
  const uint32_t m = code & ((1u << mantissa_bits) - 1);
  const int e = (code >> mantissa_bits) & top;
  const double sign = (code >> (exponent_bits + mantissa_bits)) & 1 ? -1 : 1;
  if (has_infinity && e == top) return m ? NAN : sign * INFINITY;
  if (!has_infinity && e == top && m == (1u << mantissa_bits) - 1) return NAN;
  return sign * (e == 0 ? std::ldexp(m, 1 - bias - mantissa_bits) : std::ldexp(m + (1 << mantissa_bits), e - bias - mantissa_bits));
}

// All values of a format, computed once.
const double* table(int exponent_bits, int mantissa_bits) {
  static std::vector<double> tables[16];
  std::vector<double>& t = tables[mantissa_bits];
  if (t.empty()) for (uint32_t code = 0; code < 2u << (exponent_bits + mantissa_bits); ++code) t.push_back(decode(code, exponent_bits, mantissa_bits, exponent_bits != 4));
  return t.data();
}

double read(DType t, const void* p, int64_t i) {
  uint16_t h;
  float f;
  const char* c = static_cast<const char*>(p) + i * kTypeBytes[(int)t];
  switch (t) {
    case DType::f32: memcpy(&f, c, 4); return f;
    case DType::bf16: memcpy(&h, c, 2); return table(8, 7)[h];
    case DType::f16: memcpy(&h, c, 2); return table(5, 10)[h];
    case DType::e4m3: return table(4, 3)[(uint8_t)*c];
    default: return table(5, 2)[(uint8_t)*c];
  }
}

// The nearest code, by bisection on the positive ones; ties do not occur in what the checks write or are exact.
uint32_t encode(DType t, double v) {
  const int e = t == DType::bf16 ? 8 : t == DType::e4m3 ? 4 : 5, m = t == DType::bf16 ? 7 : t == DType::f16 ? 10 : t == DType::e4m3 ? 3 : 2;
  const bool infinity = t != DType::e4m3;
  const uint32_t sign = 1u << (e + m), top = ((1u << e) - 1) << m;
  if (std::isnan(v)) return infinity ? top + 1 : sign - 1;
  const double* all = table(e, m);
  uint32_t lo = 0, hi = infinity ? top : sign - 2;
  const double a = std::fabs(v);
  while (lo < hi) {
    const uint32_t mid = (lo + hi) / 2;
    (all[mid] < a ? lo = mid + 1 : hi = mid);
  }
  if (lo > 0 && a - all[lo - 1] < all[lo] - a) --lo;
  return lo | (std::signbit(v) ? sign : 0);
}

void write(DType t, void* p, int64_t i, double v) {
  static uint32_t small[5][17];  // codes of -8..8, what most cases are made of
  static bool known[5][17];
  char* c = static_cast<char*>(p) + i * kTypeBytes[(int)t];
  if (t == DType::f32) {
    const float f = (float)v;
    memcpy(c, &f, 4);
    return;
  }
  uint32_t code;
  const int at = v >= -8 && v <= 8 && v == (int)v ? (int)v + 8 : -1;
  if (at >= 0 && known[(int)t][at]) {
    code = small[(int)t][at];
  } else {
    code = encode(t, v);
    if (at >= 0) small[(int)t][at] = code, known[(int)t][at] = true;
  }
  if (kTypeBytes[(int)t] == 2) {
    const uint16_t h = (uint16_t)code;
    memcpy(c, &h, 2);
  } else {
    *c = (char)code;
  }
}

struct Case {
  int64_t M, N, K;
  DType x = DType::f32, w = DType::f32, y = DType::f32;
  int wg = 0, xg = 0;
  int bias = -1, residual = -1;  // dtype or -1
  int64_t x_gap = 0, w_gap = 0, y_gap = 0, r_gap = 0;
  std::string text() const {
    char b[256];
    snprintf(b, sizeof b, "M=%ld N=%ld K=%ld x=%s w=%s y=%s wg=%d xg=%d bias=%d residual=%d gaps=%ld,%ld,%ld,%ld", M, N, K, kTypeNames[(int)x], kTypeNames[(int)w],
             kTypeNames[(int)y], wg, xg, bias, residual, x_gap, w_gap, y_gap, r_gap);
    return b;
  }
};

int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t scale_count(int g, int64_t rows, int64_t K) { return g == 0 ? 0 : g == 1 ? 1 : g == 2 ? rows : g == 3 ? rows * up(K, 128) : up(rows, 128) * up(K, 128); }
double scale_at(const float* s, int g, int64_t row, int64_t k, int64_t K) {
  return g == 0 ? 1 : g == 1 ? s[0] : g == 2 ? s[row] : g == 3 ? s[row * up(K, 128) + k / 128] : s[row / 128 * up(K, 128) + k / 128];
}

// A strided matrix at the end of a guarded allocation; the gaps between rows hold `gap` (NaN).
struct Matrix {
  DType type;
  int64_t rows, cols, stride;
  std::unique_ptr<bench::Guarded> memory;
  char* data = nullptr;
  Matrix(DType t, int64_t r, int64_t c, int64_t gap) : type(t), rows(r), cols(c), stride(c + gap) {
    const size_t count = r == 0 ? 0 : (size_t)((r - 1) * stride + c);
    memory = std::make_unique<bench::Guarded>(count * (size_t)kTypeBytes[(int)t] + 0);
    data = memory->data();
    memset(data, 0xff, count * (size_t)kTypeBytes[(int)t]);  // NaN in every type
  }
  double at(int64_t r, int64_t c) const { return read(type, data, r * stride + c); }
  void set(int64_t r, int64_t c, double v) { write(type, data, r * stride + c, v); }
  octet::TensorArg arg() const {
    octet::TensorArg a;
    a.data = data;
    a.dtype = type;
    a.ndim = 2;
    a.shape[0] = rows;
    a.shape[1] = cols;
    a.row_stride = stride;
    return a;
  }
};

octet::TensorArg vector_arg(void* data, DType t, int64_t n) {
  octet::TensorArg a;
  a.data = data;
  a.dtype = t;
  a.ndim = 1;
  a.shape[0] = n;
  a.row_stride = n;
  return a;
}

struct Operands {
  Case c;
  Matrix x, w, y;
  std::unique_ptr<Matrix> bias, residual, ws, xs;
  std::vector<double> xd, wd;
  explicit Operands(const Case& k) : c(k), x(k.x, k.M, k.K, k.x_gap), w(k.w, k.N, k.K, k.w_gap), y(k.y, k.M, k.N, k.y_gap) {
    if (k.bias >= 0) bias = std::make_unique<Matrix>((DType)k.bias, 1, k.N, 0);
    if (k.residual >= 0) residual = std::make_unique<Matrix>((DType)k.residual, k.M, k.N, k.r_gap);
    if (k.wg) ws = std::make_unique<Matrix>(DType::f32, 1, scale_count(k.wg, k.N, k.K), 0);
    if (k.xg) xs = std::make_unique<Matrix>(DType::f32, 1, scale_count(k.xg, k.M, k.K), 0);
  }
  template <class F> void fill(F&& value, int scale_spread) {
    for (int64_t r = 0; r < c.M; ++r) for (int64_t k = 0; k < c.K; ++k) x.set(r, k, value());
    for (int64_t r = 0; r < c.N; ++r) for (int64_t k = 0; k < c.K; ++k) w.set(r, k, value());
    if (bias) for (int64_t n = 0; n < c.N; ++n) bias->set(0, n, value());
    if (residual) for (int64_t r = 0; r < c.M; ++r) for (int64_t n = 0; n < c.N; ++n) residual->set(r, n, value());
    int i = 0;
    for (Matrix* s : {ws.get(), xs.get()}) if (s) for (int64_t n = 0; n < s->cols; ++n) s->set(0, n, std::ldexp(1, (i++ * 7 % (2 * scale_spread + 1)) - scale_spread));
  }
  OpCall call() const {
    OpCall o;
    o.tensor_count = 7;
    o.attr_count = 2;
    o.t[0] = x.arg();
    o.t[1] = w.arg();
    if (ws) o.t[2] = vector_arg(ws->data, DType::f32, ws->cols);
    if (bias) o.t[3] = vector_arg(bias->data, bias->type, c.N);
    if (residual) o.t[4] = residual->arg();
    o.t[5] = y.arg();
    if (xs) o.t[6] = vector_arg(xs->data, DType::f32, xs->cols);
    o.attr[0] = c.wg;
    o.attr[1] = c.xg;
    return o;
  }
  // x and w decoded and de-quantized, made once for all elements of a case.
  void decode_all() {
    xd.resize((size_t)(c.M * c.K)), wd.resize((size_t)(c.N * c.K));
    const float* wsp = ws ? reinterpret_cast<float*>(ws->data) : nullptr;
    const float* xsp = xs ? reinterpret_cast<float*>(xs->data) : nullptr;
    for (int64_t r = 0; r < c.M; ++r) for (int64_t k = 0; k < c.K; ++k) xd[(size_t)(r * c.K + k)] = x.at(r, k) * scale_at(xsp, c.xg, r, k, c.K);
    for (int64_t r = 0; r < c.N; ++r) for (int64_t k = 0; k < c.K; ++k) wd[(size_t)(r * c.K + k)] = w.at(r, k) * scale_at(wsp, c.wg, r, k, c.K);
  }
  // The exact value and the sum of magnitudes its error bound needs.
  void expected(int64_t m, int64_t n, double& value, double& magnitude) const {
    value = magnitude = 0;
    const double *a = xd.data() + m * c.K, *b = wd.data() + n * c.K;
    for (int64_t k = 0; k < c.K; ++k) value += a[k] * b[k], magnitude += std::fabs(a[k] * b[k]);
    for (const double t : {bias ? bias->at(0, n) : 0.0, residual ? residual->at(m, n) : 0.0}) value += t, magnitude += std::fabs(t);
  }
};

[[noreturn]] void fail(const char* level, const char* mode, const Case& c, int64_t m, int64_t n, double want, double got) {
  printf("%s %s: %s at [%ld,%ld]: expected %a, received %a\n", level, mode, c.text().c_str(), m, n, want, got);
  exit(1);
}

void run(const bench::LevelLinear& level, octet::Context& ctx, const char* mode, Operands& o) {
  o.decode_all();
  const octet::Status s = level.linear(o.call(), ctx);
  if (s != octet::Status::ok) {
    printf("%s %s: %s: status %d\n", level.name, mode, o.c.text().c_str(), (int)s);
    exit(1);
  }
  // Gaps between the output's rows must still hold their 0xff bytes.
  for (int64_t m = 0; m + 1 < o.c.M; ++m) {
    const char* gap = o.y.data + (m * o.y.stride + o.c.N) * kTypeBytes[(int)o.c.y];
    for (int64_t i = 0; i < o.c.y_gap * kTypeBytes[(int)o.c.y]; ++i) if ((unsigned char)gap[i] != 0xff) fail(level.name, "output gap", o.c, m, o.c.N, 0xff, (unsigned char)gap[i]);
  }
}

int64_t g_cases = 0;

void check_exact(const bench::LevelLinear& level, octet::Context& ctx, const Case& c, std::mt19937& rng) {
  Operands o(c);
  // |values| <= 3 and scales 2^-1..2^1 keep sums below 2^24 in units of 2^-2 for K <= 9000: exact in float32.
  o.fill([&] { return (double)((int)(rng() % 7) - 3); }, 1);
  run(level, ctx, "exact", o);
  for (int64_t m = 0; m < c.M; ++m) {
    for (int64_t n = 0; n < c.N; ++n) {
      double want, magnitude;
      o.expected(m, n, want, magnitude);
      if (c.y == DType::bf16) {
        // Round to nearest even at 8 bits of mantissa.
        int e;
        std::frexp(want, &e);
        const double ulp = std::ldexp(1, e - 8);
        want = std::nearbyint(want / ulp) * ulp;
      }
      if (o.y.at(m, n) != want) fail(level.name, "exact", c, m, n, want, o.y.at(m, n));
    }
  }
  ++g_cases;
}

// A lane's chain has ceil(chunk/lanes) rounded steps, then the tree and the chunks' sum: the error is at most
// steps * 2^-24 * sum|x w| to first order, twice that where fma rounds twice, plus the output's rounding and, for bf16
// pairs, 2^-126 a step for what is flushed.
void check_real(const bench::LevelLinear& level, octet::Context& ctx, const Case& c, std::mt19937& rng, double spread) {
  Operands o(c);
  std::normal_distribution<double> normal(0, spread);
  o.fill([&] { return normal(rng); }, 6);
  run(level, ctx, "real", o);
  const double lanes = strcmp(level.name, "baseline") == 0 || strcmp(level.name, "neon") == 0 ? 4 : strcmp(level.name, "avx2") == 0 ? 8 : 16;
  const double steps = (std::min<double>((double)c.K, 2048) / lanes + 1) * (lanes == 4 ? 2 : 1) + (double)c.K / 1024 + 16;
  for (int64_t m = 0; m < c.M; ++m) {
    for (int64_t n = 0; n < c.N; ++n) {
      double want, magnitude;
      o.expected(m, n, want, magnitude);
      const double got = o.y.at(m, n);
      const double bound = steps * 0x1p-24 * magnitude + (c.y == DType::bf16 ? 0x1p-8 : 0x1p-24) * std::fabs(want) + (double)c.K * 0x1p-125;
      if (!(std::fabs(got - want) <= bound)) fail(level.name, "real", c, m, n, want, got);
    }
  }
  ++g_cases;
}

void check_special(const bench::LevelLinear& level, octet::Context& ctx, std::mt19937& rng) {
  for (DType xt : {DType::f32, DType::bf16}) {
    for (DType wt : {DType::f32, DType::bf16, DType::f16, DType::e4m3, DType::e5m2}) {
      for (int64_t K : {1, 33, 200, 2100}) {
        for (int64_t M : {1, 3, 9}) {
          for (int kind = 0; kind < 4; ++kind) {
            Case c{M, 13, K};
            c.x = xt;
            c.w = wt;
            Operands o(c);
            o.fill([&] { return (double)(rng() % 5 + 1); }, 0);
            const int64_t bad_m = (int64_t)(rng() % (uint64_t)M), bad_n = (int64_t)(rng() % 13), k = (int64_t)(rng() % (uint64_t)K);
            const bool in_x = kind < 2;
            const double value = kind % 2 == 0 ? NAN : wt == DType::e4m3 && !in_x ? NAN : -INFINITY;
            if (in_x) o.x.set(bad_m, k, value);
            else o.w.set(bad_n, k, value);
            run(level, ctx, "special", o);
            for (int64_t m = 0; m < M; ++m) {
              for (int64_t n = 0; n < 13; ++n) {
                double want, magnitude;
                o.expected(m, n, want, magnitude);
                const double got = o.y.at(m, n);
                if (std::isnan(want) ? !std::isnan(got) : got != want) fail(level.name, "special", c, m, n, want, got);
              }
            }
            ++g_cases;
          }
        }
      }
    }
  }
  // Every code of a narrow weight type against x = 1, alone in its row: exact widening of subnormals and NaN codes.
  for (DType xt : {DType::f32, DType::bf16}) {
    for (DType wt : {DType::bf16, DType::f16, DType::e4m3, DType::e5m2}) {
      const int64_t codes = kTypeBytes[(int)wt] == 1 ? 256 : 65536;
      const bool pairs = strcmp(level.name, "avx512bf16") == 0 && xt == DType::bf16 && wt != DType::f16;
      for (int64_t M : {1, 5}) {
        Case c{M, codes, 3};
        c.x = xt;
        c.w = wt;
        Operands o(c);
        for (int64_t m = 0; m < M; ++m) for (int64_t k = 0; k < 3; ++k) o.x.set(m, k, k == 1 ? 1 : 0);
        for (int64_t n = 0; n < codes; ++n) {
          for (int64_t k = 0; k < 3; ++k) o.w.set(n, k, 1);
          char* at = o.w.data + (n * 3 + 1) * kTypeBytes[(int)wt];
          const uint16_t code = (uint16_t)n;
          memcpy(at, &code, (size_t)kTypeBytes[(int)wt]);
        }
        run(level, ctx, "codes", o);
        for (int64_t m = 0; m < M; ++m) {
          for (int64_t n = 0; n < codes; ++n) {
            double want = o.w.at(n, 1);
            if (pairs && std::fabs(want) < 0x1p-126) want = 0;  // vdpbf16ps takes denormals as zero
            const double got = o.y.at(m, n);
            if (std::isnan(want) ? !std::isnan(got) : got != want) fail(level.name, "codes", c, m, n, want, got);
          }
        }
        ++g_cases;
      }
    }
  }
  // Denormal and huge operands in float32: each product and sum is exact here, so any flush or overflow shows.
  Case c{5, 7, 40};
  Operands o(c);
  for (int64_t m = 0; m < 5; ++m) for (int64_t k = 0; k < 40; ++k) o.x.set(m, k, k == 3 ? 0x1p-140 : k == 20 ? 0x1p100 : 0);
  for (int64_t n = 0; n < 7; ++n) for (int64_t k = 0; k < 40; ++k) o.w.set(n, k, k == 3 ? 0x1p-5 : k == 20 ? (n % 2 ? 0 : 0x1p27) : 0);
  run(level, ctx, "extremes", o);
  for (int64_t m = 0; m < 5; ++m) for (int64_t n = 0; n < 7; ++n) {
    const double want = n % 2 ? 0x1p-145 : 0x1p127;
    if (o.y.at(m, n) != want) fail(level.name, "extremes", c, m, n, want, o.y.at(m, n));
  }
}

void check_invariance(const bench::LevelLinear& level, const Case& base, std::mt19937& rng) {
  bench::PoolContext one(1), two(2), three(3);
  Case c = base;
  Operands all(c);
  std::normal_distribution<double> normal(0, 1);
  all.fill([&] { return normal(rng); }, 3);
  run(level, one, "invariance", all);
  const size_t size = (size_t)kTypeBytes[(int)c.y];
  auto compare = [&](const char* what, const char* data, int64_t stride, int64_t m0, int64_t rows, int64_t n0, int64_t cols) {
    for (int64_t m = 0; m < rows; ++m) for (int64_t n = 0; n < cols; ++n) {
      if (memcmp(data + (size_t)(m * stride + n) * size, all.y.data + (size_t)((m0 + m) * all.y.stride + n0 + n) * size, size) != 0) {
        fail(level.name, what, c, m0 + m, n0 + n, all.y.at(m0 + m, n0 + n), read(c.y, data, m * stride + n));
      }
    }
  };
  // Sub-problems: rows [m0, m0+rows), columns [n0, n0+cols) of the same operands.
  auto part = [&](octet::Context& ctx, const char* what, int64_t m0, int64_t rows, int64_t n0, int64_t cols) {
    OpCall o = all.call();
    Matrix y(c.y, rows, cols, 3);
    o.t[0].data = all.x.data + m0 * all.x.stride * kTypeBytes[(int)c.x];
    o.t[0].shape[0] = rows;
    o.t[1].data = all.w.data + n0 * all.w.stride * kTypeBytes[(int)c.w];
    o.t[1].shape[0] = cols;
    if (all.bias) o.t[3].data = all.bias->data + n0 * kTypeBytes[(int)all.bias->type];
    if (all.residual) o.t[4].data = all.residual->data + (m0 * all.residual->stride + n0) * kTypeBytes[(int)all.residual->type];
    if (c.wg >= 2) o.t[2].data = all.ws->data + 4 * (c.wg == 2 ? n0 : c.wg == 3 ? n0 * up(c.K, 128) : n0 / 128 * up(c.K, 128));
    if (c.xg >= 2) o.t[6].data = all.xs->data + 4 * (c.xg == 2 ? m0 : m0 * up(c.K, 128));
    o.t[5] = y.arg();
    level.linear(o, ctx);
    compare(what, y.data, y.stride, m0, rows, n0, cols);
    ++g_cases;
  };
  part(two, "threads 2", 0, c.M, 0, c.N);
  part(three, "threads 3", 0, c.M, 0, c.N);
  for (int64_t m = 0; m < c.M; ++m) part(one, "row alone", m, 1, 0, c.N);
  for (int64_t rows = 2; rows <= c.M; ++rows) part(two, "rows", (int64_t)(rng() % (uint64_t)(c.M - rows + 1)), rows, 0, c.N);
  const int64_t step = c.wg == 4 ? 128 : 1;  // columns may only be cut where the 128x128 grid is
  for (int i = 0; i < 12; ++i) {
    const int64_t n0 = (int64_t)(rng() % (uint64_t)up(c.N, step)) * step, cols = 1 + (int64_t)(rng() % (uint64_t)(c.N - n0));
    const int64_t m0 = (int64_t)(rng() % (uint64_t)c.M);
    part(two, "columns", m0, 1 + (int64_t)(rng() % (uint64_t)(c.M - m0)), n0, cols);
  }
}

void check_level(const bench::LevelLinear& level, int fuzz) {
  std::mt19937 rng(7);
  bench::PoolContext ctx(2);
  ctx.poison(true);
  const DType xs[] = {DType::f32, DType::bf16, DType::e4m3, DType::e5m2};
  const DType ws[] = {DType::f32, DType::bf16, DType::f16, DType::e4m3, DType::e5m2};
  g_cases = 0;
  for (DType x : xs) {
    for (DType w : ws) {
      for (int64_t K = 0; K <= 66; ++K) {
        Case c{1 + K % 9, 1 + (K * 5) % 19, K};
        c.x = x;
        c.w = w;
        check_exact(level, ctx, c, rng);
      }
      for (int64_t M = 0; M <= 13; ++M) {
        for (int64_t N : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 24, 25, 49}) {
          Case c{M, N, 67};
          c.x = x;
          c.w = w;
          check_exact(level, ctx, c, rng);
        }
      }
      for (int64_t K : {127, 128, 129, 191, 192, 1023, 1024, 1025, 2047, 2048, 2049, 2112, 4100}) {
        for (int64_t M : {1, 2, 3, 4, 6, 130}) {
          if (M == 130 && K > 2049) continue;
          for (int wg = 0; wg <= 4; ++wg) {
            Case c{M, M == 130 ? 26 : 11, K};
            c.x = x;
            c.w = w;
            c.wg = wg;
            c.xg = wg == 3 || wg == 1 ? 3 : wg == 4 ? 2 : wg == 2 ? 1 : 0;
            c.y = K % 2 ? DType::bf16 : DType::f32;
            check_exact(level, ctx, c, rng);
          }
        }
      }
    }
  }
  printf("%-10s exact %ld cases", level.name, g_cases);
  g_cases = 0;
  for (int i = 0; i < fuzz; ++i) {
    Case c{};
    c.M = (int64_t)(rng() % 4 == 0 ? rng() % 150 : rng() % 10);
    c.N = (int64_t)(rng() % 4 == 0 ? rng() % 300 : rng() % 40);
    c.K = (int64_t)(rng() % 8 == 0 ? rng() % 5000 : rng() % 400);
    c.x = xs[rng() % 4];
    c.w = ws[rng() % 5];
    c.y = rng() % 2 ? DType::bf16 : DType::f32;
    c.wg = (int)(rng() % 5);
    c.xg = (int)(rng() % 4);
    c.bias = (int)(rng() % 3) - 1;
    c.residual = (int)(rng() % 3) - 1;
    for (int64_t* gap : {&c.x_gap, &c.w_gap, &c.y_gap, &c.r_gap}) *gap = rng() % 2 ? (int64_t)(rng() % 40) : 0;
    check_exact(level, ctx, c, rng);
  }
  printf(", fuzz %ld", g_cases);
  g_cases = 0;
  for (int i = 0; i < fuzz / 2; ++i) {
    Case c{1 + (int64_t)(rng() % 12), 1 + (int64_t)(rng() % 30), 1 + (int64_t)(rng() % 3000)};
    c.x = xs[rng() % 4];
    c.w = ws[rng() % 5];
    c.y = rng() % 2 ? DType::bf16 : DType::f32;
    c.wg = (int)(rng() % 5);
    c.xg = (int)(rng() % 4);
    c.bias = (int)(rng() % 3) - 1;
    check_real(level, ctx, c, rng, rng() % 2 ? 1 : 20);
  }
  printf(", real %ld", g_cases);
  g_cases = 0;
  check_special(level, ctx, rng);
  printf(", special %ld", g_cases);
  g_cases = 0;
  for (DType x : xs) {
    for (DType w : ws) {
      for (int wg : {0, 2, 3, 4}) {
        Case c{wg == 0 ? 23 : 9, 70, wg % 2 ? 1333 : 4200};
        c.x = x;
        c.w = w;
        c.wg = wg;
        c.xg = wg == 0 ? 0 : wg == 2 ? 2 : 3;
        if (wg == 4) c.N = 150;
        c.bias = 0;
        c.residual = 1;
        check_invariance(level, c, rng);
      }
    }
  }
  Case wide{300, 61, 192};  // three row blocks
  check_invariance(level, wide, rng);
  printf(", invariance %ld parts: ok\n", g_cases);
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int fuzz = argc > 2 ? atoi(argv[2]) : 600;
  for (const auto& level : bench::levels()) {
    if (argc > 1 && strcmp(argv[1], "all") != 0 && strcmp(argv[1], level.name) != 0) continue;
    if (level.supported) check_level(level, fuzz);
    else printf("%-10s not supported by this CPU\n", level.name);
  }
}
