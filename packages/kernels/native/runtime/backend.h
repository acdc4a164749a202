// What differs between the addons: where memory comes from, what a queue is, and what describe() tells. Each addon links
// one make_backend.
#pragma once
#include <memory>

#include <napi.h>

#include "command_queue.h"

namespace octet {

constexpr const char* kOpNames[] = {
#define X(name) #name,
#include "octet/ops.def"
#undef X
};
constexpr uint32_t kOpCount = sizeof(kOpNames) / sizeof(kOpNames[0]);

// Layout of the scratch that hands an op call over: [op, tensors, attrs, tensors x (address, dtype, ndim, shape[5],
// rowStride), attrs…].
constexpr int kScratchHeader = 3, kScratchTensor = 9;
constexpr int kScratchLength = kScratchHeader + kMaxTensors * kScratchTensor + kMaxAttrs;

class Backend {
 public:
  virtual ~Backend() = default;

  // Sets `levels`: [{ name, supported, ops: boolean[], ... }]; the index of a level is the `target` of the calls below.
  virtual void describe(Napi::Env env, Napi::Object out) = 0;
  // Null when the system starts no more threads or the target does not open.
  virtual std::unique_ptr<CommandQueue> create_queue(int target, int threads, int spin_micros, CompletionSink& sink) = 0;
  // Zeroed, at least 64-byte aligned; nullptr when refused.
  virtual void* reserve(int target, size_t bytes) = 0;
  virtual void release(int target, void* block) = 0;
  // Further functions of this addon alone.
  virtual void extend(Napi::Env env, Napi::Object exports) = 0;
};

std::unique_ptr<Backend> make_backend();

}  // namespace octet
