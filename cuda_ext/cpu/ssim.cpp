// CPU structural similarity: cuts the result into tiles whose eleven averaged rows fit a core's cache, one task each. Every
// number is written by one task, so the result does not depend on the number of threads.
#include <algorithm>
#include <vector>

#include "c_api.h"
#include "ssim_tile.h"
#include "thread_pool.h"

bool hr_cpu_has_avx512();

namespace hr {
namespace {

constexpr int kTileRows = 64;         // ten more are averaged and thrown away
constexpr int64_t kTileNumbers = 192;  // four rows of eleven then fit the nearest cache (34 KB)

const SsimStage& ssim_stage(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa != HR_ISA_BASE && hr_cpu_has_avx512()) return kSsimStageAvx512;
#else
  (void)isa;
#endif
  return kSsimStageBase;
}

// Pictures of height rows with so many numbers each.
template <class Params>
void for_each_tile(const Params& p, int height, int64_t numbers, void (*run)(const Params&, const SsimTile&)) {
  const int64_t across = std::max<int64_t>(kTileNumbers, 16 * static_cast<int64_t>(p.channels));
  const int64_t columns = (numbers + across - 1) / across, rows = (height + kTileRows - 1) / kTileRows;
  parallel_for(p.batch * rows * columns, p.num_threads, [&](int64_t task) {
    thread_local std::vector<float> scratch;
    SsimTile tile;
    tile.image = task / (rows * columns);
    tile.first_row = static_cast<int>(task / columns % rows) * kTileRows;
    tile.end_row = std::min(tile.first_row + kTileRows, height);
    tile.first = task % columns * across;
    tile.count = std::min(across, numbers - tile.first);
    scratch.resize(std::max<size_t>(scratch.size(), ssim_scratch(tile.count, p.channels)));
    tile.scratch = scratch.data();
    run(p, tile);
  });
}

template <class Params>
bool sane(const Params& p) {
  const int least = p.valid ? kSsimWindow : 1;
  return p.batch >= 1 && p.height >= least && p.width >= least && p.channels >= 1 && p.num_threads >= 1 &&
         p.height <= HR_MAX_IMAGE_SIDE && p.width <= HR_MAX_IMAGE_SIDE;
}

}  // namespace
}  // namespace hr

int32_t hr_ssim_cpu(const HrSsimParams* params) {
  const HrSsimParams& p = *params;
  if (!hr::sane(p)) return HR_ERROR_ARGUMENT;
  const int cut = p.valid ? 2 * HR_SSIM_RADIUS : 0;
  return hr::guarded([&] {
    hr::for_each_tile(p, p.height - cut, static_cast<int64_t>(p.width - cut) * p.channels, hr::ssim_stage(p.isa).forward);
    return static_cast<int32_t>(HR_OK);
  });
}

int32_t hr_ssim_backward_cpu(const HrSsimGradParams* params) {
  const HrSsimGradParams& p = *params;
  if (!hr::sane(p)) return HR_ERROR_ARGUMENT;
  if (p.grad_image == nullptr && p.grad_reference == nullptr) return HR_OK;
  return hr::guarded([&] {
    hr::for_each_tile(p, p.height, static_cast<int64_t>(p.width) * p.channels, hr::ssim_stage(p.isa).backward);
    return static_cast<int32_t>(HR_OK);
  });
}
