// CUDA interpolation of attributes over pixels, how they change from pixel to pixel, and the backward pass.
#include "interpolate.h"

#include "rasterize.h"
#include "sums.h"

namespace hr {
namespace {

constexpr int kChunk = 4;  // channels whose gradients a warp adds up together

int32_t check(const HrInterpolateParams& p) {
  const bool sane = p.channels >= 1 && p.batch >= 0 && (p.attribute_batch == 1 || p.attribute_batch == p.batch) &&
                    p.num_pixels >= 0 && fits_grid(p.num_pixels) && fits_grid(p.num_pixels * p.channels);
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

int32_t check(const HrInterpolateGradParams& p) {
  const bool sane = p.channels >= 1 && p.batch >= 0 && (p.attribute_batch == 1 || p.attribute_batch == p.batch) &&
                    p.num_pixels >= 0 && fits_grid(p.num_pixels);
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

int32_t check(const HrScreenSlopesParams& p) {
  const bool sane = p.channels >= 1 && p.batch >= 0 && p.height >= 0 && p.width >= 0 && p.height <= HR_MAX_IMAGE_SIDE &&
                    p.width <= HR_MAX_IMAGE_SIDE;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

NoScratch lay_out_interpolate(const HrInterpolateParams&, const HrCudaLaunch&, Workspace&) { return {}; }
NoScratch lay_out_screen_slopes(const HrScreenSlopesParams&, const HrCudaLaunch&, Workspace&) { return {}; }

int64_t attribute_floats(const HrInterpolateGradParams& p) { return p.attribute_batch * p.num_vertices * p.channels; }

SumScratch lay_out_interpolate_backward(const HrInterpolateGradParams& p, const HrCudaLaunch& launch, Workspace& workspace) {
  return lay_out_sums(p.grad_attributes ? attribute_floats(p) : 0, launch, workspace);
}

// One thread per value, so that neighbouring threads write neighbouring words.
__global__ void __launch_bounds__(kThreads) interpolate_values(HrInterpolateParams p, int32_t* fault) {
  const Place place = place_of_this_thread();
  if (place.item >= p.num_pixels * p.channels) return;
  const int64_t pixel = quotient(place.item, p.channels), channel = place.item - pixel * p.channels;
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const int64_t at = image * p.num_pixels + pixel;
    const int32_t face = p.face_index[at];
    float value = 0.0f;
    int32_t corner[3];
    if (face >= 0 && load_face(p.faces, p.num_faces, p.num_vertices, face, corner, fault)) {
      const float* table = p.attributes + (p.attribute_batch == 1 ? 0 : image * p.num_vertices * p.channels) + channel;
      value = hr_interpolate(p.barycentrics + 3 * at, table[static_cast<int64_t>(corner[0]) * p.channels],
                             table[static_cast<int64_t>(corner[1]) * p.channels],
                             table[static_cast<int64_t>(corner[2]) * p.channels]);
    }
    p.values[at * p.channels + channel] = value;
  }
}

// One thread per pixel.
template <class Sum>
__global__ void __launch_bounds__(kThreads) add_attribute_gradients(HrInterpolateGradParams p, Sum sum, int32_t* fault) {
  const Place place = place_of_this_thread();
  const bool inside = place.item < p.num_pixels;  // nobody leaves early: the warp adds up together
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const int64_t at = image * p.num_pixels + place.item;
    int32_t face = inside ? p.face_index[at] : -1;
    int32_t corner[3] = {0, 0, 0};
    if (face >= 0 && !load_face(p.faces, p.num_faces, p.num_vertices, face, corner, fault)) face = -1;
    float lambda[3] = {0.0f, 0.0f, 0.0f};
    for (int k = 0; k < 3 && face >= 0; ++k) lambda[k] = p.barycentrics[3 * at + k];
    const int64_t first_row = p.attribute_batch == 1 ? 0 : image * p.num_vertices;
    for (int32_t first = 0; first < p.channels; first += kChunk) {
      const int32_t columns = p.channels - first < kChunk ? p.channels - first : kChunk;
      float values[3 * kChunk];
      for (int d = 0; d < kChunk; ++d) {
        const float g = face >= 0 && d < columns ? p.grad_values[at * p.channels + first + d] : 0.0f;
        for (int k = 0; k < 3; ++k) values[kChunk * k + d] = lambda[k] * g;
      }
      add_to_corners<kChunk>(sum, face, CornerRows{corner, first_row, p.channels, first, columns}, values);
    }
  }
}

__global__ void __launch_bounds__(kThreads) barycentric_gradients(HrInterpolateGradParams p, int32_t* fault) {
  const Place place = place_of_this_thread();
  if (place.item >= p.num_pixels) return;
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const int64_t at = image * p.num_pixels + place.item;
    const int32_t face = p.face_index[at];
    int32_t corner[3];
    float grad[3] = {0.0f, 0.0f, 0.0f};
    if (face >= 0 && load_face(p.faces, p.num_faces, p.num_vertices, face, corner, fault)) {
      const float* table = p.attributes + (p.attribute_batch == 1 ? 0 : image * p.num_vertices * p.channels);
      const float* g = p.grad_values + at * p.channels;
      for (int k = 0; k < 3; ++k) {
        const float* row = table + static_cast<int64_t>(corner[k]) * p.channels;
        for (int32_t d = 0; d < p.channels; ++d) grad[k] += row[d] * g[d];
      }
    }
    for (int k = 0; k < 3; ++k) p.grad_barycentrics[3 * at + k] = grad[k];
  }
}

__global__ void __launch_bounds__(kThreads) slopes_of_pixels(HrScreenSlopesParams p, int32_t* fault) {
  const Place place = place_of_this_thread();
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  if (place.item >= pixels) return;
  const unsigned pixel = static_cast<unsigned>(place.item), width = static_cast<unsigned>(p.width);
  const float px = static_cast<float>(pixel % width) + 0.5f, py = static_cast<float>(pixel / width) + 0.5f;
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const int64_t at = image * pixels + place.item;
    const int32_t face = p.face_index[at];
    float* out = p.slopes + 2 * at * p.channels;
    int32_t corner[3], own[3];
    const bool covered = face >= 0 && load_face(p.faces, p.num_faces, p.num_vertices, face, corner, fault) &&
                         load_face(p.attribute_faces, p.num_faces, p.num_attributes, face, own, fault);
    if (!covered) {
      for (int32_t d = 0; d < 2 * p.channels; ++d) out[d] = 0.0f;
      continue;
    }
    const float* points = p.points_hom + 3 * image * p.num_vertices;
    const float *a = points + 3 * static_cast<int64_t>(corner[0]), *b = points + 3 * static_cast<int64_t>(corner[1]);
    const float* c = points + 3 * static_cast<int64_t>(corner[2]);
    float slope[6];
    hr_barycentric_slopes(a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2], px, py, slope);
    for (int32_t d = 0; d < p.channels; ++d) {
      float value[3];
      for (int k = 0; k < 3; ++k) value[k] = p.attributes[static_cast<int64_t>(own[k]) * p.channels + d];
      out[2 * d] = hr_interpolate(slope, value[0], value[1], value[2]);
      out[2 * d + 1] = hr_interpolate(slope + 3, value[0], value[1], value[2]);
    }
  }
}

