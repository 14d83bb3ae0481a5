// Sums of what points contribute to the cells of a grid, without atomics and the same bits for any number of threads.
#pragma once

#include <vector>

#include "trigrid_kernels.h"

namespace hr {

// The slots are sorted by the rows that they touch (a counting sort that keeps their order) into bins of rows, each summed
// by one thread. A bin also reaches the first row of the next, so every other bin is summed at a time.
class GridScatter {
 public:
  GridScatter(const HrTrigrid& field, float* grad_grid, int num_threads, const TrigridKernels& kernels);

  // Adds the gradients [slots,C] of points at places [slots,charts] of one image. Places of NaN do not count.
  void add(int64_t image, const Place* places, const float* gradients, int64_t slots);

 private:

  HrTrigrid field_;
  float* grad_grid_;
  int num_threads_;
  const TrigridKernels& kernels_;
  int rows_per_bin_, bins_per_plane_, bins_;
  std::vector<int32_t> found_;
  std::vector<uint32_t> next_, begin_, sorted_;
};

}  // namespace hr
