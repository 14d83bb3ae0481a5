// CUDA backward pass of the rasterizer: every pixel adds to the three vertices of its face.
#include "rasterize.h"

#include "sums.h"

namespace hr {
namespace {

int32_t check(const HrRasterizeGradParams& p) {
  const bool sane = p.height >= 0 && p.width >= 0 && p.height <= HR_MAX_IMAGE_SIDE && p.width <= HR_MAX_IMAGE_SIDE &&
                    p.batch >= 0 && p.num_faces >= 0 && p.num_vertices >= 0;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

SumScratch lay_out_rasterize_backward(const HrRasterizeGradParams& p, const HrCudaLaunch& launch, Workspace& workspace) {
  return lay_out_sums(p.batch * p.num_vertices * 3, launch, workspace);
}

template <class Sum>
__global__ void __launch_bounds__(kThreads) add_vertex_gradients(HrRasterizeGradParams p, Sum sum, int32_t* fault) {
  const Place place = place_of_this_thread();
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  const bool inside = place.item < pixels;  // nobody leaves early: the warp adds up together
  const unsigned pixel = static_cast<unsigned>(place.item), width = static_cast<unsigned>(p.width);
  const float px = static_cast<float>(pixel % width) + 0.5f, py = static_cast<float>(pixel / width) + 0.5f;
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const int64_t at = image * pixels + place.item;
    int32_t face = inside ? p.face_index[at] : -1;
    int32_t corner[3] = {0, 0, 0};
    float grad[9] = {};
    if (face >= 0 && !load_face(p.faces, p.num_faces, p.num_vertices, face, corner, fault)) face = -1;
    if (face >= 0) {
      const float* points = p.points_hom + 3 * image * p.num_vertices;
      const float *a = points + 3 * static_cast<int64_t>(corner[0]), *b = points + 3 * static_cast<int64_t>(corner[1]);
      const float* c = points + 3 * static_cast<int64_t>(corner[2]);
      const float* g = p.grad_barycentrics ? p.grad_barycentrics + 3 * at : nullptr;
      hr_barycentrics_grad(a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2], px, py, g ? g[0] : 0.0f, g ? g[1] : 0.0f,
                           g ? g[2] : 0.0f, p.grad_depth ? p.grad_depth[at] : 0.0f, grad);
    }
    add_to_corners<3>(sum, face, CornerRows{corner, image * p.num_vertices, 3, 0, 3}, grad);
  }
}

void run_rasterize_backward(const HrRasterizeGradParams& p, const HrCudaLaunch& launch, const SumScratch& scratch) {
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  sum_terms(launch, scratch, p.grad_points, p.batch * p.num_vertices * 3, pixels * 3, [&](auto sum) {
    launch_over(launch, pixels, p.batch, add_vertex_gradients<decltype(sum)>, p, sum, launch.fault);
  });
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(rasterize_backward, HrRasterizeGradParams)
