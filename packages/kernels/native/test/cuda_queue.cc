// The CUDA queues without a GPU: over fake_cuda, whose streams do everything at once, with op tables of this file's own. What a
// launch is told (may it start early, which workspace, which fault word), what becomes of events that cannot be made, what a
// graph does on another queue, and that nothing stays behind. Ends with 0 and one line when every check holds.
// Built and run by src/cuda-queue.test.ts, and under the sanitizers by scripts/test-native.mjs.
#include <cstdio>
#include <deque>
#include <string>
#include <string_view>
#include <utility>

#include "../cuda/once_per_device.h"
#include "../cuda/runtime/cuda_queue.h"
#include "../cuda/runtime/repack.h"

#define CHECK(condition)                                                              \
  do {                                                                                \
    if (!(condition)) {                                                               \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
      std::abort();                                                                   \
    }                                                                                 \
  } while (0)

namespace octet::cuda {
CublasLt* open_cublaslt() { return nullptr; }
void close_cublaslt(CublasLt*) {}
bool launch_repack(const void*, void*, int, int, const int64_t*, const int64_t*, cudaStream_t) { return true; }

// ---- ops of this test ----

// What the launches were told, by the first word of their first tensor.
struct Told {
  int32_t tag;
  bool overlaps;
  void* workspace;
};
static std::mutex told_mutex;
static std::deque<Told> told;
static std::deque<Told> take_told() {
  const std::lock_guard lock(told_mutex);
  return std::exchange(told, {});
}

static Status tell(const OpCall& call, CudaContext& ctx) {
  if (call.b(0)) return Status::internal;  // a launch that the driver refuses
  if (call.t[0].rows() == 0) return Status::ok;
  const Told now{*call.t[0].as<int32_t>(), ctx.overlaps(), ctx.workspace(16)};
  if (now.workspace == nullptr) return Status::out_of_memory;
  int32_t* const fault = ctx.fault_word();
  int32_t* const data = call.t[0].as<int32_t>();
  // The kernel: leaves its tag, and a fault for a negative one.
  return fake::launch(ctx.stream(), [=] {
    const std::lock_guard lock(told_mutex);
    told.push_back({*data, now.overlaps, now.workspace});
    if (*data < 0) *fault = static_cast<int32_t>(Status::bad_index);
  }) == cudaSuccess ? Status::ok : Status::internal;
}
static const Variant kRows[] = {{"hopper_sm90", kSm90, always, tell}, {"portable", kAnyArch, always, tell}};
}  // namespace octet::cuda

using namespace octet;
using namespace octet::cuda;
OCTET_CUDA_OP(linear, kRows)
OCTET_CUDA_OP(quantize, kRows)
OCTET_CUDA_OP(add, kRows)

namespace {

constexpr int number_of(const char* wanted) {
  int at = 0;
  for (const char* name : {
#define X(name) #name,
#include "octet/ops.def"
#undef X
       }) {
    if (std::string_view(name) == wanted) return at;
    ++at;
  }
  return -1;
}
constexpr int kLinear = number_of("linear"), kQuantize = number_of("quantize"), kAdd = number_of("add");

struct Sink final : CompletionSink {
  std::mutex mutex;
  std::deque<Completion> all;
  void post(const Completion& c) override {
    const std::lock_guard lock(mutex);
    all.push_back(c);
  }
  size_t count() {
    const std::lock_guard lock(mutex);
    return all.size();
  }
};

TensorArg tensor(void* data, int64_t rows, int64_t cols, int64_t stride = 0, DType dtype = DType::f32) {
  TensorArg t{data, dtype, 2, {rows, cols}, stride == 0 ? cols : stride};
  return t;
}

std::vector<uint8_t> encode(int32_t op, std::initializer_list<TensorArg> tensors, double attr = 0) {
  std::vector<uint8_t> bytes(sizeof(OpRecord) + sizeof(TensorArg) * tensors.size() + sizeof(double));
  auto* record = new (bytes.data()) OpRecord{{Kind::op, static_cast<uint32_t>(bytes.size()), 0}, op, static_cast<int32_t>(tensors.size()), 1, 0};
  auto* t = reinterpret_cast<TensorArg*>(record + 1);
  for (const TensorArg& each : tensors) new (t++) TensorArg(each);
  std::memcpy(static_cast<void*>(t), &attr, sizeof attr);
  return bytes;
}

// A queue, and what was told to its launches since the last look.
struct Bench {
  Sink sink;
  CudaDevice& device;
  CudaQueue queue;
  uint64_t ticket = 0;
  explicit Bench(CudaDevice& d) : device(d), queue(d, 0, sink) {}

