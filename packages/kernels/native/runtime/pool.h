// The threads that share the work of one op.
//
// A job is opened, helpers that are awake join it, chunks are claimed from one counter, and the caller closes the job
// when no chunk is left. The caller waits only for helpers that joined: one that is late (parked, or descheduled on a
// busy machine) delays nobody. Which thread runs a chunk is not fixed, so ops must not let results depend on it.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "park.h"

namespace octet {

class Pool {
 public:
  using Body = void (*)(void* user, int64_t begin, int64_t end, int thread);

  // `threads` counts the caller of run(). Starts fewer helpers if the system refuses more threads.
  Pool(int threads, int spin_micros);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // Runs body over [0, n) in chunks of `grain` and returns when all are done, or, once `stop` is set, when the claimed
  // ones are. Always from the same thread, never from inside a body.
  void run(int64_t n, int64_t grain, Body body, void* user, const std::atomic<bool>& stop);

 private:
  struct Job {
    int64_t n = 0, grain = 1;
    Body body = nullptr;
    void* user = nullptr;
    const std::atomic<bool>* stop = nullptr;
  };

  void helper(int thread);
  void work(int thread);

  // state_: bit 31 = a job is open, the rest = helpers inside it. Job fields are written only while it is 0.
  static constexpr uint32_t kOpen = 1u << 31;

  const int spin_micros_;
  Job job_;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> state_{0};
  alignas(64) Word epoch_{0};  // one more for each job; helpers park on it
  std::atomic<uint32_t> parked_{0};
  alignas(64) Word left_{0};  // one more for each helper that leaves; the caller parks on it
  std::atomic<bool> caller_parked_{false};
  std::atomic<bool> quit_{false};
  std::vector<std::thread> helpers_;
};

}  // namespace octet
