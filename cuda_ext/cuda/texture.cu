// CUDA texture lookup, its pyramid of halved pictures, and their backward passes.
#include "texture.h"

#include "sums.h"

namespace hr {
namespace {

// Where the levels of a pyramid begin, in texels; [levels] is the end.
struct Levels {
  int64_t offset[HR_MAX_LEVELS + 1];
};

Levels levels_of(int32_t height, int32_t width, int32_t levels) {
  Levels table = {};
  for (int32_t level = 0; level <= levels; ++level) table.offset[level] = hr_level_offset(height, width, level);
  return table;
}

// What lookup and backward pass have in common: the texture that an image reads, and the levels that a pixel mixes.
struct Picture {
  int32_t height, width, levels, channels, wrap;
};

template <class Params>
__device__ __forceinline__ Picture picture_of(const Params& p) {
  return {p.height, p.width, p.levels, p.channels, p.wrap};
}

struct Lookup {
  HrTexels texels;
  int64_t upper_left, upper_right, lower_left, lower_right;  // floats from the start of the pyramid
};

__device__ __forceinline__ Lookup look_up(const Picture& p, int64_t level_offset, int32_t level, const float* uv) {
  const int32_t width = p.width >> level;
  Lookup l;
  hr_texels(uv[0], uv[1], p.height >> level, width, p.wrap, &l.texels);
  const int64_t upper = level_offset + static_cast<int64_t>(l.texels.upper) * width;
  const int64_t lower = level_offset + static_cast<int64_t>(l.texels.lower) * width;
  l.upper_left = (upper + l.texels.left) * p.channels;
  l.upper_right = (upper + l.texels.right) * p.channels;
  l.lower_left = (lower + l.texels.left) * p.channels;
  l.lower_right = (lower + l.texels.right) * p.channels;
  return l;
}

__device__ __forceinline__ float read(const Lookup& l, const float* pyramid, int32_t d) {
  return hr_bilinear(&l.texels, pyramid[l.upper_left + d], pyramid[l.upper_right + d], pyramid[l.lower_left + d],
                     pyramid[l.lower_right + d]);
}

template <class Params>
int32_t check_lookup(const Params& p) {
  const bool sane = p.channels >= 1 && hr_levels_fit(p.height, p.width, p.levels) &&
                    (p.wrap == HR_WRAP_CLAMP || p.wrap == HR_WRAP_REPEAT) && p.batch >= 0 &&
                    (p.texture_batch == 1 || p.texture_batch == p.batch) && p.num_pixels >= 0 && fits_grid(p.num_pixels);
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

int32_t check(const HrTextureParams& p) { return check_lookup(p); }
int32_t check(const HrTextureGradParams& p) { return check_lookup(p); }

int32_t check(const HrPyramidParams& p) {
  const bool sane = p.channels >= 1 && p.batch >= 0 && hr_levels_fit(p.height, p.width, p.levels);
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

int64_t pyramid_floats(const HrTextureGradParams& p) {
  return p.texture_batch * hr_level_offset(p.height, p.width, p.levels) * p.channels;
}

NoScratch lay_out_texture(const HrTextureParams&, const HrCudaLaunch&, Workspace&) { return {}; }
NoScratch lay_out_pyramid(const HrPyramidParams&, const HrCudaLaunch&, Workspace&) { return {}; }
NoScratch lay_out_pyramid_backward(const HrPyramidParams&, const HrCudaLaunch&, Workspace&) { return {}; }

SumScratch lay_out_texture_backward(const HrTextureGradParams& p, const HrCudaLaunch& launch, Workspace& workspace) {
  return lay_out_sums(p.grad_pyramid ? pyramid_floats(p) : 0, launch, workspace);
}

// One thread per pixel.
__global__ void __launch_bounds__(kThreads) look_up_pixels(HrTextureParams p, Levels levels) {
  const Place place = place_of_this_thread();
  if (place.item >= p.num_pixels) return;
  const Picture picture = picture_of(p);
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const int64_t at = image * p.num_pixels + place.item;
    float* out = p.values + at * p.channels;
    if (p.face_index && p.face_index[at] < 0) {
      for (int32_t d = 0; d < p.channels; ++d) out[d] = 0.0f;
      continue;
    }
    const float* pyramid = p.pyramid + (p.texture_batch == 1 ? 0 : image * levels.offset[p.levels] * p.channels);
    const float mixed = p.uv_slopes ? hr_texture_level(p.uv_slopes + 4 * at, p.height, p.width, p.levels) : 0.0f;
    const int32_t level = static_cast<int32_t>(mixed);
    const float rest = mixed - static_cast<float>(level);
    const Lookup finer = look_up(picture, levels.offset[level], level, p.uvs + 2 * at);
    if (rest > 0.0f) {
      const Lookup coarser = look_up(picture, levels.offset[level + 1], level + 1, p.uvs + 2 * at);
      for (int32_t d = 0; d < p.channels; ++d) {
        const float value = read(finer, pyramid, d);
        out[d] = value + rest * (read(coarser, pyramid, d) - value);
      }
    } else {
      for (int32_t d = 0; d < p.channels; ++d) out[d] = read(finer, pyramid, d);
    }
  }
}

template <class Sum>
__device__ __forceinline__ void add_to_texels(const Sum& sum, const Lookup& l, float weight, int64_t pyramid, const float* g,
                                              int32_t channels) {
  const float upper = (1.0f - l.texels.down) * weight, lower = l.texels.down * weight;
  const float left = 1.0f - l.texels.across, right = l.texels.across;
  for (int32_t d = 0; d < channels; ++d) {
    sum.add(pyramid + l.upper_left + d, left * upper * g[d]);
    sum.add(pyramid + l.upper_right + d, right * upper * g[d]);
    sum.add(pyramid + l.lower_left + d, left * lower * g[d]);
    sum.add(pyramid + l.lower_right + d, right * lower * g[d]);
  }
}

// One thread per pixel.
template <class Sum>
__global__ void __launch_bounds__(kThreads) add_texel_gradients(HrTextureGradParams p, Levels levels, Sum sum) {
  const Place place = place_of_this_thread();
  if (place.item >= p.num_pixels) return;
  const Picture picture = picture_of(p);
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const int64_t at = image * p.num_pixels + place.item;
    if (p.face_index && p.face_index[at] < 0) continue;
    const int64_t pyramid = p.texture_batch == 1 ? 0 : image * levels.offset[p.levels] * p.channels;
    const float mixed = p.uv_slopes ? hr_texture_level(p.uv_slopes + 4 * at, p.height, p.width, p.levels) : 0.0f;
    const int32_t level = static_cast<int32_t>(mixed);
    const float rest = mixed - static_cast<float>(level);
    const float* g = p.grad_values + at * p.channels;
    add_to_texels(sum, look_up(picture, levels.offset[level], level, p.uvs + 2 * at), 1.0f - rest, pyramid, g, p.channels);
    if (rest > 0.0f) {
      add_to_texels(sum, look_up(picture, levels.offset[level + 1], level + 1, p.uvs + 2 * at), rest, pyramid, g, p.channels);
    }
  }
}

// How one level's lookup answers a move of the UV.
__device__ __forceinline__ void add_uv_gradient(const Lookup& l, float weight, const float* pyramid, const float* g,
                                                int32_t channels, float* grad) {
  float du = 0.0f, dv = 0.0f;
  for (int32_t d = 0; d < channels; ++d) {
    const float upper_left = pyramid[l.upper_left + d], lower_left = pyramid[l.lower_left + d];
    const float across_upper = pyramid[l.upper_right + d] - upper_left, across_lower = pyramid[l.lower_right + d] - lower_left;
    du += g[d] * (across_upper + l.texels.down * (across_lower - across_upper));
    dv += g[d] * (lower_left + l.texels.across * across_lower - (upper_left + l.texels.across * across_upper));
  }
  grad[0] += weight * l.texels.across_du * du;
  grad[1] += weight * l.texels.down_dv * dv;
}

__global__ void __launch_bounds__(kThreads) uv_gradients(HrTextureGradParams p, Levels levels) {
  const Place place = place_of_this_thread();
  if (place.item >= p.num_pixels) return;
  const Picture picture = picture_of(p);
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const int64_t at = image * p.num_pixels + place.item;
    float grad[2] = {0.0f, 0.0f};
    if (!p.face_index || p.face_index[at] >= 0) {
      const float* pyramid = p.pyramid + (p.texture_batch == 1 ? 0 : image * levels.offset[p.levels] * p.channels);
      const float mixed = p.uv_slopes ? hr_texture_level(p.uv_slopes + 4 * at, p.height, p.width, p.levels) : 0.0f;
      const int32_t level = static_cast<int32_t>(mixed);
      const float rest = mixed - static_cast<float>(level);
      const float* g = p.grad_values + at * p.channels;
      add_uv_gradient(look_up(picture, levels.offset[level], level, p.uvs + 2 * at), 1.0f - rest, pyramid, g, p.channels, grad);
      if (rest > 0.0f) {
        add_uv_gradient(look_up(picture, levels.offset[level + 1], level + 1, p.uvs + 2 * at), rest, pyramid, g, p.channels,
                        grad);
      }
    }
    p.grad_uvs[2 * at] = grad[0];
    p.grad_uvs[2 * at + 1] = grad[1];
  }
}

// Halving a level, seen from the coarser one: which value a thread has, and where the four it comes from begin.
struct Halving {
  int64_t coarse, fine, fine_row;  // floats from the start of the pyramid; fine_row to the texel below
};

__device__ __forceinline__ Halving halving_of(const HrPyramidParams& p, const Levels& levels, int32_t level, int64_t item) {
  const int32_t width = p.width >> level;
  const int64_t texel = quotient(item, p.channels), channel = item - texel * p.channels;
  const int64_t y = quotient(texel, width), x = texel - y * width;
  const int64_t fine_row = 2 * static_cast<int64_t>(width);
  return {levels.offset[level] * p.channels + item,
          (levels.offset[level - 1] + 2 * y * fine_row + 2 * x) * p.channels + channel, fine_row * p.channels};
}

// One thread per value of `level`.
__global__ void __launch_bounds__(kThreads) halve(HrPyramidParams p, Levels levels, int32_t level, int64_t values) {
  const Place place = place_of_this_thread();
  if (place.item >= values) return;
  const Halving h = halving_of(p, levels, level, place.item);
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    float* pyramid = p.pyramid + image * levels.offset[p.levels] * p.channels;
    const float *upper = pyramid + h.fine, *lower = upper + h.fine_row;
    pyramid[h.coarse] = hr_halve(upper[0], upper[p.channels], lower[0], lower[p.channels]);
  }
}

