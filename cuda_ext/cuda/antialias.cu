// CUDA antialiasing of outlines. Every pixel looks at its four pairs itself and takes the blends in the order of the
// image, so that pictures come out the same on every run; only the gradients of the vertices are sums over pixels.
#include "antialias.h"

#include "sums.h"
#include "table_check.h"

namespace hr {
namespace {

struct AntialiasScratch {
  int32_t* bad;    // set when an index is out of range: then nothing is blended
  SumScratch sums;
};

int32_t check(const HrAntialiasParams& p) {
  const bool sane = p.channels >= 1 && p.height >= 0 && p.width >= 0 && p.height <= 16384 && p.width <= 16384 &&
                    p.batch >= 0 && p.num_vertices >= 0 && p.num_faces >= 0;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

AntialiasScratch lay_out_antialias(const HrAntialiasParams&, const HrCudaLaunch&, Workspace& workspace) {
  return {workspace.take<int32_t>(1), SumScratch()};
}

AntialiasScratch lay_out_antialias_backward(const HrAntialiasParams& p, const HrCudaLaunch& launch, Workspace& workspace) {
  AntialiasScratch scratch;
  scratch.bad = workspace.take<int32_t>(1);
  scratch.sums = lay_out_sums(p.batch * p.num_vertices * 3, launch, workspace);
  return scratch;
}

__global__ void __launch_bounds__(kThreads) place_vertices(HrAntialiasParams p, int64_t count) {
  const int64_t v = place_of_this_thread().item;
  if (v < count) hr_to_pixels(p.points_hom + 3 * v, p.pixels + 2 * v);
}

// One thread per face. Several may write the same 1 into rim; nobody reads it before the next kernel.
__global__ void __launch_bounds__(kThreads) find_outlines(HrAntialiasParams p, const int32_t* bad) {
  const Place place = place_of_this_thread();
  if (place.item >= p.num_faces || *bad) return;
  const int32_t* corner = p.faces + 3 * place.item;
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const uint8_t bits = hr_outline_bits(p.pixels + image * p.num_vertices * 2, p.faces, p.neighbours,
                                         static_cast<int32_t>(place.item));
    p.outline[image * p.num_faces + place.item] = bits;
    uint8_t* rim = p.rim + image * p.num_vertices;
    for (int k = 0; k < 3; ++k) {
      if ((bits >> k) & 1) rim[corner[(k + 1) % 3]] = rim[corner[(k + 2) % 3]] = 1;
    }
  }
}

// The pairs that a pixel has part in, in the order of the image: with the one above, left, right and below.
struct Blends {
  HrBlend blend[4];
  bool has[4];
};

__device__ __forceinline__ HrOutlineView view_of(const HrAntialiasParams& p, int64_t image) {
  const int64_t pixel = image * p.height * p.width;
  return {p.pixels + image * p.num_vertices * 2, p.outline + image * p.num_faces, p.rim + image * p.num_vertices,
          p.faces, p.neighbours, p.face_index + pixel, p.depth_z + pixel, p.width};
}

// True when any of the four blends.
__device__ __forceinline__ bool find_blends(const HrAntialiasParams& p, int64_t image, int32_t x, int32_t y, Blends* found) {
  const HrOutlineView view = view_of(p, image);
  const bool exists[4] = {y > 0, x > 0, x + 1 < p.width, y + 1 < p.height};
  const int axis[4] = {1, 0, 0, 1};
  bool any = false;
#pragma unroll 1
  for (int i = 0; i < 4; ++i) {
    const int32_t first_x = i == 1 ? x - 1 : x, first_y = i == 0 ? y - 1 : y;
    found->has[i] = exists[i] && hr_blend_pair(&view, first_x, first_y, axis[i], &found->blend[i]);
    any = any || found->has[i];
  }
  return any;
}

__global__ void __launch_bounds__(kThreads) blend_pixels(HrAntialiasParams p, const int32_t* bad) {
  const Place place = place_of_this_thread();
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  if (place.item >= pixels) return;
  const int32_t y = static_cast<int32_t>(quotient(place.item, p.width)), x = static_cast<int32_t>(place.item - static_cast<int64_t>(y) * p.width);
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const float *picture = p.image + image * pixels * p.channels, *own = picture + place.item * p.channels;
    float* out = p.out + (image * pixels + place.item) * p.channels;
    Blends found;
    const bool any = !*bad && find_blends(p, image, x, y, &found);
    for (int32_t d = 0; d < p.channels; ++d) {
      float value = own[d];
      for (int i = 0; i < 4 && any; ++i) {
        if (!found.has[i] || found.blend[i].into != place.item) continue;
        value += found.blend[i].share * (picture[found.blend[i].from * p.channels + d] - own[d]);
      }
      out[d] = value;
    }
  }
}

// Gradient of the image; and, from the pixels that take a share, of the vertices.
template <class Sum>
__global__ void __launch_bounds__(kThreads) unblend_pixels(HrAntialiasParams p, Sum sum, const int32_t* bad) {
  const Place place = place_of_this_thread();
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  if (place.item >= pixels) return;
  const int32_t y = static_cast<int32_t>(quotient(place.item, p.width)), x = static_cast<int32_t>(place.item - static_cast<int64_t>(y) * p.width);
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const float *grad = p.grad_out + image * pixels * p.channels, *own = grad + place.item * p.channels;
    const float* picture = p.image + image * pixels * p.channels;
    float* out = p.out + (image * pixels + place.item) * p.channels;
    Blends found;
    const bool any = !*bad && find_blends(p, image, x, y, &found);
    for (int32_t d = 0; d < p.channels; ++d) {
      float value = own[d];
      for (int i = 0; i < 4 && any; ++i) {
        if (!found.has[i]) continue;
        const HrBlend& b = found.blend[i];
        value += b.into == place.item ? -(b.share * own[d]) : b.share * grad[b.into * p.channels + d];
      }
      out[d] = value;
    }
    for (int i = 0; i < 4 && any; ++i) {
      const HrBlend& b = found.blend[i];
      if (!found.has[i] || b.into != place.item) continue;
      float share_grad = 0.0f;
      for (int32_t d = 0; d < p.channels; ++d) {
        share_grad += own[d] * (picture[b.from * p.channels + d] - picture[b.into * p.channels + d]);
      }
      for (int k = 0; k < 2; ++k) {
        const int64_t row = 3 * (image * p.num_vertices + b.vertex[k]);
        float point[3];
        hr_pixel_grad_to_hom(p.points_hom + row, share_grad * b.slope[2 * k], share_grad * b.slope[2 * k + 1], point);
        for (int d = 0; d < 3; ++d) sum.add(row + d, point[d]);
      }
    }
  }
}

