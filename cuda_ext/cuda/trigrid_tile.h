// Samples of a grid on three planes, 64 at a time: where they fall, what the grid holds there, and the way back.
//
// A block has 64 rows (samples), each warp 8 of them, as in layers.h. Lane 3 r + p works out where row r falls in plane p;
// then the warp goes through the cells around each row with its lanes as channels, so that reads and atomics of a cell are
// one or more whole lines. Features and their gradients lie in scratch memory of the block, 64 rows of C, which stays in L2.
#pragma once

#include "layers.h"
#include "sums.h"
#include "trigrid.h"

namespace hr {

constexpr int kPlanes = 3;
constexpr int kCorners = 8;  // of which a tri-plane has 4
constexpr int kPlaceLanes = kRowsOfWarp * kPlanes;  // lanes that have a row and a plane

inline bool sane_field(const HrTrigrid& f) {
  bool sane = f.batch >= 0 && f.charts >= 1 && f.charts <= HR_TRIGRID_MAX_CHARTS && f.channels >= 1 &&
              f.channels <= HR_TRIGRID_MAX_CHANNELS && (f.rotations || f.charts == 1) && f.scale > 0.0f;
  for (const int32_t side : {f.depth, f.height, f.width}) sane = sane && side >= 1 && side <= HR_TRIGRID_MAX_SIDE;
  for (int plane = 0; plane < kPlanes; ++plane) {
    int seen = 0;
    for (int k = 0; k < 3; ++k) {
      const int32_t axis = f.axes[3 * plane + k];
      seen |= axis >= 0 && axis < 3 ? 1 << axis : 0;
    }
    sane = sane && seen == 7;
  }
  return sane && static_cast<int64_t>(f.depth) * f.height * f.width <= INT32_MAX;
}

inline int64_t grid_floats(const HrTrigrid& f) {
  return f.batch * f.charts * kPlanes * f.depth * f.height * f.width * f.channels;
}

// What a lane knows of its row: the point, its place in a chart, and that chart's share.
struct RowPoint {
  bool there;
  int64_t image;
  float point[3];
};

struct ChartPlace {
  float at[3], weight, total;  // total: of the weights of all charts, and epsilon; the share is weight / (3 total)
};

__device__ __forceinline__ ChartPlace place_in_chart(const HrTrigrid& f, int32_t chart, const float* point) {
  ChartPlace place = {};
  if (!f.rotations) {
    hr_trigrid_chart(nullptr, f.scale, point, place.at, &place.weight);
    place.total = 1.0f;
    return place;
  }
  place.total = HR_TRIGRID_CHART_EPSILON;
  for (int32_t other = 0; other < f.charts; ++other) {
    float at[3], weight;
    hr_trigrid_chart(f.rotations + 9 * other, f.scale, point, at, &weight);
    place.total += weight;
    if (other != chart) continue;
    for (int k = 0; k < 3; ++k) place.at[k] = at[k];
    place.weight = weight;
  }
  return place;
}

// The cells around one row in one plane: floats from the start of the grid, and weights without the chart's share.
struct PlaneAxes {
  HrTrigridPair x, y, z;
};

__device__ __forceinline__ PlaneAxes axes_of(const HrTrigrid& f, int plane, const ChartPlace& place) {
  const int32_t* order = f.axes + 3 * plane;
  float at[3];
  for (int k = 0; k < 3; ++k) at[k] = order[k] == 0 ? place.at[0] : (order[k] == 1 ? place.at[1] : place.at[2]);
  PlaneAxes axes;
  axes.x = hr_trigrid_pair(at[0], f.width);
  axes.y = hr_trigrid_pair(at[1], f.height);
  axes.z = f.depth > 1 ? hr_trigrid_pair(at[2], f.depth) : hr_trigrid_single();
  return axes;
}

// Corner k of 4 (or 8): a bit for each axis.
__device__ __forceinline__ int64_t cell_of(const HrTrigrid& f, int64_t plane_of_grid, const PlaneAxes& a, int k) {
  const int64_t x = k & 1 ? a.x.upper : a.x.lower, y = k & 2 ? a.y.upper : a.y.lower, z = k & 4 ? a.z.upper : a.z.lower;
  return (((plane_of_grid * f.depth + z) * f.height + y) * f.width + x) * f.channels;
}

__device__ __forceinline__ float corner_weight(const PlaneAxes& a, int k) {
  return a.x.weight[k & 1] * a.y.weight[(k >> 1) & 1] * a.z.weight[k >> 2];
}

// A lane's part of looking up its warp's rows in one chart.
struct Lookup {
  int64_t cell[kCorners];
  float weight[kCorners];  // with the share
  PlaneAxes axes;
  ChartPlace place;
};

// own: the row lane / 3, in lanes below kPlaceLanes; others and rows that are not there get weights of 0.
__device__ __forceinline__ Lookup find_cells(const HrTrigrid& f, int32_t chart, const RowPoint& own) {
  const int lane = lane_of_this_thread(), plane = lane % kPlanes;
  Lookup found = {};
  if (!own.there || lane >= kPlaceLanes) return found;
  found.place = place_in_chart(f, chart, own.point);
  found.axes = axes_of(f, plane, found.place);
  const float share = found.place.weight / (3.0f * found.place.total);
#pragma unroll
  for (int k = 0; k < kCorners; ++k) {
    found.cell[k] = cell_of(f, (own.image * f.charts + chart) * kPlanes + plane, found.axes, k);
    found.weight[k] = corner_weight(found.axes, k) * share;
  }
  return found;
}

// Rows of this warp among the block's first `rows`.
__device__ __forceinline__ int rows_of_this_warp(int rows) {
  const int left = rows - warp_of_this_thread() * kRowsOfWarp;
  return left < kRowsOfWarp ? left : kRowsOfWarp;
}

// The means over planes and charts to features[rows, C]; rows that are not there get 0.
__device__ __forceinline__ void gather_rows(const HrTrigrid& f, const RowPoint& own, int rows, float* features) {
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kRowsOfWarp, own_rows = rows_of_this_warp(rows);
  for (int32_t chart = 0; chart < f.charts; ++chart) {
    const Lookup found = find_cells(f, chart, own);
#pragma unroll 1
    for (int row = 0; row < own_rows; ++row) {
      float* out = features + static_cast<int64_t>(top + row) * f.channels;
      for (int32_t first = 0; first < f.channels; first += kWarp) {
        const int32_t channel = first + lane;
        float sum = chart > 0 && channel < f.channels ? out[channel] : 0.0f;
#pragma unroll 1
        for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
          for (int k = 0; k < kCorners; ++k) {
            if (k >= 4 && f.depth == 1) continue;
            const int64_t cell = __shfl_sync(kWholeWarp, found.cell[k], row * kPlanes + plane);
            const float weight = __shfl_sync(kWholeWarp, found.weight[k], row * kPlanes + plane);
            // A corner outside the grid has weight 0 and lies inside by its index: NaN there must not spread.
            if (weight != 0.0f && channel < f.channels) sum = fmaf(weight, f.grid[cell + channel], sum);
          }
        }
        if (channel < f.channels) out[channel] = sum;
      }
    }
  }
}

