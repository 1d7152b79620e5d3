// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "common/plain_dispatch.h"

namespace spanbert_ext {

// Tasks 0 .. count - 1, each handed out once.
class TaskQueue {
 public:
  explicit TaskQueue(int64_t count) : count_(count) {}
  bool take(int64_t* task) {
    *task = next_.fetch_add(1, std::memory_order_relaxed);
    return *task < count_;
  }

 private:
  const int64_t count_;
  std::atomic<int64_t> next_{0};
};

// Runs worker(queue) once on every thread, at most one per task. A thread takes its next task when it is done
// with one, so a core that other programs use does less. Tasks must not share what they write. What ATen is asked in
// them goes past autograd and autocast, as in the operator: a thread of the pool does not inherit that.
//
// A single task too has two workers, one of them idle: alone it would run outside of a parallel region, where MKL shares
// a product out to all threads and its last bits depend on their number.
template <typename Worker>
void share_tasks(int64_t count, const Worker& worker) {
  TaskQueue queue(count);
  const int64_t workers = std::min<int64_t>(std::max<int64_t>(count, 2), at::get_num_threads());
  at::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    const PlainDispatch plain;
    worker(queue);
  });
}

}  // namespace spanbert_ext
