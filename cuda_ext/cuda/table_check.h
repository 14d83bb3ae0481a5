// Looks through index tables on the GPU, for ops that follow them from entry to entry.
#pragma once

#include "device.h"

namespace hr {
namespace {

// bad: a word of the workspace, 0 before. Kernels that come after do nothing when it is set.
__global__ void __launch_bounds__(kThreads) check_table(const int32_t* table, int64_t count, int64_t least, int64_t end,
                                                        int32_t* bad, int32_t* fault) {
  const int64_t i = place_of_this_thread().item;
  if (i >= count || (table[i] >= least && table[i] < end)) return;
  *static_cast<volatile int32_t*>(bad) = 1;
  report_bad_index(fault);
}

inline void launch_check(const HrCudaLaunch& launch, const int32_t* table, int64_t count, int64_t least, int64_t end,
                         int32_t* bad) {
  launch_over(launch, count, 1, check_table, table, count, least, end, bad, launch.fault);
}

}  // namespace
}  // namespace hr
