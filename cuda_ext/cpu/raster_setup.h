// What the set-up stage of the CPU rasterizer hands to the row stage. Plain structs: the row stage is compiled once per
// instruction set and must not instantiate C++ library templates (see hr_common.h).
#pragma once

#include "raster_triangle.h"

namespace hr {

// Rows of a band are padded to this many pixels: vectors start at multiples of their length, so that what one triangle has
// written is still at hand when the next one reads it, and no vector crosses a line of the cache. A triangle cut by the
// right border goes on being "inside" in the padding.
constexpr int kMaxLanes = 16;

// A triangle clipped to the view, oriented so that inside is positive, in snapped pixel space.
struct Triangle {
  int32_t edge[3];     // edge functions at the centre of (x0, y0), minus 1 where an exact tie counts as outside
  int32_t step_x[2];   // the first two's change per pixel to the right; the three add up to zero
  int32_t step_y[2];   // and per pixel down
  float inv_z;         // 1/z at the centre of (x0, y0); it is linear in the image
  float inv_z_dx, inv_z_dy;
  float inv_z_min, inv_z_max;  // its range over the corners: slivers extrapolate wildly without it
  int16_t x0, x1, y0, y1;      // pixels whose centres lie in the bounding box, end exclusive
  int32_t face;
  int32_t large;       // index into the large triangles, or -1 when the fields above suffice
};
static_assert(sizeof(Triangle) == 64, "one line of the cache");

// The same in 64 bits, for triangles with a box over kSmallSide.
using LargeTriangle = TrianglePlanes;

// A horizontal band of one image, small enough for the cache of one core.
struct Band {
  int y0, y1, stride;
  float* inv_z;        // [(y1-y0) * stride] nearest 1/z so far, 0 for none
  int32_t* face;       // same size, -1 for none
};

using DrawTriangles = void (*)(const Band&, const Triangle*, const LargeTriangle*, const uint32_t* order, int64_t count);
using ResolveBand = void (*)(const Band&, const HrRasterizeParams&, int64_t image);

struct RowStage {
  DrawTriangles draw;
  ResolveBand resolve;
};

extern const RowStage kRowStageBase;
#if defined(HR_WITH_AVX512)
extern const RowStage kRowStageAvx512;
#endif

}  // namespace hr
