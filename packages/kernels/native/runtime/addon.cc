#include "addon.h"

#include <cstdlib>
#include <cstring>
#include <string>

namespace octet {

namespace {

// FNV-1a of the revision and the names, each followed by a comma; src/op-table.ts computes the same.
uint32_t op_table_hash() {
  uint32_t h = 2166136261u;
  const auto mix = [&h](const char* text) {
    for (const char* c = text; *c != 0; ++c) h = (h ^ static_cast<uint8_t>(*c)) * 16777619u;
    h = (h ^ static_cast<uint8_t>(',')) * 16777619u;
  };
  mix(std::to_string(kAbiRevision).c_str());
  for (const char* name : kOpNames) mix(name);
  return h;
}

double number(const Napi::Value& v) { return v.As<Napi::Number>().DoubleValue(); }
int64_t integer(const Napi::Value& v) { return static_cast<int64_t>(number(v)); }
uint64_t ticket(const Napi::Value& v) { return static_cast<uint64_t>(number(v)); }
uint8_t* address(double v) { return reinterpret_cast<uint8_t*>(static_cast<uintptr_t>(v)); }
uint8_t* address(const Napi::Value& v) { return address(number(v)); }

template <class T> Napi::Value share(Napi::Env env, std::shared_ptr<T> value) {
  return Napi::External<std::shared_ptr<T>>::New(env, new std::shared_ptr<T>(std::move(value)),
                                                 [](Napi::Env, std::shared_ptr<T>* p) { delete p; });
}
template <class T> const std::shared_ptr<T>& shared(const Napi::Value& v) {
  return *v.As<Napi::External<std::shared_ptr<T>>>().Data();
}

template <class Record> void push_record(CommandQueue* queue, const Record& record) {
  queue->push(sizeof(Record), [&](uint8_t* p) { std::memcpy(p, &record, sizeof record); });
}

constexpr size_t kInlineCopy = 1024;
constexpr const char* kGone = "the queue was destroyed";

}  // namespace

Addon::Addon(Napi::Env env, Napi::Object exports) : backend_(make_backend()) {
  DefineAddon(exports, {
    InstanceMethod<&Addon::Describe>("describe"),
    InstanceMethod<&Addon::SetScratch>("setScratch"),
    InstanceMethod<&Addon::OnComplete>("onComplete"),
    InstanceMethod<&Addon::Ref>("ref"),
    InstanceMethod<&Addon::Unref>("unref"),
    InstanceMethod<&Addon::CreateQueue>("createQueue"),
    InstanceMethod<&Addon::DestroyQueue>("destroyQueue"),
    InstanceMethod<&Addon::Completed>("completed"),
    InstanceMethod<&Addon::Mark>("mark"),
    InstanceMethod<&Addon::ClearFailure>("clearFailure"),
    InstanceMethod<&Addon::Record>("record"),
    InstanceMethod<&Addon::Wait>("wait"),
    InstanceMethod<&Addon::EventDone>("eventDone"),
    InstanceMethod<&Addon::CopyIn>("copyIn"),
    InstanceMethod<&Addon::CopyOut>("copyOut"),
    InstanceMethod<&Addon::Repack>("repack"),
    InstanceMethod<&Addon::BeginCapture>("beginCapture"),
    InstanceMethod<&Addon::EndCapture>("endCapture"),
    InstanceMethod<&Addon::Replay>("replay"),
    InstanceMethod<&Addon::ReleaseGraph>("releaseGraph"),
    InstanceMethod<&Addon::Reserve>("reserve"),
    InstanceMethod<&Addon::Release>("release"),
  });
  napi_value enqueue;
  if (napi_create_function(env, "enqueue", NAPI_AUTO_LENGTH, Enqueue, this, &enqueue) == napi_ok) exports.Set("enqueue", enqueue);

  backend_->extend(env, exports);

  wake_ = Wake::New(env, "octet", 0, 1, this);
  wake_.Unref(env);
  // After the thread-safe function, so that it runs before that one is torn down.
  env.AddCleanupHook([](Addon* self) { self->shutdown(); }, this);
}

void Addon::shutdown() {
  for (auto& s : queues_) {
    if (s.queue) s.queue->cancel();
  }
  queues_.clear();
}

// ---- completions ----

void Addon::post(const Completion& completion) {
  bool first;
  {
    const std::lock_guard lock(inbox_mutex_);
    inbox_.push_back(completion);
    first = inbox_.size() == 1;
  }
  if (first) wake_.NonBlockingCall();
}

void Addon::CallJs(Napi::Env env, Napi::Function, Addon* self, void*) {
  if (env != nullptr) self->drain(env);
}

void Addon::drain(Napi::Env env) {
  std::vector<Completion> batch;
  {
    const std::lock_guard lock(inbox_mutex_);
    batch.swap(inbox_);
  }
  if (batch.empty() || on_complete_.IsEmpty()) return;
  const Napi::HandleScope scope(env);
  // Not by Napi's wrappers: a thread that is being terminated runs no JavaScript any more and refuses each of these calls, over
  // which they would end the process. Nobody waits for the completions then.
  double* v = nullptr;
  napi_value buffer, values, self;
  const size_t count = batch.size() * 4;
  if (napi_create_arraybuffer(env, count * sizeof(double), reinterpret_cast<void**>(&v), &buffer) != napi_ok ||
      napi_create_typedarray(env, napi_float64_array, count, buffer, 0, &values) != napi_ok || napi_get_undefined(env, &self) != napi_ok) {
    return;
  }
  for (const Completion& c : batch) {
    *v++ = static_cast<double>(c.ticket);
    *v++ = static_cast<double>(c.failure.status);
    *v++ = c.failure.op;
    *v++ = static_cast<double>(c.failure.sequence);
  }
  napi_call_function(env, self, on_complete_.Value(), 1, &values, nullptr);
}

void Addon::OnComplete(const Napi::CallbackInfo& info) { on_complete_ = Napi::Persistent(info[0].As<Napi::Function>()); }
void Addon::Ref(const Napi::CallbackInfo& info) { wake_.Ref(info.Env()); }
void Addon::Unref(const Napi::CallbackInfo& info) { wake_.Unref(info.Env()); }

// ---- the op path ----

void Addon::SetScratch(const Napi::CallbackInfo& info) {
  auto array = info[0].As<Napi::Float64Array>();
  if (array.ElementLength() < static_cast<size_t>(kScratchLength)) {
    Napi::RangeError::New(info.Env(), "scratch too short").ThrowAsJavaScriptException();
    return;
  }
  scratch_owner_ = Napi::Persistent(array);
  scratch_ = array.Data();
}

void Addon::EncodeOp(uint8_t* target, size_t bytes, uint64_t ticket) const {
  const double* in = scratch_;
  auto* record = reinterpret_cast<OpRecord*>(target);
  *record = {{Kind::op, static_cast<uint32_t>(bytes), ticket}, static_cast<int32_t>(in[0]), static_cast<int32_t>(in[1]),
             static_cast<int32_t>(in[2]), 0};
  in += kScratchHeader;
  auto* tensor = reinterpret_cast<TensorArg*>(record + 1);
  for (int i = 0; i < record->tensor_count; ++i, ++tensor, in += kScratchTensor) {
    tensor->data = address(in[0]);
    tensor->dtype = static_cast<DType>(static_cast<int32_t>(in[1]));
    tensor->ndim = static_cast<int32_t>(in[2]);
    for (int d = 0; d < kMaxDims; ++d) tensor->shape[d] = static_cast<int64_t>(in[3 + d]);
    tensor->row_stride = static_cast<int64_t>(in[8]);
  }
  std::memcpy(static_cast<void*>(tensor), in, sizeof(double) * static_cast<size_t>(record->attr_count));
}

napi_value Addon::Enqueue(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t argc = 2;
  void* data = nullptr;
  uint32_t id = 0;
  double ticket = 0;
  napi_get_cb_info(env, info, &argc, argv, nullptr, &data);
  napi_get_value_uint32(env, argv[0], &id);
  napi_get_value_double(env, argv[1], &ticket);
  auto* self = static_cast<Addon*>(data);
  QueueSlot& slot = self->queues_[id];
  const size_t bytes = sizeof(OpRecord) + sizeof(TensorArg) * static_cast<size_t>(self->scratch_[1]) +
                       sizeof(double) * static_cast<size_t>(self->scratch_[2]);
  if (slot.capture) {
    auto& records = slot.capture->records;
    const size_t at = records.size();
    records.resize(at + bytes);
    self->EncodeOp(records.data() + at, bytes, 0);
  } else if (slot.queue == nullptr) {
    napi_throw_error(env, nullptr, kGone);
  } else {
    slot.queue->push(bytes, [&](uint8_t* p) { self->EncodeOp(p, bytes, static_cast<uint64_t>(ticket)); });
  }
  return nullptr;
}

// ---- queues ----

CommandQueue* Addon::queue(const Napi::CallbackInfo& info) {
  CommandQueue* const q = slot(info[0]).queue.get();
  if (q == nullptr) Napi::Error::New(info.Env(), kGone).ThrowAsJavaScriptException();
  return q;
}

// describe() -> { opHash, opCount, levels: [{ name, supported, ops: boolean[] }] } and what the backend adds
Napi::Value Addon::Describe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto out = Napi::Object::New(env);
  out["opHash"] = Napi::Number::New(env, op_table_hash());
  out["opCount"] = Napi::Number::New(env, kOpCount);
  backend_->describe(env, out);
  return out;
}

