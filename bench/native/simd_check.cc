// Checks native/cpu/simd.h of one level against plain scalar references: every code of every narrow type, narrowing on
// dense samples and ties, partial loads and stores with sentinels, and the errors of exp, tanh, sigmoid and erf.
// Built by build.sh once per level; exits 1 on the first wrong value.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "simd.h"

namespace octet::cpu::OCTET_LEVEL {

static uint32_t float_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static float bits_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }

[[noreturn]] static void fail(const char* what, uint32_t input, uint32_t expected, uint32_t received) {
  printf("%s: input %08x, expected %08x, received %08x\n", what, input, expected, received);
  exit(1);
}

// value = (-1)^s * 2^(e-bias) * 1.m, spelled out in double precision.
static double decode(uint32_t code, int exponent_bits, int mantissa_bits, bool has_infinity) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t m = code & ((1u << mantissa_bits) - 1);
  const int e = (code >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double sign = (code >> (exponent_bits + mantissa_bits)) & 1 ? -1 : 1;
  const int top = (1 << exponent_bits) - 1;
  if (has_infinity && e == top) return m ? NAN : sign * INFINITY;
  if (!has_infinity && e == top && m == (1u << mantissa_bits) - 1) return NAN;
  if (e == 0) return sign * ldexp(m, 1 - bias - mantissa_bits);
  return sign * ldexp(m + (1 << mantissa_bits), e - bias - mantissa_bits);
}

// Nearest code by search over all positive finite codes, ties to the even code.
template <class Bits> struct Format {
  const char* name;
  int exponent_bits, mantissa_bits;
  bool has_infinity, saturates;
  Bits nan;
  uint32_t count() const { return 1u << (1 + exponent_bits + mantissa_bits); }
  double value(uint32_t c) const { return decode(c, exponent_bits, mantissa_bits, has_infinity); }
  uint32_t largest() const {
    uint32_t c = count() / 2 - 1;
    while (!std::isfinite(value(c))) --c;
    return c;
  }
  uint32_t encode(float f) const {
    if (std::isnan(f)) return nan;
    const uint32_t sign = std::signbit(f) ? count() / 2 : 0;
    const double a = std::fabs((double)f);
    uint32_t lo = 0, hi = largest();
    const double ulp = value(hi) - value(hi - 1);
    if (a >= value(hi)) {
      if (saturates || a < value(hi) + ulp / 2) return sign | hi;
      return sign | (hi + 1);
    }
    while (hi - lo > 1) {
      const uint32_t mid = (lo + hi) / 2;
      (value(mid) <= a ? lo : hi) = mid;
    }
    const double below = a - value(lo), above = value(hi) - a;
    if (below != above) return sign | (below < above ? lo : hi);
    return sign | (lo & 1 ? hi : lo);
  }
};

template <class T, class Bits> static void check_format(const Format<Bits>& f) {
  // Widening: every code, at every lane.
  for (uint32_t c = 0; c < f.count(); ++c) {
    T in[kLanes];
    float out[kLanes];
    for (int i = 0; i < kLanes; ++i) in[i].bits = (Bits)((c + i) % f.count());
    store(out, load(in));
    for (int i = 0; i < kLanes; ++i) {
      const float want = (float)f.value(in[i].bits);
      if (std::isnan(want) ? !std::isnan(out[i]) : float_bits(out[i]) != float_bits(want)) fail(f.name, in[i].bits, float_bits(want), float_bits(out[i]));
    }
  }
  // Narrowing: every value and every midpoint of neighbours with their float neighbours, and a stride over all floats.
  auto one = [&](uint32_t u) {
    T out[kLanes];
    store(out, set1(bits_float(u)));
    const uint32_t want = f.encode(bits_float(u));
    if (out[0].bits != want || out[kLanes - 1].bits != want) fail(f.name, u, want, out[0].bits);
  };
  for (uint32_t c = 0; c + 1 < f.count() / 2; ++c) {
    const double a = f.value(c), b = f.value(c + 1);
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    for (int d = -2; d <= 2; ++d) {
      for (double x : {a, (a + b) / 2}) {
        const uint32_t u = float_bits((float)x) + (uint32_t)d;
        if (x == 0 && d < 0) continue;
        one(u);
        one(u | 0x80000000u);
      }
    }
  }
  for (uint64_t u = 0; u < (1ull << 32); u += 9973) one((uint32_t)u);
  for (uint32_t u : {0x7f800000u, 0xff800000u, 0x7f800001u, 0xffc12345u, 0x7f7fffffu, 0xff7fffffu, 0x80000000u, 1u}) one(u);
  // Partial forms touch only their elements.
  for (int n = 0; n <= kLanes; ++n) {
    T in[kLanes], out[kLanes];
    float wide[kLanes];
    for (int i = 0; i < kLanes; ++i) in[i].bits = (Bits)(0x11 + i), out[i].bits = (Bits)0x5a;
    const F32 v = load_partial(in, n);
    store(wide, v);
    for (int i = n; i < kLanes; ++i) if (float_bits(wide[i]) != 0) fail("partial load", (uint32_t)n, 0, float_bits(wide[i]));
    store_partial(out, v, n);
    for (int i = 0; i < kLanes; ++i) {
      const Bits want = i < n ? in[i].bits : (Bits)0x5a;
      if (out[i].bits != want) fail("partial store", (uint32_t)n, want, out[i].bits);
    }
  }
}

