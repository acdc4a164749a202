// One ordered queue of a CPU device: a worker thread that runs commands one after another, spreading each op over its
// own pool. The JavaScript thread only appends to the stream; it never waits for the worker.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

#include "command.h"
#include "octet/op.h"
#include "pool.h"

namespace octet {

struct Completion {
  uint64_t ticket;
  Failure failure;  // status ok: success
};

// Receives completions, on the worker's thread.
class CompletionSink {
 public:
  virtual void post(const Completion& completion) = 0;

 protected:
  ~CompletionSink() = default;
};

struct QueueOptions {
  const OpFn* table;
  int threads;
  int spin_micros;
};

// Memory that lives until the running op returns. Grows to the largest op and then stays.
class ScratchArena {
 public:
  ~ScratchArena();
  void* take(size_t bytes);
  void reset();

 private:
  struct Chunk {
    uint8_t* data;
    size_t bytes;
  };
  std::vector<Chunk> chunks_;
  size_t used_ = 0;  // of the last chunk
};

class Queue final : Context {
 public:
  Queue(const QueueOptions& options, CompletionSink& sink);
  // Cancels what runs, forgets what waits, joins the threads.
  ~Queue();

  // JavaScript's thread. Fills a record with `write(uint8_t*)` and publishes it.
  template <class Write> void push(size_t bytes, Write&& write) {
    write(stream_.reserve(bytes));
    stream_.publish(bytes);
    if (sleeping_.load()) unpark_all(stream_.published);
  }
  uint64_t completed() const { return completed_.load(std::memory_order_acquire); }
  int thread_count() const { return pool_.threads(); }
  // Makes running and waiting commands return soon. The worker only discards from here on.
  void cancel();

 private:
  int threads() const override { return pool_.threads(); }
  void parallel_for(int64_t n, int64_t grain, void (*body)(void*, int64_t, int64_t, int), void* user) override {
    pool_.run(n, grain, body, user, cancelled_);
  }
  void* scratch(size_t bytes) override { return scratch_.take(bytes); }
  bool cancelled() const override { return cancelled_.load(std::memory_order_relaxed); }

  void loop();
  void execute(const Header* header);
  void discard(const Header* header);
  Status run_op(const OpRecord* record);
  Status replay(const GraphData& graph, int32_t* failed_op);
  void copy(const CopyRecord& record, bool in);
  void repack(const RepackRecord& record);
  void wait(const std::shared_ptr<Event>& event);
  void report(uint64_t ticket, const Failure& failure);
  void finish(const Header* header, Status status, int32_t op);

  const OpFn* const table_;
  CompletionSink& sink_;
  CommandStream stream_;
  Pool pool_;
  ScratchArena scratch_;
  OpCall call_;          // decoded arguments of the running op
  Failure failure_;      // the first unreported one; ops are skipped while it stands
  uint64_t sequence_ = 0;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> sleeping_{false};
  std::atomic<uint64_t> completed_{0};
  std::mutex waiting_mutex_;
  Event* waiting_on_ = nullptr;
  std::thread worker_;
};

}  // namespace octet
