#include "pool.h"

#include <algorithm>
#include <system_error>

namespace octet {

Pool::Pool(int threads, int spin_micros) : spin_micros_(spin_micros) {
  try {
    helpers_.reserve(static_cast<size_t>(std::max(0, threads - 1)));
    for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { helper(i); });
  } catch (const std::system_error&) {
    // Thread limit reached: the pool works with those it has.
  }
}

Pool::~Pool() {
  quit_.store(true);
  epoch_.fetch_add(1);
  unpark_all(epoch_);
  for (auto& t : helpers_) t.join();
}

void Pool::work(int thread) {
  const Job& job = job_;
  while (!job.stop->load(std::memory_order_relaxed)) {
    const int64_t begin = next_.fetch_add(job.grain, std::memory_order_relaxed);
    if (begin >= job.n) return;
    job.body(job.user, begin, std::min(begin + job.grain, job.n), thread);
  }
}

void Pool::run(int64_t n, int64_t grain, Body body, void* user, const std::atomic<bool>& stop) {
  grain = std::max<int64_t>(grain, 1);
  job_ = {n, grain, body, user, &stop};
  next_.store(0, std::memory_order_relaxed);
  if (n <= grain || helpers_.empty()) {
    work(0);
    return;
  }
  state_.store(kOpen, std::memory_order_release);
  epoch_.fetch_add(1);
  if (parked_.load() > 0) unpark_all(epoch_);

  work(0);

  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto alone = [this] { return state_.load(std::memory_order_acquire) == 0; };
  if (spin_until(alone, spin_micros_)) return;
  caller_parked_.store(true);
  for (;;) {
    const uint32_t seen = left_.load();
    if (alone()) break;
    park(left_, seen);
  }
  caller_parked_.store(false);
}

void Pool::helper(int thread) {
  uint32_t seen = 0;
  for (;;) {
    const auto called = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
    if (!spin_until(called, spin_micros_)) {
      parked_.fetch_add(1);
      while (epoch_.load() == seen) park(epoch_, seen);
      parked_.fetch_sub(1);
    }
    // In this order: an epoch that counts the destructor's call is seen together with quit_.
    seen = epoch_.load();
    if (quit_.load()) return;

    uint32_t state = state_.load(std::memory_order_acquire);
    while ((state & kOpen) != 0 && !state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
    }
    if ((state & kOpen) == 0) continue;
    work(thread);
    state_.fetch_sub(1, std::memory_order_acq_rel);
    left_.fetch_add(1);
    if (caller_parked_.load()) unpark_all(left_);
  }
}

}  // namespace octet