static void check_float_partial() {
  for (int n = 0; n <= kLanes; ++n) {
    float in[kLanes], out[kLanes], wide[kLanes];
    int32_t ii[kLanes], io[kLanes], iw[kLanes];
    for (int i = 0; i < kLanes; ++i) in[i] = 1.5f + i, out[i] = -7, ii[i] = 100 + i, io[i] = -7;
    store(wide, load_partial(in, n));
    store(iw, load_partial(ii, n));
    store_partial(out, load(in), n);
    store_partial(io, load(ii), n);
    for (int i = 0; i < kLanes; ++i) {
      if (wide[i] != (i < n ? in[i] : 0) || iw[i] != (i < n ? ii[i] : 0)) fail("partial load f32/i32", (uint32_t)n, (uint32_t)i, float_bits(wide[i]));
      if (out[i] != (i < n ? in[i] : -7) || io[i] != (i < n ? ii[i] : -7)) fail("partial store f32/i32", (uint32_t)n, (uint32_t)i, float_bits(out[i]));
    }
  }
}

static void check_reductions() {
  srand(1);
  for (int round = 0; round < 1000; ++round) {
    float v[kLanes], t[kLanes], m = -INFINITY;
    for (int i = 0; i < kLanes; ++i) {
      t[i] = v[i] = (float)(rand() - RAND_MAX / 2) / (float)(1 + rand() % 1000);
      if (v[i] > m) m = v[i];
    }
    for (int half = kLanes / 2; half; half /= 2) for (int i = 0; i < half; ++i) t[i] += t[i + half];
    if (float_bits(hsum(load(v))) != float_bits(t[0])) fail("hsum", 0, float_bits(t[0]), float_bits(hsum(load(v))));
    if (hmax(load(v)) != m) fail("hmax", 0, float_bits(m), float_bits(hmax(load(v))));
  }
  const float nan = NAN;
  if (max(set1(nan), set1(2))[0] != 2 || !std::isnan(max(set1(2), set1(nan))[0])) fail("max of NaN", 0, 0, 0);
  if (min(set1(nan), set1(2))[0] != 2 || !std::isnan(min(set1(2), set1(nan))[0])) fail("min of NaN", 0, 0, 0);
}

// Largest error in units of the last place of the true value (of the smallest denormal below it).
template <class F, class G> static void check_function(const char* name, F f, G exact, double limit, uint32_t stride) {
  double worst = 0;
  float at = 0;
  for (uint64_t base = 0; base < (1ull << 32); base += (uint64_t)stride * kLanes) {
    float in[kLanes], out[kLanes];
    for (int i = 0; i < kLanes; ++i) in[i] = bits_float((uint32_t)(base + (uint64_t)stride * (uint64_t)i));
    store(out, f(load(in)));
    for (int i = 0; i < kLanes; ++i) {
      const double want = exact((double)in[i]);
      if (std::isnan(want) != std::isnan(out[i])) fail(name, float_bits(in[i]), float_bits((float)want), float_bits(out[i]));
      if (std::isnan(want) || (float)want == out[i]) continue;
      if (std::isinf(out[i])) fail(name, float_bits(in[i]), float_bits((float)want), float_bits(out[i]));
      const double ulp = std::ldexp(1.0, (std::fabs(want) < 0x1p-126 ? -126 : std::ilogb(want)) - 23);
      const double error = std::fabs(out[i] - want) / ulp;
      if (error > worst) worst = error, at = in[i];
    }
  }
  printf("  %-8s %.3f ulp at %a\n", name, worst, (double)at);
  if (!(worst <= limit)) fail(name, float_bits(at), 0, 0);
}

static int run(uint32_t stride) {
  check_format<bf16>(Format<uint16_t>{"bf16", 8, 7, true, false, 0x7fc0});
  check_format<f16>(Format<uint16_t>{"f16", 5, 10, true, false, 0x7e00});
  check_format<e4m3>(Format<uint8_t>{"e4m3", 4, 3, false, true, 0x7f});
  check_format<e5m2>(Format<uint8_t>{"e5m2", 5, 2, true, true, 0x7f});
  check_float_partial();
  check_reductions();
  check_function("exp", [](F32 v) { return exp(v); }, [](double x) { return std::exp(x); }, kHasFma ? 1.0 : 2.0, stride);
  check_function("tanh", [](F32 v) { return tanh(v); }, [](double x) { return std::tanh(x); }, 2.0, stride);
  // Below -88 e^-x overflows and the result is 0 where the exact one is denormal: absolute error < 2^-126.
  check_function("sigmoid", [](F32 v) { return sigmoid(max(set1(-88), v)); }, [](double x) { return 1 / (1 + std::exp(-(x < -88 ? -88 : x))); }, 3.0, stride);
  check_function("erf", [](F32 v) { return erf(v); }, [](double x) { return std::erf(x); }, 2.5, stride);
  return 0;
}

}  // namespace octet::cpu::OCTET_LEVEL

#define OCTET_STR2(x) #x
#define OCTET_STR(x) OCTET_STR2(x)
int main(int argc, char** argv) {
  printf("simd %s, %d lanes\n", OCTET_STR(OCTET_LEVEL), octet::cpu::OCTET_LEVEL::kLanes);
  return octet::cpu::OCTET_LEVEL::run(argc > 1 ? (uint32_t)atoi(argv[1]) : 97);
}
