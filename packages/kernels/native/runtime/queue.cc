#include "queue.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace octet {

namespace {
constexpr size_t kAlign = 64;
constexpr size_t kScratchChunk = size_t{1} << 20;
constexpr int64_t kCopyGrain = int64_t{4} << 20;  // bytes a thread copies at a time
}  // namespace

ScratchArena::~ScratchArena() {
  for (const Chunk& c : chunks_) std::free(c.data);
}

void* ScratchArena::take(size_t bytes) {
  bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  if (chunks_.empty() || used_ + bytes > chunks_.back().bytes) {
    const size_t size = std::max(bytes, kScratchChunk);
    void* const data = std::aligned_alloc(kAlign, size);
    if (data == nullptr) return nullptr;
    chunks_.push_back({static_cast<uint8_t*>(data), size});
    used_ = 0;
  }
  void* const out = chunks_.back().data + used_;
  used_ += bytes;
  return out;
}

void ScratchArena::reset() {
  used_ = 0;
  if (chunks_.size() < 2) return;
  // The next op of this kind finds one chunk that holds everything.
  size_t total = 0;
  for (const Chunk& c : chunks_) {
    total += c.bytes;
    std::free(c.data);
  }
  chunks_.clear();
  if (void* const data = std::aligned_alloc(kAlign, total)) chunks_.push_back({static_cast<uint8_t*>(data), total});
}

Queue::Queue(const QueueOptions& options, CompletionSink& sink)
    : CommandQueue(sink, options.spin_micros), table_(options.table), pool_(options.threads, options.spin_micros) {
  start();
}

Queue::~Queue() { stop(); }

void Queue::execute(const Header* header) {
  switch (header->kind) {
    case Kind::op: {
      const auto* record = reinterpret_cast<const OpRecord*>(header);
      if (header->ticket == 0 && failure_.status != Status::ok) return;
      finish(header, run_op(record), record->op);
      return;
    }
    case Kind::copy_in:
    case Kind::copy_out: {
      copy(*reinterpret_cast<const CopyRecord*>(header), header->kind == Kind::copy_in);
      return;
    }
    case Kind::repack:
      repack(*reinterpret_cast<const RepackRecord*>(header));
      return;
    case Kind::record: {
      const auto* slot = reinterpret_cast<const EventRecord*>(header)->event;
      (*slot)->failure = failure_;
      (*slot)->set(Event::kDone | Event::kIssued);
      delete slot;
      return;
    }
    case Kind::wait: {
      const auto* record = reinterpret_cast<const EventRecord*>(header);
      const auto* slot = record->event;
      wait_for(**slot, Event::kDone);
      const Failure& theirs = (*slot)->failure;
      // The place is this queue's own: its reports and clears go by it.
      if (record->inherit && (*slot)->done() && theirs.status != Status::ok && failure_.status == Status::ok) {
        failure_ = {theirs.status, theirs.op, sequence()};
      }
      delete slot;
      return;
    }
    case Kind::replay: {
      const auto* slot = reinterpret_cast<const ReplayRecord*>(header)->graph;
      if (failure_.status == Status::ok) {
        int32_t op = -1;
        const Status status = replay(**slot, &op);
        finish(header, status, op);
      }
      delete slot;
      return;
    }
    case Kind::clear:
      failure_ = {};
      return;
    case Kind::mark:
      report_running(header->ticket, failure_);
      return;
    case Kind::quit:
    case Kind::next_block:
      return;
  }
}

void Queue::finish(const Header* header, Status status, int32_t op) {
  if (header->ticket != 0) {
    report_running(header->ticket, {status, op, sequence()});
  } else if (status != Status::ok) {
    failure_ = {status, op, sequence()};
  }
}

Status Queue::run_op(const OpRecord* record) {
  const OpFn fn = table_[record->op];
  if (fn == nullptr) return Status::unsupported;
  decode(record, &call_);
  const Status status = fn(call_, *this);
  scratch_.reset();
  return status;
}

Status Queue::replay(const GraphData& graph, int32_t* failed_op) {
  const uint8_t* at = graph.records.data();
  const uint8_t* const end = at + graph.records.size();
  while (at != end) {
    const auto* record = reinterpret_cast<const OpRecord*>(at);
    if (cancelled()) return Status::cancelled;
    if (const Status status = run_op(record); status != Status::ok) {
      *failed_op = record->op;
      return status;
    }
    at += record->header.bytes;
  }
  return Status::ok;
}

void Queue::copy(const CopyRecord& record, bool in) {
  uint8_t* const inline_bytes = reinterpret_cast<uint8_t*>(const_cast<CopyRecord*>(&record)) + sizeof(CopyRecord);
  uint8_t* const host = record.host != nullptr ? record.host : inline_bytes;
  if (record.row_bytes == record.stride_bytes || record.rows == 1) {
    static_cast<Context*>(this)->parallel(record.rows * record.row_bytes, kCopyGrain, [&](int64_t b, int64_t e, int) {
      const size_t n = static_cast<size_t>(e - b);
      in ? std::memcpy(record.device + b, host + b, n) : std::memcpy(host + b, record.device + b, n);
    });
  } else {
    const int64_t grain = std::max<int64_t>(1, kCopyGrain / std::max<int64_t>(record.row_bytes, 1));
    static_cast<Context*>(this)->parallel(record.rows, grain, [&](int64_t b, int64_t e, int) {
      const size_t n = static_cast<size_t>(record.row_bytes);
      for (int64_t r = b; r < e; ++r) {
        uint8_t* const d = record.device + r * record.stride_bytes;
        uint8_t* const h = host + r * record.row_bytes;
        in ? std::memcpy(d, h, n) : std::memcpy(h, d, n);
      }
    });
  }
  if (in) std::free(record.host);
}

namespace {
template <class T> void repack_rows(const RepackRecord& r, int64_t begin, int64_t end) {
  const int last = r.ndim - 1;
  const int64_t cols = r.shape[last], step = r.strides[last];
  const T* const source = reinterpret_cast<const T*>(r.source);
  T* target = reinterpret_cast<T*>(r.target) + begin * cols;
  for (int64_t row = begin; row < end; ++row) {
    int64_t rest = row, offset = 0;
    for (int d = last - 1; d >= 0; --d) {
      offset += rest % r.shape[d] * r.strides[d];
      rest /= r.shape[d];
    }
    for (int64_t c = 0; c < cols; ++c) *target++ = source[offset + c * step];
  }
}
}  // namespace

void Queue::repack(const RepackRecord& r) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < r.ndim; ++d) rows *= r.shape[d];
  const int64_t row_bytes = std::max<int64_t>(1, r.shape[r.ndim - 1] * r.item_bytes);
  static_cast<Context*>(this)->parallel(rows, std::max<int64_t>(1, (64 << 10) / row_bytes), [&](int64_t b, int64_t e, int) {
    switch (r.item_bytes) {
      case 1: return repack_rows<uint8_t>(r, b, e);
      case 2: return repack_rows<uint16_t>(r, b, e);
      case 4: return repack_rows<uint32_t>(r, b, e);
      default: return repack_rows<uint64_t>(r, b, e);
    }
  });
}

}  // namespace octet
