// The CUDA addon: a level per device. Loads without a driver; describe() then tells why there is no device.
#include <map>

#include "../../runtime/backend.h"
#include "cuda_queue.h"
#include "read_probe.h"

namespace octet {

namespace {
using cuda::CudaDevice;
using cuda::CudaQueue;

class CudaBackend final : public Backend {
 public:
  CudaBackend() : found_(cuda::list_devices(&why_)) {}

  void describe(Napi::Env env, Napi::Object out) override {
    auto list = Napi::Array::New(env);
    for (const cuda::DeviceReport& d : found_) {
      auto row = Napi::Object::New(env);
      auto ops = Napi::Array::New(env, kOpCount);
      for (uint32_t i = 0; i < kOpCount; ++i) ops[i] = Napi::Boolean::New(env, has(i, d.major * 10 + d.minor));
      row["name"] = Napi::String::New(env, "sm_" + std::to_string(d.major * 10 + d.minor));
      row["supported"] = Napi::Boolean::New(env, cuda::built_for(OCTET_CUDA_ARCHS, d.major * 10 + d.minor));
      row["ops"] = ops;
      row["device"] = Napi::String::New(env, d.name);
      row["computeCapability"] = pair(env, d.major, d.minor);
      row["multiprocessors"] = Napi::Number::New(env, d.sms);
      row["totalBytes"] = Napi::Number::New(env, static_cast<double>(d.total_bytes));
      list[list.Length()] = row;
    }
    out["levels"] = list;
    out["reason"] = found_.empty() ? Napi::String::New(env, why_) : env.Null();
    out["driverVersion"] = Napi::Number::New(env, cuda::driver_version());
    out["runtimeVersion"] = Napi::Number::New(env, cuda::runtime_version());
    auto variants = Napi::Array::New(env, kOpCount);
    for (uint32_t i = 0; i < kOpCount; ++i) variants[i] = names(env, i);
    out["variants"] = variants;
  }

  std::unique_ptr<CommandQueue> create_queue(int target, int, int spin_micros, CompletionSink& sink) override {
    CudaDevice* const device = open(target);
    if (device == nullptr) return nullptr;
    try {
      return std::make_unique<CudaQueue>(*device, spin_micros, sink);
    } catch (const std::exception&) {
      return nullptr;
    }
  }
  void* reserve(int target, size_t bytes) override {
    CudaDevice* const device = open(target);
    return device == nullptr ? nullptr : device->reserve(bytes);
  }
  void release(int target, void* block) override {
    if (CudaDevice* const device = open(target)) device->release(block);
  }

  void extend(Napi::Env env, Napi::Object exports) override {
    // libraries(level) -> { cublasLt: { path, version } | null }
    exports["libraries"] = Napi::Function::New(env, [this](const Napi::CallbackInfo& info) -> Napi::Value {
      auto out = Napi::Object::New(info.Env());
      out["cublasLt"] = info.Env().Null();
      CudaDevice* const device = open(info[0].As<Napi::Number>().Int32Value());
      if (device != nullptr && device->cublaslt() != nullptr) {
        auto lt = Napi::Object::New(info.Env());
        lt["path"] = Napi::String::New(info.Env(), cuda::cublaslt_path(device->cublaslt()));
        lt["version"] = Napi::Number::New(info.Env(), static_cast<double>(cuda::cublaslt_version(device->cublaslt())));
        out["cublasLt"] = lt;
      }
      return out;
    }, "libraries");
    // readProbe(level, threads, bytes, repeats) -> 10^9 bytes per second; takes milliseconds, so it runs here and now
    exports["readProbe"] = Napi::Function::New(env, [this](const Napi::CallbackInfo& info) -> Napi::Value {
      CudaDevice* const device = open(info[0].As<Napi::Number>().Int32Value());
      const double rate = device == nullptr ? 0 : cuda::read_probe(device->info().ordinal, static_cast<size_t>(info[2].As<Napi::Number>().Int64Value()), info[3].As<Napi::Number>().Int32Value());
      return Napi::Number::New(info.Env(), rate);
    }, "readProbe");
    // freeBytes(level) -> bytes of device memory that nobody holds
    exports["freeBytes"] = Napi::Function::New(env, [this](const Napi::CallbackInfo& info) -> Napi::Value {
      size_t free = 0, total = 0;
      CudaDevice* const device = open(info[0].As<Napi::Number>().Int32Value());
      if (device != nullptr) device->memory(&free, &total);
      return Napi::Number::New(info.Env(), static_cast<double>(free));
    }, "freeBytes");
    // forceVariant(level, op, variant | ''): the variant of the op on this environment's queues; '' lets the table choose.
    exports["forceVariant"] = Napi::Function::New(env, [this](const Napi::CallbackInfo& info) {
      CudaDevice* const device = open(info[0].As<Napi::Number>().Int32Value());
      if (device != nullptr) device->force_variant(info[1].As<Napi::Number>().Int32Value(), info[2].As<Napi::String>().Utf8Value());
    }, "forceVariant");
    // lastVariant(level, op) -> the variant that this environment ran last, or ''
    exports["lastVariant"] = Napi::Function::New(env, [this](const Napi::CallbackInfo& info) -> Napi::Value {
      CudaDevice* const device = open(info[0].As<Napi::Number>().Int32Value());
      return Napi::String::New(info.Env(), device == nullptr ? "" : device->last_variant(info[1].As<Napi::Number>().Int32Value()));
    }, "lastVariant");
    // fitting(level, scratch) -> variants whose predicate takes the call in the scratch, in the order they are tried. A level
    // that this machine lacks stands for an sm_90 device with cuBLASLt.
    exports["fitting"] = Napi::Function::New(env, [this](const Napi::CallbackInfo& info) -> Napi::Value {
      CudaDevice* const device = open(info[0].As<Napi::Number>().Int32Value());
      const cuda::DeviceInfo hopper{0, 90, 132, 227 << 10, true};
      return fitting(info.Env(), call_of(info[1].As<Napi::Float64Array>().Data()), device == nullptr ? hopper : device->info());
    }, "fitting");
  }

