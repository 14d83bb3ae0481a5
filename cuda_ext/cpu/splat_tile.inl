// What compositing a tile and its backward pass share: the splats of a tile in batches, and which of its blocks each reaches.
#include "eight_lanes.h"
#include "lanes16.h"
#include "splat_lanes.h"
#include "splat_stages.h"

namespace hr {
namespace {

struct TilePlace {
  int32_t x0, y0;              // first pixel
  int32_t blocks_x, blocks_y;  // blocks with a pixel inside the picture
  int blocks() const { return blocks_x * blocks_y; }
};

template <class Params>
inline TilePlace place_of_tile(const Params& p, int64_t t) {
  const int32_t columns = (p.width + p.tile_size - 1) / p.tile_size;
  TilePlace place;
  place.x0 = static_cast<int32_t>(t % columns) * p.tile_size;
  place.y0 = static_cast<int32_t>(t / columns) * p.tile_size;
  const int32_t w = p.width - place.x0 < p.tile_size ? p.width - place.x0 : p.tile_size;
  const int32_t h = p.height - place.y0 < p.tile_size ? p.height - place.y0 : p.tile_size;
  place.blocks_x = (w + kSplatBlock - 1) / kSplatBlock;
  place.blocks_y = (h + kSplatBlock - 1) / kSplatBlock;
  return place;
}

inline Floats block_columns() {
  const float x[kLanes] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
  return load(x);
}

inline Floats block_rows() {
  const float y[kLanes] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  return load(y);
}

// Pixel centres of block b, and pixels of it in the picture.
struct BlockPlace {
  int32_t x0, y0;
  Floats px, py;
  int columns, rows;
};

template <class Params>
inline BlockPlace place_of_block(const Params& p, const TilePlace& tile, int b) {
  BlockPlace out;
  out.x0 = tile.x0 + b % tile.blocks_x * kSplatBlock;
  out.y0 = tile.y0 + b / tile.blocks_x * kSplatBlock;
  out.px = block_columns() + Floats(static_cast<float>(out.x0) + 0.5f);
  out.py = block_rows() + Floats(static_cast<float>(out.y0) + 0.5f);
  out.columns = p.width - out.x0 < kSplatBlock ? p.width - out.x0 : kSplatBlock;
  out.rows = p.height - out.y0 < kSplatBlock ? p.height - out.y0 : kSplatBlock;
  return out;
}

// visit(lane, pixel number within the image) for the pixels of a block in the picture.
template <class Visit>
inline void over_pixels(const BlockPlace& block, int32_t width, const Visit& visit) {
  for (int y = 0; y < block.rows; ++y) {
    const int64_t row = static_cast<int64_t>(block.y0 + y) * width + block.x0;
    for (int x = 0; x < block.columns; ++x) visit(kSplatBlock * y + x, row + x);
  }
}

constexpr int kFetchAhead = 24;

// A batch of a tile's splats: shapes and values splat by splat, fields as lanes.
struct Batch {
  float* shape;   // [kSplatBatch,8] x, y, sharp_x, shear, sharp_y of HrSplatShape, and power at HR_SPLAT_LOG2_OPACITY
  float* values;  // [kSplatBatch,channels]
  float* field;   // [8,kSplatBatch] HrSplatField
};

HR_LANE HrSplatShape<Floats> shape_lanes(const float* s) {
  return {Floats(s[0]), Floats(s[1]), Floats(s[2]), Floats(s[3]), Floats(s[4]), Floats(s[HR_SPLAT_LOG2_OPACITY])};
}

// Eight splats: their shapes row by row, which are hr_splat_shape in the order of the fields, and their fields as columns.
inline void load_eight(const float* const* rows, float* shape, float* field) {
#if defined(__AVX2__)
  const float h = 0.5f * HR_SPLAT_LOG2E;
  const __m256 scale = _mm256_setr_ps(1.0f, 1.0f, h, 1.0f, h, 1.0f, 1.0f, 1.0f);
  __m256 row[8];
  for (int i = 0; i < 8; ++i) {
    row[i] = _mm256_loadu_ps(rows[i]);
    _mm256_storeu_ps(shape + HR_SPLAT_FIELDS * i, _mm256_mul_ps(row[i], scale));
  }
  turn_eight(row);
  for (int k = 0; k < 8; ++k) _mm256_storeu_ps(field + k * kSplatBatch, row[k]);
#else
  for (int i = 0; i < 8; ++i) {
    const HrSplatShape<float> own = hr_splat_shape(rows[i]);
    const float packed[HR_SPLAT_FIELDS] = {own.x, own.y, own.sharp_x, own.shear, own.sharp_y, 0, 0, own.power};
    memcpy(shape + HR_SPLAT_FIELDS * i, packed, sizeof(packed));
    for (int k = 0; k < HR_SPLAT_FIELDS; ++k) field[k * kSplatBatch + i] = rows[i][k];
  }
#endif
}
static_assert(HR_SPLAT_X == 0 && HR_SPLAT_Y == 1 && HR_SPLAT_SHARP_X == 2 && HR_SPLAT_SHEAR == 3 && HR_SPLAT_SHARP_Y == 4 &&
              HR_SPLAT_LOG2_OPACITY == 7 && HR_SPLAT_FIELDS == 8, "shapes are rows of fields, scaled");

// Reads `count` splats of `left` that are still to come; false when an id is out of range.
template <class Params>
__attribute__((noinline)) bool load_batch(const Params& p, int64_t image, const int32_t* ids, int count, int left,
                                          const SplatChannels& channels, const Batch& batch) {
  const int64_t num = p.num_gaussians;
  const int32_t num_colours = p.channels;
  const float* splats = p.splats + image * num * HR_SPLAT_FIELDS;
  const float* colours = p.colours + (p.colours_per_image ? image : image / p.cameras) * num * num_colours;
  const float* normals = channels.normal ? p.normals + image * num * 3 : nullptr;
  for (int e = 0; e < count; e += 8) {
    const float* rows[8];
    for (int i = 0; i < 8; ++i) {
      const int at = e + i < count ? e + i : count - 1;
      const int64_t n = ids[at], later = ids[at + kFetchAhead < left ? at + kFetchAhead : left - 1];
      if (n < 0 || n >= num) return false;
      // The splats lie scattered: most of this loop's time would be spent waiting for one after the other.
      __builtin_prefetch(splats + later * HR_SPLAT_FIELDS);
      __builtin_prefetch(colours + later * num_colours);
      rows[i] = splats + n * HR_SPLAT_FIELDS;
    }
    load_eight(rows, batch.shape + HR_SPLAT_FIELDS * e, batch.field + e);
  }
  float* value = batch.values;
  if (channels.count() == 3 && num_colours == 3) {
    for (int e = 0; e < count; ++e, value += 3) {
      const float* own = colours + ids[e] * int64_t{3};
      const float r = hr_splat_finite(own[0]), g = hr_splat_finite(own[1]), b = hr_splat_finite(own[2]);
      value[0] = r, value[1] = g, value[2] = b;
    }
    return true;
  }
  for (int e = 0; e < count; ++e) {
    const int64_t n = ids[e];
    for (int k = 0; k < channels.colours; ++k) *value++ = hr_splat_finite(colours[n * num_colours + k]);
    if (channels.depth) *value++ = splats[n * HR_SPLAT_FIELDS + HR_SPLAT_DEPTH];
    for (int k = 0; k < channels.normal; ++k) *value++ = hr_splat_finite(normals[3 * n + k]);
  }
  return true;
}

// visit(first splat of sixteen, block, which of the sixteen reach the block), block by block.
template <class Visit>
inline void over_reached_blocks(const Batch& batch, int count, const TilePlace& tile, const Visit& visit) {
  for (int e = 0; e < count; e += kLanes) {
    Floats field[HR_SPLAT_FIELDS];
    for (int k = 0; k < HR_SPLAT_FIELDS; ++k) field[k] = load(batch.field + k * kSplatBatch + e);
    const Mask there = mask_of(count - e >= kLanes ? 0xffffu : (1u << (count - e)) - 1u);
    const HrSplatBounds<Floats> bounds = hr_splat_bounds(field);
    for (int by = 0; by < tile.blocks_y; ++by) {
      const float y = static_cast<float>(tile.y0 + by * kSplatBlock);
      Floats lo, hi;
      hr_splat_span(bounds, Floats(y + 0.5f), Floats(y + 3.5f), &lo, &hi);
      for (int bx = 0; bx < tile.blocks_x; ++bx) {
        const float x = static_cast<float>(tile.x0 + bx * kSplatBlock);
        visit(e, by * tile.blocks_x + bx, there & (lo <= Floats(x + 3.5f)) & (hi >= Floats(x + 0.5f)));
      }
    }
  }
}

}  // namespace
}  // namespace hr
