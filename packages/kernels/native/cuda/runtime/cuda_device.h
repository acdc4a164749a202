// What a CUDA device is to the runtime: found without a toolkit, opened once per environment, its op variants by name.
#pragma once
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

// `octet verify` forces each variant by name: process-wide, '' lets the table choose. Set while nothing is enqueued.
void force_variant(int op, const std::string& variant);
const std::string& forced_variant(int op);
// The variant that ran last, '' before the first.
void note_variant(int op, const char* variant);
const char* last_variant(int op);

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

 private:
  DeviceInfo info_{};
  CublasLt* cublaslt_ = nullptr;
};

}  // namespace octet::cuda
