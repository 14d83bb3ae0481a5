#include "trigrid_rays.h"

#include <algorithm>
#include <cstring>

#include "ray_checks.h"

namespace hr {
namespace {

constexpr int64_t kMostRays = 64;
constexpr int kEarlyQuota = 16;

}  // namespace

std::vector<RayGroup> group_rays(const HrRaySamples& s, int64_t batch, int64_t rays_per_image) {
  std::vector<RayGroup> groups;
  for (int64_t image = 0; image < batch; ++image) {
    for (int64_t ray = image * rays_per_image; ray < (image + 1) * rays_per_image; ++ray) {
      int64_t first, count;
      hr_ray_range(&s, ray, &first, &count);
      const bool joins = !groups.empty() && groups.back().image == image && groups.back().end == ray &&
                         ray - groups.back().begin < kMostRays && groups.back().samples + count <= kMostEntries;
      if (!joins) groups.push_back({ray, ray, image, first, 0});
      groups.back().end = ray + 1;
      groups.back().samples += count;
    }
  }
  return groups;
}

RayWalk::RayWalk(const HrTrigridRenderParams& params, const RayGroup& group) : params_(params), group_(group) {
  rays_.resize(group.end - group.begin);
  for (size_t r = 0; r < rays_.size(); ++r) {
    Ray& ray = rays_[r];
    hr_ray_range(&params.samples, group.begin + static_cast<int64_t>(r), &ray.first, &ray.count);
    ray.at = 0;
    ray.last_sample = -1;
    ray.last_entry = -1;
    ray.last_density = 0.0f;
  }
  through.assign(rays_.size(), 1.0f);
  last_stride = whole_vectors(params.decoder.features);
  if (params.samples.rule == HR_RULE_NEIGHBOURS) last_features.assign(rays_.size() * last_stride, 0.0f);
  entries.reserve(kMostEntries);
}

// Whether the ray's next sample has to be decoded, and where it lies.
bool RayWalk::is_wanted(int64_t ray, const Ray& state, float* distance) const {
  const HrRaySamples& s = params_.samples;
  if (s.rule == HR_RULE_NEIGHBOURS) {
    *distance = s.starts[state.first + state.at];
    if (!s.surface) return true;
    float previous = state.at > 0 ? s.starts[state.first + state.at - 1] : *distance;
    return !(*distance >= s.surface[ray]) || !(previous >= s.surface[ray]);
  }
  float start, end;
  hr_interval(&s, ray, state.first, state.at, &start, &end);
  if (!hr_cut(&s, ray, start, &end)) return false;
  *distance = (start + end) * 0.5f;
  return true;
}

// One round over the rays, or what is left of the list; returns whether any sample was looked at.
bool RayWalk::fill() {
  const bool early = params_.samples.stop > 0.0f;
  bool moved = false;
  for (size_t tried = 0; tried < rays_.size(); ++tried) {
    Ray& ray = rays_[cursor_];
    ray.last_entry = -1;
    int64_t quota = early ? kEarlyQuota : ray.count;
    const int64_t index = group_.begin + static_cast<int64_t>(cursor_);
    for (; ray.at < ray.count && quota > 0 && !(through[cursor_] < params_.samples.stop); ++ray.at, --quota) {
      if (entries.size() == kMostEntries) return true;  // this ray goes on in the next list
      float distance;
      moved = true;
      if (is_wanted(index, ray, &distance)) entries.push_back({ray.first + ray.at, static_cast<int32_t>(cursor_), distance});
    }
    cursor_ = (cursor_ + 1) % rays_.size();
  }
  return moved;
}

bool RayWalk::next() {
  entries.clear();
  while (entries.empty() && fill()) continue;  // a round may meet nothing but samples behind a surface
  return !entries.empty();
}

void RayWalk::find_intervals(const Batch& batch) {
  const HrRaySamples& s = params_.samples;
  intervals.clear();
  values.clear();
  lengths.clear();
  for (size_t e = 0; e < entries.size(); ++e) {
    const Entry& entry = entries[e];
    Ray& ray = rays_[entry.ray];
    const int64_t index = group_.begin + entry.ray;
    const int32_t here = static_cast<int32_t>(e);
    float start, end, value = batch.density[e];
    if (s.rule == HR_RULE_NEIGHBOURS) {
      const float before = ray.last_density;
      const int32_t first = ray.last_entry;
      const bool follows = ray.last_sample >= 0 && ray.last_sample + 1 == entry.sample;
      ray.last_sample = entry.sample;
      ray.last_density = value;
      ray.last_entry = here;
      if (!follows) continue;
      hr_interval(&s, index, ray.first, entry.sample - 1 - ray.first, &start, &end);
      if (!hr_cut(&s, index, start, &end)) continue;
      value = (before + value) * 0.5f;
      intervals.push_back({entry.ray, first, here, entry.sample - 1, (start + end) * 0.5f});
    } else {
      hr_interval(&s, index, ray.first, entry.sample - ray.first, &start, &end);
      hr_cut(&s, index, start, &end);
      intervals.push_back({entry.ray, here, here, entry.sample, entry.distance});
    }
    values.push_back(value);
    lengths.push_back(end - start);
  }
}

void RayWalk::keep_last(const Batch& batch) {
  if (last_features.empty()) return;
  for (size_t r = 0; r < rays_.size(); ++r) {
    if (rays_[r].last_entry < 0) continue;
    const float* from = batch.out + static_cast<int64_t>(rays_[r].last_entry) * batch.out_stride;
    std::copy(from, from + params_.decoder.features, last_features.data() + r * last_stride);
    rays_[r].last_entry = -1;
  }
}

void entry_points(const HrTrigridRenderParams& p, const RayGroup& group, const Entry* entries, int n, float* points) {
  for (int e = 0; e < n; ++e) {
    const float *origin = p.origins + 3 * (group.begin + entries[e].ray), *direction = p.directions + 3 * (group.begin + entries[e].ray);
    for (int k = 0; k < 3; ++k) points[3 * e + k] = origin[k] + entries[e].distance * direction[k];
  }
}

int32_t check_render(const HrTrigridRenderParams& p) {
  const bool sane = is_sane(p.field, p.decoder) && p.num_threads >= 1 && p.rays_per_image >= 0 &&
                    p.samples.num_rays == p.field.batch * p.rays_per_image && p.samples.density != HR_DENSITY_ALPHA;
  return sane ? check_samples(p.samples) : HR_ERROR_ARGUMENT;
}

}  // namespace hr
