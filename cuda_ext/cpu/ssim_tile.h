// What ssim.cpp hands to the stage that is compiled once per instruction set. Plain structs, no C++ library.
#pragma once

#include "ssim.h"

namespace hr {

constexpr int kSsimMaxLanes = 16;
constexpr int kSsimWindow = 2 * HR_SSIM_RADIUS + 1;

// A piece of the result: some rows, and some of the W * D numbers of each row. scratch holds ssim_scratch(tile) floats.
struct SsimTile {
  int64_t image;
  int first_row, end_row;
  int64_t first, count;
  float* scratch;
};

// Numbers of a tile's row, up to a whole number of the longest vectors.
inline int64_t ssim_padded(int64_t count) { return (count + kSsimMaxLanes - 1) / kSsimMaxLanes * kSsimMaxLanes; }

// Four rows with their margins, four averaged rows for each row of the window, and five rows of results.
inline int64_t ssim_scratch(int64_t count, int channels) {
  const int64_t row = ssim_padded(count);
  return 4 * (row + 2 * HR_SSIM_RADIUS * static_cast<int64_t>(channels)) + 4 * kSsimWindow * row + 5 * row;
}

struct SsimStage {
  void (*forward)(const HrSsimParams&, const SsimTile&);
  void (*backward)(const HrSsimGradParams&, const SsimTile&);
};

extern const SsimStage kSsimStageBase;
#if defined(HR_WITH_AVX512)
extern const SsimStage kSsimStageAvx512;
#endif

}  // namespace hr
