// CPU drawing of samples from weights, and marching of rays through occupied cells.
#include <algorithm>
#include <vector>

#include "c_api.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kRaysPerTask = 128;

// Running sums of the weights of one ray, border[0] = 0 to border[S]; of the lengths, or of ones, when all weights are 0.
void running_sums(const float* edges, const float* weights, int32_t intervals, float* border) {
  const auto sum = [&](const auto& weight) {
    border[0] = 0.0f;
    for (int32_t k = 0; k < intervals; ++k) border[k + 1] = border[k] + weight(k);
    return border[intervals] > 0.0f;
  };
  if (sum([&](int32_t k) { return hr_drawing_weight(weights[k]); })) return;
  if (sum([&](int32_t k) { return hr_drawing_weight(edges[k + 1] - edges[k]); })) return;
  sum([](int32_t) { return 1.0f; });
}

void draw(const HrImportanceParams& p, int64_t ray, float* border) {
  const float* edges = p.edges + ray * (p.intervals + 1);
  running_sums(edges, p.weights + ray * p.intervals, p.intervals, border);
  const float total = border[p.intervals];
  int32_t last = p.intervals - 1;  // the end of everything belongs to the last interval that weighs something
  while (last > 0 && !(border[last] < total)) --last;
  for (int32_t m = 0; m < p.draws; ++m) {
    const float u = p.uniforms[ray * p.draws + m];
    const float target = (u > 0.0f ? (u < 1.0f ? u : 1.0f) : 0.0f) * total;
    const float* above = std::upper_bound(border, border + p.intervals + 1, target);
    const int32_t k = std::min(static_cast<int32_t>(above - border) - 1, last);
    const float share = std::clamp((target - border[k]) / (border[k + 1] - border[k]), 0.0f, 1.0f);
    p.distances[ray * p.draws + m] = edges[k] + share * (edges[k + 1] - edges[k]);
  }
}

// Calls keep(start) for the steps of a ray that lie in occupied cells.
template <class Keep>
void march(const HrMarchParams& p, int64_t ray, const Keep& keep) {
  const float near = p.near_far[2 * ray], far = p.near_far[2 * ray + 1], shift = p.shifts ? p.shifts[ray] : 0.0f;
  if (!(far > near)) return;
  for (int64_t i = 0, skip = 1; i < HR_MARCH_MAX_STEPS; i += skip) {
    const float start = near + (static_cast<float>(i) + shift) * p.step;
    if (!(start < far)) return;
    skip = 1;
    if (hr_march_step(&p, p.origins + 3 * ray, p.directions + 3 * ray, start + 0.5f * p.step, &skip)) keep(start);
  }
}

int32_t march_rays(const HrMarchParams& p) {
  const int64_t tasks = (p.num_rays + kRaysPerTask - 1) / kRaysPerTask;
  parallel_for(tasks, p.num_threads, [&](int64_t task) {
    const int64_t end = std::min((task + 1) * kRaysPerTask, p.num_rays);
    for (int64_t ray = task * kRaysPerTask; ray < end; ++ray) {
      if (!p.offsets) {
        int64_t count = 0;
        march(p, ray, [&](float) { ++count; });
        p.counts[ray] = count;
        continue;
      }
      int64_t at = p.offsets[ray];
      march(p, ray, [&](float start) {
        if (at >= p.offsets[ray + 1]) return;  // more than were counted: the cells have changed in between
        p.starts[at] = start;
        p.ends[at] = start + p.step;
        p.ray_indices[at++] = ray;
      });
    }
  });
  return HR_OK;
}

}  // namespace
}  // namespace hr

int32_t hr_importance_cpu(const HrImportanceParams* params) {
  const HrImportanceParams& p = *params;
  if (p.intervals < 1 || p.draws < 0 || p.num_rays < 0 || p.num_threads < 1) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] {
    hr::parallel_for((p.num_rays + hr::kRaysPerTask - 1) / hr::kRaysPerTask, p.num_threads, [&](int64_t task) {
      std::vector<float> border(p.intervals + 1);
      const int64_t end = std::min((task + 1) * hr::kRaysPerTask, p.num_rays);
      for (int64_t ray = task * hr::kRaysPerTask; ray < end; ++ray) hr::draw(p, ray, border.data());
    });
    return HR_OK;
  });
}

int32_t hr_march_cpu(const HrMarchParams* params) {
  const HrMarchParams& p = *params;
  if (p.num_rays < 0 || p.num_threads < 1 || !(p.step > 0.0f) || std::min({p.size[0], p.size[1], p.size[2]}) < 1) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::march_rays(p); });
}
