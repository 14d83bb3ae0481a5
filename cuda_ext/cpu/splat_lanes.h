// Which tiles splats reach, for sixteen splats at once; the same numbers as hr_splat_cells and hr_splat_tile_span give.
#pragma once

#include "lanes16.h"
#include "splat_reach.h"

namespace hr {
namespace {

using ::hr_fma;  // the overloads for lanes would hide those for single numbers
using ::hr_max;
using ::hr_min;
using ::hr_select;

struct CellSpan {
  Floats first, end;  // whole numbers
};

// hr_splat_cells. The half keeps the division by rounding from ever landing on the wrong side of a whole number.
HR_LANE CellSpan cells_between(Floats lo, Floats hi, float pixels, float inv_size) {
  const Floats zero(0.0f), half(0.5f), most(pixels), scale(inv_size), one(1.0f);
  const Floats first = -floor_of(-hr_min(hr_max(lo - half, zero), most));
  const Floats end = floor_of(hr_min(hr_max(hi + half, zero), most));
  const Mask meets = first < end;
  CellSpan span = {floor_of((first + half) * scale), floor_of((end - half) * scale) + one};
  span.first = zero_unless(meets, span.first);
  span.end = zero_unless(meets, span.end);
  return span;
}

HR_LANE CellSpan tile_rows(const HrSplatBounds<Floats>& b, int32_t height, int32_t tile_size) {
  const Floats margin(2e-3f);
  return cells_between(b.y - b.reach_y - margin, b.y + b.reach_y + margin, static_cast<float>(height), 1.0f / tile_size);
}

HR_LANE CellSpan tile_span(const HrSplatBounds<Floats>& b, Floats row, int32_t height, int32_t width, int32_t tile_size) {
  const Floats size(static_cast<float>(tile_size)), half(0.5f), top = row * size;
  Floats x0, x1;
  hr_splat_span(b, top + half, hr_min(top + size, Floats(static_cast<float>(height))) - half, &x0, &x1);
  return cells_between(x0, x1, static_cast<float>(width), 1.0f / tile_size);
}

// How many tiles each splat touches.
HR_LANE Floats count_tiles(const HrSplatBounds<Floats>& b, Mask drawn, int32_t height, int32_t width, int32_t tile_size) {
  const CellSpan rows = tile_rows(b, height, tile_size);
  Floats total(0.0f), row = rows.first;
  for (Mask open = drawn & (row < rows.end); any(open); open = drawn & (row < rows.end)) {
    const CellSpan span = tile_span(b, row, height, width, tile_size);
    total = total + zero_unless(open, span.end - span.first);
    row = row + Floats(1.0f);
  }
  return total;
}

}  // namespace
}  // namespace hr
