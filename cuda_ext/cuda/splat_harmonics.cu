// CUDA Gaussian splatting: colours from spherical harmonics, and back.
//
// One thread per Gaussian, which goes through its cameras. Expected (H100, 200k Gaussians, degree 3): 192 bytes of
// coefficients each, 38 MB: 15 us by bandwidth, forward; backward reads and writes them: 30 us. A thread's row spans two
// lines, so that neighbouring threads do not read neighbouring words; the first level of cache makes up for it.
#include "splat_harmonics.h"

#include "block.h"
#include "sums.h"

namespace hr {
namespace {

template <class Params>
int32_t check_harmonics(const Params& p) {
  const bool sane = p.batch >= 0 && p.cameras >= 0 && p.num_gaussians >= 0 && fits_grid(p.num_gaussians) && p.degree >= 0 &&
                    p.degree <= 3 && p.num_coefficients >= (p.degree + 1) * (p.degree + 1);
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

int32_t check(const HrSplatHarmonicsParams& p) { return check_harmonics(p); }
int32_t check(const HrSplatHarmonicsGradParams& p) { return check_harmonics(p); }

NoScratch lay_out_splat_harmonics(const HrSplatHarmonicsParams&, const HrCudaLaunch&, Workspace&) { return {}; }

SumScratch lay_out_splat_harmonics_backward(const HrSplatHarmonicsGradParams& p, const HrCudaLaunch& launch,
                                            Workspace& workspace) {
  return lay_out_sums(p.grad_centers ? p.batch * p.cameras * 3 : 0, launch, workspace);
}

// From the camera to the Gaussian.
struct Direction {
  float d[3], inv_length;
};

__device__ __forceinline__ Direction direction_of(const float* mean, const float* center) {
  Direction way;
  for (int i = 0; i < 3; ++i) way.d[i] = mean[i] - center[i];
  way.inv_length = 1.0f / hr_max(hr_sqrt(hr_dot3(way.d, way.d)), 1e-30f);
  for (int i = 0; i < 3; ++i) way.d[i] *= way.inv_length;
  return way;
}

__device__ __forceinline__ bool is_drawn(const float* radii) { return radii[0] > 0.0f || radii[1] > 0.0f; }

template <int kDegree>
__global__ void __launch_bounds__(kThreads) evaluate_colours(HrSplatHarmonicsParams p) {
  constexpr int kUsed = (kDegree + 1) * (kDegree + 1);
  const Place place = place_of_this_thread();
  if (place.item >= p.num_gaussians) return;
  for (int64_t image = place.first_image; image < p.batch * p.cameras; image += place.image_step) {
    const int64_t own = image / p.cameras * p.num_gaussians + place.item, at = image * p.num_gaussians + place.item;
    float sum[3] = {0.0f, 0.0f, 0.0f};
    if (is_drawn(p.radii + 2 * at)) {
      const Direction way = direction_of(p.means + 3 * own, p.centers + 3 * image);
      float value[kUsed];
      hr_harmonics(way.d[0], way.d[1], way.d[2], kDegree, value);
      const float* row = p.coefficients + own * 3 * p.num_coefficients;
      for (int d = 0; d < 3; ++d) sum[d] = 0.5f;
#pragma unroll
      for (int k = 0; k < kUsed; ++k) {
        for (int d = 0; d < 3; ++d) sum[d] = hr_fma(value[k], hr_splat_finite(row[3 * k + d]), sum[d]);
      }
    }
    for (int d = 0; d < 3; ++d) p.colours[3 * at + d] = hr_max(sum[d], 0.0f);
  }
}

// What one camera's colour says of a Gaussian's coefficients (added to grad_row, unless null) and of its direction.
template <int kDegree>
__device__ __forceinline__ void differentiate(const HrSplatHarmonicsGradParams& p, const Direction& way, const float* row,
                                              int64_t at, float* grad_row, float* by_mean) {
  constexpr int kUsed = (kDegree + 1) * (kDegree + 1);
  float value[kUsed], pull[kUsed], grad[3];
  hr_harmonics(way.d[0], way.d[1], way.d[2], kDegree, value);
  for (int d = 0; d < 3; ++d) grad[d] = p.colours[3 * at + d] > 0.0f ? p.grad_colours[3 * at + d] : 0.0f;
#pragma unroll
  for (int k = 0; k < kUsed; ++k) {
    pull[k] = 0.0f;
    for (int d = 0; d < 3; ++d) {
      const float coefficient = row[3 * k + d];
      const bool finite = hr_splat_finite(coefficient) == coefficient;
      pull[k] = hr_fma(grad[d], finite ? coefficient : 0.0f, pull[k]);
      if (grad_row && finite) grad_row[3 * k + d] = hr_fma(grad[d], value[k], grad_row[3 * k + d]);
    }
  }
  float by_way[3];
  hr_harmonics_backward(way.d[0], way.d[1], way.d[2], kDegree, pull, by_way);
  const float along = hr_dot3(by_way, way.d);
  for (int i = 0; i < 3; ++i) by_mean[i] = (by_way[i] - along * way.d[i]) * way.inv_length;
}

template <int kDegree, class Sum>
__global__ void __launch_bounds__(kThreads) colour_gradients(HrSplatHarmonicsGradParams p, Sum centers) {
  const Place place = place_of_this_thread();
  const bool inside = place.item < p.num_gaussians;  // nobody leaves early: the warp adds up together
  for (int64_t set = place.first_image; set < p.batch; set += place.image_step) {
    const int64_t own = set * p.num_gaussians + place.item, width = 3 * static_cast<int64_t>(p.num_coefficients);
    float* grad_row = inside && p.grad_coefficients ? p.grad_coefficients + own * width : nullptr;
    for (int64_t k = 0; k < width && grad_row; ++k) grad_row[k] = 0.0f;
    float total[3] = {0.0f, 0.0f, 0.0f};
    for (int64_t camera = 0; camera < p.cameras; ++camera) {
      const int64_t image = set * p.cameras + camera, at = image * p.num_gaussians + place.item;
      float by_mean[3] = {0.0f, 0.0f, 0.0f};
      if (inside && is_drawn(p.radii + 2 * at)) {
        const Direction way = direction_of(p.means + 3 * own, p.centers + 3 * image);
        differentiate<kDegree>(p, way, p.coefficients + own * width, at, grad_row, by_mean);
      }
      for (int i = 0; i < 3; ++i) {
        total[i] += by_mean[i];
        if (!p.grad_centers) continue;
        const float sum = sum_over_warp(-by_mean[i]);
        if (lane_of_this_thread() == 0) centers.add(3 * image + i, sum);
      }
    }
    for (int i = 0; i < 3 && inside && p.grad_means; ++i) p.grad_means[3 * own + i] = total[i];
  }
}

void run_splat_harmonics(const HrSplatHarmonicsParams& p, const HrCudaLaunch& launch, NoScratch) {
  const int64_t images = p.batch * p.cameras;
  if (p.degree == 0) launch_over(launch, p.num_gaussians, images, evaluate_colours<0>, p);
  if (p.degree == 1) launch_over(launch, p.num_gaussians, images, evaluate_colours<1>, p);
  if (p.degree == 2) launch_over(launch, p.num_gaussians, images, evaluate_colours<2>, p);
  if (p.degree == 3) launch_over(launch, p.num_gaussians, images, evaluate_colours<3>, p);
}

template <class Sum>
void launch_gradients(const HrSplatHarmonicsGradParams& p, const HrCudaLaunch& launch, const Sum& centers) {
  if (p.degree == 0) launch_over(launch, p.num_gaussians, p.batch, colour_gradients<0, Sum>, p, centers);
  if (p.degree == 1) launch_over(launch, p.num_gaussians, p.batch, colour_gradients<1, Sum>, p, centers);
  if (p.degree == 2) launch_over(launch, p.num_gaussians, p.batch, colour_gradients<2, Sum>, p, centers);
  if (p.degree == 3) launch_over(launch, p.num_gaussians, p.batch, colour_gradients<3, Sum>, p, centers);
}

void run_splat_harmonics_backward(const HrSplatHarmonicsGradParams& p, const HrCudaLaunch& launch, const SumScratch& scratch) {
  if (!p.grad_centers) {
    launch_gradients(p, launch, FloatSum{nullptr});
    return;
  }
  sum_terms(launch, scratch, p.grad_centers, p.batch * p.cameras * 3, divide_up(p.num_gaussians, kWarp),
            [&](auto sum) { launch_gradients(p, launch, sum); });
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(splat_harmonics, HrSplatHarmonicsParams)
HR_DEFINE_CUDA_OP(splat_harmonics_backward, HrSplatHarmonicsGradParams)
