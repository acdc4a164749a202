// sample: out[n] = a token drawn from softmax(logits[n,:] / temperature) after top-k, top-p and min-p
// Tensors  t0 logits [N,V] f32|bf16, t1 out i32[N], t2 sequenceIds i32[N], t3 positions i32[N]
// Attrs    a0 seedLo, a1 seedHi, a2 temperature (0: argmax), a3 topK (0: all), a4 topP (1: all), a5 minP (0: all)
// Values   s = logit / temperature in float32, w = exp(s - max s), and in this order
//            top-k  keeps s >= the k-th largest s (ties at the k-th are all kept, as in transformers)
//            top-p  keeps a token when those before it hold less than topP of the mass left by top-k; before it are the
//                   tokens of larger s and, at the same s, of larger id (an ascending stable sort, as transformers sorts)
//            min-p  keeps w >= minP (the largest w is 1)
//          then the first token, in order of id, whose running sum of w passes u * total; u = philoxUniform(seed,
//          sequenceIds[n], positions[n]), so a draw does not depend on the batch. Sums are float64 in order of id.
//          NaN is never drawn; +infinity shares all of the mass; a row of NaN only gives 0, of -infinity its first one
// Traffic  a row once from memory; the rest in the caches.   One thread a row: order of sums is fixed
#include "op_util.h"
#include "philox.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
// Unsigned order of the result is the order of the floats.
OCTET_INLINE uint32_t order_key(float v) {
  uint32_t u;
  memcpy(&u, &v, sizeof u);
  return (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
}

struct Candidates {
  float* s;      // logit / temperature
  float* w;      // exp(s - max s), once weigh() has run
  int32_t* id;   // ascending
  int64_t count;

  // keep(i), i the place before filtering; a place is asked once, in order.
  template <class Keep> void filter(Keep keep) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (!keep(i)) continue;
      s[kept] = s[i];
      w[kept] = w[i];
      id[kept++] = id[i];
    }
    count = kept;
  }
  void weigh(float top) {
    for (int64_t i = 0; i < count; i += kLanes) {
      const F32 v = load_n(s + i, count - i);
      store_n(w + i, select((I32)(v == top), set1(1.0f), exp(v - top)), count - i);
    }
  }
  double mass() const {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += w[i];
    return total;
  }
};

constexpr int kBits[] = {11, 11, 10};  // of the order key, from the top
constexpr int kBuckets = 1 << 11;

// The largest order key such that the candidates at or above it amount to the target: buckets of keys are walked from
// the top, and the one in which the sum reaches the target is opened in turn, until one key is left.
template <class Total, class Amount, class Reached>
uint32_t threshold(const Candidates& c, Total* bucket, Amount amount, Reached reached) {
  uint32_t prefix = 0;
  int shift = 32;
  Total above = 0;
  for (const int bits : kBits) {
    const int next = shift - bits;
    const uint32_t mask = (1u << bits) - 1u;
    for (uint32_t i = 0; i <= mask; ++i) bucket[i] = 0;
    for (int64_t i = 0; i < c.count; ++i) {
      const uint32_t key = order_key(c.s[i]);
      if (shift < 32 && (key >> shift) != prefix) continue;
      bucket[(key >> next) & mask] += amount(i);
    }
    uint32_t digit = mask;
    while (digit > 0 && !reached(above + bucket[digit])) above += bucket[digit--];
    prefix = (prefix << bits) | digit;
    shift = next;
  }
  return prefix;
}

struct Options {
  uint32_t seed_lo, seed_hi;
  float temperature;
  int64_t top_k;
  double top_p;
  float min_p;
};

