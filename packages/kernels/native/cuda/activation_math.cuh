// The activation functions of activation and gatedActivation, in float. Each is its limit (0, not NaN) at -infinity.
#pragma once
#include "common.cuh"

namespace octet::cuda {

__device__ __forceinline__ float above_minus_infinity(float x) { return x == -INFINITY ? -3.402823466e38f : x; }
// The reciprocal is the hardware's, within an ulp (an IEEE division is a call, around which registers are saved): 0 where e^-x has
// passed 2^126, so x < -87.3.
__device__ __forceinline__ float sigmoid(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.f + expf(-x)));
  return y;
}

struct Gelu {  // tanh form, written as x * sigmoid(2 * inner): no cancellation for x < 0
  __device__ __forceinline__ float operator()(float v) const {
    const float x = above_minus_infinity(v);
    return x * sigmoid(x * fmaf(x * x, 0.0713548162726f, 1.59576912161f));
  }
};
struct Silu {
  __device__ __forceinline__ float operator()(float v) const { const float x = above_minus_infinity(v); return x * sigmoid(x); }
};
struct Relu {  // keeps NaN
  __device__ __forceinline__ float operator()(float v) const { return v < 0.f ? 0.f : v; }
};
struct QGelu {
  __device__ __forceinline__ float operator()(float v) const { const float x = above_minus_infinity(v); return x * sigmoid(x * 1.702f); }
};
struct SRelu {
  __device__ __forceinline__ float operator()(float v) const { const float r = v < 0.f ? 0.f : v; return r * r; }
};
struct Sigmoid {
  __device__ __forceinline__ float operator()(float v) const { return sigmoid(v); }
};
struct GeluErf {
  __device__ __forceinline__ float operator()(float v) const {
    const float x = above_minus_infinity(v);
    return 0.5f * x * (1.f + erff(x * 0.707106781187f));
  }
};

// Codes of src/ops: 0 gelu 1 silu 2 relu 3 qgelu 4 srelu 5 sigmoid 6 geluErf.
template <class F> inline Status by_kind(int64_t kind, F&& f) {
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

}  // namespace octet::cuda
