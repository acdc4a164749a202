#include "command_queue.h"

#include <algorithm>
#include <cstdlib>

namespace octet {

void CommandQueue::start() {
  worker_ = std::thread([this] {
    begin();
    loop();
  });
}

void CommandQueue::stop() {
  cancel();
  push(sizeof(Header), [](uint8_t* p) { *reinterpret_cast<Header*>(p) = {Kind::quit, sizeof(Header), 0}; });
  worker_.join();
}

void CommandQueue::loop() {
  uint32_t taken = 0;
  for (;;) {
    const auto ready = [&] { return stream_.published.load(std::memory_order_acquire) != taken; };
    if (!spin_until(ready, spin_micros_)) {
      sleeping_.store(true);
      while (stream_.published.load() == taken) park(stream_.published, taken);
      sleeping_.store(false);
    }
    const Header* const header = stream_.front();
    const bool quit = header->kind == Kind::quit;
    if (is_cancelled()) {
      discard(header, sequence_);
    } else {
      execute(header);
    }
    stream_.pop(header);
    ++taken;
    ++sequence_;
    completed_.store(sequence_, std::memory_order_release);
    if (quit) return;
  }
}

void CommandQueue::cancel() {
  cancelled_.store(true);
  const std::lock_guard lock(waiting_mutex_);
  if (waiting_on_ != nullptr) waiting_on_->set(Event::kPoked);
}

uint32_t CommandQueue::wait_for(Event& event, uint32_t bits) {
  {
    const std::lock_guard lock(waiting_mutex_);
    waiting_on_ = &event;
  }
  uint32_t seen;
  while (((seen = event.word.load()) & bits) == 0 && !cancelled_.load()) park(event.word, seen);
  const std::lock_guard lock(waiting_mutex_);
  waiting_on_ = nullptr;
  return seen;
}

void CommandQueue::report_running(uint64_t ticket, const Failure& failure) {
  completed_.store(sequence_ + 1, std::memory_order_release);
  sink_.post({ticket, failure});
}

void CommandQueue::decode(const OpRecord* record, OpCall* call) {
  const auto* tensors = reinterpret_cast<const TensorArg*>(record + 1);
  const auto* attrs = reinterpret_cast<const double*>(tensors + record->tensor_count);
  for (int i = record->tensor_count; i < call->tensor_count; ++i) call->t[i] = {};
  call->op = record->op;
  call->tensor_count = record->tensor_count;
  call->attr_count = record->attr_count;
  std::copy_n(tensors, record->tensor_count, call->t);
  std::copy_n(attrs, record->attr_count, call->attr);
  std::fill(call->attr + record->attr_count, call->attr + kMaxAttrs, 0.0);
}

// Frees what a command owns and releases who waits for it; nothing runs.
void CommandQueue::discard(const Header* header, uint64_t sequence) {
  switch (header->kind) {
    case Kind::copy_in:
      std::free(reinterpret_cast<const CopyRecord*>(header)->host);
      return;
    case Kind::record: {
      const auto* slot = reinterpret_cast<const EventRecord*>(header)->event;
      (*slot)->failure = {Status::cancelled, -1, sequence};
      (*slot)->set(Event::kDone | Event::kIssued);
      delete slot;
      return;
    }
    case Kind::wait:
      delete reinterpret_cast<const EventRecord*>(header)->event;
      return;
    case Kind::replay:
      delete reinterpret_cast<const ReplayRecord*>(header)->graph;
      return;
    default:
      return;
  }
}

}  // namespace octet