// createQueue(level index, threads, spin micros) -> id, or -1 when the system starts no more threads
Napi::Value Addon::CreateQueue(const Napi::CallbackInfo& info) {
  auto queue = backend_->create_queue(static_cast<int>(integer(info[0])), static_cast<int>(integer(info[1])), static_cast<int>(integer(info[2])), *this);
  if (queue == nullptr) return Napi::Number::New(info.Env(), -1);
  queues_.push_back({std::move(queue), nullptr});
  return Napi::Number::New(info.Env(), static_cast<double>(queues_.size() - 1));
}

void Addon::DestroyQueue(const Napi::CallbackInfo& info) { slot(info[0]).queue.reset(); }

Napi::Value Addon::Completed(const Napi::CallbackInfo& info) {
  CommandQueue* const q = queue(info);
  return Napi::Number::New(info.Env(), q != nullptr ? static_cast<double>(q->completed()) : 0);
}

void Addon::Mark(const Napi::CallbackInfo& info) {
  if (CommandQueue* q = queue(info)) push_record(q, Header{Kind::mark, sizeof(Header), ticket(info[1])});
}

void Addon::ClearFailure(const Napi::CallbackInfo& info) {
  if (CommandQueue* q = queue(info)) push_record(q, Header{Kind::clear, sizeof(Header), 0});
}

