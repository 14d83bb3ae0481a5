// The parts of Gaussian splatting that are compiled once per instruction set, and what they share.
#pragma once

#include <stdint.h>

#include "splat.h"

namespace hr {

constexpr int kSplatHeader = 3;  // numbers before the tiles of a splat: see list_tiles

constexpr int64_t kGaussiansPerTask = 2048;  // also what gradients of cameras are first summed over; a multiple of 16

// Work on Gaussians first..end-1 of set b. The backward passes leave the part of the camera's gradient that these
// Gaussians give in `camera` [C,12] (rotation row by row, translation) or [C,3] (centre).
struct SplatGaussianStage {
  void (*project)(const HrSplatProjectParams& p, int64_t b, int64_t first, int64_t end);
  void (*project_backward)(const HrSplatProjectGradParams& p, int64_t b, int64_t first, int64_t end, float* camera);
  void (*harmonics)(const HrSplatHarmonicsParams& p, int64_t b, int64_t first, int64_t end);
  // Writes what splats first..end-1 of an image touch, splat after splat: for each that touches any tile its number, how many,
  // where its entries begin (`entry` for the first), and the tiles. False, and nothing beyond what p.tiles allows for, when
  // these are not as many as p.tiles says.
  bool (*list_tiles)(const HrSplatTilesParams& p, int64_t image, int64_t first, int64_t end, int32_t entry, int32_t* out);
  void (*harmonics_backward)(const HrSplatHarmonicsGradParams& p, int64_t b, int64_t first, int64_t end, float* camera);
};

extern const SplatGaussianStage kSplatGaussianStageBase;
#if defined(HR_WITH_AVX512)
extern const SplatGaussianStage kSplatGaussianStageAvx512;
#endif

// The version for an HrIsa on this CPU.
const SplatGaussianStage& splat_gaussian_stage(int32_t isa);

// --- compositing ---

constexpr int kSplatBlock = 4;                                // a block of 4 x 4 pixels fills the lanes
constexpr int kSplatMostBlocks = (HR_SPLAT_MAX_TILE / kSplatBlock) * (HR_SPLAT_MAX_TILE / kSplatBlock);
constexpr int kSplatBatch = 256;                              // splats of a tile that are worked on at a time
constexpr int kSplatSums = 8;                                 // of HrSplatSums, then |d/dx| and |d/dy|

// Values that a splat brings along: colours, then depth and normal where these are wanted.
struct SplatChannels {
  int colours, depth, normal;  // how many of each
  int count() const { return colours + depth + normal; }
};

// Floats of the row in which the backward pass of a tile leaves the sums for one splat: sums, then channels.
inline int64_t splat_record_floats(const SplatChannels& channels) { return (kSplatSums + channels.count() + 15) / 16 * 16; }

// Floats that a tile needs for scratch, aligned to 64 bytes.
int64_t splat_scratch_floats(const SplatChannels& channels);

// What a tile's backward pass fills in besides the parameters' arrays.
struct SplatTileSums {
  float* records;      // [M, splat_record_floats]
  float* backgrounds;  // [I*T, D], or null
  bool centres;        // whether |d/dx| and |d/dy| are wanted
};

// One tile, t of image i. False when an id is out of range.
struct SplatCompositeStage {
  bool (*forward)(const HrSplatCompositeParams& p, int64_t i, int64_t t, float* scratch);
  bool (*backward)(const HrSplatCompositeGradParams& p, const SplatTileSums& sums, int64_t i, int64_t t, float* scratch);
};

extern const SplatCompositeStage kSplatCompositeStageBase;
#if defined(HR_WITH_AVX512)
extern const SplatCompositeStage kSplatCompositeStageAvx512;
#endif

}  // namespace hr
