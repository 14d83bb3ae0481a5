// What compositing splats and its backward pass have in common: which pixels a block has, and how splats come to it.
//
// A block has 16 x 16 pixels of a tile, each of its warps 8 x 4 of those. Tiles of another size than 16 are cut into such
// squares. The block's threads load splats into shared memory together, one each, and work out which warps' pixels each
// reaches: a warp then goes through those that reach it alone (tests on boxes of 8 x 4 pixels spare half of the work and
// more where splats are small; HiGS and StopThePop do likewise).
#pragma once

#include "block.h"
#include "splat_reach.h"

namespace hr {

constexpr int kSquare = 16;                     // pixels across and down that a block has
constexpr int kBoxWidth = 8, kBoxHeight = 4;    // that a warp has
constexpr int kBoxesAcross = kSquare / kBoxWidth;
constexpr int kWarps = kThreads / kWarp;
static_assert(kSquare * kSquare == kThreads && kBoxWidth * kBoxHeight == kWarp, "one thread per pixel");

// A splat in shared memory.
struct __align__(16) LoadedSplat {
  HrSplatShape<float> shape;
  int32_t number;
  uint32_t warps;  // a bit for each warp whose pixels it may reach
};

// Where a block works. first, end: its tile's splats in `ids`.
struct Square {
  int64_t image;
  int32_t x0, y0, first, end;
};

// Offsets that are out of order, or point beyond the ids, give an empty list and a report.
template <class Params>
__device__ __forceinline__ Square square_of_this_block(const Params& p, int32_t* fault) {
  const int32_t across = (p.width + p.tile_size - 1) / p.tile_size, down = (p.height + p.tile_size - 1) / p.tile_size;
  const int32_t parts = (p.tile_size + kSquare - 1) / kSquare;
  int64_t rest = blockIdx.x;
  const int32_t part = static_cast<int32_t>(rest % (parts * parts));
  rest /= parts * parts;
  Square square;
  square.image = rest / (across * down);
  const int32_t tile = static_cast<int32_t>(rest % (across * down));
  square.x0 = (tile % across) * p.tile_size + (part % parts) * kSquare;
  square.y0 = (tile / across) * p.tile_size + (part / parts) * kSquare;
  square.first = p.offsets[rest];
  square.end = p.offsets[rest + 1];
  if (square.first < 0 || square.end < square.first || square.end > p.num_ids) {
    report_bad_index(fault);
    square.first = square.end = 0;
  }
  return square;
}

template <class Params>
int64_t squares_of(const Params& p) {
  const int64_t parts = divide_up(p.tile_size, kSquare);
  return p.batch * p.cameras * divide_up(p.width, p.tile_size) * divide_up(p.height, p.tile_size) * parts * parts;
}

template <class Params>
bool sane_picture(const Params& p) {
  return p.batch >= 0 && p.cameras >= 0 && p.num_gaussians >= 0 && p.num_gaussians < INT32_MAX && p.num_ids >= 0 &&
         p.num_ids < INT32_MAX && p.height >= 0 && p.width >= 0 && p.height <= HR_SPLAT_MAX_SIDE && p.width <= HR_SPLAT_MAX_SIDE &&
         p.tile_size >= 4 && p.tile_size <= HR_SPLAT_MAX_TILE && p.tile_size % 4 == 0 && p.channels >= 1 &&
         p.batch * p.cameras < INT32_MAX && squares_of(p) <= kMaxBlocks;
}

struct Pixel {
  bool inside;
  float x, y;  // centre
  int64_t at;  // in pictures of one channel
};

template <class Params>
__device__ __forceinline__ Pixel pixel_of_thread(const Params& p, const Square& square, int thread) {
  const int lane = thread % kWarp, warp = thread / kWarp;
  const int32_t in_x = (warp % kBoxesAcross) * kBoxWidth + lane % kBoxWidth;
  const int32_t in_y = (warp / kBoxesAcross) * kBoxHeight + lane / kBoxWidth;
  const int32_t x = square.x0 + in_x, y = square.y0 + in_y;
  // A tile narrower than 16 pixels, or one of 20, leaves some of its last square to the next tile.
  const bool own = x / p.tile_size == square.x0 / p.tile_size && y / p.tile_size == square.y0 / p.tile_size;
  Pixel pixel;
  pixel.inside = own && x < p.width && y < p.height;
  pixel.x = static_cast<float>(x) + 0.5f;
  pixel.y = static_cast<float>(y) + 0.5f;
  pixel.at = (square.image * p.height + y) * p.width + x;
  return pixel;
}

// Which warps' boxes of pixels the splat reaches.
__device__ __forceinline__ uint32_t warps_reached(const float* field, const Square& square) {
  const HrSplatBounds<float> bounds = hr_splat_bounds(field);
  uint32_t warps = 0;
#pragma unroll
  for (int row = 0; row < kSquare / kBoxHeight; ++row) {
    const float top = static_cast<float>(square.y0 + row * kBoxHeight) + 0.5f;
    float x0, x1;
    hr_splat_span(bounds, top, top + (kBoxHeight - 1), &x0, &x1);
#pragma unroll
    for (int column = 0; column < kBoxesAcross; ++column) {
      const float left = static_cast<float>(square.x0 + column * kBoxWidth) + 0.5f;
      const bool meets = x0 <= left + (kBoxWidth - 1) && x1 >= left;
      warps |= meets ? 1u << (row * kBoxesAcross + column) : 0u;
    }
  }
  return warps;
}

// One entry of the list to shared memory. A number that is out of range reaches nobody, and is reported.
template <class Params>
__device__ __forceinline__ LoadedSplat load_splat(const Params& p, const Square& square, int64_t place, int32_t* fault) {
  LoadedSplat loaded = {};
  const int32_t number = p.ids[place];
  if (number < 0 || number >= p.num_gaussians) {
    report_bad_index(fault);
    return loaded;
  }
  float field[HR_SPLAT_FIELDS];
  const float* row = p.splats + HR_SPLAT_FIELDS * (square.image * p.num_gaussians + number);
#pragma unroll
  for (int i = 0; i < HR_SPLAT_FIELDS; ++i) field[i] = row[i];
  loaded.shape = hr_splat_shape(field);
  loaded.number = number;
  loaded.warps = warps_reached(field, square);
  return loaded;
}

template <class Params>
__device__ __forceinline__ const float* colours_of(const Params& p, int64_t image, int32_t number) {
  const int64_t set = p.colours_per_image ? image : image / p.cameras;
  return p.colours + (set * p.num_gaussians + number) * p.channels;
}

template <class Params>
__device__ __forceinline__ const float* background_of(const Params& p, int64_t image) {
  return p.background ? p.background + (p.background_per_image ? image * p.channels : 0) : nullptr;
}

}  // namespace hr
