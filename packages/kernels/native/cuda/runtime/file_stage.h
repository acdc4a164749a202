// File bytes on their way to the device: positioned reads into pinned memory by several threads, each piece on its way
// while the next is read. Reading from the page cache is a copy that one thread does at a fraction of the bus's rate.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "octet/op.h"

namespace octet::cuda {

class FileStage {
 public:
  explicit FileStage(int ordinal) : ordinal_(ordinal) {}
  ~FileStage();
  FileStage(const FileStage&) = delete;
  FileStage& operator=(const FileStage&) = delete;

  // Enqueues the bytes of fd at `offset` into `target` on `stream`. Returns when all are read; the last pieces may still
  // be on their way, in the stream's order. `cancelled` is asked between pieces.
  Status read(int fd, int64_t offset, int64_t bytes, uint8_t* target, cudaStream_t stream, const std::function<bool()>& cancelled);

 private:
  static constexpr int kLanes = 4, kBuffers = 2;
  static constexpr size_t kPiece = size_t{4} << 20;
  struct Buffer {
    uint8_t* pinned = nullptr;
    cudaEvent_t sent = nullptr;
  };

  Status open(int lanes);
  Status lane(int which, int lanes, int fd, int64_t offset, int64_t bytes, uint8_t* target, cudaStream_t stream, const std::function<bool()>& cancelled);

  const int ordinal_;
  Buffer buffers_[kLanes][kBuffers];
};

}  // namespace octet::cuda
