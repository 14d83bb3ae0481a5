// CPU compositing along rays, forward and backward. A ray belongs to one thread, so nothing depends on their number.
#include <algorithm>
#include <cmath>
#include <vector>

#include "c_api.h"
#include "huge_pages.h"
#include "ray_checks.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kRaysPerTask = 64;
constexpr int kLanes = 16;

float dot(const float* a, const float* b, int n) {
  float lanes[kLanes] = {};
  int k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += a[k + i] * b[k + i];
  }
  for (int i = 0; k < n; ++k, ++i) lanes[i] += a[k] * b[k];
  float total = 0.0f;
  for (float lane : lanes) total += lane;
  return total;
}

// One interval of a ray, as the backward pass needs it again.
struct Interval {
  int64_t index;       // among the samples
  float start, end;    // cut at the surface
  float value, before; // the value that counts (a mean with HR_RULE_NEIGHBOURS), and the light that reaches it
  HrOpacity opacity;
  bool cut;
};

// Calls visit for the intervals of a ray that light reaches, front to back.
template <class Visit>
void walk(const HrCompositeParams& p, int64_t ray, const Visit& visit) {
  const HrRaySamples& s = p.samples;
  int64_t first, count;
  hr_ray_range(&s, ray, &first, &count);
  const int64_t intervals = hr_intervals(&s, count);
  float through = 1.0f;
  for (int64_t i = 0; i < intervals && !(through < s.stop); ++i) {
    Interval at;
    at.index = first + i;
    hr_interval(&s, ray, first, i, &at.start, &at.end);
    const float whole = at.end;
    if (!hr_cut(&s, ray, at.start, &at.end)) continue;
    at.cut = whole > at.end;
    at.value = p.values[at.index];
    if (s.rule == HR_RULE_NEIGHBOURS) at.value = (at.value + p.values[at.index + 1]) * 0.5f;
    at.opacity = hr_opacity(s.density, at.value, at.end - at.start, s.shift);
    at.before = through;
    visit(at);
    through *= at.opacity.keep;
    if (through < HR_FAINTEST) through = 0.0f;
  }
}

// The feature of an interval: a row of p.features, or the mean of two, written to `room`.
const float* feature_of(const HrCompositeParams& p, const Interval& at, float* room) {
  const float* row = p.features + at.index * p.channels;
  if (p.samples.rule != HR_RULE_NEIGHBOURS) return row;
  for (int d = 0; d < p.channels; ++d) room[d] = (row[d] + row[p.channels + d]) * 0.5f;
  return room;
}

void composite_ray(const HrCompositeParams& p, int64_t ray, float* room) {
  int64_t first, count;
  hr_ray_range(&p.samples, ray, &first, &count);
  if (p.weights) std::fill(p.weights + first, p.weights + first + count, 0.0f);
  float* sums = p.sums + ray * p.channels;
  std::fill(sums, sums + p.channels, 0.0f);
  float distance = 0.0f, opacity = 0.0f;
  walk(p, ray, [&](const Interval& at) {
    const float weight = at.before * at.opacity.alpha;
    if (weight == 0.0f) return;
    if (p.weights) p.weights[at.index] = weight;
    opacity += weight;
    distance += weight * ((at.start + at.end) * 0.5f);
    if (p.channels == 0) return;
    const float* feature = feature_of(p, at, room);
    for (int d = 0; d < p.channels; ++d) sums[d] += weight * feature[d];
  });
  p.distances[ray] = distance;
  p.opacities[ray] = opacity;
}

// Gradient per unit of weight: what one more unit of this interval in the sums would change.
float worth(const HrCompositeParams& p, int64_t ray, const Interval& at, bool counts, float* room) {
  const float middle = (at.start + at.end) * 0.5f;
  float total = p.grad_opacities[ray] + (p.grad_weights ? p.grad_weights[at.index] : 0.0f);
  if (counts || std::isfinite(middle)) total += p.grad_distances[ray] * middle;
  if (p.channels == 0) return total;
  const float *feature = feature_of(p, at, room), *grad = p.grad_sums + ray * p.channels;
  const float sum = dot(feature, grad, p.channels);
  if (counts || std::isfinite(sum)) return total + sum;
  for (int d = 0; d < p.channels; ++d) total += std::isfinite(feature[d]) ? feature[d] * grad[d] : 0.0f;
  return total;
}

