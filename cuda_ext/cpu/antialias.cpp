// CPU antialiasing of outlines. Bands of rows look for outlines in parallel; the few blends that they find are applied in
// the order of the image, so the result does not depend on the number of threads.
#include "antialias.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "c_api.h"
#include "gradient_strips.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kPerTask = 8192;
constexpr int kBandRows = 16;

void project_points(const HrAntialiasParams& p) {
  const int64_t count = p.batch * p.num_vertices;
  parallel_for((count + kPerTask - 1) / kPerTask, p.num_threads, [&](int64_t task) {
    const int64_t end = std::min((task + 1) * kPerTask, count);
    for (int64_t v = task * kPerTask; v < end; ++v) hr_to_pixels(p.points_hom + 3 * v, p.pixels + 2 * v);
    std::memset(p.rim + task * kPerTask, 0, end - task * kPerTask);
  });
}

void find_outlines(const HrAntialiasParams& p) {
  const int64_t runs = (p.num_faces + kPerTask - 1) / kPerTask;
  parallel_for(p.batch * runs, p.num_threads, [&](int64_t task) {
    const int64_t image = task / runs, begin = task % runs * kPerTask, end = std::min(begin + kPerTask, p.num_faces);
    const float* pixels = p.pixels + image * p.num_vertices * 2;
    uint8_t* outline = p.outline + image * p.num_faces;
    for (int64_t f = begin; f < end; ++f) {
      outline[f] = hr_outline_bits(pixels, p.faces, p.neighbours, static_cast<int32_t>(f));
    }
  });
  parallel_for(p.batch, p.num_threads, [&](int64_t image) {
    const uint8_t* outline = p.outline + image * p.num_faces;
    uint8_t* rim = p.rim + image * p.num_vertices;
    for (int64_t f = 0; f < p.num_faces; ++f) {
      for (int k = 0; k < 3 && outline[f]; ++k) {
        if ((outline[f] >> k) & 1) rim[p.faces[3 * f + (k + 1) % 3]] = rim[p.faces[3 * f + (k + 2) % 3]] = 1;
      }
    }
  });
}

HrOutlineView view_of(const HrAntialiasParams& p, int64_t image) {
  const int64_t pixel = image * p.height * p.width;
  return {p.pixels + image * p.num_vertices * 2, p.outline + image * p.num_faces, p.rim + image * p.num_vertices,
          p.faces, p.neighbours, p.face_index + pixel, p.depth_z + pixel, p.width};
}

void find_blends(const HrAntialiasParams& p, int64_t image, int band, std::vector<HrBlend>& blends) {
  const HrOutlineView view = view_of(p, image);
  const int y_end = std::min((band + 1) * kBandRows, p.height);
  HrBlend blend;
  blends.clear();
  for (int y = band * kBandRows; y < y_end; ++y) {
    const int32_t* face = view.face_index + static_cast<int64_t>(y) * p.width;
    for (int x = 0; x < p.width; ++x) {
      if (x + 1 < p.width && face[x] != face[x + 1] && hr_blend_pair(&view, x, y, 0, &blend)) blends.push_back(blend);
      if (y + 1 < p.height && face[x] != face[x + p.width] && hr_blend_pair(&view, x, y, 1, &blend)) blends.push_back(blend);
    }
  }
}

void blend_forward(const HrAntialiasParams& p, int64_t image, const std::vector<HrBlend>& blends) {
  const int64_t first = image * p.height * p.width * p.channels;
  for (const HrBlend& b : blends) {
    const float *into = p.image + first + b.into * p.channels, *from = p.image + first + b.from * p.channels;
    float* out = p.out + first + b.into * p.channels;
    for (int d = 0; d < p.channels; ++d) out[d] += b.share * (from[d] - into[d]);
  }
}

void blend_backward(const HrAntialiasParams& p, int64_t image, const std::vector<HrBlend>& blends) {
  const int64_t first = image * p.height * p.width * p.channels;
  for (const HrBlend& b : blends) {
    const int64_t into = first + b.into * p.channels, from = first + b.from * p.channels;
    float share_grad = 0.0f;
    for (int d = 0; d < p.channels; ++d) {
      const float g = p.grad_out[into + d];
      p.out[into + d] -= b.share * g;
      p.out[from + d] += b.share * g;
      share_grad += g * (p.image[from + d] - p.image[into + d]);
    }
    for (int k = 0; k < 2; ++k) {
      const int64_t at = 3 * (image * p.num_vertices + b.vertex[k]);
      float grad[3];
      hr_pixel_grad_to_hom(p.points_hom + at, share_grad * b.slope[2 * k], share_grad * b.slope[2 * k + 1], grad);
      for (int d = 0; d < 3; ++d) p.grad_points[at + d] += grad[d];
    }
  }
}

int32_t antialias(const HrAntialiasParams& p) {
  if (!indices_within(p.faces, p.num_faces * 3, 0, p.num_vertices) ||
      !indices_within(p.neighbours, p.num_faces * 3, -1, p.num_faces) ||
      !indices_within(p.face_index, p.batch * p.height * p.width, INT32_MIN, p.num_faces)) {
    return HR_ERROR_INDEX;
  }
  project_points(p);
  find_outlines(p);
  const int bands = (p.height + kBandRows - 1) / kBandRows;
  std::vector<std::vector<HrBlend>> blends(p.batch * bands);
  const float* base = p.grad_out ? p.grad_out : p.image;
  parallel_for(p.batch * bands, p.num_threads, [&](int64_t task) {
    const int64_t image = task / bands, y = task % bands * kBandRows, rows = std::min<int64_t>(kBandRows, p.height - y);
    const int64_t at = (image * p.height + y) * p.width * p.channels;
    std::memcpy(p.out + at, base + at, rows * p.width * p.channels * sizeof(float));
    find_blends(p, image, static_cast<int>(task % bands), blends[task]);
  });
  parallel_for(p.batch, p.num_threads, [&](int64_t image) {
    if (p.grad_out) std::memset(p.grad_points + image * p.num_vertices * 3, 0, p.num_vertices * 3 * sizeof(float));
    for (int64_t b = image * bands; b < (image + 1) * bands; ++b) {
      if (p.grad_out) {
        blend_backward(p, image, blends[b]);
      } else {
        blend_forward(p, image, blends[b]);
      }
    }
  });
  return HR_OK;
}

int32_t check_and_run(const HrAntialiasParams& p, bool backward) {
  if (p.channels < 1 || p.num_threads < 1 || p.height < 0 || p.width < 0 || (p.grad_out != nullptr) != backward) {
    return HR_ERROR_ARGUMENT;
  }
  return guarded([&] { return antialias(p); });
}

}  // namespace
}  // namespace hr

int32_t hr_antialias_cpu(const HrAntialiasParams* params) { return hr::check_and_run(*params, false); }
int32_t hr_antialias_backward_cpu(const HrAntialiasParams* params) { return hr::check_and_run(*params, true); }