// Fills pixels, outline and rim.
void prepare(const HrAntialiasParams& p, const HrCudaLaunch& launch, int32_t* bad) {
  fill_bytes(launch, bad, 0, sizeof(int32_t));
  fill_bytes(launch, p.rim, 0, p.batch * p.num_vertices);
  launch_check(launch, p.faces, 3 * p.num_faces, 0, p.num_vertices, bad);
  launch_check(launch, p.neighbours, 3 * p.num_faces, -1, p.num_faces, bad);
  launch_check(launch, p.face_index, p.batch * p.height * p.width, INT32_MIN, p.num_faces, bad);
  const int64_t vertices = p.batch * p.num_vertices;
  launch_over(launch, vertices, 1, place_vertices, p, vertices);
  launch_over(launch, p.num_faces, p.batch, find_outlines, p, static_cast<const int32_t*>(bad));
}

void run_antialias(const HrAntialiasParams& p, const HrCudaLaunch& launch, const AntialiasScratch& scratch) {
  prepare(p, launch, scratch.bad);
  const int32_t* bad = scratch.bad;
  launch_over(launch, static_cast<int64_t>(p.height) * p.width, p.batch, blend_pixels, p, bad);
}

void run_antialias_backward(const HrAntialiasParams& p, const HrCudaLaunch& launch, const AntialiasScratch& scratch) {
  prepare(p, launch, scratch.bad);
  const int32_t* bad = scratch.bad;
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  sum_terms(launch, scratch.sums, p.grad_points, p.batch * p.num_vertices * 3, pixels * 4, [&](auto sum) {
    launch_over(launch, pixels, p.batch, unblend_pixels<decltype(sum)>, p, sum, bad);
  });
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(antialias, HrAntialiasParams)
HR_DEFINE_CUDA_OP(antialias_backward, HrAntialiasParams)
