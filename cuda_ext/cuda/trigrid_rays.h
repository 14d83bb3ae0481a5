// Rays through a grid on three planes, 8 samples at a time: each warp of a block has a ray, and its rows are the samples.
//
// The block's warps go on together, since the decoder's weights come to all of them at once; a ray that has ended waits for
// the longest of its 8. Sample i, which stands for an interval, has the interval's own number; where samples are neighbours
// (HR_RULE_NEIGHBOURS), the interval between i - 1 and i belongs to the row of sample i.
#pragma once

#include "rays.h"
#include "trigrid_decoder.h"

namespace hr {

inline bool sane_render(const HrTrigridRenderParams& p) {
  return sane_field(p.field) && sane_decoder(p.decoder) && p.rays_per_image >= 0 && sane_samples(p.samples) &&
         p.samples.num_rays == p.field.batch * p.rays_per_image && p.samples.density != HR_DENSITY_ALPHA &&
         rays_fit(p.samples.num_rays);
}

// The ray of a warp, and how far it has come.
struct RayWalk {
  int64_t ray, image;
  RayRange range;
  bool exists;

  __device__ __forceinline__ bool has(int64_t sample) const { return exists && sample < range.count; }
};

__device__ __forceinline__ RayWalk walk_of_warp(const HrTrigridRenderParams& p, int64_t group, int32_t* fault) {
  RayWalk walk = {};
  walk.ray = group * kWarpsOfBlock + warp_of_this_thread();
  walk.exists = walk.ray < p.samples.num_rays;
  if (!walk.exists) return walk;
  walk.image = walk.ray / p.rays_per_image;
  walk.range = range_of_ray(p.samples, walk.ray, fault);
  return walk;
}

// What row r = lane (below 8) stands for: its interval, and where its sample is taken.
struct RowSample {
  LaneInterval interval;
  float distance = 0.0f;
  bool wanted = false;
};

__device__ __forceinline__ RowSample sample_of_row(const HrTrigridRenderParams& p, const RayWalk& walk, int64_t first) {
  const int lane = lane_of_this_thread();
  const int64_t i = first + lane;
  RowSample row;
  if (lane >= kRowsOfWarp || !walk.has(i)) return row;
  if (p.samples.rule == HR_RULE_NEIGHBOURS) {
    row.distance = p.samples.starts[walk.range.first + i];
    row.wanted = true;
    if (i > 0) row.interval = interval_of_lane(p.samples, walk.ray, walk.range, i - 1);
  } else {
    row.interval = interval_of_lane(p.samples, walk.ray, walk.range, i);
    row.distance = (row.interval.start + row.interval.end) * 0.5f;
    row.wanted = row.interval.there;
  }
  return row;
}

// The point of row lane / 3, for the lookup.
__device__ __forceinline__ RowPoint point_of_row(const HrTrigridRenderParams& p, const RayWalk& walk, const RowSample& row) {
  const int lane = lane_of_this_thread(), from = lane < kPlaceLanes ? lane / kPlanes : 0;
  const float distance = __shfl_sync(kWholeWarp, row.distance, from);
  const bool wanted = __shfl_sync(kWholeWarp, row.wanted ? 1 : 0, from) != 0;
  RowPoint point = {};
  point.there = wanted && lane < kPlaceLanes;
  point.image = walk.image;
  if (!point.there) return point;
  for (int k = 0; k < 3; ++k) point.point[k] = p.origins[3 * walk.ray + k] + distance * p.directions[3 * walk.ray + k];
  return point;
}

// The last sample of the 8 before, for neighbours: its density in all lanes, its features in theirs.
constexpr int kFeatureTurns = (HR_DECODER_MAX_FEATURES + kWarp - 1) / kWarp;

struct LastSample {
  float density = 0.0f, feature[kFeatureTurns] = {};
};

// The raw value of the lane's interval, from the decoded rows.
template <int kColumns>
__device__ __forceinline__ float value_of_row(const HrTrigridRenderParams& p, const LayerSpace<kColumns>& space,
                                              const LastSample& last) {
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kRowsOfWarp;
  const int row = lane < kRowsOfWarp ? lane : 0;
  const float own = space.state[top + row][0];
  if (p.samples.rule != HR_RULE_NEIGHBOURS) return own;
  const float before = row > 0 ? space.state[top + row - 1][0] : last.density;
  return (before + own) * 0.5f;
}

// Feature d = lane + 32 turn of the interval of a row.
template <int kColumns>
__device__ __forceinline__ float feature_of_row(const HrTrigridRenderParams& p, const LayerSpace<kColumns>& space,
                                                const LastSample& last, int row, int turn) {
  const int top = warp_of_this_thread() * kRowsOfWarp, column = 1 + lane_of_this_thread() + kWarp * turn;
  const float own = space.state[top + row][column];
  if (p.samples.rule != HR_RULE_NEIGHBOURS) return own;
  const float before = row > 0 ? space.state[top + row - 1][column] : last.feature[turn];
  return (before + own) * 0.5f;
}

template <int kColumns>
__device__ __forceinline__ void keep_last(const HrTrigridRenderParams& p, const LayerSpace<kColumns>& space, LastSample& last) {
  const int row = warp_of_this_thread() * kRowsOfWarp + kRowsOfWarp - 1;
  last.density = space.state[row][0];
#pragma unroll
  for (int turn = 0; turn < kFeatureTurns; ++turn) {
    const int32_t d = lane_of_this_thread() + kWarp * turn;
    if (d < p.decoder.features) last.feature[turn] = space.state[row][1 + d];
  }
}

__device__ __forceinline__ HrOpacity opacity_of_row(const HrTrigridRenderParams& p, const RowSample& row, float value) {
  HrOpacity none = {0.0f, 1.0f, 0.0f};
  if (!row.interval.there) return none;
  return hr_opacity(p.samples.density, value, row.interval.end - row.interval.start, p.samples.shift);
}

// Where the weight of the lane's interval belongs.
__device__ __forceinline__ int64_t index_of_interval(const HrTrigridRenderParams& p, const RayWalk& walk, int64_t first) {
  return walk.range.first + first + lane_of_this_thread() - (p.samples.rule == HR_RULE_NEIGHBOURS ? 1 : 0);
}

inline int64_t ray_groups(const HrTrigridRenderParams& p) { return divide_up(p.samples.num_rays, kWarpsOfBlock); }

}  // namespace hr
