// One ordered queue of a CPU device: a worker thread that runs commands one after another, spreading each op over its
// own pool. The JavaScript thread only appends to the stream; it never waits for the worker.
#pragma once
#include <memory>
#include <vector>

#include "command_queue.h"
#include "pool.h"

namespace octet {

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

class Queue final : public CommandQueue, Context {
 public:
  Queue(const QueueOptions& options, CompletionSink& sink);
  // Cancels what runs, forgets what waits, joins the threads.
  ~Queue() override;

  int thread_count() const override { return pool_.threads(); }

 private:
  int threads() const override { return pool_.threads(); }
  void parallel_for(int64_t n, int64_t grain, void (*body)(void*, int64_t, int64_t, int), void* user) override {
    pool_.run(n, grain, body, user, cancel_flag());
  }
  void* scratch(size_t bytes) override { return scratch_.take(bytes); }
  bool cancelled() const override { return is_cancelled(); }

  void execute(const Header* header) override;
  Status run_op(const OpRecord* record);
  Status replay(const GraphData& graph, int32_t* failed_op);
  void copy(const CopyRecord& record, bool in);
  void repack(const RepackRecord& record);
  void finish(const Header* header, Status status, int32_t op);

  const OpFn* const table_;
  Pool pool_;
  ScratchArena scratch_;
  OpCall call_;      // decoded arguments of the running op
  Failure failure_;  // the first unreported one; ops are skipped while it stands
};

}  // namespace octet
