// A small persistent thread pool. OpenMP is not used: wheels would need a libgomp beside the one inside torch, and two
// spinning runtimes fight for the same cores.
#pragma once

#include <cstdint>
#include <functional>

namespace hr {

// Run task(0) .. task(count-1) on up to num_threads threads, the caller being one of them; tasks are handed out in order.
// Calls from several threads are served one after another.
void parallel_for(int64_t count, int num_threads, const std::function<void(int64_t)>& task);

}  // namespace hr