Napi::Value Addon::Record(const Napi::CallbackInfo& info) {
  CommandQueue* const q = queue(info);
  if (q == nullptr) return info.Env().Undefined();
  auto event = std::make_shared<Event>();
  push_record(q, EventRecord{{Kind::record, sizeof(EventRecord), 0}, new std::shared_ptr<Event>(event), false});
  return share(info.Env(), std::move(event));
}

// wait(queue, event, inherit): `inherit` makes a failure of the event's queue this queue's too.
void Addon::Wait(const Napi::CallbackInfo& info) {
  CommandQueue* const q = queue(info);
  if (q == nullptr) return;
  push_record(q, EventRecord{{Kind::wait, sizeof(EventRecord), 0}, new std::shared_ptr<Event>(shared<Event>(info[1])),
                          info[2].As<Napi::Boolean>().Value()});
}

Napi::Value Addon::EventDone(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), shared<Event>(info[0])->done());
}

// ---- bytes ----

// copyIn(queue, address, rows, rowBytes, strideBytes, Uint8Array): the bytes are copied now and land in queue order.
// Returns false when no memory is left to hold them meanwhile.
Napi::Value Addon::CopyIn(const Napi::CallbackInfo& info) {
  CommandQueue* const q = queue(info);
  if (q == nullptr) return info.Env().Undefined();
  const auto source = info[5].As<Napi::Uint8Array>();
  const size_t n = source.ByteLength();
  CopyRecord record{{Kind::copy_in, sizeof(CopyRecord), 0}, address(info[1]), nullptr, integer(info[2]), integer(info[3]), integer(info[4])};
  if (n <= kInlineCopy) {
    const size_t bytes = sizeof(CopyRecord) + (n + 7) / 8 * 8;
    record.header.bytes = static_cast<uint32_t>(bytes);
    q->push(bytes, [&](uint8_t* p) {
      std::memcpy(p, &record, sizeof record);
      std::memcpy(p + sizeof record, source.Data(), n);
    });
    return Napi::Boolean::New(info.Env(), true);
  }
  record.host = static_cast<uint8_t*>(std::malloc(n));
  if (record.host == nullptr) return Napi::Boolean::New(info.Env(), false);
  std::memcpy(record.host, source.Data(), n);
  push_record(q, record);
  return Napi::Boolean::New(info.Env(), true);
}

