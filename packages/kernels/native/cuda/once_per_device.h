// What must be done once on each device before a kernel's first launch there, as its shared-memory limit: queues of several
// devices, each on a thread of its own, come to the same kernel.
#pragma once
#include <atomic>
#include <cstdint>

namespace octet::cuda {

class OncePerDevice {
 public:
  // Calls f() unless it has succeeded for this device; false when it fails. Two threads may both call it, the first time. Devices
  // past the 64th are not remembered.
  template <class F> bool operator()(int ordinal, F&& f) {
    const uint64_t bit = ordinal >= 0 && ordinal < 64 ? uint64_t{1} << ordinal : 0;
    if ((done_.load(std::memory_order_acquire) & bit) != 0) return true;
    if (!f()) return false;
    done_.fetch_or(bit, std::memory_order_release);
    return true;
  }

 private:
  std::atomic<uint64_t> done_{0};
};

}  // namespace octet::cuda