// One thread per value of `level`, which hands a quarter of its gradient to each of the four it was the mean of.
__global__ void __launch_bounds__(kThreads) unhalve(HrPyramidParams p, Levels levels, int32_t level, int64_t values) {
  const Place place = place_of_this_thread();
  if (place.item >= values) return;
  const Halving h = halving_of(p, levels, level, place.item);
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    float* pyramid = p.pyramid + image * levels.offset[p.levels] * p.channels;
    float *upper = pyramid + h.fine, *lower = upper + h.fine_row;
    const float share = 0.25f * pyramid[h.coarse];
    upper[0] += share;
    upper[p.channels] += share;
    lower[0] += share;
    lower[p.channels] += share;
  }
}

int64_t values_of_level(const HrPyramidParams& p, int32_t level) {
  return static_cast<int64_t>(p.height >> level) * (p.width >> level) * p.channels;
}

void run_pyramid(const HrPyramidParams& p, const HrCudaLaunch& launch, NoScratch) {
  const Levels levels = levels_of(p.height, p.width, p.levels);
  for (int32_t level = 1; level < p.levels; ++level) {
    const int64_t values = values_of_level(p, level);
    launch_over(launch, values, p.batch, halve, p, levels, level, values);
  }
}

void run_pyramid_backward(const HrPyramidParams& p, const HrCudaLaunch& launch, NoScratch) {
  const Levels levels = levels_of(p.height, p.width, p.levels);
  for (int32_t level = p.levels - 1; level > 0; --level) {
    const int64_t values = values_of_level(p, level);
    launch_over(launch, values, p.batch, unhalve, p, levels, level, values);
  }
}

