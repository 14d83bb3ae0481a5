// Prefix sums of counts over the whole device.
//
// Three launches: sums of tiles of 2048 counts, prefix sums of those by one block, prefix sums within each tile. The counts
// are read twice and the offsets written once, 16 bytes a count: for a million 5 us at 3.3 TB/s, which is what three
// launches take anyway. (One launch with look-back would read once, and lean on how blocks are scheduled.)
#pragma once

#include "block.h"

namespace hr {

constexpr int kScanItems = 8;                          // of a thread
constexpr int64_t kScanTile = kScanItems * kThreads;   // of a block

struct ScanScratch {
  int64_t* tile_sums;
};

inline ScanScratch lay_out_scan(int64_t count, Workspace& workspace) {
  return {workspace.take<int64_t>(divide_up(count, kScanTile))};
}

namespace {

__global__ void __launch_bounds__(kThreads) sum_tiles(const uint32_t* counts, int64_t count, int64_t* tile_sums) {
  __shared__ int64_t warp_sums[kThreads / kWarp];
  const int64_t first = blockIdx.x * kScanTile;
  int64_t sum = 0, total;
  for (int k = 0; k < kScanItems; ++k) {
    const int64_t i = first + k * kThreads + threadIdx.x;
    if (i < count) sum += counts[i];
  }
  scan_block(sum, warp_sums, &total);
  if (threadIdx.x == 0) tile_sums[blockIdx.x] = total;
}

// By one block: each sum becomes that of the tiles before it.
__global__ void __launch_bounds__(kThreads) scan_tile_sums(int64_t* tile_sums, int64_t tiles, int64_t* total) {
  __shared__ int64_t warp_sums[kThreads / kWarp];
  int64_t before = 0;
  for (int64_t first = 0; first < tiles; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    int64_t sum;
    const int64_t offset = scan_block(i < tiles ? tile_sums[i] : int64_t{0}, warp_sums, &sum);
    if (i < tiles) tile_sums[i] = before + offset;
    before += sum;
  }
  if (threadIdx.x == 0) *total = before;
}

__global__ void __launch_bounds__(kThreads) scan_tiles(const uint32_t* counts, int64_t count, const int64_t* tile_sums,
                                                       int64_t* offsets) {
  __shared__ int64_t warp_sums[kThreads / kWarp];
  const int64_t first = blockIdx.x * kScanTile + threadIdx.x * kScanItems;
  uint32_t own[kScanItems];
  int64_t sum = 0, total;
#pragma unroll
  for (int k = 0; k < kScanItems; ++k) {
    own[k] = first + k < count ? counts[first + k] : 0u;
    sum += own[k];
  }
  int64_t offset = tile_sums[blockIdx.x] + scan_block(sum, warp_sums, &total);
#pragma unroll
  for (int k = 0; k < kScanItems; ++k) {
    if (first + k < count) offsets[first + k] = offset;
    offset += own[k];
  }
}

// offsets[count + 1]: the sum of the counts before each, and of all.
inline void launch_scan(const HrCudaLaunch& launch, const ScanScratch& scratch, const uint32_t* counts, int64_t count,
                        int64_t* offsets) {
  const int64_t tiles = divide_up(count, kScanTile);
  const dim3 blocks(static_cast<unsigned>(tiles));
  if (tiles > 0) launch_blocks(launch, blocks, sum_tiles, counts, count, scratch.tile_sums);
  launch_blocks(launch, dim3(1), scan_tile_sums, scratch.tile_sums, tiles, offsets + count);
  if (tiles > 0) launch_blocks(launch, blocks, scan_tiles, counts, count, scratch.tile_sums, offsets);
}

}  // namespace
}  // namespace hr
