// What the queues of every backend share: the worker thread, its sleep and wake-up, cancellation, and how commands are
// decoded and reported. A backend says how one command is executed.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

#include "command.h"
#include "octet/op.h"

namespace octet {

struct Completion {
  uint64_t ticket;
  Failure failure;  // status ok: success
};

// Receives completions, on a thread of the queue.
class CompletionSink {
 public:
  virtual void post(const Completion& completion) = 0;

 protected:
  ~CompletionSink() = default;
};

class CommandQueue {
 public:
  virtual ~CommandQueue() = default;
  CommandQueue(const CommandQueue&) = delete;
  CommandQueue& operator=(const CommandQueue&) = delete;

  // JavaScript's thread. Fills a record with `write(uint8_t*)` and publishes it.
  template <class Write> void push(size_t bytes, Write&& write) {
    write(stream_.reserve(bytes));
    stream_.publish(bytes);
    if (sleeping_.load()) unpark_all(stream_.published);
  }
  uint64_t completed() const { return completed_.load(std::memory_order_acquire); }
  // Makes running and waiting commands return soon. The worker only discards from here on.
  void cancel();
  virtual int thread_count() const = 0;

 protected:
  CommandQueue(CompletionSink& sink, int spin_micros) : sink_(sink), spin_micros_(spin_micros) {}

  // The most derived constructor's last act, and its destructor's first: the worker calls virtual functions.
  void start();
  void stop();

  virtual void begin() {}  // on the worker's thread, before the first command
  virtual void execute(const Header* header) = 0;

  bool is_cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  const std::atomic<bool>& cancel_flag() const { return cancelled_; }
  // Place of the running command on this queue.
  uint64_t sequence() const { return sequence_; }
  // Counts the running command as done first, so that whoever is told finds it so.
  void report_running(uint64_t ticket, const Failure& failure);
  void post(uint64_t ticket, const Failure& failure) { sink_.post({ticket, failure}); }
  // Sleeps until one of `bits` is set or the queue is cancelled; returns the bits seen.
  uint32_t wait_for(Event& event, uint32_t bits);
  static void decode(const OpRecord* record, OpCall* call);

 private:
  void loop();
  static void discard(const Header* header, uint64_t sequence);

  CompletionSink& sink_;
  const int spin_micros_;
  CommandStream stream_;
  uint64_t sequence_ = 0;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> sleeping_{false};
  std::atomic<uint64_t> completed_{0};
  std::mutex waiting_mutex_;
  Event* waiting_on_ = nullptr;
  std::thread worker_;
};

}  // namespace octet