// copyOut(queue, address, rows, rowBytes, strideBytes, Uint8Array): the caller keeps the array alive until a later mark.
void Addon::CopyOut(const Napi::CallbackInfo& info) {
  CommandQueue* const q = queue(info);
  if (q == nullptr) return;
  auto target = info[5].As<Napi::Uint8Array>();
  push_record(q, CopyRecord{{Kind::copy_out, sizeof(CopyRecord), 0}, address(info[1]), target.Data(),
                                               integer(info[2]), integer(info[3]), integer(info[4])});
}

// repack(queue, source address, target address, item bytes, shape, element strides)
void Addon::Repack(const Napi::CallbackInfo& info) {
  CommandQueue* const q = queue(info);
  if (q == nullptr) return;
  const auto shape = info[4].As<Napi::Array>(), strides = info[5].As<Napi::Array>();
  RepackRecord record{{Kind::repack, sizeof(RepackRecord), 0}, address(info[1]), address(info[2]),
                      static_cast<int32_t>(integer(info[3])), static_cast<int32_t>(shape.Length()), {}, {}};
  for (uint32_t d = 0; d < shape.Length(); ++d) {
    record.shape[d] = integer(shape[d]);
    record.strides[d] = integer(strides[d]);
  }
  push_record(q, record);
}

// reserve(level index, bytes) -> address, 0 when refused
Napi::Value Addon::Reserve(const Napi::CallbackInfo& info) {
  void* const block = backend_->reserve(static_cast<int>(integer(info[0])), static_cast<size_t>(number(info[1])));
  return Napi::Number::New(info.Env(), static_cast<double>(reinterpret_cast<uintptr_t>(block)));
}

void Addon::Release(const Napi::CallbackInfo& info) { backend_->release(static_cast<int>(integer(info[0])), address(info[1])); }

// ---- graphs ----

void Addon::BeginCapture(const Napi::CallbackInfo& info) { slot(info[0]).capture = std::make_shared<GraphData>(); }

Napi::Value Addon::EndCapture(const Napi::CallbackInfo& info) {
  auto graph = std::move(slot(info[0]).capture);
  graph->records.shrink_to_fit();
  return share(info.Env(), std::move(graph));
}

void Addon::Replay(const Napi::CallbackInfo& info) {
  CommandQueue* const q = queue(info);
  if (q == nullptr) return;
  push_record(q, ReplayRecord{{Kind::replay, sizeof(ReplayRecord), 0}, new std::shared_ptr<GraphData>(shared<GraphData>(info[1]))});
}

// Not when the handle is collected: that may be long after, and a device's graph holds device memory. Replays that are
// still enqueued have their own reference.
void Addon::ReleaseGraph(const Napi::CallbackInfo& info) { info[0].As<Napi::External<std::shared_ptr<GraphData>>>().Data()->reset(); }

}  // namespace octet

using OctetAddon = octet::Addon;
NODE_API_ADDON(OctetAddon)
