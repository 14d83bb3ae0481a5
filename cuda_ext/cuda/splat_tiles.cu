// CUDA Gaussian splatting, second step: for every tile the splats that touch it, front to back.
//
// Splats are sorted by depth first, all images together; then each writes down its tiles; then those pairs are sorted by
// tile, stably, so that depth stays in order within a tile. Against sorting pairs by (tile, depth) that moves the 32 bits of
// depth once per splat and not once per tile that it touches (as Faster-GS and others do).
//
// How many pairs there are only the device knows: `num_ids` is how many there is room for. The caller reads the sum of
// project's totals and gives just that, or, in a captured graph, gives as many as there ever will be. Pairs beyond it, the
// farthest, are left out and reported.
//
// Expected (H100, 200k splats, 1M pairs, 1024 tiles): 4 passes over 200k, 2 passes over 1M (20 bytes each), 18 launches of
// sorting: about 90 us, mostly latency; a captured graph saves the gaps between launches.
#include "scan.h"
#include "sort.h"
#include "splat_reach.h"

namespace hr {
namespace {

struct TileScratch {
  SortScratch by_depth, by_tile;
  Pairs splats;          // depth and number of every splat of every image
  uint32_t* counts;      // tiles of each, by depth
  int64_t* first_pairs;  // sums of those before each, and of all
  ScanScratch scan;
  uint32_t* pair_tiles;
  uint32_t* pair_splats;
};

int64_t tiles_of_image(const HrSplatTilesParams& p) {
  return divide_up(p.height, p.tile_size) * divide_up(p.width, p.tile_size);
}

int32_t check(const HrSplatTilesParams& p) {
  bool sane = p.images >= 0 && p.num_gaussians >= 0 && p.num_ids >= 0 && p.num_ids < INT32_MAX && p.height >= 0 && p.width >= 0 &&
              p.height <= HR_SPLAT_MAX_SIDE && p.width <= HR_SPLAT_MAX_SIDE && p.tile_size >= 4 && p.tile_size % 4 == 0 &&
              p.tile_size <= HR_SPLAT_MAX_TILE && p.images < INT32_MAX && p.num_gaussians < INT32_MAX;
  sane = sane && p.images * p.num_gaussians < INT32_MAX && p.images * tiles_of_image(p) < INT32_MAX;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

TileScratch lay_out_splat_tiles(const HrSplatTilesParams& p, const HrCudaLaunch&, Workspace& workspace) {
  const int64_t splats = p.images * p.num_gaussians;
  TileScratch scratch;
  scratch.by_depth = lay_out_sort(splats, workspace);
  scratch.splats = {workspace.take<uint32_t>(splats), workspace.take<uint32_t>(splats)};
  scratch.counts = workspace.take<uint32_t>(splats);
  scratch.first_pairs = workspace.take<int64_t>(splats + 1);
  scratch.scan = lay_out_scan(splats, workspace);
  scratch.by_tile = lay_out_sort(p.num_ids, workspace);
  scratch.pair_tiles = workspace.take<uint32_t>(p.num_ids);
  scratch.pair_splats = workspace.take<uint32_t>(p.num_ids);
  return scratch;
}

// Depths in the order of unsigned integers; what is not drawn comes last.
__global__ void __launch_bounds__(kThreads) write_depths(HrSplatTilesParams p, Pairs splats) {
  const int64_t i = place_of_this_thread().item;
  if (i >= p.images * p.num_gaussians) return;
  const uint32_t bits = __float_as_uint(p.splats[HR_SPLAT_FIELDS * i + HR_SPLAT_DEPTH]);
  const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  splats.keys[i] = p.tiles[i] > 0 ? ordered : 0xffffffffu;
  splats.values[i] = static_cast<uint32_t>(i);
}

__global__ void __launch_bounds__(kThreads) gather_counts(HrSplatTilesParams p, const uint32_t* order, uint32_t* counts) {
  const int64_t i = place_of_this_thread().item;
  if (i >= p.images * p.num_gaussians) return;
  const int32_t tiles = p.tiles[order[i]];
  counts[i] = tiles > 0 ? static_cast<uint32_t>(tiles) : 0u;
}

// Writes pairs from `at` on, up to `end`, and no more than there is room for.
struct PairWriter {
  uint32_t *tiles, *splats;
  int64_t room;
};

__device__ __forceinline__ void write_row(const PairWriter& out, const HrSplatRange& span, uint32_t first_tile, uint32_t splat,
                                          int64_t at, int64_t end) {
  for (int32_t column = span.first; column < span.end && at < end && at < out.room; ++column, ++at) {
    out.tiles[at] = first_tile + static_cast<uint32_t>(column);
    out.splats[at] = splat;
  }
}

// What a splat was to write and did not, which takes a count that is not project's: tile and number that nobody looks for.
__device__ __forceinline__ void write_rest(const PairWriter& out, int64_t at, int64_t end) {
  for (; at < end && at < out.room; ++at) {
    out.tiles[at] = 0xffffffffu;
    out.splats[at] = 0;
  }
}

// One thread per splat, nearest first; a splat of many rows is written by its whole warp, a row for each lane.
__global__ void __launch_bounds__(kThreads) write_pairs(HrSplatTilesParams p, const uint32_t* order, const int64_t* first_pairs,
                                                        PairWriter out) {
  constexpr int kFewRows = 8;
  const int64_t i = place_of_this_thread().item, splats = p.images * p.num_gaussians;
  const int lane = lane_of_this_thread();
  const int32_t across = static_cast<int32_t>(divide_up(p.width, p.tile_size));
  const int32_t down = static_cast<int32_t>(divide_up(p.height, p.tile_size));
  HrSplatBounds<float> bounds = {};
  HrSplatRange rows = {0, 0};
  uint32_t splat = 0, first_tile = 0;
  int64_t at = 0, end = 0;
  if (i < splats && first_pairs[i + 1] > first_pairs[i]) {
    const int64_t image = order[i] / static_cast<uint32_t>(p.num_gaussians);
    bounds = hr_splat_bounds(p.splats + static_cast<int64_t>(HR_SPLAT_FIELDS) * order[i]);
    rows = hr_splat_tile_rows(bounds, p.height, p.tile_size);
    splat = static_cast<uint32_t>(order[i] - image * p.num_gaussians);
    first_tile = static_cast<uint32_t>(image * across * down);
    at = first_pairs[i];
    end = first_pairs[i + 1];
  }
  const bool many = rows.end - rows.first > kFewRows;
  for (int32_t row = rows.first; row < rows.end && !many; ++row) {
    const HrSplatRange span = hr_splat_tile_span(bounds, row, p.height, p.width, p.tile_size);
    write_row(out, span, first_tile + static_cast<uint32_t>(row * across), splat, at, end);
    at += span.end - span.first;
  }
  if (!many) write_rest(out, at, end);
  for (unsigned left = __ballot_sync(kWholeWarp, many); left; left &= left - 1) {
    const int owner = __ffs(static_cast<int>(left)) - 1;
    const HrSplatRange its_rows = {__shfl_sync(kWholeWarp, rows.first, owner), __shfl_sync(kWholeWarp, rows.end, owner)};
    const uint32_t its_splat = __shfl_sync(kWholeWarp, splat, owner), its_tile = __shfl_sync(kWholeWarp, first_tile, owner);
    int64_t its_at = __shfl_sync(kWholeWarp, at, owner);
    const int64_t its_end = __shfl_sync(kWholeWarp, end, owner);
    const uint32_t its_place = __shfl_sync(kWholeWarp, i < splats ? order[i] : 0u, owner);
    const HrSplatBounds<float> its_bounds = hr_splat_bounds(p.splats + static_cast<int64_t>(HR_SPLAT_FIELDS) * its_place);
    for (int32_t first = its_rows.first; first < its_rows.end; first += kWarp) {
      const int32_t row = first + lane;
      HrSplatRange span = {0, 0};
      if (row < its_rows.end) span = hr_splat_tile_span(its_bounds, row, p.height, p.width, p.tile_size);
      int32_t together;
      const int32_t before = scan_warp(span.end - span.first, &together);
      write_row(out, span, its_tile + static_cast<uint32_t>(row * across), its_splat, its_at + before, its_end);
      its_at += together;
    }
    if (lane == 0) write_rest(out, its_at, its_end);
  }
}

// One thread per tile and one for the end: where its pairs begin, by bisection.
__global__ void __launch_bounds__(kThreads) find_offsets(const uint32_t* tiles, PairCount count, int64_t cells, int32_t* offsets,
                                                         int32_t* fault) {
  const int64_t cell = place_of_this_thread().item;
  if (cell > cells) return;
  if (cell == cells && *count.on_device > count.capacity) report_bad_index(fault);
  int64_t low = 0, high = number_of(count);
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (tiles[middle] < cell) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  offsets[cell] = static_cast<int32_t>(low);
}

void run_splat_tiles(const HrSplatTilesParams& p, const HrCudaLaunch& launch, const TileScratch& scratch) {
  const int64_t splats = p.images * p.num_gaussians, cells = p.images * tiles_of_image(p);
  launch_over(launch, splats, 1, write_depths, p, scratch.splats);
  const Pairs sorted = launch_sort(launch, scratch.by_depth, scratch.splats, {splats, nullptr}, 32);
  const uint32_t* order = sorted.values;
  launch_over(launch, splats, 1, gather_counts, p, order, scratch.counts);
  launch_scan(launch, scratch.scan, scratch.counts, splats, scratch.first_pairs);
  int bits = 1;
  while ((int64_t{1} << bits) <= cells) ++bits;  // all bits set is no cell: see write_rest
  // An even number of passes ends where it began, an odd one in the other place: either way in ids.
  const bool odd = divide_up(bits, kDigitBits) % 2 != 0;
  uint32_t* ids = reinterpret_cast<uint32_t*>(p.ids);
  const Pairs pairs = {scratch.pair_tiles, odd ? scratch.pair_splats : ids};
  SortScratch by_tile = scratch.by_tile;
  if (odd) by_tile.other.values = ids;
  launch_over(launch, splats, 1, write_pairs, p, order, static_cast<const int64_t*>(scratch.first_pairs),
              PairWriter{pairs.keys, pairs.values, p.num_ids});
  const PairCount count = {p.num_ids, scratch.first_pairs + splats};
  const Pairs by_cell = launch_sort(launch, by_tile, pairs, count, bits);
  launch_over(launch, cells + 1, 1, find_offsets, static_cast<const uint32_t*>(by_cell.keys), count, cells, p.offsets,
              launch.fault);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(splat_tiles, HrSplatTilesParams)