void run_interpolate(const HrInterpolateParams& p, const HrCudaLaunch& launch, NoScratch) {
  launch_over(launch, p.num_pixels * p.channels, p.batch, interpolate_values, p, launch.fault);
}

void run_interpolate_backward(const HrInterpolateGradParams& p, const HrCudaLaunch& launch, const SumScratch& scratch) {
  if (p.grad_attributes) {
    const int64_t terms = (p.attribute_batch == 1 ? p.batch : 1) * p.num_pixels * 3;
    sum_terms(launch, scratch, p.grad_attributes, attribute_floats(p), terms, [&](auto sum) {
      launch_over(launch, p.num_pixels, p.batch, add_attribute_gradients<decltype(sum)>, p, sum, launch.fault);
    });
  }
  if (p.grad_barycentrics) launch_over(launch, p.num_pixels, p.batch, barycentric_gradients, p, launch.fault);
}

void run_screen_slopes(const HrScreenSlopesParams& p, const HrCudaLaunch& launch, NoScratch) {
  launch_over(launch, static_cast<int64_t>(p.height) * p.width, p.batch, slopes_of_pixels, p, launch.fault);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(interpolate, HrInterpolateParams)
HR_DEFINE_CUDA_OP(interpolate_backward, HrInterpolateGradParams)
HR_DEFINE_CUDA_OP(screen_slopes, HrScreenSlopesParams)