void add_feature_gradient(const HrCompositeParams& p, int64_t ray, const Interval& at, float weight) {
  const float* grad = p.grad_sums + ray * p.channels;
  float* out = p.grad_features + at.index * p.channels;
  if (p.samples.rule != HR_RULE_NEIGHBOURS) {
    for (int d = 0; d < p.channels; ++d) out[d] = weight * grad[d];
    return;
  }
  for (int d = 0; d < p.channels; ++d) out[d] += 0.5f * weight * grad[d];
  for (int d = 0; d < p.channels; ++d) out[p.channels + d] += 0.5f * weight * grad[d];
}

// From the last interval to the first, with what is seen behind each per unit of light: no division by what gets through.
void composite_ray_backward(const HrCompositeParams& p, int64_t ray, std::vector<Interval>& kept, float* room) {
  const HrRaySamples& s = p.samples;
  int64_t first, count;
  hr_ray_range(&s, ray, &first, &count);
  for (float* out : {p.grad_values, p.grad_starts, p.grad_ends}) {
    if (out) std::fill(out + first, out + first + count, 0.0f);
  }
  if (p.grad_features) std::fill(p.grad_features + first * p.channels, p.grad_features + (first + count) * p.channels, 0.0f);
  kept.clear();
  walk(p, ray, [&](const Interval& at) { kept.push_back(at); });
  const bool pairs = s.rule == HR_RULE_NEIGHBOURS;
  float behind = 0.0f;
  for (auto it = kept.rbegin(); it != kept.rend(); ++it) {
    const Interval& at = *it;
    const float weight = at.before * at.opacity.alpha, gain = worth(p, ray, at, weight != 0.0f, room);
    float grad_value, grad_length;
    hr_opacity_grad(s.density, at.value, at.end - at.start, s.shift, at.opacity, 1.0f, &grad_value, &grad_length);
    const float grad_alpha = at.before * (gain - behind);
    if (grad_value != 0.0f) grad_value *= grad_alpha;
    if (grad_length != 0.0f) grad_length *= grad_alpha;
    if (at.opacity.alpha > 0.0f) behind = at.opacity.alpha * gain + at.opacity.keep * behind;
    p.grad_values[at.index] += pairs ? 0.5f * grad_value : grad_value;
    if (pairs) p.grad_values[at.index + 1] += 0.5f * grad_value;
    if (p.grad_features && weight != 0.0f) add_feature_gradient(p, ray, at, weight);
    if (!p.grad_starts) continue;
    const float half = 0.5f * weight * p.grad_distances[ray];
    p.grad_starts[at.index] += half - grad_length;
    if (at.cut) continue;
    (pairs ? p.grad_starts[at.index + 1] : p.grad_ends[at.index]) += half + grad_length;
  }
}

template <class Work>
int32_t over_rays(const HrCompositeParams& p, const Work& work) {
  const int64_t tasks = (p.samples.num_rays + kRaysPerTask - 1) / kRaysPerTask;
  parallel_for(tasks, p.num_threads, [&](int64_t task) {
    std::vector<Interval> kept;
    std::vector<float> room(p.channels + 1);
    const int64_t end = std::min((task + 1) * kRaysPerTask, p.samples.num_rays);
    for (int64_t ray = task * kRaysPerTask; ray < end; ++ray) work(ray, kept, room.data());
  });
  return HR_OK;
}

int32_t check(const HrCompositeParams& p) {
  if (p.channels < 0 || p.num_threads < 1) return HR_ERROR_ARGUMENT;
  return check_samples(p.samples);
}

}  // namespace
}  // namespace hr

int32_t hr_composite_cpu(const HrCompositeParams* params) {
  const HrCompositeParams& p = *params;
  if (const int32_t status = hr::check(p)) return status;
  return hr::guarded([&] {
    return hr::over_rays(p, [&](int64_t ray, std::vector<hr::Interval>&, float* room) { hr::composite_ray(p, ray, room); });
  });
}

int32_t hr_composite_backward_cpu(const HrCompositeParams* params) {
  const HrCompositeParams& p = *params;
  if (const int32_t status = hr::check(p)) return status;
  hr::expect_writes(p.grad_features, p.samples.num_samples * p.channels * 4);
  return hr::guarded([&] {
    return hr::over_rays(p, [&](int64_t ray, std::vector<hr::Interval>& kept, float* room) {
      hr::composite_ray_backward(p, ray, kept, room);
    });
  });
}
