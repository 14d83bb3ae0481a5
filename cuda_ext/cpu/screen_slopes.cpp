// CPU: how attributes change from pixel to pixel.
#include <algorithm>
#include <atomic>

#include "c_api.h"
#include "gradient_strips.h"
#include "rasterize.h"
#include "thread_pool.h"

namespace hr {
namespace {

bool slopes_of_row(const HrScreenSlopesParams& p, int64_t image, int64_t y) {
  const float* points = p.points_hom + image * p.num_vertices * 3;
  const int64_t row = (image * p.height + y) * p.width;
  for (int64_t x = 0; x < p.width; ++x) {
    const int32_t face = p.face_index[row + x];
    float* out = p.slopes + (row + x) * 2 * p.channels;
    if (face < 0) {
      std::fill(out, out + 2 * p.channels, 0.0f);
      continue;
    }
    if (face >= p.num_faces) return false;
    const int32_t *corner = p.faces + 3 * static_cast<int64_t>(face), *own = p.attribute_faces + 3 * static_cast<int64_t>(face);
    const float *a = points + 3 * static_cast<int64_t>(corner[0]), *b = points + 3 * static_cast<int64_t>(corner[1]);
    const float* c = points + 3 * static_cast<int64_t>(corner[2]);
    float slope[6];
    hr_barycentric_slopes(a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2], static_cast<float>(x) + 0.5f,
                          static_cast<float>(y) + 0.5f, slope);
    for (int d = 0; d < p.channels; ++d) {
      float value[3];
      for (int k = 0; k < 3; ++k) value[k] = p.attributes[static_cast<int64_t>(own[k]) * p.channels + d];
      out[2 * d] = hr_interpolate(slope, value[0], value[1], value[2]);
      out[2 * d + 1] = hr_interpolate(slope + 3, value[0], value[1], value[2]);
    }
  }
  return true;
}

int32_t screen_slopes(const HrScreenSlopesParams& p) {
  if (!indices_within(p.faces, p.num_faces * 3, 0, p.num_vertices)) return HR_ERROR_INDEX;
  if (!indices_within(p.attribute_faces, p.num_faces * 3, 0, p.num_attributes)) return HR_ERROR_INDEX;
  std::atomic<bool> fine{true};
  parallel_for(p.batch * p.height, p.num_threads, [&](int64_t task) {
    if (!slopes_of_row(p, task / p.height, task % p.height)) fine.store(false);
  });
  return fine.load() ? HR_OK : HR_ERROR_INDEX;
}

}  // namespace
}  // namespace hr

int32_t hr_screen_slopes_cpu(const HrScreenSlopesParams* params) {
  const HrScreenSlopesParams& p = *params;
  if (p.channels < 1 || p.num_threads < 1 || p.height < 0 || p.width < 0) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::screen_slopes(p); });
}