 private:
  static Napi::Value pair(Napi::Env env, int a, int b) {
    auto out = Napi::Array::New(env, 2);
    out[0u] = Napi::Number::New(env, a);
    out[1u] = Napi::Number::New(env, b);
    return out;
  }
  static bool has(uint32_t op, int arch) {
    const cuda::OpVariants v = cuda::variants_of(static_cast<int>(op));
    for (int i = 0; i < v.count; ++i) {
      if (v.rows[i].archs.hold(arch)) return true;
    }
    return std::string_view(kOpNames[op]) == "readFile";
  }
  static Napi::Value names(Napi::Env env, uint32_t op) {
    const cuda::OpVariants v = cuda::variants_of(static_cast<int>(op));
    auto out = Napi::Array::New(env);
    for (int i = 0; i < v.count; ++i) out[static_cast<uint32_t>(i)] = Napi::String::New(env, v.rows[i].name);
    return out;
  }
  // The op call that src/enqueue.ts wrote into its scratch (layout in runtime/backend.h).
  static OpCall call_of(const double* in) {
    OpCall call;
    call.op = static_cast<int32_t>(in[0]);
    call.tensor_count = static_cast<int32_t>(in[1]);
    call.attr_count = static_cast<int32_t>(in[2]);
    in += kScratchHeader;
    for (int i = 0; i < call.tensor_count; ++i, in += kScratchTensor) {
      TensorArg& t = call.t[i];
      t.data = reinterpret_cast<void*>(static_cast<uintptr_t>(in[0]));
      t.dtype = static_cast<DType>(static_cast<int32_t>(in[1]));
      t.ndim = static_cast<int32_t>(in[2]);
      for (int d = 0; d < kMaxDims; ++d) t.shape[d] = static_cast<int64_t>(in[3 + d]);
      t.row_stride = static_cast<int64_t>(in[8]);
    }
    for (int i = 0; i < call.attr_count; ++i) call.attr[i] = in[i];
    return call;
  }
  static Napi::Value fitting(Napi::Env env, const OpCall& call, const cuda::DeviceInfo& device) {
    const cuda::OpVariants v = cuda::variants_of(call.op);
    auto out = Napi::Array::New(env);
    for (int i = 0; i < v.count; ++i) {
      if (cuda::takes(v.rows[i], call, device)) out[out.Length()] = Napi::String::New(env, v.rows[i].name);
    }
    return out;
  }
  CudaDevice* open(int target) {
    if (target < 0 || static_cast<size_t>(target) >= found_.size()) return nullptr;
    auto& slot = open_[target];
    if (slot == nullptr) {
      auto device = std::make_unique<CudaDevice>();
      if (!device->open(found_[static_cast<size_t>(target)].ordinal)) return nullptr;
      slot = std::move(device);
    }
    return slot.get();
  }

  std::string why_;
  const std::vector<cuda::DeviceReport> found_;
  std::map<int, std::unique_ptr<CudaDevice>> open_;
};
}  // namespace

std::unique_ptr<Backend> make_backend() { return std::make_unique<CudaBackend>(); }

}  // namespace octet