void run_texture(const HrTextureParams& p, const HrCudaLaunch& launch, NoScratch) {
  launch_over(launch, p.num_pixels, p.batch, look_up_pixels, p, levels_of(p.height, p.width, p.levels));
}

void run_texture_backward(const HrTextureGradParams& p, const HrCudaLaunch& launch, const SumScratch& scratch) {
  const Levels levels = levels_of(p.height, p.width, p.levels);
  if (p.grad_uvs) launch_over(launch, p.num_pixels, p.batch, uv_gradients, p, levels);
  if (!p.grad_pyramid) return;
  // At a border that is clamped to, a pixel may add all four of its terms to one texel.
  const int64_t terms = (p.texture_batch == 1 ? p.batch : 1) * p.num_pixels * 4;
  sum_terms(launch, scratch, p.grad_pyramid, pyramid_floats(p), terms, [&](auto sum) {
    launch_over(launch, p.num_pixels, p.batch, add_texel_gradients<decltype(sum)>, p, levels, sum);
  });
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(pyramid, HrPyramidParams)
HR_DEFINE_CUDA_OP(pyramid_backward, HrPyramidParams)
HR_DEFINE_CUDA_OP(texture, HrTextureParams)
HR_DEFINE_CUDA_OP(texture_backward, HrTextureGradParams)
