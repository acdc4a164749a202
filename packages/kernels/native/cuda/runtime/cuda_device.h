// What a CUDA device is to the runtime: found without a toolkit, opened once per environment, its op variants by name.
#pragma once
#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "../context.h"
#include "../cublaslt.h"

namespace octet::cuda {

struct DeviceReport {
  int ordinal;
  std::string name;
  int major, minor, sms;
  size_t total_bytes;
};

// The devices of this machine. Empty, with the reason in *why, where there is no driver or no device.
std::vector<DeviceReport> list_devices(std::string* why);

int driver_version();   // e.g. 13000; 0 without a driver
int runtime_version();  // of this build

// The variants of an op by its number; rows == nullptr where CUDA has none.
OpVariants variants_of(int op);

constexpr size_t kOps = 0
#define X(name) +1
#include "octet/ops.def"
#undef X
    ;

class CudaDevice {
 public:
  // False when the ordinal does not open.
  bool open(int ordinal);
  ~CudaDevice();

  const DeviceInfo& info() const { return info_; }
  CublasLt* cublaslt() const { return cublaslt_; }

  // Zeroed device memory, 256-byte aligned; nullptr when the device is out of it.
  void* reserve(size_t bytes) const;
  void release(void* block) const;
  bool memory(size_t* free, size_t* total) const;

  // `octet verify` forces each variant by name, on this environment's device alone: '' lets the table choose. Set while
  // nothing is enqueued.
  void force_variant(int op, const std::string& variant) { forced_[static_cast<size_t>(op)] = variant; }
  const std::string& forced_variant(int op) const { return forced_[static_cast<size_t>(op)]; }
  // The variant that ran last, '' before the first.
  void note_variant(int op, const char* variant) { last_[static_cast<size_t>(op)].store(variant, std::memory_order_relaxed); }
  const char* last_variant(int op) const {
    const char* const v = last_[static_cast<size_t>(op)].load(std::memory_order_relaxed);
    return v == nullptr ? "" : v;
  }

 private:
  std::array<std::string, kOps> forced_;
  std::array<std::atomic<const char*>, kOps> last_{};
  DeviceInfo info_{};
  CublasLt* cublaslt_ = nullptr;
};

}  // namespace octet::cuda
