#include "memory.h"

#include <sys/mman.h>

namespace octet {

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kHugeFrom = size_t{4} << 20;
}  // namespace

Memory::~Memory() {
  for (const auto& [block, mapping] : blocks_) munmap(mapping.base, mapping.bytes);
}

void* Memory::reserve(size_t bytes) {
  const bool huge = bytes >= kHugeFrom;
  const size_t mapped = huge ? bytes + kHugePage : bytes;
  void* const base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  uintptr_t start = reinterpret_cast<uintptr_t>(base);
  if (huge) {
    start = (start + kHugePage - 1) & ~(kHugePage - 1);
#if defined(MADV_HUGEPAGE)
    // Whole huge pages only: the tail stays on small pages, so no more memory is used than was asked for.
    madvise(reinterpret_cast<void*>(start), bytes & ~(kHugePage - 1), MADV_HUGEPAGE);
#endif
  }
  void* const block = reinterpret_cast<void*>(start);
  blocks_.emplace(block, Mapping{base, mapped});
  return block;
}

void Memory::release(void* block) {
  const auto it = blocks_.find(block);
  if (it == blocks_.end()) return;
  munmap(it->second.base, it->second.bytes);
  blocks_.erase(it);
}

}  // namespace octet
