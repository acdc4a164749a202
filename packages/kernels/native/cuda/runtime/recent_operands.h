// When a kernel may start before its predecessors have ended (programmatic dependent launch): a weight that one of those may still
// be writing must not be read so early. No CUDA: tests include it alone.
#pragma once
#include <array>
#include <cstdint>

#include "octet/op.h"

namespace octet::cuda {

// The bytes that the latest launches were given.
class RecentOperands {
 public:
  // Kernels that a device runs at once, at most, the next one among them: an earlier one has ended.
  static constexpr size_t kLaunches = 128;

  // Remembers the tensors of a call but for `constant`, which it only reads (-1: none).
  void add(const OpCall& call, int constant) {
    Launch& launch = next();
    for (int i = 0; i < call.tensor_count; ++i) {
      if (i != constant && call.t[i]) launch.ranges[launch.count++] = range_of(call.t[i]);
    }
  }
  void add(const void* data, size_t bytes) {
    Launch& launch = next();
    const auto begin = reinterpret_cast<uintptr_t>(data);
    launch.ranges[launch.count++] = {begin, begin + bytes};
  }
  // The call added last came to no launch: it takes nobody's place.
  void drop() {
    next_ = (next_ + kLaunches - 1) % kLaunches;
    launches_[next_].count = 0;
  }
  // Whether a byte of the tensor, or between its rows, is among them.
  bool hold(const TensorArg& t) const {
    const Range r = range_of(t);
    for (const Launch& launch : launches_) {
      for (int i = 0; i < launch.count; ++i) {
        if (r.begin < launch.ranges[i].end && launch.ranges[i].begin < r.end) return true;
      }
    }
    return false;
  }
  void clear() {
    for (Launch& launch : launches_) launch.count = 0;
  }

 private:
  struct Range {
    uintptr_t begin, end;
  };
  struct Launch {
    int count = 0;
    Range ranges[kMaxTensors];
  };
  Launch& next() {
    Launch& launch = launches_[next_];
    next_ = (next_ + 1) % kLaunches;
    launch.count = 0;
    return launch;
  }
  static Range range_of(const TensorArg& t) {
    constexpr int kBytes[] = {4, 2, 2, 1, 1, 4, 1, 8, 8, 1};  // by dtype
    const auto begin = reinterpret_cast<uintptr_t>(t.data);
    const int64_t rows = t.rows(), elements = rows == 0 ? 0 : (rows - 1) * (t.ndim > 1 ? t.row_stride : 0) + t.cols();
    return {begin, begin + static_cast<uintptr_t>(elements) * kBytes[static_cast<int>(t.dtype)]};
  }

  std::array<Launch, kLaunches> launches_{};
  size_t next_ = 0;
};

// What an op does with its weight, t1.
enum class Weight { none, read, read_early };

// Decides it for each launch of a queue.
class OverlapGuard {
 public:
  // Before a call's kernels are launched.
  void enter(const OpCall& call, Weight weight) {
    early_write_ = weight == Weight::read_early && recent_.hold(call.t[1]);
    recent_.add(call, weight == Weight::none ? -1 : 1);
  }
  // The call entered last launched nothing.
  void skip() { recent_.drop(); }
  // A kernel beside the ops writes here.
  void write(const void* data, size_t bytes) { recent_.add(data, bytes); }
  // A graph was launched, or a capture begins: what went before is not among the operands, so the next kernel waits for it to end.
  void restart() {
    recent_.clear();
    alone_ = true;
  }
  // Asked once for each kernel that would start early.
  bool overlaps() {
    const bool first = alone_;
    alone_ = false;
    return !first && !early_write_;
  }

 private:
  RecentOperands recent_;
  bool early_write_ = false, alone_ = false;
};

}  // namespace octet::cuda
