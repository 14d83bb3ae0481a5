// CPU interpolation of attributes over pixels.
#include <algorithm>
#include <atomic>

#include "c_api.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kPixelsPerTask = 8192;

// kChannels > 0 fixes the inner loop's length at compile time for the common widths; 0 reads it from the parameters.
template <int kChannels>
bool interpolate_run(const HrInterpolateParams& p, int64_t image, int64_t begin, int64_t end) {
  const int channels = kChannels > 0 ? kChannels : p.channels;
  const float* attributes = p.attributes + (p.attribute_batch == 1 ? 0 : image * p.num_vertices * channels);
  for (int64_t i = image * p.num_pixels + begin; i < image * p.num_pixels + end; ++i) {
    const int64_t face = p.face_index[i];
    float* out = p.values + i * channels;
    if (face < 0) {
      for (int d = 0; d < channels; ++d) out[d] = 0.0f;
      continue;
    }
    if (face >= p.num_faces) return false;
    const int32_t* corner = p.faces + face * 3;
    for (int k = 0; k < 3; ++k) {
      if (corner[k] < 0 || corner[k] >= p.num_vertices) return false;
    }
    const float* a0 = attributes + static_cast<int64_t>(corner[0]) * channels;
    const float* a1 = attributes + static_cast<int64_t>(corner[1]) * channels;
    const float* a2 = attributes + static_cast<int64_t>(corner[2]) * channels;
    const float* lambda = p.barycentrics + i * 3;
    for (int d = 0; d < channels; ++d) out[d] = hr_interpolate(lambda, a0[d], a1[d], a2[d]);
  }
  return true;
}

int32_t interpolate(const HrInterpolateParams& p) {
  const int64_t runs = (p.num_pixels + kPixelsPerTask - 1) / kPixelsPerTask;
  std::atomic<bool> fine{true};
  parallel_for(p.batch * runs, p.num_threads, [&](int64_t task) {
    const int64_t image = task / runs, begin = task % runs * kPixelsPerTask;
    const int64_t end = std::min(begin + kPixelsPerTask, p.num_pixels);
    bool ok;
    switch (p.channels) {
      case 1: ok = interpolate_run<1>(p, image, begin, end); break;
      case 2: ok = interpolate_run<2>(p, image, begin, end); break;
      case 3: ok = interpolate_run<3>(p, image, begin, end); break;
      case 6: ok = interpolate_run<6>(p, image, begin, end); break;
      default: ok = interpolate_run<0>(p, image, begin, end);
    }
    if (!ok) fine.store(false);
  });
  return fine.load() ? HR_OK : HR_ERROR_INDEX;
}

}  // namespace
}  // namespace hr

int32_t hr_interpolate_cpu(const HrInterpolateParams* params) {
  const HrInterpolateParams& p = *params;
  if (p.channels < 1 || p.num_threads < 1 || (p.attribute_batch != 1 && p.attribute_batch != p.batch)) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::interpolate(p); });
}
