// Hammers the queue runtime without Node, for the sanitizers: order, events, graphs, cancellation, pools of odd sizes.
// Built by -DOCTET_BUILD_TESTS=ON; ends with 0 and one line when every check holds.
//   cmake -S . -B build/tsan -DOCTET_BUILD_TESTS=ON -DOCTET_SANITIZE=thread && cmake --build build/tsan -t octet_stress
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "../runtime/queue.h"

namespace {

using namespace octet;

#define CHECK(condition)                                                              \
  do {                                                                                \
    if (!(condition)) {                                                               \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
      std::abort();                                                                   \
    }                                                                                 \
  } while (0)

// op 0: x[i] = a0 * x[i] + a1, in chunks of a2 elements, through scratch.
Status op_affine(const OpCall& call, Context& ctx) {
  int64_t* const x = call.t[0].as<int64_t>();
  int64_t* const held = static_cast<int64_t*>(ctx.scratch(static_cast<size_t>(call.t[0].cols()) * sizeof(int64_t)));
  if (held == nullptr) return Status::out_of_memory;
  ctx.parallel(call.t[0].cols(), call.i(2), [&](int64_t begin, int64_t end, int thread) {
    CHECK(thread >= 0 && thread < ctx.threads());
    for (int64_t i = begin; i < end; ++i) held[i] = call.i(0) * x[i] + call.i(1);
  });
  ctx.parallel(call.t[0].cols(), call.i(2) + 1, [&](int64_t begin, int64_t end, int) {
    std::memcpy(x + begin, held + begin, static_cast<size_t>(end - begin) * sizeof(int64_t));
  });
  return ctx.cancelled() ? Status::cancelled : Status::ok;
}
// op 1 fails.
Status op_fail(const OpCall&, Context&) { return Status::bad_index; }
// op 2 runs until it is cancelled.
Status op_forever(const OpCall&, Context& ctx) {
  while (!ctx.cancelled()) {
    ctx.parallel(64, 1, [](int64_t, int64_t, int) { cpu_relax(); });
  }
  return Status::cancelled;
}

constexpr OpFn kTable[] = {op_affine, op_fail, op_forever};

struct Sink final : CompletionSink {
  std::atomic<int> count{0};
  std::atomic<int> failed{0};
  void post(const Completion& c) override {
    if (c.failure.status != Status::ok) failed.fetch_add(1);
    count.fetch_add(1);
  }
  void await(int n) const {
    while (count.load() < n) std::this_thread::yield();
  }
};

std::vector<uint8_t> encode(int32_t op, int64_t* data, int64_t n, double a0 = 0, double a1 = 0, double a2 = 1) {
  std::vector<uint8_t> bytes(sizeof(OpRecord) + sizeof(TensorArg) + 3 * sizeof(double));
  auto* record = new (bytes.data()) OpRecord{{Kind::op, static_cast<uint32_t>(bytes.size()), 0}, op, 1, 3, 0};
  auto* t = new (record + 1) TensorArg{};
  t->data = data;
  t->dtype = DType::i64;
  t->ndim = 1;
  t->shape[0] = t->row_stride = n;
  const double attrs[] = {a0, a1, a2};
  std::memcpy(static_cast<void*>(t + 1), attrs, sizeof attrs);
  return bytes;
}
void push(Queue& q, const std::vector<uint8_t>& record) {
  q.push(record.size(), [&](uint8_t* p) { std::memcpy(p, record.data(), record.size()); });
}
template <class R> void push_record(Queue& q, const R& record) {
  q.push(sizeof record, [&](uint8_t* p) { std::memcpy(p, &record, sizeof record); });
}
void mark(Queue& q) { push_record(q, Header{Kind::mark, sizeof(Header), 1}); }

void order_and_events(int threads, int spin, int rounds) {
  Sink sink;
  constexpr int64_t n = 3000;
  std::vector<int64_t> x(n, 1);
  int64_t expected = 1;
  {
    Queue a({kTable, threads, spin}, sink), b({kTable, threads, spin}, sink);
    auto graph = std::make_shared<GraphData>();
    graph->records = encode(0, x.data(), n, 3, -1, 64);
    std::mt19937 random(7);
    for (int i = 0; i < rounds; ++i) {
      Queue& q = i % 2 == 0 ? a : b;
      Queue& other = i % 2 == 0 ? b : a;
      const int64_t grain = 1 + static_cast<int64_t>(random() % 4000);
      push(q, encode(0, x.data(), n, 2, i % 5, static_cast<double>(grain)));
      push_record(q, ReplayRecord{{Kind::replay, sizeof(ReplayRecord), 0}, new std::shared_ptr<GraphData>(graph)});
      expected = (2 * expected + i % 5) * 3 - 1;
      expected %= int64_t{1} << 20;
      push(q, encode(0, x.data(), n, 1, 0, 100));
      // Keeps values small, in order too.
      auto event = std::make_shared<Event>();
      push_record(q, EventRecord{{Kind::record, sizeof(EventRecord), 0}, new std::shared_ptr<Event>(event), false});
      push_record(other, EventRecord{{Kind::wait, sizeof(EventRecord), 0}, new std::shared_ptr<Event>(event), true});
      mark(other);
      if (random() % 3 == 0) std::this_thread::yield();
      sink.await(i + 1);
      for (int64_t& v : x) v %= int64_t{1} << 20;
      CHECK(event->done());
      for (int64_t v : x) CHECK(v == expected);
    }
    CHECK(sink.failed.load() == 0);
  }
}

void streams(int threads, int spin, int ops) {
  Sink sink;
  std::vector<int64_t> x(8, 0);
  Queue q({kTable, threads, spin}, sink);
  for (int i = 0; i < ops; ++i) push(q, encode(0, x.data(), 8, 1, 1, 2));
  mark(q);
  sink.await(1);
  for (int64_t v : x) CHECK(v == ops);
  push(q, encode(1, x.data(), 8));
  push(q, encode(0, x.data(), 8, 0, 0, 2));
  mark(q);
  sink.await(2);
  CHECK(sink.failed.load() == 1);
  for (int64_t v : x) CHECK(v == ops);  // the op behind the failure was skipped
  push_record(q, Header{Kind::clear, sizeof(Header), 0});
  push(q, encode(0, x.data(), 8, 0, 0, 2));
  mark(q);
  sink.await(3);
  CHECK(sink.failed.load() == 1);
  for (int64_t v : x) CHECK(v == 0);
}

// A pool that ends while its helpers are anywhere between a job and their sleep.
void endings(int threads, int spin, int rounds) {
  const std::atomic<bool> never{false};
  std::atomic<int64_t> sum{0};
  for (int i = 0; i < rounds; ++i) {
    Pool pool(threads, spin);
    for (int job = 0; job < i % 4; ++job) {
      pool.run(16, 1, [](void* s, int64_t b, int64_t, int) { static_cast<std::atomic<int64_t>*>(s)->fetch_add(b); }, &sum, never);
    }
  }
  int64_t jobs = 0;
  for (int i = 0; i < rounds; ++i) jobs += i % 4;
  CHECK(sum.load() == jobs * 120);
}

void cancellation(int threads, int spin, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    Sink sink;
    std::vector<int64_t> x(64, 0);
    Queue a({kTable, threads, spin}, sink), b({kTable, threads, spin}, sink);
    push(a, encode(2, x.data(), 64));
    auto event = std::make_shared<Event>();
    push_record(a, EventRecord{{Kind::record, sizeof(EventRecord), 0}, new std::shared_ptr<Event>(event), false});
    push_record(b, EventRecord{{Kind::wait, sizeof(EventRecord), 0}, new std::shared_ptr<Event>(event), true});
    auto* const host = static_cast<uint8_t*>(std::malloc(512));
    push_record(b, CopyRecord{{Kind::copy_in, sizeof(CopyRecord), 0}, reinterpret_cast<uint8_t*>(x.data()), host, 1, 512, 512});
    push(b, encode(0, x.data(), 64, 1, 1, 3));
    if (i % 3 == 1) std::this_thread::yield();
    if (i % 3 == 2) std::this_thread::sleep_for(std::chrono::microseconds(i % 300));
    // Destructors in both orders: the waiting queue first, or the running one.
    if (i % 2 == 0) b.cancel();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int scale = argc > 1 ? std::atoi(argv[1]) : 1;
  for (const int threads : {1, 2, 3, 8}) {
    for (const int spin : {0, 5, 50}) {
      order_and_events(threads, spin, 100 * scale);
      streams(threads, spin, 2000 * scale);
      endings(threads, spin, 500 * scale);
      cancellation(threads, spin, 30 * scale);
    }
  }
  std::puts("stress: ok");
  return 0;
}