// Hands gradients[rows, C] of the features to the cells.
__device__ __forceinline__ void scatter_rows(const HrTrigrid& f, const RowPoint& own, int rows, const float* gradients,
                                             const AnySum& grid) {
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kRowsOfWarp, own_rows = rows_of_this_warp(rows);
  for (int32_t chart = 0; chart < f.charts; ++chart) {
    const Lookup found = find_cells(f, chart, own);
#pragma unroll 1
    for (int row = 0; row < own_rows; ++row) {
      const float* grad = gradients + static_cast<int64_t>(top + row) * f.channels;
#pragma unroll 1
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int k = 0; k < kCorners; ++k) {
          if (k >= 4 && f.depth == 1) continue;
          const int64_t cell = __shfl_sync(kWholeWarp, found.cell[k], row * kPlanes + plane);
          const float weight = __shfl_sync(kWholeWarp, found.weight[k], row * kPlanes + plane);
          if (weight == 0.0f) continue;
          for (int32_t channel = lane; channel < f.channels; channel += kWarp) grid.add(cell + channel, weight * grad[channel]);
        }
      }
    }
  }
}

// What the loss says of a row's place in a chart: gradients of coordinates and share, summed over the planes, in the first of
// the row's three lanes.
struct PlaceGrad {
  float at[3], share;
};