// One draw from the v candidates' logits in c.w, which also holds the weights later; `bucket` has kBuckets doubles.
int32_t draw(int64_t v, const Options& o, double u, Candidates c, double* bucket) {
  float top = -__builtin_inff();
  c.count = 0;
  for (int64_t i = 0; i < v; ++i) {
    const float s = c.w[i] / o.temperature;
    c.s[c.count] = s + 0.0f;  // -0 and 0 are one value, so one key
    c.id[c.count] = static_cast<int32_t>(i);
    c.count += s == s ? 1 : 0;
    if (s > top) top = s;
  }
  if (c.count == 0) return 0;
  if (top == -__builtin_inff()) return c.id[0];
  if (o.top_k > 0 && o.top_k < c.count) {
    const uint32_t least = threshold(
        c, reinterpret_cast<int64_t*>(bucket), [](int64_t) { return int64_t{1}; }, [&](int64_t n) { return n >= o.top_k; });
    c.filter([&](int64_t i) { return order_key(c.s[i]) >= least; });
  }
  c.weigh(top);
  if (o.top_p < 1.0) {
    const double mass = o.top_p * c.mass();
    const uint32_t least = threshold(
        c, bucket, [&](int64_t i) { return static_cast<double>(c.w[i]); }, [mass](double m) { return m >= mass && m > 0; });
    // Of the tokens at the threshold itself, those of the largest ids, as many as the mass needs.
    double before = 0;
    int64_t first = c.count;  // of those that stay
    for (int64_t i = 0; i < c.count; ++i) before += order_key(c.s[i]) > least ? static_cast<double>(c.w[i]) : 0.0;
    for (int64_t i = c.count - 1; i >= 0 && (before < mass || first == c.count); --i) {
      if (order_key(c.s[i]) != least) continue;
      before += c.w[i];
      first = i;
    }
    c.filter([&](int64_t i) { return order_key(c.s[i]) > least || (order_key(c.s[i]) == least && i >= first); });
  }
  double total = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < c.count; ++i) {
    if (c.w[i] < o.min_p) c.w[i] = 0;
    total += c.w[i];
    if (c.w[i] > 0) last = i;
  }
  const double target = u * total;
  double sum = 0;
  for (int64_t i = 0; i < last; ++i) {
    sum += c.w[i];
    if (sum > target) return c.id[i];
  }
  return c.id[last];
}

// Temperature 0: the largest logit, lowest index first; NaN never wins unless all are.
int32_t largest(const float* logits, int64_t v) {
  int32_t best = -1;
  for (int64_t i = 0; i < v; ++i) {
    if (logits[i] == logits[i] && (best < 0 || logits[i] > logits[best])) best = static_cast<int32_t>(i);
  }
  return max_of(best, int32_t{0});
}
}  // namespace

Status op_sample(const OpCall& call, Context& ctx) {
  const TensorArg &logits = call.t[0], &out = call.t[1], &sequences = call.t[2], &positions = call.t[3];
  const int64_t rows = logits.rows(), v = logits.cols(), pitch = round_up(max_of<int64_t>(v, 1), 16);
  const Options o{static_cast<uint32_t>(call.i(0)), static_cast<uint32_t>(call.i(1)), call.f(2), call.i(3), call.attr[4],
                  call.f(5)};
  if (!is_activation(logits.dtype)) return Status::unsupported;
  const int64_t threads = ctx.threads();
  float* const scores = scratch_of<float>(ctx, pitch * threads);
  float* const weights = scratch_of<float>(ctx, pitch * threads);
  int32_t* const ids = scratch_of<int32_t>(ctx, pitch * threads);
  double* const buckets = scratch_of<double>(ctx, kBuckets * threads);
  if (scores == nullptr || weights == nullptr || ids == nullptr || buckets == nullptr) return Status::out_of_memory;
  ctx.parallel(rows, 1, [&](int64_t begin, int64_t end, int t) {
    for (int64_t n = begin; n < end; ++n) {
      float* const row = weights + t * pitch;
      load_row(logits, n, 0, v, row);
      const uint32_t sequence = static_cast<uint32_t>(sequences.as<const int32_t>()[n]);
      const uint32_t position = static_cast<uint32_t>(positions.as<const int32_t>()[n]);
      out.as<int32_t>()[n] =
          o.temperature > 0 ? draw(v, o, philox_uniform(o.seed_lo, o.seed_hi, sequence, position),
                                   {scores + t * pitch, row, ids + t * pitch, 0}, buckets + t * kBuckets)
                            : largest(row, v);
    }
  });
  return finish(ctx);
}

}  // namespace octet::cpu::OCTET_LEVEL
