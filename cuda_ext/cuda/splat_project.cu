// CUDA Gaussian splatting, first step: 3D Gaussians to flat ellipses, and back.
//
// One thread per Gaussian and image. Expected (H100, 200k Gaussians, one camera): 44 bytes read and 44 written each, 18 MB,
// 6 us by bandwidth; about 400 instructions each and no more than 64 registers: 10 us in all. Backward 15 us.
#include "splat_reach.h"

#include "block.h"
#include "sums.h"

namespace hr {
namespace {

template <class Params>
bool sane_scene(const Params& p) {
  return p.batch >= 0 && p.cameras >= 0 && p.num_gaussians >= 0 && p.num_gaussians < INT32_MAX && p.height >= 0 && p.width >= 0 &&
         p.height <= HR_SPLAT_MAX_SIDE && p.width <= HR_SPLAT_MAX_SIDE && fits_grid(p.num_gaussians);
}

int32_t check(const HrSplatProjectParams& p) {
  const bool sane = sane_scene(p) && p.tile_size >= 4 && p.tile_size <= HR_SPLAT_MAX_TILE && p.tile_size % 4 == 0;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}
int32_t check(const HrSplatProjectGradParams& p) { return sane_scene(p) ? HR_OK : HR_ERROR_ARGUMENT; }

NoScratch lay_out_splat_project(const HrSplatProjectParams&, const HrCudaLaunch&, Workspace&) { return {}; }

template <class Params>
__device__ __forceinline__ HrSplatGaussian<float> load_gaussian(const Params& p, int64_t row) {
  HrSplatGaussian<float> g;
#pragma unroll
  for (int i = 0; i < 3; ++i) g.mean[i] = p.means[3 * row + i];
#pragma unroll
  for (int i = 0; i < 4; ++i) g.quat[i] = p.quats[4 * row + i];
#pragma unroll
  for (int i = 0; i < 3; ++i) g.scale[i] = p.scales[3 * row + i];
  g.opacity = p.opacities[row];
  return g;
}

__device__ __forceinline__ int32_t count_tiles(const HrSplatProjectParams& p, const HrSplat<float>& splat) {
  if (!(splat.radius_x > 0.0f || splat.radius_y > 0.0f)) return 0;
  const HrSplatBounds<float> bounds = hr_splat_bounds(splat.field);
  const HrSplatRange rows = hr_splat_tile_rows(bounds, p.height, p.tile_size);
  int32_t tiles = 0;
  for (int32_t row = rows.first; row < rows.end; ++row) {
    const HrSplatRange span = hr_splat_tile_span(bounds, row, p.height, p.width, p.tile_size);
    tiles += span.end - span.first;
  }
  return tiles;
}

__global__ void __launch_bounds__(kThreads) project_gaussians(HrSplatProjectParams p) {
  const Place place = place_of_this_thread();
  const bool inside = place.item < p.num_gaussians;  // nobody leaves early: the warp adds up together
  const HrSplatOptions options = {static_cast<float>(p.width), static_cast<float>(p.height), p.near_z, p.far_z, p.eps2d,
                                  p.radius_clip, p.antialiased != 0};
  for (int64_t image = place.first_image; image < p.batch * p.cameras; image += place.image_step) {
    int64_t tiles = 0;
    if (inside) {
      const int64_t at = image * p.num_gaussians + place.item;
      const HrSplatGaussian<float> g = load_gaussian(p, image / p.cameras * p.num_gaussians + place.item);
      const HrSplatCamera camera = hr_splat_camera(p.viewmats + 16 * image, p.Ks + 9 * image, p.width, p.height);
      const HrSplat<float> splat = hr_splat_project(g, camera, options);
#pragma unroll
      for (int i = 0; i < HR_SPLAT_FIELDS; ++i) p.splats[HR_SPLAT_FIELDS * at + i] = splat.field[i];
      p.radii[2 * at] = splat.radius_x;
      p.radii[2 * at + 1] = splat.radius_y;
      tiles = count_tiles(p, splat);
      p.tiles[at] = static_cast<int32_t>(tiles);
      if (p.normals) {
        HrSplatStages<float> stages;
        hr_splat_stages(g, camera, p.eps2d, p.antialiased != 0, &stages);
        float normal[3], weight[3];
        hr_splat_normal(g, camera, stages.rot, normal, weight);
        for (int i = 0; i < 3; ++i) p.normals[3 * at + i] = splat.field[HR_SPLAT_OPACITY] > 0.0f ? normal[i] : 0.0f;
      }
    }
    const int64_t sum = sum_over_warp(tiles);
    if (lane_of_this_thread() == 0 && sum > 0) {
      atomicAdd(reinterpret_cast<Word*>(p.totals) + image, static_cast<Word>(sum));
    }
  }
}

// One thread per Gaussian, which alone adds up what its cameras say. The warp adds up what its Gaussians say of a camera.
template <class Sum>
__global__ void __launch_bounds__(kThreads) project_gradients(HrSplatProjectGradParams p, Sum viewmats) {
  const Place place = place_of_this_thread();
  const bool inside = place.item < p.num_gaussians;
  for (int64_t set = place.first_image; set < p.batch; set += place.image_step) {
    const int64_t row = set * p.num_gaussians + place.item;
    HrSplatGaussian<float> g = {};
    if (inside) g = load_gaussian(p, row);
    HrSplatGaussianGrad<float> total = {};
    for (int64_t camera = 0; camera < p.cameras; ++camera) {
      const int64_t image = set * p.cameras + camera, at = image * p.num_gaussians + place.item;
      HrSplatGaussianGrad<float> grad = {};
      const bool drawn = inside && (p.radii[2 * at] > 0.0f || p.radii[2 * at + 1] > 0.0f);
      if (drawn) {
        const HrSplatCamera k = hr_splat_camera(p.viewmats + 16 * image, p.Ks + 9 * image, p.width, p.height);
        const float* by_normal = p.grad_normals ? p.grad_normals + 3 * at : nullptr;
        grad = hr_splat_project_backward(g, k, p.eps2d, p.antialiased != 0, p.grad_splats + HR_SPLAT_FIELDS * at, by_normal);
        for (int i = 0; i < 3; ++i) total.mean[i] += grad.mean[i];
        for (int i = 0; i < 4; ++i) total.quat[i] += grad.quat[i];
        for (int i = 0; i < 3; ++i) total.scale[i] += grad.scale[i];
        total.opacity += grad.opacity;
      }
      if (p.grad_viewmats && __any_sync(kWholeWarp, drawn)) {
        for (int i = 0; i < 3; ++i) {
          for (int j = 0; j < 4; ++j) {
            const float sum = sum_over_warp(j < 3 ? grad.r[3 * i + j] : grad.t[i]);
            if (lane_of_this_thread() == 0) viewmats.add(16 * image + 4 * i + j, sum);
          }
        }
      }
    }
    if (!inside) continue;
    for (int i = 0; i < 3 && p.grad_means; ++i) p.grad_means[3 * row + i] = total.mean[i];
    for (int i = 0; i < 4 && p.grad_quats; ++i) p.grad_quats[4 * row + i] = total.quat[i];
    for (int i = 0; i < 3 && p.grad_scales; ++i) p.grad_scales[3 * row + i] = total.scale[i];
    if (p.grad_opacities) p.grad_opacities[row] = total.opacity;
  }
}

void run_splat_project(const HrSplatProjectParams& p, const HrCudaLaunch& launch, NoScratch) {
  const int64_t images = p.batch * p.cameras;
  fill_bytes(launch, p.totals, 0, images * static_cast<int64_t>(sizeof(int64_t)));
  launch_over(launch, p.num_gaussians, images, project_gaussians, p);
}

SumScratch lay_out_splat_project_backward(const HrSplatProjectGradParams& p, const HrCudaLaunch& launch, Workspace& workspace) {
  return lay_out_sums(p.grad_viewmats ? p.batch * p.cameras * 16 : 0, launch, workspace);
}

void run_splat_project_backward(const HrSplatProjectGradParams& p, const HrCudaLaunch& launch, const SumScratch& scratch) {
  if (!p.grad_viewmats) {
    launch_over(launch, p.num_gaussians, p.batch, project_gradients<FloatSum>, p, FloatSum{nullptr});
    return;
  }
  const int64_t terms = divide_up(p.num_gaussians, kWarp);
  sum_terms(launch, scratch, p.grad_viewmats, p.batch * p.cameras * 16, terms, [&](auto sum) {
    launch_over(launch, p.num_gaussians, p.batch, project_gradients<decltype(sum)>, p, sum);
  });
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(splat_project, HrSplatProjectParams)
HR_DEFINE_CUDA_OP(splat_project_backward, HrSplatProjectGradParams)
