// What the latest launches were given, for kernels that read an operand before their predecessors have ended: a weight that one
// of those may still be writing must not be read so early.
#pragma once
#include <array>
#include <cstdint>

#include "octet/op.h"

namespace octet::cuda {

class RecentOperands {
 public:
  // Remembers the tensors of a call but for `constant`, which it only reads (-1: none).
  void add(const OpCall& call, int constant) {
    for (int i = 0; i < call.tensor_count; ++i) {
      if (i == constant || !call.t[i]) continue;
      add(range_of(call.t[i]));
    }
  }
  void add(const void* data, size_t bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    add(Range{begin, begin + bytes});
  }
  bool hold(const TensorArg& t) const {
    const Range r = range_of(t);
    for (const Range& other : ranges_) {
      if (r.begin < other.end && other.begin < r.end) return true;
    }
    return false;
  }

 private:
  struct Range {
    uintptr_t begin = 0, end = 0;
  };
  void add(Range range) {
    ranges_[next_] = range;
    next_ = (next_ + 1) % ranges_.size();
  }
  static Range range_of(const TensorArg& t) {
    constexpr int kBytes[] = {4, 2, 2, 1, 1, 4, 1, 8, 8, 1};  // by dtype
    const auto begin = reinterpret_cast<uintptr_t>(t.data);
    const int64_t rows = t.rows(), elements = rows == 0 ? 0 : (rows - 1) * (t.ndim > 1 ? t.row_stride : 0) + t.cols();
    return {begin, begin + static_cast<uintptr_t>(elements) * kBytes[static_cast<int>(t.dtype)]};
  }

  // More calls than a device keeps waiting at once, with eight tensors each.
  std::array<Range, 1024> ranges_{};
  size_t next_ = 0;
};

}  // namespace octet::cuda
