#include "file_stage.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <thread>

namespace octet::cuda {

namespace {
Status read_fully(int fd, int64_t offset, size_t bytes, uint8_t* out) {
  for (size_t got = 0; got < bytes;) {
    const ssize_t n = pread(fd, out + got, bytes - got, offset + static_cast<int64_t>(got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::io_error;
    if (n == 0) return Status::short_read;
    got += static_cast<size_t>(n);
  }
  return Status::ok;
}
}  // namespace

FileStage::~FileStage() {
  cudaSetDevice(ordinal_);
  for (auto& lane : buffers_) {
    for (Buffer& b : lane) {
      if (b.sent != nullptr) cudaEventDestroy(b.sent);
      if (b.pinned != nullptr) cudaFreeHost(b.pinned);
    }
  }
}

// Pinning memory takes milliseconds: once a queue, and only for as many lanes as a read was large.
Status FileStage::open(int lanes) {
  for (int l = 0; l < lanes; ++l) {
    for (Buffer& b : buffers_[l]) {
      if (b.sent == nullptr && cudaEventCreateWithFlags(&b.sent, cudaEventDisableTiming) != cudaSuccess) return Status::internal;
      if (b.pinned == nullptr && cudaMallocHost(reinterpret_cast<void**>(&b.pinned), kPiece) != cudaSuccess) {
        b.pinned = nullptr;
        cudaGetLastError();
        return Status::out_of_memory;
      }
    }
  }
  return Status::ok;
}

Status FileStage::read(int fd, int64_t offset, int64_t bytes, uint8_t* target, cudaStream_t stream, const std::function<bool()>& cancelled) {
  const int64_t pieces = (bytes + static_cast<int64_t>(kPiece) - 1) / static_cast<int64_t>(kPiece);
  const int lanes = static_cast<int>(std::min<int64_t>(pieces, kLanes));
  if (const Status status = open(lanes); status != Status::ok) return status;
  Status found[kLanes] = {};
  const auto work = [&](int l) { found[l] = lane(l, lanes, fd, offset, bytes, target, stream, cancelled); };
  std::thread others[kLanes];
  int started = 1;
  try {
    for (; started < lanes; ++started) {
      others[started] = std::thread([&, l = started] {
        cudaSetDevice(ordinal_);
        work(l);
      });
    }
  } catch (const std::system_error&) {
    // No more threads to be had: the lanes left over are read by this one.
  }
  if (lanes > 0) work(0);
  for (int l = started; l < lanes; ++l) work(l);
  for (int l = 1; l < started; ++l) others[l].join();
  if (cancelled()) return Status::cancelled;
  for (const Status status : found) {
    if (status != Status::ok) return status;
  }
  return Status::ok;
}

// Pieces which, which + lanes, … through this lane's buffers in turn.
Status FileStage::lane(int which, int lanes, int fd, int64_t offset, int64_t bytes, uint8_t* target, cudaStream_t stream, const std::function<bool()>& cancelled) {
  const int64_t step = static_cast<int64_t>(kPiece) * lanes;
  int turn = 0;
  for (int64_t at = static_cast<int64_t>(kPiece) * which; at < bytes && !cancelled(); at += step, turn ^= 1) {
    Buffer& b = buffers_[which][turn];
    if (cudaEventSynchronize(b.sent) != cudaSuccess) return Status::internal;
    const size_t want = static_cast<size_t>(std::min<int64_t>(bytes - at, static_cast<int64_t>(kPiece)));
    if (const Status status = read_fully(fd, offset + at, want, b.pinned); status != Status::ok) return status;
    if (cudaMemcpyAsync(target + at, b.pinned, want, cudaMemcpyHostToDevice, stream) != cudaSuccess || cudaEventRecord(b.sent, stream) != cudaSuccess) return Status::internal;
  }
  return Status::ok;
}

}  // namespace octet::cuda
