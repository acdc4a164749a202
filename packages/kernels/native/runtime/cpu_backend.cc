// The CPU addon: a level per instruction set, host memory, and the read probe.
#include <system_error>

#include "backend.h"
#include "levels.h"
#include "memory.h"
#include "queue.h"

namespace octet {

namespace {
// The probe blocks for seconds, so it runs on a thread of libuv's pool.
class ProbeWorker final : public Napi::AsyncWorker {
 public:
  ProbeWorker(Napi::Env env, const Level& level, int threads, size_t bytes, int repeats)
      : AsyncWorker(env), deferred_(env), level_(level), threads_(threads), bytes_(bytes), repeats_(repeats) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

 private:
  void Execute() override { rate_ = level_.read_probe(threads_, bytes_, repeats_); }
  void OnOK() override { deferred_.Resolve(Napi::Number::New(Env(), rate_)); }

  Napi::Promise::Deferred deferred_;
  const Level& level_;
  int threads_;
  size_t bytes_;
  int repeats_;
  double rate_ = 0;
};

// readProbe(level, threads, bytes, repeats) -> Promise of 10^9 bytes per second
Napi::Value read_probe(const Napi::CallbackInfo& info) {
  const auto number = [&](size_t i) { return info[i].As<Napi::Number>().DoubleValue(); };
  auto* worker = new ProbeWorker(info.Env(), levels()[static_cast<size_t>(number(0))], static_cast<int>(number(1)), static_cast<size_t>(number(2)),
                                 static_cast<int>(number(3)));
  worker->Queue();
  return worker->promise();
}

class CpuBackend final : public Backend {
 public:
  void describe(Napi::Env env, Napi::Object out) override {
    auto list = Napi::Array::New(env);
    for (const Level& level : levels()) {
      auto ops = Napi::Array::New(env, kOpCount);
      for (uint32_t i = 0; i < kOpCount; ++i) ops[i] = Napi::Boolean::New(env, level.table[i] != nullptr);
      auto row = Napi::Object::New(env);
      row["name"] = Napi::String::New(env, level.name);
      row["supported"] = Napi::Boolean::New(env, level.supported());
      row["ops"] = ops;
      list[list.Length()] = row;
    }
    out["levels"] = list;
  }
  std::unique_ptr<CommandQueue> create_queue(int target, int threads, int spin_micros, CompletionSink& sink) override {
    const QueueOptions options{levels()[static_cast<size_t>(target)].table, threads, spin_micros};
    try {
      return std::make_unique<Queue>(options, sink);
    } catch (const std::system_error&) {
      return nullptr;
    }
  }
  void* reserve(int, size_t bytes) override { return memory_.reserve(bytes); }
  void release(int, void* block) override { memory_.release(block); }
  void extend(Napi::Env env, Napi::Object exports) override { exports["readProbe"] = Napi::Function::New(env, read_probe, "readProbe"); }

 private:
  Memory memory_;
};
}  // namespace

std::unique_ptr<Backend> make_backend() { return std::make_unique<CpuBackend>(); }

}  // namespace octet
