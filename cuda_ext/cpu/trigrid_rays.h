// Samples of a few rays on their way through lookup, decoder and compositing: shared by the render's two directions.
#pragma once

#include <vector>

#include "trigrid_common.h"

namespace hr {

constexpr int kMostEntries = 768;  // samples that are decoded together; what they need stays in a core's second cache

// Rays begin..end-1, all of one image, whose samples fit into one list unless it is a single ray.
struct RayGroup {
  int64_t begin, end, image;
  int64_t first_sample, samples;
};

// Cuts the rays into groups; depends on the samples alone, never on the number of threads.
std::vector<RayGroup> group_rays(const HrRaySamples& samples, int64_t batch, int64_t rays_per_image);

// A sample that is looked up.
struct Entry {
  int64_t sample;
  int32_t ray;      // within the group
  float distance;   // where it is taken
};

// An interval that light may reach: the entry at its begin (or its only one) and that at its end, as places in the list;
// -1 for the last sample of an earlier list, which the ray remembers.
struct Interval {
  int32_t ray, first, last;
  int64_t sample;   // index of its weight
  float middle;
};

// Hands out the samples of a group list by list, and knows what each ray has come to.
class RayWalk {
 public:
  RayWalk(const HrTrigridRenderParams& params, const RayGroup& group);

  // The next samples, at most kMostEntries of them; false when there are none. A ray that may end early gives 16 at a time.
  bool next();
  // Intervals between or around the entries, with their raw densities and lengths.
  void find_intervals(const Batch& batch);
  // Remembers the last samples of rays that are not through, for HR_RULE_NEIGHBOURS.
  void keep_last(const Batch& batch);

  // Light that has got this far along each ray; the caller lowers it.
  std::vector<float> through;
  std::vector<Entry> entries;
  std::vector<Interval> intervals;
  std::vector<float> values, lengths;
  // Features of the last sample of each ray, [rays, padded features]; see Interval.
  std::vector<float> last_features;
  int last_stride = 0;

 private:
  struct Ray {
    int64_t first, count, at;
    int64_t last_sample;  // that was decoded; -1: none
    float last_density;
    int32_t last_entry;   // its place in the present list, -1 when it is in an earlier one
  };
  bool fill();
  bool is_wanted(int64_t ray, const Ray& state, float* distance) const;

  const HrTrigridRenderParams& params_;
  const RayGroup group_;
  std::vector<Ray> rays_;
  size_t cursor_ = 0;
};

// Points of entries.
void entry_points(const HrTrigridRenderParams& params, const RayGroup& group, const Entry* entries, int n, float* points);

int32_t check_render(const HrTrigridRenderParams& params);

}  // namespace hr
