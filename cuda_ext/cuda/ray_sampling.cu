// CUDA drawing of samples from weights, and marching of rays through occupied cells.
//
// Both do what the CPU does in the same order, so that distances come out bit for bit the same. Expected (H100, 65k rays):
// drawing 48 of 48 about 15 us, bound by latency of the searches; a march of up to 1000 steps 100 to 300 us, by the longest
// ray of each warp.
#include "block.h"
#include "ray_samples.h"

namespace hr {
namespace {

int32_t check(const HrImportanceParams& p) {
  const bool sane = p.intervals >= 1 && p.draws >= 0 && p.num_rays >= 0 && fits_grid(p.num_rays) &&
                    fits_grid(p.num_rays * p.draws);
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

int32_t check(const HrMarchParams& p) {
  const bool sane = p.num_rays >= 0 && fits_grid(p.num_rays) && p.step > 0.0f && p.size[0] >= 1 && p.size[1] >= 1 && p.size[2] >= 1;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

struct DrawScratch {
  float* borders;  // [S+1,R]: running sums, rays side by side
};

DrawScratch lay_out_importance(const HrImportanceParams& p, const HrCudaLaunch&, Workspace& workspace) {
  return {workspace.take<float>(p.num_rays * (p.intervals + 1))};
}

NoScratch lay_out_march(const HrMarchParams&, const HrCudaLaunch&, Workspace&) { return {}; }

template <class Weight>
__device__ __forceinline__ bool sum_up(const HrImportanceParams& p, float* border, const Weight& weight) {
  float sum = 0.0f;
  border[0] = 0.0f;
  for (int32_t k = 0; k < p.intervals; ++k) {
    sum += weight(k);
    border[(k + 1) * p.num_rays] = sum;
  }
  return sum > 0.0f;
}

// One thread per ray: running sums of the weights; of the lengths, or of ones, when all weights are 0.
__global__ void __launch_bounds__(kThreads) sum_weights(HrImportanceParams p, DrawScratch scratch) {
  const int64_t ray = place_of_this_thread().item;
  if (ray >= p.num_rays) return;
  const float *edges = p.edges + ray * (p.intervals + 1), *weights = p.weights + ray * p.intervals;
  float* border = scratch.borders + ray;
  if (sum_up(p, border, [&](int32_t k) { return hr_drawing_weight(weights[k]); })) return;
  if (sum_up(p, border, [&](int32_t k) { return hr_drawing_weight(edges[k + 1] - edges[k]); })) return;
  sum_up(p, border, [](int32_t) { return 1.0f; });
}

// One thread per draw.
__global__ void __launch_bounds__(kThreads) draw_distances(HrImportanceParams p, DrawScratch scratch) {
  const int64_t item = place_of_this_thread().item;
  if (item >= p.num_rays * p.draws) return;
  const int64_t ray = quotient(item, p.draws);
  const float *edges = p.edges + ray * (p.intervals + 1), *border = scratch.borders + ray;
  const float total = border[p.intervals * p.num_rays], u = p.uniforms[item];
  const float target = (u > 0.0f ? (u < 1.0f ? u : 1.0f) : 0.0f) * total;
  // The first sum above the target; where there is none, the last interval that weighs something.
  const bool beyond = !(total > target);
  int32_t low = 0, high = p.intervals;
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    const float sum = border[middle * p.num_rays];
    if (beyond ? !(sum < total) : sum > target) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const int32_t k = low > 0 ? low - 1 : 0;
  const float below = border[k * p.num_rays], above = border[(k + 1) * p.num_rays];
  const float share = (target - below) / (above - below);
  const float inside = share < 0.0f ? 0.0f : (share > 1.0f ? 1.0f : share);
  p.distances[item] = edges[k] + inside * (edges[k + 1] - edges[k]);
}

// One thread per ray: counts the steps that are kept, or writes them down.
__global__ void __launch_bounds__(kThreads) march_rays(HrMarchParams p) {
  const int64_t ray = place_of_this_thread().item;
  if (ray >= p.num_rays) return;
  const float near = p.near_far[2 * ray], far = p.near_far[2 * ray + 1], shift = p.shifts ? p.shifts[ray] : 0.0f;
  int64_t kept = 0, at = p.offsets ? p.offsets[ray] : 0;
  const int64_t end = p.offsets ? p.offsets[ray + 1] : 0;
  if (far > near) {
    int64_t skip = 1;
    for (int64_t i = 0; i < HR_MARCH_MAX_STEPS; i += skip) {
      const float start = near + (static_cast<float>(i) + shift) * p.step;
      if (!(start < far)) break;
      skip = 1;
      if (!hr_march_step(&p, p.origins + 3 * ray, p.directions + 3 * ray, start + 0.5f * p.step, &skip)) continue;
      ++kept;
      if (at >= end) continue;
      p.starts[at] = start;
      p.ends[at] = start + p.step;
      p.ray_indices[at++] = ray;
    }
  }
  if (!p.offsets) p.counts[ray] = kept;
}

void run_importance(const HrImportanceParams& p, const HrCudaLaunch& launch, const DrawScratch& scratch) {
  launch_over(launch, p.num_rays, 1, sum_weights, p, scratch);
  launch_over(launch, p.num_rays * p.draws, 1, draw_distances, p, scratch);
}

void run_march(const HrMarchParams& p, const HrCudaLaunch& launch, NoScratch) {
  launch_over(launch, p.num_rays, 1, march_rays, p);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(importance, HrImportanceParams)
HR_DEFINE_CUDA_OP(march, HrMarchParams)
