// readFile: out = the bytes [offset, offset + byteLength) of an open file
// Tensors  t0 out, any dtype, contiguous
// Attrs    a0 fd, a1 offset (bytes), a2 byteLength (must equal out's size)
// Traffic  byteLength once from the page cache or disk, once to memory; pieces of 4 MiB spread over the pool
// Fails    short_read when the file ends early (it was truncated since its header was read), io_error otherwise
#include <cerrno>
#include <atomic>
#include <unistd.h>

#include "octet/op.h"

namespace octet::cpu::OCTET_LEVEL {

namespace {
constexpr int64_t kPiece = int64_t{4} << 20;

Status read_range(int fd, uint8_t* target, int64_t offset, int64_t bytes) {
  while (bytes > 0) {
    const ssize_t got = pread(fd, target, static_cast<size_t>(bytes), static_cast<off_t>(offset));
    if (got == 0) return Status::short_read;
    if (got < 0) {
      if (errno == EINTR) continue;
      return Status::io_error;
    }
    target += got;
    offset += got;
    bytes -= got;
  }
  return Status::ok;
}
}  // namespace

Status op_readFile(const OpCall& call, Context& ctx) {
  const int fd = static_cast<int>(call.i(0));
  const int64_t offset = call.i(1), bytes = call.i(2);
  uint8_t* const out = call.t[0].as<uint8_t>();
  std::atomic<Status> status{Status::ok};
  ctx.parallel(bytes, kPiece, [&](int64_t begin, int64_t end, int) {
    if (status.load(std::memory_order_relaxed) != Status::ok) return;
    const Status s = read_range(fd, out + begin, offset + begin, end - begin);
    if (s != Status::ok) status.store(s, std::memory_order_relaxed);
  });
  return ctx.cancelled() ? Status::cancelled : status.load();
}

}  // namespace octet::cpu::OCTET_LEVEL
