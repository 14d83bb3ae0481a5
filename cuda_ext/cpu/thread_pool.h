// A small persistent thread pool. OpenMP is not used: wheels would need a libgomp beside the one inside torch, and two
// spinning runtimes fight for the same cores.
#pragma once

#include <cstdint>
#include <functional>

#include "hr_common.h"

namespace hr {

// Run task(0) .. task(count-1) on up to num_threads threads, the caller being one of them; tasks are handed out in order.
// Calls from several threads are served one after another. What a task throws is thrown here, once all have stopped.
void parallel_for(int64_t count, int num_threads, const std::function<void(int64_t)>& task);

// Runs an op and turns what it throws into a status: no exception may cross the C interface.
template <class Op>
int32_t guarded(const Op& op) {
  try {
    return op();
  } catch (...) {
    return HR_ERROR_MEMORY;  // the ops throw nothing but std::bad_alloc, and std::system_error for want of a thread
  }
}

}  // namespace hr
