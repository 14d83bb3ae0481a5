// CPU projection of Gaussians and their colours from harmonics: checks, tasks, and the gradients of cameras.
#include <algorithm>
#include <cstring>
#include <vector>

#include "c_api.h"
#include "splat_stages.h"
#include "thread_pool.h"

bool hr_cpu_has_avx512();

namespace hr {

const SplatGaussianStage& splat_gaussian_stage(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa != HR_ISA_BASE && hr_cpu_has_avx512()) return kSplatGaussianStageAvx512;
#else
  (void)isa;
#endif
  return kSplatGaussianStageBase;
}

namespace {

int64_t tasks_of(int64_t gaussians) { return (gaussians + kGaussiansPerTask - 1) / kGaussiansPerTask; }

// run(b, first, end, task) for every stretch of Gaussians of every set.
template <class Run>
void over_gaussians(int64_t batch, int64_t gaussians, int num_threads, const Run& run) {
  const int64_t tasks = tasks_of(gaussians);
  parallel_for(batch * tasks, num_threads, [&](int64_t task) {
    const int64_t first = task % tasks * kGaussiansPerTask;
    run(task / tasks, first, first + kGaussiansPerTask < gaussians ? first + kGaussiansPerTask : gaussians, task);
  });
}

// Sums of what the tasks of each set left for its cameras, in the order of the tasks: out(image, sums of `floats`).
template <class Out>
void sum_cameras(const std::vector<float>& parts, int64_t batch, int64_t cameras, int64_t tasks, int floats, const Out& out) {
  std::vector<double> sum(floats);
  for (int64_t image = 0; image < batch * cameras; ++image) {
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t t = 0; t < tasks; ++t) {
      const float* part = parts.data() + ((image / cameras * tasks + t) * cameras + image % cameras) * floats;
      for (int i = 0; i < floats; ++i) sum[i] += part[i];
    }
    out(image, sum.data());
  }
}

bool sane_sizes(int64_t batch, int64_t cameras, int64_t gaussians, int32_t num_threads) {
  return batch >= 0 && cameras >= 0 && gaussians >= 0 && gaussians <= INT32_MAX && num_threads >= 1;
}

bool sane_picture(int32_t height, int32_t width) {
  return height >= 1 && width >= 1 && height <= HR_SPLAT_MAX_SIDE && width <= HR_SPLAT_MAX_SIDE;
}

int32_t project(const HrSplatProjectParams& p) {
  const SplatGaussianStage& stage = splat_gaussian_stage(p.isa);
  std::memset(p.totals, 0, p.batch * p.cameras * sizeof(int64_t));
  over_gaussians(p.batch, p.num_gaussians, p.num_threads,
                 [&](int64_t b, int64_t first, int64_t end, int64_t) { stage.project(p, b, first, end); });
  return HR_OK;
}

int32_t project_backward(const HrSplatProjectGradParams& p) {
  const SplatGaussianStage& stage = splat_gaussian_stage(p.isa);
  const int64_t tasks = tasks_of(p.num_gaussians);
  std::vector<float> parts(p.batch * tasks * p.cameras * 12);
  over_gaussians(p.batch, p.num_gaussians, p.num_threads, [&](int64_t b, int64_t first, int64_t end, int64_t task) {
    stage.project_backward(p, b, first, end, parts.data() + task * p.cameras * 12);
  });
  if (!p.grad_viewmats) return HR_OK;
  sum_cameras(parts, p.batch, p.cameras, tasks, 12, [&](int64_t image, const double* sum) {
    float* out = p.grad_viewmats + 16 * image;
    for (int i = 0; i < 16; ++i) out[i] = i >= 12 ? 0.0f : static_cast<float>(i % 4 < 3 ? sum[i / 4 * 3 + i % 4] : sum[9 + i / 4]);
  });
  return HR_OK;
}

int32_t harmonics(const HrSplatHarmonicsParams& p) {
  const SplatGaussianStage& stage = splat_gaussian_stage(p.isa);
  over_gaussians(p.batch, p.num_gaussians, p.num_threads,
                 [&](int64_t b, int64_t first, int64_t end, int64_t) { stage.harmonics(p, b, first, end); });
  return HR_OK;
}

int32_t harmonics_backward(const HrSplatHarmonicsGradParams& p) {
  const SplatGaussianStage& stage = splat_gaussian_stage(p.isa);
  const int64_t tasks = tasks_of(p.num_gaussians);
  std::vector<float> parts(p.batch * tasks * p.cameras * 3);
  over_gaussians(p.batch, p.num_gaussians, p.num_threads, [&](int64_t b, int64_t first, int64_t end, int64_t task) {
    stage.harmonics_backward(p, b, first, end, parts.data() + task * p.cameras * 3);
  });
  if (!p.grad_centers) return HR_OK;
  sum_cameras(parts, p.batch, p.cameras, tasks, 3, [&](int64_t image, const double* sum) {
    for (int i = 0; i < 3; ++i) p.grad_centers[3 * image + i] = static_cast<float>(sum[i]);
  });
  return HR_OK;
}

bool sane_degree(int32_t degree, int32_t num_coefficients) {
  return degree >= 0 && degree <= 3 && num_coefficients >= (degree + 1) * (degree + 1);
}

}  // namespace
}  // namespace hr

int32_t hr_splat_project_cpu(const HrSplatProjectParams* params) {
  const HrSplatProjectParams& p = *params;
  const bool tiled = p.tile_size >= 4 && p.tile_size <= HR_SPLAT_MAX_TILE && p.tile_size % 4 == 0;
  if (!hr::sane_sizes(p.batch, p.cameras, p.num_gaussians, p.num_threads) || !hr::sane_picture(p.height, p.width) || !tiled) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::project(p); });
}

int32_t hr_splat_project_backward_cpu(const HrSplatProjectGradParams* params) {
  const HrSplatProjectGradParams& p = *params;
  if (!hr::sane_sizes(p.batch, p.cameras, p.num_gaussians, p.num_threads) || !hr::sane_picture(p.height, p.width)) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::project_backward(p); });
}

int32_t hr_splat_harmonics_cpu(const HrSplatHarmonicsParams* params) {
  const HrSplatHarmonicsParams& p = *params;
  if (!hr::sane_sizes(p.batch, p.cameras, p.num_gaussians, p.num_threads) || !hr::sane_degree(p.degree, p.num_coefficients)) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::harmonics(p); });
}

int32_t hr_splat_harmonics_backward_cpu(const HrSplatHarmonicsGradParams* params) {
  const HrSplatHarmonicsGradParams& p = *params;
  if (!hr::sane_sizes(p.batch, p.cameras, p.num_gaussians, p.num_threads) || !hr::sane_degree(p.degree, p.num_coefficients)) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::harmonics_backward(p); });
}
