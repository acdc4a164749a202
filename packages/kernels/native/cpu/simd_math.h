// exp, tanh, sigmoid and erf over F32. Included by simd.h.
//
// Largest errors over all float32 arguments are measured in bench/native/simd_check.cc and listed in
// docs/kernels/cpu-linear.md. Polynomials are minimax fits (Remez exchange, 40 digits) of the functions named beside them.
#pragma once

namespace octet::cpu::OCTET_LEVEL {

// Horner's rule; coefficients from the constant upwards.
template <int n> OCTET_INLINE F32 polynomial(F32 x, const float (&c)[n]) {
  F32 p = set1(c[n - 1]);
  for (int i = n - 2; i >= 0; --i) p = fma(p, x, set1(c[i]));
  return p;
}

// e^x = 2^n e^r, n = round(x/ln2), |r| <= ln2/2; e^r = 1 + r + r^2 q(r). 2^n is applied in two factors so that the result
// reaches down through the denormals with one rounding.
OCTET_INLINE F32 exp(F32 x) {
  constexpr float q[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f2p-5f, 0x1.1239e2p-7f, 0x1.6a2434p-10f};
  const F32 kMagic = set1(0x1.8p23f);  // adding it rounds to an integer, held in the low bits
  // Beyond these bounds the result is 0 or infinity; a NaN passes through min and max as their second operand.
  const F32 c = max(set1(-104.0f), min(set1(89.0f), x));
  const F32 shifted = fma(c, set1(0x1.715476p+0f), kMagic);
  const F32 n = shifted - kMagic;
  F32 r = fma(n, set1(-0x1.62e4p-1f), c);      // ln2 in two parts; the first has 15 bits, so n * part is exact
  r = fma(n, set1(-0x1.7f7d1cp-20f), r);
  const F32 p = fma(r * r, polynomial(r, q), r) + 1.0f;
  const I32 ni = (I32)(bits(shifted) - bits(kMagic));
  const I32 half = ni >> 1;
  return p * from_bits((U32)(half + 127) << 23) * from_bits((U32)(ni - half + 127) << 23);
}

// 1 / (1 + e^-x)
OCTET_INLINE F32 sigmoid(F32 x) { return 1.0f / (1.0f + exp(-x)); }

// |x| < 0.625: x + x^3 P(x^2), elsewhere 1 - 2 / (e^2|x| + 1) with x's sign.
OCTET_INLINE F32 tanh(F32 x) {
  constexpr float p[] = {-0x1.555534p-2f, 0x1.110768p-3f, -0x1.b84448p-5f, 0x1.5256d8p-6f, -0x1.76ac1ap-8f};
  const F32 a = abs(x);
  const F32 square = x * x;
  const F32 small = fma(x * square, polynomial(square, p), x);
  const F32 large = 1.0f - 2.0f / (exp(a + a) + 1.0f);
  return select((I32)(a < 0.625f), small, from_bits(bits(large) | (bits(x) & 0x80000000u)));
}

// |x| < 1: x P(x^2); elsewhere 1 - exp(-x^2 + L(|x|)), L a fit of log(erfc(x)) + x^2 on [0.9, 4]; erf(4) rounds to 1.
OCTET_INLINE F32 erf(F32 x) {
  constexpr float p[] = {0x1.20dd74p+0f, -0x1.81273ep-2f, 0x1.ce2cf8p-4f, -0x1.b7f90ep-6f, 0x1.5405b2p-8f, -0x1.a3f7p-11f, 0x1.496a3p-14f};
  constexpr float l[] = {-0x1.743cd6p-13f, -0x1.20b432p+0f, 0x1.73a69ap-2f, -0x1.aa231p-4f, 0x1.6cfcd8p-6f, -0x1.90811cp-9f, 0x1.9d8504p-13f};
  const F32 a = abs(x);
  const F32 small = x * polynomial(x * x, p);
  const F32 c = min(set1(4.0f), a);  // keeps NaN: min gives its second operand
  const F32 large = 1.0f - exp(fma(-c, c, polynomial(c, l)));
  return select((I32)(a < 1.0f), small, from_bits(bits(large) | (bits(x) & 0x80000000u)));
}

OCTET_INLINE float exp(float x) { return first(exp(set1(x))); }
OCTET_INLINE float sigmoid(float x) { return first(sigmoid(set1(x))); }
OCTET_INLINE float tanh(float x) { return first(tanh(set1(x))); }
OCTET_INLINE float erf(float x) { return first(erf(set1(x))); }

}  // namespace octet::cpu::OCTET_LEVEL
