// Large blocks of host memory for the allocator in src/allocator.ts, which carves and caches them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace octet {

class Memory {
 public:
  ~Memory();
  // Zeroed, at least 64-byte aligned; nullptr when the system refuses. Blocks of 4 MiB and more are aligned to 2 MiB and
  // may be backed by huge pages.
  void* reserve(size_t bytes);
  void release(void* block);

 private:
  struct Mapping {
    void* base;
    size_t bytes;
  };
  std::unordered_map<void*, Mapping> blocks_;
};

}  // namespace octet
