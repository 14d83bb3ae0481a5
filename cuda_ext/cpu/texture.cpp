// CPU texture lookup and the pyramid of halved pictures.
#include "texture.h"

#include <algorithm>
#include <vector>

#include "c_api.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kPixelsPerTask = 4096;
constexpr int64_t kTexelsPerTask = 16384;

// Runs work(texture, level, first row, end row) over level `level` (of size height x width) of every texture.
template <class Work>
void over_rows(const HrPyramidParams& p, int32_t level, const Work& work) {
  const int64_t height = p.height >> level, width = p.width >> level;
  const int64_t rows_each = std::max<int64_t>(1, kTexelsPerTask / width), runs = (height + rows_each - 1) / rows_each;
  parallel_for(p.batch * runs, p.num_threads, [&](int64_t task) {
    const int64_t begin = task % runs * rows_each;
    work(task / runs, begin, std::min(begin + rows_each, height));
  });
}

float* level_of(const HrPyramidParams& p, int64_t texture, int32_t level) {
  const int64_t texels = hr_level_offset(p.height, p.width, p.levels);
  return p.pyramid + (texture * texels + hr_level_offset(p.height, p.width, level)) * p.channels;
}

int32_t build(const HrPyramidParams& p) {
  for (int32_t level = 1; level < p.levels; ++level) {
    const int64_t width = p.width >> level, d = p.channels;
    over_rows(p, level, [&](int64_t texture, int64_t begin, int64_t end) {
      float* to = level_of(p, texture, level) + begin * width * d;
      for (int64_t y = begin; y < end; ++y) {
        const float* upper = level_of(p, texture, level - 1) + 4 * y * width * d;
        const float* lower = upper + 2 * width * d;
        for (int64_t x = 0; x < width; ++x, upper += 2 * d, lower += 2 * d) {
          for (int64_t k = 0; k < d; ++k) *to++ = hr_halve(upper[k], upper[d + k], lower[k], lower[d + k]);
        }
      }
    });
  }
  return HR_OK;
}

// Coarsest first: each texel hands a quarter of its gradient to each of the four it was the mean of.
int32_t fold(const HrPyramidParams& p) {
  for (int32_t level = p.levels - 1; level > 0; --level) {
    const int64_t width = p.width >> level, d = p.channels;
    over_rows(p, level, [&](int64_t texture, int64_t begin, int64_t end) {
      const float* from = level_of(p, texture, level) + begin * width * d;
      for (int64_t y = begin; y < end; ++y) {
        float* upper = level_of(p, texture, level - 1) + 4 * y * width * d;
        float* lower = upper + 2 * width * d;
        for (int64_t x = 0; x < width; ++x, upper += 2 * d, lower += 2 * d) {
          for (int64_t k = 0; k < d; ++k) {
            const float share = 0.25f * *from++;
            upper[k] += share;
            upper[d + k] += share;
            lower[k] += share;
            lower[d + k] += share;
          }
        }
      }
    });
  }
  return HR_OK;
}

template <int kChannels>
void look_up(const HrTextureParams& p, const float* level, int32_t height, int32_t width, const float* uv, float* out) {
  const int64_t d = kChannels > 0 ? kChannels : p.channels;
  HrTexels t;
  hr_texels(uv[0], uv[1], height, width, p.wrap, &t);
  const float *upper = level + static_cast<int64_t>(t.upper) * width * d, *lower = level + static_cast<int64_t>(t.lower) * width * d;
  const int64_t left = t.left * d, right = t.right * d;
  for (int64_t k = 0; k < d; ++k) out[k] = hr_bilinear(&t, upper[left + k], upper[right + k], lower[left + k], lower[right + k]);
}

template <int kChannels>
void look_up_run(const HrTextureParams& p, const int64_t* offset, int64_t image, int64_t begin, int64_t end, float* coarser) {
  const int64_t d = kChannels > 0 ? kChannels : p.channels;
  const float* pyramid = p.pyramid + (p.texture_batch == 1 ? 0 : image * offset[p.levels] * d);
  for (int64_t i = image * p.num_pixels + begin; i < image * p.num_pixels + end; ++i) {
    float* out = p.values + i * d;
    if (p.face_index && p.face_index[i] < 0) {
      std::fill(out, out + d, 0.0f);
      continue;
    }
    const float at = p.uv_slopes ? hr_texture_level(p.uv_slopes + 4 * i, p.height, p.width, p.levels) : 0.0f;
    const int32_t level = static_cast<int32_t>(at);
    const float rest = at - static_cast<float>(level);
    look_up<kChannels>(p, pyramid + offset[level] * d, p.height >> level, p.width >> level, p.uvs + 2 * i, out);
    if (rest > 0.0f) {
      look_up<kChannels>(p, pyramid + offset[level + 1] * d, p.height >> (level + 1), p.width >> (level + 1), p.uvs + 2 * i,
                         coarser);
      for (int64_t k = 0; k < d; ++k) out[k] += rest * (coarser[k] - out[k]);
    }
  }
}

int32_t texture(const HrTextureParams& p) {
  int64_t offset[HR_MAX_LEVELS + 1];
  for (int32_t level = 0; level <= p.levels; ++level) offset[level] = hr_level_offset(p.height, p.width, level);
  const int64_t runs = (p.num_pixels + kPixelsPerTask - 1) / kPixelsPerTask;
  parallel_for(p.batch * runs, p.num_threads, [&](int64_t task) {
    const int64_t image = task / runs, begin = task % runs * kPixelsPerTask;
    const int64_t end = std::min(begin + kPixelsPerTask, p.num_pixels);
    thread_local std::vector<float> coarser;
    coarser.resize(p.channels);
    switch (p.channels) {
      case 1: return look_up_run<1>(p, offset, image, begin, end, coarser.data());
      case 3: return look_up_run<3>(p, offset, image, begin, end, coarser.data());
      case 4: return look_up_run<4>(p, offset, image, begin, end, coarser.data());
      default: return look_up_run<0>(p, offset, image, begin, end, coarser.data());
    }
  });
  return HR_OK;
}

int32_t check_pyramid(const HrPyramidParams& p) {
  return p.channels < 1 || p.num_threads < 1 || !hr_levels_fit(p.height, p.width, p.levels) ? HR_ERROR_ARGUMENT : HR_OK;
}

}  // namespace
}  // namespace hr

int32_t hr_pyramid_cpu(const HrPyramidParams* params) {
  const int32_t status = hr::check_pyramid(*params);
  return status != HR_OK ? status : hr::guarded([&] { return hr::build(*params); });
}

int32_t hr_pyramid_backward_cpu(const HrPyramidParams* params) {
  const int32_t status = hr::check_pyramid(*params);
  return status != HR_OK ? status : hr::guarded([&] { return hr::fold(*params); });
}

int32_t hr_texture_cpu(const HrTextureParams* params) {
  const HrTextureParams& p = *params;
  if (p.channels < 1 || p.num_threads < 1 || !hr_levels_fit(p.height, p.width, p.levels) ||
      (p.wrap != HR_WRAP_CLAMP && p.wrap != HR_WRAP_REPEAT) || (p.texture_batch != 1 && p.texture_batch != p.batch)) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::texture(p); });
}
