// One environment (main thread or worker thread) that loaded the addon. Everything it owns dies with it; nothing is
// shared between environments and there is no static state.
#pragma once
#include <mutex>
#include <vector>

#include <napi.h>

#include "backend.h"

namespace octet {

class Addon final : public Napi::Addon<Addon>, public CompletionSink {
 public:
  Addon(Napi::Env env, Napi::Object exports);

 private:
  struct QueueSlot {
    std::unique_ptr<CommandQueue> queue;
    std::shared_ptr<GraphData> capture;  // set while ops are recorded instead of run
  };

  // The hot path: enqueue(queue, ticket), arguments in the scratch.
  static napi_value Enqueue(napi_env env, napi_callback_info info);
  void EncodeOp(uint8_t* target, size_t bytes, uint64_t ticket) const;

  Napi::Value Describe(const Napi::CallbackInfo& info);
  void SetScratch(const Napi::CallbackInfo& info);
  void OnComplete(const Napi::CallbackInfo& info);
  void Ref(const Napi::CallbackInfo& info);
  void Unref(const Napi::CallbackInfo& info);
  Napi::Value CreateQueue(const Napi::CallbackInfo& info);
  void DestroyQueue(const Napi::CallbackInfo& info);
  Napi::Value Completed(const Napi::CallbackInfo& info);
  void Mark(const Napi::CallbackInfo& info);
  void ClearFailure(const Napi::CallbackInfo& info);
  Napi::Value Record(const Napi::CallbackInfo& info);
  void Wait(const Napi::CallbackInfo& info);
  Napi::Value EventDone(const Napi::CallbackInfo& info);
  Napi::Value CopyIn(const Napi::CallbackInfo& info);
  void CopyOut(const Napi::CallbackInfo& info);
  void Repack(const Napi::CallbackInfo& info);
  void BeginCapture(const Napi::CallbackInfo& info);
  Napi::Value EndCapture(const Napi::CallbackInfo& info);
  void Replay(const Napi::CallbackInfo& info);
  void ReleaseGraph(const Napi::CallbackInfo& info);
  Napi::Value Reserve(const Napi::CallbackInfo& info);
  void Release(const Napi::CallbackInfo& info);

  QueueSlot& slot(const Napi::Value& id) { return queues_[id.As<Napi::Number>().Uint32Value()]; }
  // The queue of the first argument; for one that was destroyed, nullptr and a pending JavaScript error.
  CommandQueue* queue(const Napi::CallbackInfo& info);
  void post(const Completion& completion) override;
  void drain(Napi::Env env);
  void shutdown();

  static void CallJs(Napi::Env env, Napi::Function callback, Addon* self, void* data);
  using Wake = Napi::TypedThreadSafeFunction<Addon, void, CallJs>;

  const std::unique_ptr<Backend> backend_;
  std::vector<QueueSlot> queues_;
  Napi::Reference<Napi::Float64Array> scratch_owner_;
  const double* scratch_ = nullptr;
  Napi::FunctionReference on_complete_;
  Wake wake_;
  std::mutex inbox_mutex_;
  std::vector<Completion> inbox_;
};

}  // namespace octet