__device__ __forceinline__ PlaceGrad place_gradient(const HrTrigrid& f, const RowPoint& own, const Lookup& found,
                                                    int rows, const float* gradients) {
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kRowsOfWarp, own_rows = rows_of_this_warp(rows);
  float answer[kCorners] = {};  // of the lane's own cells: their value times the gradient
#pragma unroll 1
  for (int row = 0; row < own_rows; ++row) {
    const float* grad = gradients + static_cast<int64_t>(top + row) * f.channels;
#pragma unroll 1
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int k = 0; k < kCorners; ++k) {
        if (k >= 4 && f.depth == 1) continue;
        const int64_t cell = __shfl_sync(kWholeWarp, found.cell[k], row * kPlanes + plane);
        float sum = 0.0f;
        for (int32_t channel = lane; channel < f.channels; channel += kWarp) {
          sum = fmaf(f.grid[cell + channel], grad[channel], sum);
        }
        sum = sum_over_warp(sum);
        if (lane == row * kPlanes + plane) answer[k] = sum;
      }
    }
  }
  PlaceGrad own_grad = {};
  if (own.there && lane < kPlaceLanes) {
    const PlaneAxes& a = found.axes;
    const float share = found.place.weight / (3.0f * found.place.total);
    float by_axis[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int k = 0; k < kCorners; ++k) {
      const int kx = k & 1, ky = (k >> 1) & 1, kz = k >> 2;
      const float wx = a.x.weight[kx], wy = a.y.weight[ky], wz = a.z.weight[kz];
      if (wx * wy * wz != 0.0f) own_grad.share = fmaf(wx * wy * wz, answer[k], own_grad.share);
      if (a.x.slope[kx] * wy * wz != 0.0f) by_axis[0] = fmaf(a.x.slope[kx] * wy * wz * share, answer[k], by_axis[0]);
      if (wx * a.y.slope[ky] * wz != 0.0f) by_axis[1] = fmaf(wx * a.y.slope[ky] * wz * share, answer[k], by_axis[1]);
      if (wx * wy * a.z.slope[kz] != 0.0f) by_axis[2] = fmaf(wx * wy * a.z.slope[kz] * share, answer[k], by_axis[2]);
    }
    const int32_t* order = f.axes + 3 * (lane % kPlanes);
    for (int k = 0; k < 3; ++k) {
      for (int c = 0; c < 3; ++c) own_grad.at[c] += order[k] == c ? by_axis[k] : 0.0f;
    }
  }
  PlaceGrad sum = own_grad;
  for (int other = 1; other < kPlanes; ++other) {
    const int from = lane + other < kWarp ? lane + other : lane;
    for (int c = 0; c < 3; ++c) sum.at[c] += __shfl_sync(kWholeWarp, own_grad.at[c], from);
    sum.share += __shfl_sync(kWholeWarp, own_grad.share, from);
  }
  return sum;
}

// Gradients of the rows' points, from those of their features: in lane 3 r that of row r, elsewhere rubbish.
__device__ __forceinline__ void point_gradients(const HrTrigrid& f, const RowPoint& own, int rows, const float* gradients,
                                                float* grad_point) {
  PlaceGrad grad[HR_TRIGRID_MAX_CHARTS];
  float weight[HR_TRIGRID_MAX_CHARTS] = {}, total = 1.0f, mean = 0.0f;
#pragma unroll 1
  for (int chart = 0; chart < HR_TRIGRID_MAX_CHARTS; ++chart) {
    if (chart >= f.charts) continue;
    const Lookup found = find_cells(f, chart, own);
    grad[chart] = place_gradient(f, own, found, rows, gradients);
    weight[chart] = found.place.weight;
    total = found.place.total;
    mean += grad[chart].share * weight[chart] / total;
  }
  grad_point[0] = grad_point[1] = grad_point[2] = 0.0f;
  if (!own.there) return;
#pragma unroll
  for (int chart = 0; chart < HR_TRIGRID_MAX_CHARTS; ++chart) {
    if (chart >= f.charts) continue;
    // share = weight / (3 total), and total grows with every weight
    const float grad_weight = f.rotations ? (grad[chart].share - mean) / (3.0f * total) : 0.0f;
    hr_trigrid_chart_grad(f.rotations ? f.rotations + 9 * chart : nullptr, f.scale, own.point, grad[chart].at, grad_weight, grad_point);
  }
}

}  // namespace hr
