// The activation functions of activation and gatedActivation. Each is the limit at -infinity (0, not NaN) and keeps NaN.
#pragma once
#include "op_util.h"

namespace octet::cpu::OCTET_LEVEL {

// Finite where x is -infinity, so that x * sigmoid(x) is 0 there. max gives its second operand for NaN.
OCTET_INLINE F32 above_minus_infinity(F32 x) { return max(set1(-0x1.fffffep127f), x); }

struct Gelu {  // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as x * sigmoid(2 * inner): no cancellation for x < 0
  OCTET_INLINE F32 operator()(F32 v) const {
    const F32 x = above_minus_infinity(v);
    const F32 inner = x * fma(x * x, set1(0.0713548162726f), set1(1.59576912161f));
    return x * sigmoid(inner);
  }
};
struct Silu {
  OCTET_INLINE F32 operator()(F32 v) const {
    const F32 x = above_minus_infinity(v);
    return x * sigmoid(x);
  }
};
struct Relu {
  OCTET_INLINE F32 operator()(F32 v) const { return max(zero(), v); }
};
struct QGelu {  // x sigmoid(1.702 x)
  OCTET_INLINE F32 operator()(F32 v) const {
    const F32 x = above_minus_infinity(v);
    return x * sigmoid(x * 1.702f);
  }
};
struct SRelu {  // relu(x)^2
  OCTET_INLINE F32 operator()(F32 v) const {
    const F32 r = max(zero(), v);
    return r * r;
  }
};
struct Sigmoid {
  OCTET_INLINE F32 operator()(F32 v) const { return sigmoid(v); }
};
struct GeluErf {  // 0.5 x (1 + erf(x / sqrt(2)))
  OCTET_INLINE F32 operator()(F32 v) const {
    const F32 x = above_minus_infinity(v);
    return 0.5f * x * (1.0f + erf(x * 0.707106781187f));
  }
};

// Codes of src/ops: 0 gelu 1 silu 2 relu 3 qgelu 4 srelu 5 sigmoid 6 geluErf.
template <class F> OCTET_INLINE Status by_kind(int64_t kind, F&& f) {
  switch (kind) {
    case 0: return f(Gelu{});
    case 1: return f(Silu{});
    case 2: return f(Relu{});
    case 3: return f(QGelu{});
    case 4: return f(SRelu{});
    case 5: return f(Sigmoid{});
    case 6: return f(GeluErf{});
    default: return Status::unsupported;
  }
}

}  // namespace octet::cpu::OCTET_LEVEL