  template <class R> void push(const R& record) { queue.push(sizeof record, [&](uint8_t* p) { std::memcpy(p, &record, sizeof record); }); }
  void run(int op, std::initializer_list<TensorArg> tensors, double attr = 0) {
    const auto record = encode(op, tensors, attr);
    queue.push(record.size(), [&](uint8_t* p) { std::memcpy(p, record.data(), record.size()); });
  }
  void replay(const std::shared_ptr<GraphData>& graph) { push(ReplayRecord{{Kind::replay, sizeof(ReplayRecord), 0}, new std::shared_ptr<GraphData>(graph)}); }
  std::shared_ptr<Event> record() {
    auto event = std::make_shared<Event>();
    push(EventRecord{{Kind::record, sizeof(EventRecord), 0}, new std::shared_ptr<Event>(event), false});
    return event;
  }
  void wait(const std::shared_ptr<Event>& event) { push(EventRecord{{Kind::wait, sizeof(EventRecord), 0}, new std::shared_ptr<Event>(event), true}); }
  void clear() { push(Header{Kind::clear, sizeof(Header), 0}); }
  Failure sync() {
    const size_t before = sink.count();
    push(Header{Kind::mark, sizeof(Header), ++ticket});
    while (sink.count() == before) std::this_thread::yield();
    const std::lock_guard lock(sink.mutex);
    return sink.all.back().failure;
  }
  std::deque<Told> look() {
    CHECK(sync().status == Status::ok);
    return take_told();
  }
};

std::shared_ptr<GraphData> graph_of(std::initializer_list<std::vector<uint8_t>> records) {
  auto graph = std::make_shared<GraphData>();
  for (const auto& r : records) graph->records.insert(graph->records.end(), r.begin(), r.end());
  return graph;
}

// ---- the parts ----

OpCall call_of(std::initializer_list<TensorArg> tensors) {
  OpCall call;
  for (const TensorArg& t : tensors) call.t[call.tensor_count++] = t;
  return call;
}

void operands() {
  static float m[64 * 64];
  const auto near = [](const TensorArg& held, const TensorArg& asked) {
    RecentOperands recent;
    recent.add(call_of({held}), -1);
    return recent.hold(asked);
  };
  // Whole rows 8 to 15 against rows beside, before and within.
  const TensorArg held = tensor(m + 8 * 64, 8, 64);
  CHECK(near(held, held));
  CHECK(near(held, tensor(m, 64, 64)));
  CHECK(near(held, tensor(m + 10 * 64 + 3, 1, 1)));
  CHECK(!near(held, tensor(m, 8, 64)));             // ends where it begins
  CHECK(near(held, tensor(m, 1, 8 * 64 + 1)));      // a byte further
  CHECK(!near(held, tensor(m + 16 * 64, 8, 64)));   // begins where it ends
  CHECK(near(held, tensor(m + 16 * 64 - 1, 1, 1)));
  // A slice of columns reaches to the end of its last row; bytes count by dtype.
  CHECK(near(tensor(m, 4, 8, 64), tensor(m + 3 * 64 + 7, 1, 1)));
  CHECK(!near(tensor(m, 4, 8, 64), tensor(m + 3 * 64 + 8, 1, 1)));
  CHECK(near(tensor(m, 1, 8, 0, DType::bf16), tensor(reinterpret_cast<uint8_t*>(m) + 15, 1, 1, 0, DType::e4m3)));
  CHECK(!near(tensor(m, 1, 8, 0, DType::bf16), tensor(reinterpret_cast<uint8_t*>(m) + 16, 1, 1, 0, DType::e4m3)));
  // No rows, no bytes.
  CHECK(!near(tensor(m, 0, 64), tensor(m, 64, 64)));

  // Every tensor of a call with the most there are, but for the one it only reads.
  RecentOperands recent;
  OpCall many;
  many.tensor_count = kMaxTensors;
  for (int i = 0; i < kMaxTensors; ++i) many.t[i] = tensor(m + i * 64, 1, 64);
  recent.add(many, 5);
  for (int i = 0; i < kMaxTensors; ++i) CHECK(recent.hold(tensor(m + i * 64, 1, 64)) == (i != 5));
  // It is kept for as many launches as a device has at once, and no longer.
  for (size_t i = 1; i < RecentOperands::kLaunches; ++i) recent.add(call_of({tensor(m + 32 * 64, 1, 64)}), -1);
  CHECK(recent.hold(tensor(m, 1, 64)) && recent.hold(tensor(m + 15 * 64, 1, 64)));
  recent.add(m + 40 * 64, 64);
  CHECK(!recent.hold(tensor(m, 1, 64)) && !recent.hold(tensor(m + 15 * 64, 1, 64)));
  CHECK(recent.hold(tensor(m + 40 * 64 + 15, 1, 1)) && !recent.hold(tensor(m + 40 * 64 + 16, 1, 1)));
  recent.clear();
  CHECK(!recent.hold(tensor(m, 64, 64)));
}

void devices() {
  CHECK(kSm90.hold(90) && !kSm90.hold(89) && !kSm90.hold(100) && !kSm90.hold(120));
  for (const int arch : {80, 86, 89, 90, 100, 120}) CHECK(kAnyArch.hold(arch));
  CHECK(!kAnyArch.hold(75));
  // sm_90a runs on 9.0 alone; the others on their generation from their minor number on; there is no PTX for the rest.
  CHECK(built_for("90a", 90) && !built_for("90a", 100) && !built_for("90a", 89));
  CHECK(built_for("80;89;90a;100", 80) && built_for("80;89;90a;100", 86) && built_for("80;89;90a;100", 103) && !built_for("80;89;90a;100", 120));
  CHECK(!built_for("89", 86) && !built_for("", 90) && built_for("80;90", 90));
  // Which row of a table a device takes.
  const auto chosen = [](int arch, const std::string& forced) {
    const DeviceInfo device{0, arch, 132, 0, false};
    for (const Variant& v : kRows) {
      if (takes(v, OpCall{}, device, forced)) return std::string(v.name);
    }
    return std::string();
  };
  CHECK(chosen(90, "") == "hopper_sm90" && chosen(90, "portable") == "portable");
  CHECK(chosen(100, "") == "portable" && chosen(89, "") == "portable" && chosen(100, "hopper_sm90").empty() && chosen(75, "").empty());

  OncePerDevice once;
  int calls = 0;
  const auto set = [&](bool ok) { return [&calls, ok] { return ++calls, ok; }; };
  CHECK(!once(0, set(false)) && once(0, set(true)) && calls == 2);
  CHECK(once(0, set(false)) && calls == 2);  // remembered
  CHECK(once(1, set(true)) && once(63, set(true)) && calls == 4 && once(1, set(false)) && calls == 4);
  CHECK(once(64, set(true)) && once(64, set(true)) && calls == 6);
  OncePerDevice shared;
  std::vector<std::thread> threads;
  std::atomic<int> total{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 1000; ++i) CHECK(shared((i + t) % 4, [&] { return ++total > 0; }));
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(total.load() >= 4 && total.load() <= 4 * 8);
}

// ---- queues ----

struct Memory {
  int32_t x[64] = {}, w[64] = {}, other[64] = {}, y[64] = {};
};

void early_reads(CudaDevice& device) {
  Memory m;
  Bench a(device), b(device);
  const auto at = [](int32_t* p) { return tensor(p, 1, 64, 0, DType::i32); };
  const auto quantize = [&](Bench& q) { q.run(kQuantize, {at(m.x), at(m.w)}); };
  const auto linear = [&](Bench& q, int32_t* w) { q.run(kLinear, {at(m.x), at(w), TensorArg{}, at(m.y)}); };
  const auto last = [](Bench& q) { return q.look().back().overlaps; };

  linear(a, m.w);
  CHECK(last(a));
  quantize(a), linear(a, m.other);
  CHECK(last(a));
  quantize(a), linear(a, m.w);
  CHECK(!last(a));
  linear(a, m.w);  // its own weight it has only read, but quantize may still be at it
  CHECK(!last(a));
  for (size_t i = 0; i < RecentOperands::kLaunches; ++i) linear(a, m.other);
  linear(a, m.w);
  CHECK(last(a));
  // Calls without rows launch nothing, so none of them has ended anything, and they lead into nothing.
  const auto empty = [&](Bench& q) { q.run(kAdd, {tensor(m.x, 0, 64, 0, DType::i32), at(m.w)}); };
  empty(a), linear(a, m.w);
  CHECK(last(a));
  quantize(a);
  for (size_t i = 0; i < 2 * RecentOperands::kLaunches; ++i) empty(a);
  linear(a, m.w);
  CHECK(!last(a));
  for (size_t i = 0; i < RecentOperands::kLaunches; ++i) linear(a, m.other);
  // The output of a linear is no weight to read early.
  a.run(kLinear, {at(m.x), at(m.other), TensorArg{}, at(m.w)}), linear(a, m.w);
  CHECK(!last(a));
  // Ops that read nothing early are never held up.
  quantize(a), a.run(kAdd, {at(m.w), at(m.w), at(m.y)});
  CHECK(last(a));
  // Another queue's launches are ordered by events, which let nothing start early.
  quantize(a), a.look(), linear(b, m.w);
  CHECK(last(b));
  // A strided tensor that was read from a file lands by a kernel of its own.
  b.push(RepackRecord{{Kind::repack, sizeof(RepackRecord), 0}, reinterpret_cast<uint8_t*>(m.x), reinterpret_cast<uint8_t*>(m.w), 4, 1, {64}, {1}});
  linear(b, m.w);
  CHECK(!last(b));

  // In a graph: what ran before the capture has ended by then, what the graph itself writes has not.
  quantize(a);
  const auto graph = graph_of({encode(kAdd, {at(m.y), at(m.y), at(m.y)}), encode(kLinear, {at(m.x), at(m.w), TensorArg{}, at(m.y)}), encode(kQuantize, {at(m.x), at(m.other)}),
                               encode(kLinear, {at(m.x), at(m.other), TensorArg{}, at(m.y)}), encode(kLinear, {at(m.x), at(m.w), TensorArg{}, at(m.y)})});
  a.look();
  a.replay(graph);
  const auto inside = a.look();
  CHECK(inside.size() == 5 && !inside[0].overlaps && inside[1].overlaps && !inside[3].overlaps && inside[4].overlaps);
  // After one: the first kernel waits for its end, whatever it is; those behind it are behind the graph too.
  a.replay(graph), quantize(a), linear(a, m.other), linear(a, m.w);
  const auto after = a.look();
  CHECK(after.size() == 8 && !after[5].overlaps && after[6].overlaps && !after[7].overlaps);
  // After a capture that failed, too: what ran before it may still be running.
  quantize(a), a.replay(graph_of({encode(kAdd, {at(m.y), at(m.y), at(m.y)}), encode(kQuantize, {at(m.x)}, 1)})), a.clear(), linear(a, m.w);
  CHECK(!last(a));
}

void graphs(CudaDevice& device) {
  Memory m;
  Bench a(device), b(device);
  const auto x = tensor(m.x, 1, 64, 0, DType::i32);
  a.run(kAdd, {x});
  void* const in_a = a.look().front().workspace;
  b.run(kAdd, {x});
  void* const in_b = b.look().front().workspace;
  CHECK(in_a != in_b);
  const auto graph = graph_of({encode(kAdd, {x})});
  // Each queue's own workspace, however often it changes.
  for (int round = 0; round < 3; ++round) {
    a.replay(graph);
    CHECK(a.look().back().workspace == in_a);
    b.replay(graph), b.replay(graph);
    CHECK(b.look().back().workspace == in_b);
  }
  // And its own fault words: a bad index is the failure of the queue that ran it.
  m.x[0] = -1;
  a.replay(graph);
  const Failure first = a.sync();
  CHECK(first.status == Status::bad_index && first.op == kAdd);
  b.replay(graph);
  CHECK(a.sync().status == Status::ok);
  CHECK(b.sync().status == Status::bad_index);
  CHECK(b.sync().status == Status::ok);  // told once
  take_told();
  // One that the driver refuses names its op, on either queue, and leaves the next replay alone.
  m.x[0] = 0;
  const auto refused = graph_of({encode(kAdd, {x}), encode(kQuantize, {x}, 1)});
  b.replay(refused);
  const Failure why = b.sync();
  CHECK(why.status == Status::internal && why.op == kQuantize);
  b.clear(), b.replay(graph);
  CHECK(b.look().size() == 1);
}

void events(CudaDevice& device) {
  Memory m;
  const auto x = tensor(m.x, 1, 64, 0, DType::i32);
  for (std::atomic<bool>* const refusal : {&fake::no_events, &fake::no_records}) {
    Bench a(device), b(device);
    // Without events to be had, points are reached all the same, and nobody is lost.
    *refusal = true;
    a.run(kAdd, {x});
    CHECK(a.look().size() == 1);
    uint8_t bytes[4] = {9, 9, 9, 9};
    m.x[1] = 0x01020304;
    a.push(CopyRecord{{Kind::copy_out, sizeof(CopyRecord), 0}, reinterpret_cast<uint8_t*>(m.x + 1), bytes, 1, 4, 4});
    CHECK(a.sync().status == Status::ok && bytes[0] == 4 && bytes[3] == 1);
    const auto event = a.record();
    b.wait(event), b.run(kAdd, {x});
    CHECK(b.look().size() == 1);
    CHECK(a.sync().status == Status::ok && event->done());
    // A failure still goes with the event.
    a.run(kAdd, {x}, 1);
    b.wait(a.record());
    CHECK(b.sync().status == Status::internal && a.sync().status == Status::internal);
    *refusal = false;
    a.clear(), b.clear(), a.run(kAdd, {x});
    CHECK(a.look().size() == 1);
  }
}

void refusals(CudaDevice& device) {
  const int memory = fake::memory, streams = fake::streams;
  fake::no_memory = true;
  bool refused = false;
  try {
    Bench a(device);
  } catch (const std::bad_alloc&) {
    refused = true;
  }
  CHECK(refused && fake::memory == memory && fake::streams == streams);
  fake::no_memory = false;
  // A workspace that cannot grow refuses the op, and the queue goes on.
  Memory m;
  Bench a(device);
  a.run(kAdd, {tensor(m.x, 1, 64, 0, DType::i32)});
  CHECK(a.look().size() == 1);
}

void loss(CudaDevice& device) {
  Memory m;
  const auto x = tensor(m.x, 1, 64, 0, DType::i32);
  Bench a(device);
  a.run(kAdd, {x});
  CHECK(a.look().size() == 1);
  fake::lost = true;
  a.run(kAdd, {x});
  CHECK(a.sync().status == Status::device_lost);
  a.clear(), a.run(kAdd, {x});
  CHECK(a.sync().status == Status::device_lost);
  CHECK(take_told().empty());
  fake::lost = false;
}

}  // namespace

int main() {
  operands();
  devices();
  {
    CudaDevice device;
    CHECK(device.open(0));
    for (int round = 0; round < 20; ++round) {
      early_reads(device);
      graphs(device);
      events(device);
      refusals(device);
    }
    loss(device);
  }
  CHECK(fake::memory == 0 && fake::pinned == 0 && fake::streams == 0 && fake::events == 0 && fake::graphs == 0);
  std::puts("cuda queue: ok");
  return 0;
}
