// Rays of samples on the GPU: checks, and the intervals of a ray 32 at a time, one for each lane of a warp.
#pragma once

#include "block.h"
#include "ray_samples.h"

namespace hr {

// Sizes only; offsets are looked at by the kernels.
inline bool sane_samples(const HrRaySamples& s) {
  return s.num_rays >= 0 && s.num_samples >= 0 && s.per_ray >= 0 && (s.starts || s.near_far || s.num_samples == 0) &&
         (s.rule == HR_RULE_INTERVALS || (s.rule == HR_RULE_NEIGHBOURS && s.starts)) && s.density >= HR_DENSITY_PLAIN &&
         s.density <= HR_DENSITY_ALPHA && !(s.density == HR_DENSITY_ALPHA && s.rule == HR_RULE_NEIGHBOURS) &&
         (!s.starts || s.ends || s.rule == HR_RULE_NEIGHBOURS) &&
         (s.offsets ? s.starts || s.num_samples == 0 : s.num_samples == s.num_rays * s.per_ray);
}

struct RayRange {
  int64_t first, count, intervals;
};

// A ray whose offsets fall, or leave the samples, is empty and reported.
__device__ __forceinline__ RayRange range_of_ray(const HrRaySamples& s, int64_t ray, int32_t* fault) {
  RayRange range;
  hr_ray_range(&s, ray, &range.first, &range.count);
  if (s.offsets) {
    const bool ends_fit = (ray > 0 || range.first == 0) && (ray + 1 < s.num_rays || range.first + range.count == s.num_samples);
    const bool inside = range.first >= 0 && range.count >= 0 && range.first + range.count <= s.num_samples;
    if (!ends_fit || !inside) report_bad_index(fault);
    if (!inside) range.first = range.count = 0;
  }
  range.intervals = hr_intervals(&s, range.count);
  return range;
}

// One lane's interval.
struct LaneInterval {
  float start = 0.0f, end = 0.0f;  // cut at the surface
  bool there = false, cut = false;
};

__device__ __forceinline__ LaneInterval interval_of_lane(const HrRaySamples& s, int64_t ray, const RayRange& range, int64_t i) {
  LaneInterval found;
  if (i >= range.intervals) return found;
  hr_interval(&s, ray, range.first, i, &found.start, &found.end);
  const float whole = found.end;
  found.there = hr_cut(&s, ray, found.start, &found.end) != 0;
  found.cut = whole > found.end;
  return found;
}

// The product of what lanes before this one let through, times `through`, which becomes what gets through them all. A lane
// that is reached by less than `stop` takes no part, and neither do those after it: `through` never grows.
__device__ __forceinline__ float light_before(float keep, float stop, float& through) {
  const int lane = lane_of_this_thread();
  float product = keep;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const float other = __shfl_up_sync(kWholeWarp, product, static_cast<unsigned>(step));
    if (lane >= step) product *= other;
  }
  const float before_lane = __shfl_up_sync(kWholeWarp, product, 1u);
  const float before = lane == 0 ? through : through * before_lane, after = through * product;
  const unsigned lit = __ballot_sync(kWholeWarp, !(before < stop));
  // The lowest lanes are lit; light ends after the last of them.
  const int last = lit == 0 ? 0 : kWarp - 1 - __clz(static_cast<int>(lit));
  const float left = __shfl_sync(kWholeWarp, after, last);
  if (lit != 0) through = left;
  return before;
}

// What a unit of light from behind is worth, seen before an interval: scale * (the same behind it) + shift.
struct Seen {
  float scale, shift;
};

// All intervals behind each lane's, composed, within the warp; and those of the whole warp in `all`.
__device__ __forceinline__ Seen compose_behind(Seen own, Seen* all) {
  const int lane = lane_of_this_thread();
  Seen sum = own;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const float scale = __shfl_down_sync(kWholeWarp, sum.scale, static_cast<unsigned>(step));
    const float shift = __shfl_down_sync(kWholeWarp, sum.shift, static_cast<unsigned>(step));
    if (lane + step < kWarp) {
      sum.shift = fmaf(sum.scale, shift, sum.shift);
      sum.scale *= scale;
    }
  }
  *all = {__shfl_sync(kWholeWarp, sum.scale, 0), __shfl_sync(kWholeWarp, sum.shift, 0)};
  Seen behind = {__shfl_down_sync(kWholeWarp, sum.scale, 1u), __shfl_down_sync(kWholeWarp, sum.shift, 1u)};
  if (lane == kWarp - 1) behind = {1.0f, 0.0f};
  return behind;
}

constexpr int kWarpsOfBlock = kThreads / kWarp;

// Rays are dealt to warps; a launch has a block for every 8, as launch_over counts items.
__device__ __forceinline__ int64_t ray_of_this_warp() {
  return static_cast<int64_t>(blockIdx.x) * kWarpsOfBlock + warp_of_this_thread();
}

inline bool rays_fit(int64_t rays) { return rays >= 0 && divide_up(rays, kWarpsOfBlock) <= kMaxBlocks; }

inline dim3 blocks_for_rays(int64_t rays) { return dim3(static_cast<unsigned>(divide_up(rays, kWarpsOfBlock))); }

}  // namespace hr
