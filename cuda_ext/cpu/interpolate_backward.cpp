// CPU backward pass of attribute interpolation.
#include "c_api.h"
#include "gradient_strips.h"
#include "thread_pool.h"

namespace hr {
namespace {

// The gradients of one face's three corners, gathered over neighbouring pixels. kChannels is 0 when the number is only
// known at run time: then every pixel adds to the table directly.
template <int kChannels>
struct FaceSum {
  int32_t face = -1;
  float grad[kChannels > 0 ? 3 * kChannels : 1];

  void flush(const HrInterpolateGradParams& p, float* sums) {
    if (kChannels == 0 || face < 0 || !sums) return;
    const int32_t* corner = p.faces + static_cast<int64_t>(face) * 3;
    for (int k = 0; k < 3; ++k) {
      float* out = sums + static_cast<int64_t>(corner[k]) * kChannels;
      for (int d = 0; d < kChannels; ++d) out[d] += grad[k * kChannels + d];
    }
  }

  void start(int32_t next) {
    face = next;
    for (float& g : grad) g = 0.0f;
  }
};

template <int kChannels>
bool add_pixels(const HrInterpolateGradParams& p, const float* attributes, int64_t begin, int64_t end, float* sums) {
  const int channels = kChannels > 0 ? kChannels : p.channels;
  FaceSum<kChannels> sum;
  const float* a[3] = {};
  float* direct[3] = {};
  for (int64_t i = begin; i < end; ++i) {
    const int32_t face = p.face_index[i];
    float* grad_lambda = p.grad_barycentrics ? p.grad_barycentrics + 3 * i : nullptr;
    if (face < 0) {
      for (int k = 0; k < 3 && grad_lambda; ++k) grad_lambda[k] = 0.0f;
      continue;
    }
    if (face != sum.face) {
      if (face >= p.num_faces) return false;
      sum.flush(p, sums);
      sum.start(face);
      for (int k = 0; k < 3; ++k) {
        const int64_t corner = static_cast<int64_t>(p.faces[3 * static_cast<int64_t>(face) + k]) * channels;
        a[k] = attributes + corner;
        direct[k] = sums ? sums + corner : nullptr;
      }
    }
    const float *g = p.grad_values + i * channels, *lambda = p.barycentrics + 3 * i;
    if (sums) {
      for (int k = 0; k < 3; ++k) {
        float* out = kChannels > 0 ? sum.grad + k * kChannels : direct[k];
        for (int d = 0; d < channels; ++d) out[d] += lambda[k] * g[d];
      }
    }
    for (int k = 0; k < 3 && grad_lambda; ++k) {
      float total = 0.0f;
      for (int d = 0; d < channels; ++d) total += a[k][d] * g[d];
      grad_lambda[k] = total;
    }
  }
  sum.flush(p, sums);
  return true;
}

bool add_pixels_of_any(const HrInterpolateGradParams& p, const float* attributes, int64_t begin, int64_t end, float* sums) {
  switch (p.channels) {
    case 1: return add_pixels<1>(p, attributes, begin, end, sums);
    case 2: return add_pixels<2>(p, attributes, begin, end, sums);
    case 3: return add_pixels<3>(p, attributes, begin, end, sums);
    case 4: return add_pixels<4>(p, attributes, begin, end, sums);
    case 6: return add_pixels<6>(p, attributes, begin, end, sums);
    default: return add_pixels<0>(p, attributes, begin, end, sums);
  }
}

int32_t interpolate_backward(const HrInterpolateGradParams& p) {
  if (!indices_within(p.faces, p.num_faces * 3, 0, p.num_vertices)) return HR_ERROR_INDEX;
  const bool shared = p.attribute_batch == 1;
  const int64_t floats = p.num_vertices * p.channels;
  const Tables tables = {shared ? 1 : p.batch, p.grad_attributes ? floats : 0, shared ? p.batch * p.num_pixels : p.num_pixels};
  return sum_over_strips(tables, p.num_threads, p.grad_attributes, [&](int64_t t, int64_t begin, int64_t end, float* sums) {
    const int64_t first = t * p.num_pixels;
    return add_pixels_of_any(p, p.attributes + t * floats, first + begin, first + end, p.grad_attributes ? sums : nullptr);
  });
}

}  // namespace
}  // namespace hr

int32_t hr_interpolate_backward_cpu(const HrInterpolateGradParams* params) {
  const HrInterpolateGradParams& p = *params;
  if (p.channels < 1 || p.num_threads < 1 || (p.attribute_batch != 1 && p.attribute_batch != p.batch)) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::interpolate_backward(p); });
}
