#include "trigrid_scatter.h"

#include <algorithm>
#include <cstring>

#include "huge_pages.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kSlotsPerRun = 4096;
constexpr int64_t kBytesPerBin = 256 * 1024;  // a bin's rows stay in a core's second cache
constexpr int64_t kFloatsPerTask = 1 << 18;

}  // namespace

GridScatter::GridScatter(const HrTrigrid& field, float* grad_grid, int num_threads, const TrigridKernels& kernels)
    : field_(field), grad_grid_(grad_grid), num_threads_(num_threads), kernels_(kernels) {
  const int64_t bytes = int64_t{field.depth} * field.width * field.channels * 4;
  rows_per_bin_ = static_cast<int>(std::clamp<int64_t>(kBytesPerBin / bytes, 1, field.height));
  bins_per_plane_ = (field.height + rows_per_bin_ - 1) / rows_per_bin_;
  bins_ = field.charts * 3 * bins_per_plane_;
  const int64_t floats = field.batch * field.charts * 3 * (bytes / 4) * field.height;
  expect_writes(grad_grid, floats * 4);
  parallel_for((floats + kFloatsPerTask - 1) / kFloatsPerTask, num_threads, [&](int64_t task) {
    const int64_t first = task * kFloatsPerTask;
    std::memset(grad_grid + first, 0, std::min(kFloatsPerTask, floats - first) * sizeof(float));
  });
}

void GridScatter::add(int64_t image, const Place* places, const float* gradients, int64_t slots) {
  const int64_t runs = (slots + kSlotsPerRun - 1) / kSlotsPerRun;
  const int charts = field_.charts, planes = charts * 3;
  found_.resize(slots * planes);
  next_.assign(runs * bins_, 0);
  parallel_for(runs, num_threads_, [&](int64_t run) {
    const int64_t first = run * kSlotsPerRun;
    const int n = static_cast<int>(std::min(kSlotsPerRun, slots - first));
    uint32_t* count = next_.data() + run * bins_;
    for (int plane = 0; plane < planes; ++plane) {
      int32_t* found = found_.data() + plane * slots + first;
      kernels_.find_bins(field_, plane % 3, rows_per_bin_, places + first * charts + plane / 3, n, found);
      for (int i = 0; i < n; ++i) {
        if (found[i] >= 0) ++count[plane * bins_per_plane_ + found[i]];
      }
    }
  });
  begin_.resize(bins_ + 1);
  uint32_t total = 0;
  for (int bin = 0; bin < bins_; ++bin) {
    begin_[bin] = total;
    for (int64_t run = 0; run < runs; ++run) {
      const uint32_t count = next_[run * bins_ + bin];
      next_[run * bins_ + bin] = total;
      total += count;
    }
  }
  begin_[bins_] = total;
  if (sorted_.size() < total) sorted_.resize(total);
  parallel_for(runs, num_threads_, [&](int64_t run) {
    uint32_t* at = next_.data() + run * bins_;
    const int64_t end = std::min((run + 1) * kSlotsPerRun, slots);
    for (int plane = 0; plane < planes; ++plane) {
      for (int64_t slot = run * kSlotsPerRun; slot < end; ++slot) {
        const int32_t bin = found_[plane * slots + slot];
        if (bin >= 0) sorted_[at[plane * bins_per_plane_ + bin]++] = static_cast<uint32_t>(slot);
      }
    }
  });
  const int64_t plane_floats = int64_t{field_.depth} * field_.height * field_.width * field_.channels;
  for (int parity = 0; parity < 2; ++parity) {
    const int half = (bins_per_plane_ + 1 - parity) / 2;
    parallel_for(int64_t{charts} * 3 * half, num_threads_, [&](int64_t task) {
      const int plane = static_cast<int>(task / half), bin = plane * bins_per_plane_ + static_cast<int>(task % half) * 2 + parity;
      PlaneSums p;
      p.cells = grad_grid_ + (image * charts * 3 + plane) * plane_floats;
      p.places = places;
      p.gradients = gradients;
      p.slots = sorted_.data() + begin_[bin];
      p.count = begin_[bin + 1] - begin_[bin];
      p.charts = charts;
      p.chart = plane / 3;
      std::copy(field_.axes + 3 * (plane % 3), field_.axes + 3 * (plane % 3) + 3, p.axes);
      p.depth = field_.depth;
      p.height = field_.height;
      p.width = field_.width;
      p.channels = field_.channels;
      if (p.count > 0) kernels_.scatter(p);
    });
  }
}

}  // namespace hr
