// One ordered queue of a CUDA device: a worker thread that turns commands into launches on its own stream, and a second
// thread that waits for the points JavaScript asked about. The JavaScript thread never calls the driver for work.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "../../runtime/command_queue.h"
#include "cuda_device.h"
#include "recent_operands.h"
#include "file_stage.h"

namespace octet::cuda {

class CudaQueue final : public CommandQueue, CudaContext {
 public:
  CudaQueue(CudaDevice& device, int spin_micros, CompletionSink& sink);
  ~CudaQueue() override;

  int thread_count() const override { return 1; }

 private:
  // CudaContext
  cudaStream_t stream() const override {
    launched_ = true;
    return stream_;
  }
  const DeviceInfo& device() const override { return device_.info(); }
  void* workspace(size_t bytes) override;
  uint32_t* counters(size_t count) override;
  CublasLt* cublaslt() override { return device_.cublaslt(); }
  int32_t* fault_word() override { return faults_ + call_.op; }
  bool overlaps() override { return guard_.overlaps(); }

  // A point of the stream that somebody waits for, or bytes on their way to the host.
  struct Point {
    cudaEvent_t event;                     // null: reached already
    uint64_t ticket;                       // reported when reached, unless 0
    Failure failure;                       // found before the point
    std::shared_ptr<octet::Event> mark;    // set when reached, unless null
    uint8_t* pinned;                       // what came to the host at the point: fault words, or a small read for `host`
    uint8_t* host;
    size_t bytes;
    bool quit;
  };

  void begin() override;
  void execute(const Header* header) override;
  Status run_op(const OpRecord* record);
  Status read_file(const OpCall& call);
  Status replay(GraphData& graph, int32_t* failed_op);
  std::shared_ptr<void> build(const GraphData& graph, int32_t* failed_op, Status* status);
  void copy_in(const CopyRecord& record);
  void copy_out(const CopyRecord& record);
  Status repack(const RepackRecord& record);
  void mark(uint64_t ticket, std::shared_ptr<octet::Event> event);
  void wait(const EventRecord& record);
  void fail(Status status, int32_t op);
  // Whether the driver gave this context up: an earlier kernel faulted, and nothing runs any more. Not inside a capture.
  bool is_lost();
  // Marks the stream's end in *event; where no event is to be had it waits for that end instead, and *event is null. False on an error.
  bool record_end(cudaEvent_t* event);
  void reap();
  // Ends the reaper and gives everything back.
  void close();
  void hand_over(Point point);

  // Events and pinned blocks (a copy of the fault words, or a small read) go round: making one costs more than a launch.
  cudaEvent_t take_event();
  uint8_t* take_pinned();
  void give_back(cudaEvent_t event, uint8_t* pinned);

  static uint64_t next_id();

  CudaDevice& device_;
  const uint64_t id_ = next_id();
  std::mutex spare_mutex_;
  std::vector<cudaEvent_t> spare_events_;
  std::vector<uint8_t*> spare_pinned_;
  cudaStream_t stream_ = nullptr;
  OpCall call_;
  OverlapGuard guard_;
  mutable bool launched_ = false;          // the current op asked for the stream
  Failure failure_;
  std::atomic<bool> lost_{false};
  int32_t* faults_ = nullptr;              // one word per op, on the device
  struct Block { void* data; size_t bytes; };
  Block reserve(size_t bytes) const;
  Block workspace_{}, counters_{};
  FileStage files_;
  std::vector<void*> retired_;             // outgrown blocks that graphs may still use

  std::mutex points_mutex_;
  std::condition_variable points_ready_;
  std::deque<Point> points_;
  std::thread reaper_;
};

}  // namespace octet::cuda
