// CPU backward pass of the rasterizer: from gradients of barycentrics and depths to those of the vertices.
#include "c_api.h"
#include "gradient_strips.h"
#include "raster_grad_rows.h"
#include "thread_pool.h"

bool hr_cpu_has_avx512();

namespace hr {
namespace {

AddRasterGradients gradients_for(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa != HR_ISA_BASE && hr_cpu_has_avx512()) return kAddRasterGradientsAvx512;
#else
  (void)isa;
#endif
  return kAddRasterGradientsBase;
}

int32_t rasterize_backward(const HrRasterizeGradParams& p) {
  if (!indices_within(p.faces, p.num_faces * 3, 0, p.num_vertices)) return HR_ERROR_INDEX;
  const AddRasterGradients add = gradients_for(p.isa);
  const Tables tables = {p.batch, p.num_vertices * 3, static_cast<int64_t>(p.height) * p.width};
  return sum_over_strips(tables, p.num_threads, p.grad_points, [&](int64_t image, int64_t begin, int64_t end, float* sums) {
    return add(p, image, begin, end, sums);
  });
}

}  // namespace
}  // namespace hr

int32_t hr_rasterize_backward_cpu(const HrRasterizeGradParams* params) {
  const HrRasterizeGradParams& p = *params;
  if (p.height < 0 || p.width < 0 || p.num_threads < 1 || p.batch < 0 || p.num_faces < 0) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::rasterize_backward(p); });
}
