// Checks of what callers say about samples along rays, shared by the ops that take them.
#pragma once

#include "ray_samples.h"

namespace hr {

// HR_OK, or what is wrong with the sizes and offsets.
inline int32_t check_samples(const HrRaySamples& s) {
  const bool sane = s.num_rays >= 0 && s.num_samples >= 0 && s.per_ray >= 0 && (s.starts || s.near_far || s.num_samples == 0) &&
                    (s.rule == HR_RULE_INTERVALS || (s.rule == HR_RULE_NEIGHBOURS && s.starts)) &&
                    s.density >= HR_DENSITY_PLAIN && s.density <= HR_DENSITY_ALPHA &&
                    !(s.density == HR_DENSITY_ALPHA && s.rule == HR_RULE_NEIGHBOURS) &&
                    (!s.starts || s.ends || s.rule == HR_RULE_NEIGHBOURS);
  if (!sane) return HR_ERROR_ARGUMENT;
  if (!s.offsets) return s.num_samples == s.num_rays * s.per_ray ? HR_OK : HR_ERROR_ARGUMENT;
  if (!s.starts && s.num_samples > 0) return HR_ERROR_ARGUMENT;
  if (s.offsets[0] != 0 || s.offsets[s.num_rays] != s.num_samples) return HR_ERROR_INDEX;
  for (int64_t r = 0; r < s.num_rays; ++r) {
    if (s.offsets[r + 1] < s.offsets[r]) return HR_ERROR_INDEX;
  }
  return HR_OK;
}

}  // namespace hr
