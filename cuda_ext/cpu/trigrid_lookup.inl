// Lookups in a grid on three planes and their gradients, 16 points at a time. Included once per instruction set.
#include "float_lanes.h"
#include "trigrid_kernels.h"

namespace hr {
namespace {

// Neighbouring cells along one axis for 16 points.
struct Axis {
  int32_t lower[kWidth], upper[kWidth];
  float weight[2][kWidth], slope[2][kWidth];
};

// hr_trigrid_pair for 16 points, to the same bits.
HR_LANES_FN void find_axis(const float* coordinate, int32_t size, Axis& axis) {
  const F16 sides = all(static_cast<float>(size)), half = all(0.5f * static_cast<float>(size)), none = zeros(), one = all(1.0f);
  F16 at = (load(coordinate) + one) * half - all(0.5f);
  at = if_above(at, all(-1.0f), if_above(sides, at, at, all(-2.0f)), all(-2.0f));
  const F16 below = floor_of(at), rest = at - below, above = below + one;
  const F16 in_lower = if_above(below, all(-0.5f), one, none);
  const F16 in_upper = if_above(above, all(-0.5f), if_above(sides, above, one, none), none);
  store_whole(axis.lower, more(below, none));
  store_whole(axis.upper, less(more(above, none), sides - one));
  store(axis.weight[0], in_lower * (one - rest));
  store(axis.weight[1], in_upper * rest);
  store(axis.slope[0], none - in_lower * half);
  store(axis.slope[1], in_upper * half);
}

HR_LANES_FN void single_axis(Axis& axis) {
  for (int i = 0; i < kWidth; ++i) {
    axis.lower[i] = axis.upper[i] = 0;
    axis.weight[0][i] = 1.0f;
    axis.weight[1][i] = axis.slope[0][i] = axis.slope[1][i] = 0.0f;
  }
}

// Coordinates of up to 16 points in one chart, lane by lane; what is missing lies outside.
struct Coordinates {
  float at[3][kWidth];
  float share[kWidth];
};

HR_LANES_FN void load_coordinates(const Place* places, int charts, int n, Coordinates& c) {
  if (charts == 1 && n == kWidth) {
    F16 columns[4];
    load_columns(places->at, columns);
    for (int k = 0; k < 3; ++k) store(c.at[k], columns[k]);
    store(c.share, columns[3]);
    return;
  }
  for (int i = 0; i < kWidth; ++i) {
    const Place outside = {{-9.0f, -9.0f, -9.0f}, 0.0f}, place = i < n ? places[static_cast<int64_t>(i) * charts] : outside;
    for (int k = 0; k < 3; ++k) c.at[k][i] = place.at[k];
    c.share[i] = place.share;
  }
}

// The 4 (tri-plane) or 8 cells around 16 points in one plane.
struct Corners {
  int32_t cell[8][kWidth];
  float weight[8][kWidth];
};

struct PlaneAxes {
  Axis x, y, z;
};

HR_LANES_FN void find_axes(const HrTrigrid& field, int plane, const Coordinates& c, PlaneAxes& axes) {
  const int32_t* order = field.axes + 3 * plane;
  find_axis(c.at[order[0]], field.width, axes.x);
  find_axis(c.at[order[1]], field.height, axes.y);
  field.depth > 1 ? find_axis(c.at[order[2]], field.depth, axes.z) : single_axis(axes.z);
}

HR_LANES_FN void find_corners(const HrTrigrid& field, const PlaneAxes& a, const float* share, Corners& corners) {
  const int layers = field.depth > 1 ? 2 : 1;
  for (int k = 0; k < 4 * layers; ++k) {
    const int32_t *x = k & 1 ? a.x.upper : a.x.lower, *y = k & 2 ? a.y.upper : a.y.lower, *z = k & 4 ? a.z.upper : a.z.lower;
    const float *wx = a.x.weight[k & 1], *wy = a.y.weight[k >> 1 & 1], *wz = a.z.weight[k >> 2];
    for (int i = 0; i < kWidth; ++i) {
      corners.cell[k][i] = (z[i] * field.height + y[i]) * field.width + x[i];
      corners.weight[k][i] = wx[i] * wy[i] * (wz[i] * share[i]);
    }
  }
}

HR_LANES_FN const float* plane_of(const HrTrigrid& field, int64_t image, int chart, int plane) {
  const int64_t cells = static_cast<int64_t>(field.depth) * field.height * field.width;
  return field.grid + ((image * field.charts + chart) * 3 + plane) * cells * field.channels;
}

template <bool kTail>
HR_LANES_FN F16 load_vector(const float* p, int tail) {
  return kTail ? load_some(p, tail) : load(p);
}

// kVectors vectors of channels of point i, from all corners of the three planes. Each plane has a sum of its own.
template <int kVectors, int kCorners, bool kTail>
HR_LANES_FN void gather_point(const float* const* planes, const Corners* corners, int i, int64_t channels, int tail, bool add,
                              float* out) {
  F16 sums[3][kVectors];
  for (int plane = 0; plane < 3; ++plane) {
    for (int v = 0; v < kVectors; ++v) sums[plane][v] = zeros();
    for (int k = 0; k < kCorners; ++k) {
      const float* cell = planes[plane] + corners[plane].cell[k][i] * channels;
      const F16 weight = all(corners[plane].weight[k][i]);
      for (int v = 0; v < kVectors; ++v) {
        const F16 value = v == kVectors - 1 ? load_vector<kTail>(cell + v * kWidth, tail) : load(cell + v * kWidth);
        sums[plane][v] = fused(weight, value, sums[plane][v]);
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    const bool some = kTail && v == kVectors - 1;
    F16 total = sums[0][v] + sums[1][v] + sums[2][v];
    if (add) total = total + (some ? load_some(out + v * kWidth, tail) : load(out + v * kWidth));
    some ? store_some(out + v * kWidth, total, tail) : store(out + v * kWidth, total);
  }
}

template <int kVectors, int kCorners, bool kTail>
void gather_points(const float* const* planes, const Corners* corners, int n, int channels, int tail, bool add, float* out,
                   int stride) {
  for (int i = 0; i < n; ++i) {
    gather_point<kVectors, kCorners, kTail>(planes, corners, i, channels, tail, add, out + static_cast<int64_t>(i) * stride);
  }
}

// All channels, two vectors at a time.
template <int kCorners>
void gather_channels(const float* const* planes, const Corners* corners, int n, int channels, bool add, float* out, int stride) {
  for (int first = 0; first < channels; first += 2 * kWidth) {
    const float* from[3] = {planes[0] + first, planes[1] + first, planes[2] + first};
    const int left = channels - first, tail = left % kWidth;
    float* to = out + first;
    if (left >= 2 * kWidth) {
      gather_points<2, kCorners, false>(from, corners, n, channels, 0, add, to, stride);
    } else if (left > kWidth) {
      gather_points<2, kCorners, true>(from, corners, n, channels, tail, add, to, stride);
    } else if (left == kWidth) {
      gather_points<1, kCorners, false>(from, corners, n, channels, 0, add, to, stride);
    } else {
      gather_points<1, kCorners, true>(from, corners, n, channels, tail, add, to, stride);
    }
  }
}

void gather(const HrTrigrid& field, int64_t image, const Place* places, int n, float* out, int stride) {
  Coordinates c;
  PlaneAxes axes;
  Corners corners[3];
  for (int begin = 0; begin < n; begin += kWidth) {
    const int count = n - begin < kWidth ? n - begin : kWidth;
    for (int chart = 0; chart < field.charts; ++chart) {
      load_coordinates(places + static_cast<int64_t>(begin) * field.charts + chart, field.charts, count, c);
      const float* planes[3];
      for (int plane = 0; plane < 3; ++plane) {
        planes[plane] = plane_of(field, image, chart, plane);
        find_axes(field, plane, c, axes);
        find_corners(field, axes, c.share, corners[plane]);
      }
      float* to = out + static_cast<int64_t>(begin) * stride;
      field.depth > 1 ? gather_channels<8>(planes, corners, count, field.channels, chart > 0, to, stride)
                      : gather_channels<4>(planes, corners, count, field.channels, chart > 0, to, stride);
    }
  }
}

// Gradient times each corner's value, for point i.
HR_LANES_FN void corner_products(const float* plane, const Corners& corners, int count, int i, int channels, const float* grad,
                                 float (*products)[kWidth]) {
  const int whole = channels / kWidth, tail = channels % kWidth;
  for (int k = 0; k < count; ++k) {
    const float* cell = plane + corners.cell[k][i] * static_cast<int64_t>(channels);
    F16 total = zeros();
    for (int v = 0; v < whole; ++v) total = fused(load(cell + v * kWidth), load(grad + v * kWidth), total);
    if (tail) total = fused(load_some(cell + whole * kWidth, tail), load_some(grad + whole * kWidth, tail), total);
    products[k][i] = sum(total);
  }
}

// Adds what the products of one plane say about coordinates and share.
HR_LANES_FN void add_plane(const PlaneAxes& a, const int32_t* order, int corners, const float (*products)[kWidth],
                           const float* share, float (*out)[kWidth]) {
  for (int k = 0; k < corners; ++k) {
    const int x = k & 1, y = k >> 1 & 1, z = k >> 2;
    for (int i = 0; i < kWidth; ++i) {
      const float wx = a.x.weight[x][i], wy = a.y.weight[y][i], wz = a.z.weight[z][i], product = products[k][i];
      const float shared = share[i] * product;
      out[order[0]][i] += a.x.slope[x][i] * wy * wz * shared;
      out[order[1]][i] += wx * a.y.slope[y][i] * wz * shared;
      out[order[2]][i] += wx * wy * a.z.slope[z][i] * shared;
      out[3][i] += wx * wy * wz * product;
    }
  }
}

void place_gradients(const HrTrigrid& field, int64_t image, const Place* places, int n, const float* grad, int stride, Place* out) {
  Coordinates c;
  PlaneAxes axes;
  Corners corners;
  const int count = field.depth > 1 ? 8 : 4;
  for (int begin = 0; begin < n; begin += kWidth) {
    const int points = n - begin < kWidth ? n - begin : kWidth;
    for (int chart = 0; chart < field.charts; ++chart) {
      load_coordinates(places + static_cast<int64_t>(begin) * field.charts + chart, field.charts, points, c);
      float totals[4][kWidth] = {}, products[8][kWidth] = {};
      for (int plane = 0; plane < 3; ++plane) {
        find_axes(field, plane, c, axes);
        find_corners(field, axes, c.share, corners);
        const float* cells = plane_of(field, image, chart, plane);
        for (int i = 0; i < points; ++i) {
          corner_products(cells, corners, count, i, field.channels, grad + static_cast<int64_t>(begin + i) * stride, products);
        }
        add_plane(axes, field.axes + 3 * plane, count, products, c.share, totals);
      }
      for (int i = 0; i < points; ++i) {
        Place& to = out[static_cast<int64_t>(begin + i) * field.charts + chart];
        for (int k = 0; k < 3; ++k) to.at[k] = totals[k][i];
        to.share = totals[3][i];
      }
    }
  }
}

// kVectors vectors of one point's gradient to its corners.
template <int kVectors, bool kTail>
HR_LANES_FN void scatter_point(float* cells, const Corners& corners, int count, int i, int64_t channels, int tail, const float* grad) {
  F16 g[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    g[v] = v == kVectors - 1 ? load_vector<kTail>(grad + v * kWidth, tail) : load(grad + v * kWidth);
  }
  for (int k = 0; k < count; ++k) {
    float* cell = cells + corners.cell[k][i] * channels;
    const F16 weight = all(corners.weight[k][i]);
    for (int v = 0; v < kVectors; ++v) {
      float* to = cell + v * kWidth;
      if (kTail && v == kVectors - 1) {
        store_some(to, fused(weight, g[v], load_some(to, tail)), tail);
      } else {
        store(to, fused(weight, g[v], load(to)));
      }
    }
  }
}

void scatter_channels(float* cells, const Corners& corners, int count, int i, int channels, const float* grad) {
  for (int first = 0; first < channels; first += 2 * kWidth) {
    const int left = channels - first, tail = left % kWidth;
    if (left >= 2 * kWidth) {
      scatter_point<2, false>(cells + first, corners, count, i, channels, 0, grad + first);
    } else if (left > kWidth) {
      scatter_point<2, true>(cells + first, corners, count, i, channels, tail, grad + first);
    } else if (left == kWidth) {
      scatter_point<1, false>(cells + first, corners, count, i, channels, 0, grad + first);
    } else {
      scatter_point<1, true>(cells + first, corners, count, i, channels, tail, grad + first);
    }
  }
}

// For each place the bin of its lower row in a plane, -1 outside.
void find_bins(const HrTrigrid& field, int plane, int rows_per_bin, const Place* places, int n, int32_t* bins) {
  Coordinates c;
  Axis axes[3];
  const int sides[3] = {field.width, field.height, field.depth};
  const int count = field.depth > 1 ? 3 : 2;
  for (int begin = 0; begin < n; begin += kWidth) {
    const int points = n - begin < kWidth ? n - begin : kWidth;
    load_coordinates(places + static_cast<int64_t>(begin) * field.charts, field.charts, points, c);
    for (int k = 0; k < count; ++k) find_axis(c.at[field.axes[3 * plane + k]], sides[k], axes[k]);
    for (int i = 0; i < points; ++i) {
      bool inside = true;  // a lookup that reaches no cell has slopes of 0 on that axis
      for (int k = 0; k < count; ++k) inside = inside && (axes[k].slope[0][i] != 0.0f || axes[k].slope[1][i] != 0.0f);
      bins[begin + i] = inside ? axes[1].lower[i] / rows_per_bin : -1;
    }
  }
}

void scatter(const PlaneSums& p) {
  HrTrigrid field = {};
  field.depth = p.depth;
  field.height = p.height;
  field.width = p.width;
  for (int k = 0; k < 3; ++k) field.axes[k] = p.axes[k];
  Coordinates c;
  PlaneAxes axes;
  Corners corners;
  const int count = p.depth > 1 ? 8 : 4;
  for (int64_t begin = 0; begin < p.count; begin += kWidth) {
    const int points = p.count - begin < kWidth ? static_cast<int>(p.count - begin) : kWidth;
    Place places[kWidth];
    for (int i = 0; i < points; ++i) places[i] = p.places[static_cast<int64_t>(p.slots[begin + i]) * p.charts + p.chart];
    load_coordinates(places, 1, points, c);
    find_axes(field, 0, c, axes);
    find_corners(field, axes, c.share, corners);
    for (int i = 0; i < points; ++i) {
      const float* grad = p.gradients + static_cast<int64_t>(p.slots[begin + i]) * p.channels;
      scatter_channels(p.cells, corners, count, i, p.channels, grad);
    }
  }
}

}  // namespace
}  // namespace hr
