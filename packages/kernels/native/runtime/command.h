// The commands that travel from JavaScript to a queue's worker, and the stream that carries them.
//
// Commands are variable-length records in a single-producer, single-consumer list of blocks: the JavaScript thread
// writes a record and publishes it with one counter; the worker reads records in order. Nothing is copied twice and
// nobody locks. A recorded graph is the same records in one contiguous buffer.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "octet/op.h"
#include "park.h"

namespace octet {

enum class Kind : uint32_t { op, copy_in, copy_out, repack, record, wait, replay, clear, mark, quit, next_block };

struct alignas(8) Header {
  Kind kind;
  uint32_t bytes;   // of the whole record, a multiple of 8
  uint64_t ticket;  // 0: a failure is the queue's; else: the outcome is reported for this ticket alone
};

// Followed by tensor_count TensorArg and attr_count double.
struct OpRecord {
  Header header;
  int32_t op, tensor_count, attr_count, reserved;
};

// Rows of a device tensor to or from host memory. copy_in owns `host` (malloc) unless it is null: then the bytes
// follow the record.
struct CopyRecord {
  Header header;
  uint8_t* device;
  uint8_t* host;
  int64_t rows, row_bytes, stride_bytes;
};

constexpr int kRepackDims = 8;
// Element strides of `source`, outermost first; `target` is contiguous.
struct RepackRecord {
  Header header;
  const uint8_t* source;
  uint8_t* target;
  int32_t item_bytes, ndim;
  int64_t shape[kRepackDims], strides[kRepackDims];
};

struct Event;
struct GraphData;
struct EventRecord {
  Header header;
  std::shared_ptr<Event>* event;  // owned
  bool inherit;                   // a wait: a failure of the other queue is this one's too
};
struct ReplayRecord {
  Header header;
  std::shared_ptr<GraphData>* graph;  // owned
};
struct NextBlockRecord {
  Header header;
  uint8_t* block;
};

struct Failure {
  Status status = Status::ok;
  int32_t op = -1;
  uint64_t sequence = 0;  // of the command on its queue
};

// A point in a queue's order, set once by the queue that reaches it. Bit 0 of `word`: reached. Bit 1: a waiter was told
// to look again (its queue is being cancelled). Bit 2: handed to the device, which other queues of it may wait for.
struct Event {
  static constexpr uint32_t kDone = 1, kPoked = 2, kIssued = 4;
  Word word{0};
  Failure failure;  // of the recording queue; read after kDone or kIssued
  std::shared_ptr<void> backend;  // the device's own event, read after kIssued; null on the CPU

  bool done() const { return (word.load(std::memory_order_acquire) & kDone) != 0; }
  void set(uint32_t bit) {
    word.fetch_or(bit);
    unpark_all(word);
  }
};

// The recorded op commands of a capture.
struct GraphData {
  std::vector<uint8_t> records;
  std::shared_ptr<void> backend;  // the device's own graph, made by the first replay on the worker's thread; null on the CPU
  uint64_t backend_queue = 0;     // the queue whose memory `backend` works in, by a number that is never used again
};

class CommandStream {
 public:
  CommandStream() { read_block_ = read_ = write_ = block_ = new uint8_t[kBlockBytes]; }
  ~CommandStream() { delete[] read_block_; }  // everything was taken: reader and writer share the last block
  CommandStream(const CommandStream&) = delete;
  CommandStream& operator=(const CommandStream&) = delete;

  // Producer. Space for one record, to be filled and then published.
  uint8_t* reserve(size_t bytes) {
    const size_t used = static_cast<size_t>(write_ - block_);
    if (used + bytes + sizeof(NextBlockRecord) > capacity_) {
      const size_t capacity = bytes + sizeof(NextBlockRecord) > kBlockBytes ? bytes + sizeof(NextBlockRecord) : kBlockBytes;
      uint8_t* const fresh = new uint8_t[capacity];
      const NextBlockRecord link{{Kind::next_block, sizeof(NextBlockRecord), 0}, fresh};
      std::memcpy(write_, &link, sizeof link);
      block_ = write_ = fresh;
      capacity_ = capacity;
    }
    return write_;
  }
  void publish(size_t bytes) {
    write_ += bytes;
    published.fetch_add(1);
  }

  // Consumer. The record after the last one taken; call only when published is ahead.
  const Header* front() {
    auto* header = reinterpret_cast<const Header*>(read_);
    if (header->kind == Kind::next_block) {
      uint8_t* const next = reinterpret_cast<const NextBlockRecord*>(header)->block;
      delete[] read_block_;
      read_block_ = read_ = next;
      header = reinterpret_cast<const Header*>(read_);
    }
    return header;
  }
  void pop(const Header* header) { read_ += header->bytes; }

  // Records ever published; the consumer parks on it.
  alignas(64) Word published{0};

 private:
  static constexpr size_t kBlockBytes = 64 << 10;

  alignas(64) uint8_t* write_;
  uint8_t* block_;
  size_t capacity_ = kBlockBytes;
  alignas(64) uint8_t* read_;
  uint8_t* read_block_;
};

}  // namespace octet
