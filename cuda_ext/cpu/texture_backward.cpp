// CPU backward pass of texture lookup. Pixels land anywhere in the texture, and a table per thread would be as large as
// the texture: instead the lookups are sorted by the rows that they touch (a counting sort that keeps the order of the
// pixels), and each group of rows is then summed by one thread. The result does not depend on the number of threads.
#include <algorithm>
#include <vector>

#include "c_api.h"
#include "texture.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kPixelsPerTask = 8192;
constexpr int32_t kRowsPerBin = 8;

// A lookup that touches a bin: which pixel, and the weight of the bin's level.
struct Touch {
  uint32_t pixel;
  float weight;
};

// The pixels that look into one texture, and where its levels and bins begin.
struct Lookups {
  int64_t first_pixel, pixels;
  int64_t texture;
  int64_t offset[HR_MAX_LEVELS + 1];    // texels before each level
  int32_t first_bin[HR_MAX_LEVELS + 1];

  int32_t bin(int32_t level, int32_t row) const { return first_bin[level] + row / kRowsPerBin; }
  int32_t bins(const HrTextureGradParams& p) const { return first_bin[p.levels]; }
};

// Calls visit(bin, pixel within the texture's, weight) for every bin that the lookups of a run of pixels touch.
template <class Visit>
void visit_bins(const HrTextureGradParams& p, const Lookups& l, int64_t begin, int64_t end, const Visit& visit) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t pixel = l.first_pixel + i;
    if (p.face_index && p.face_index[pixel] < 0) continue;
    const float at = p.uv_slopes ? hr_texture_level(p.uv_slopes + 4 * pixel, p.height, p.width, p.levels) : 0.0f;
    const int32_t finer = static_cast<int32_t>(at);
    const float rest = at - static_cast<float>(finer);
    for (int32_t level = finer; level <= finer + (rest > 0.0f ? 1 : 0); ++level) {
      HrTexels t;
      hr_texels(p.uvs[2 * pixel], p.uvs[2 * pixel + 1], p.height >> level, p.width >> level, p.wrap, &t);
      const float weight = level == finer ? 1.0f - rest : rest;
      const int32_t upper = l.bin(level, t.upper), lower = l.bin(level, t.lower);
      visit(upper, i, weight);
      if (lower != upper) visit(lower, i, weight);
    }
  }
}

// Sums one bin: empties its rows, then adds what the touches bring, keeping to its own rows.
template <int kChannels>
void sum_bin(const HrTextureGradParams& p, const Lookups& l, int32_t level, int32_t bin, const Touch* touch, const Touch* end) {
  const int64_t d = kChannels > 0 ? kChannels : p.channels;
  const int32_t height = p.height >> level, width = p.width >> level;
  const int32_t first = (bin - l.first_bin[level]) * kRowsPerBin, last = std::min(first + kRowsPerBin, height);
  float* rows = p.grad_pyramid + (l.texture * l.offset[p.levels] + l.offset[level]) * d;
  std::fill(rows + first * static_cast<int64_t>(width) * d, rows + last * static_cast<int64_t>(width) * d, 0.0f);
  for (; touch != end; ++touch) {
    const int64_t pixel = l.first_pixel + touch->pixel;
    HrTexels t;
    hr_texels(p.uvs[2 * pixel], p.uvs[2 * pixel + 1], height, width, p.wrap, &t);
    const float* g = p.grad_values + pixel * d;
    const int32_t row[2] = {t.upper, t.lower};
    const float down[2] = {(1.0f - t.down) * touch->weight, t.down * touch->weight};
    for (int r = 0; r < 2; ++r) {
      if (row[r] < first || row[r] >= last) continue;
      float* left = rows + (static_cast<int64_t>(row[r]) * width + t.left) * d;
      float* right = rows + (static_cast<int64_t>(row[r]) * width + t.right) * d;
      const float to_left = (1.0f - t.across) * down[r], to_right = t.across * down[r];
      for (int64_t k = 0; k < d; ++k) left[k] += to_left * g[k];
      for (int64_t k = 0; k < d; ++k) right[k] += to_right * g[k];
    }
  }
}

void sum_lookups(const HrTextureGradParams& p, const Lookups& l) {
  const int32_t bins = l.bins(p);
  const int64_t runs = (l.pixels + kPixelsPerTask - 1) / kPixelsPerTask;
  std::vector<uint32_t> next(runs * bins, 0);  // how many touches, then where the next one goes
  const auto run = [&](int64_t task, const auto& visit) {
    visit_bins(p, l, task * kPixelsPerTask, std::min((task + 1) * kPixelsPerTask, l.pixels), visit);
  };
  parallel_for(runs, p.num_threads, [&](int64_t task) {
    uint32_t* count = next.data() + task * bins;
    run(task, [&](int32_t bin, int64_t, float) { ++count[bin]; });
  });
  std::vector<uint32_t> begin(bins + 1);
  uint32_t total = 0;
  for (int32_t bin = 0; bin < bins; ++bin) {
    begin[bin] = total;
    for (int64_t task = 0; task < runs; ++task) {
      const uint32_t count = next[task * bins + bin];
      next[task * bins + bin] = total;
      total += count;
    }
  }
  begin[bins] = total;
  std::vector<Touch> touches(total);
  parallel_for(runs, p.num_threads, [&](int64_t task) {
    uint32_t* at = next.data() + task * bins;
    run(task, [&](int32_t bin, int64_t pixel, float weight) { touches[at[bin]++] = {static_cast<uint32_t>(pixel), weight}; });
  });
  parallel_for(bins, p.num_threads, [&](int64_t task) {
    const int32_t bin = static_cast<int32_t>(task);
    int32_t level = 0;
    while (bin >= l.first_bin[level + 1]) ++level;
    const Touch *first = touches.data() + begin[bin], *end = touches.data() + begin[bin + 1];
    switch (p.channels) {
      case 1: return sum_bin<1>(p, l, level, bin, first, end);
      case 3: return sum_bin<3>(p, l, level, bin, first, end);
      default: return sum_bin<0>(p, l, level, bin, first, end);
    }
  });
}

// How one level's lookup answers a move of the UV.
void add_uv_gradient(const HrTextureGradParams& p, const float* texels, int32_t level, float weight, const float* uv,
                     const float* g, float* grad) {
  const int64_t d = p.channels;
  const int32_t height = p.height >> level, width = p.width >> level;
  HrTexels t;
  hr_texels(uv[0], uv[1], height, width, p.wrap, &t);
  const float *upper = texels + static_cast<int64_t>(t.upper) * width * d, *lower = texels + static_cast<int64_t>(t.lower) * width * d;
  const int64_t left = t.left * d, right = t.right * d;
  float du = 0.0f, dv = 0.0f;
  for (int64_t k = 0; k < d; ++k) {
    const float across_upper = upper[right + k] - upper[left + k], across_lower = lower[right + k] - lower[left + k];
    du += g[k] * (across_upper + t.down * (across_lower - across_upper));
    dv += g[k] * (lower[left + k] + t.across * across_lower - (upper[left + k] + t.across * across_upper));
  }
  grad[0] += weight * t.across_du * du;
  grad[1] += weight * t.down_dv * dv;
}

void uv_gradients(const HrTextureGradParams& p) {
  int64_t offset[HR_MAX_LEVELS + 1];
  for (int32_t level = 0; level <= p.levels; ++level) offset[level] = hr_level_offset(p.height, p.width, level);
  const int64_t runs = (p.num_pixels + kPixelsPerTask - 1) / kPixelsPerTask, d = p.channels;
  parallel_for(p.batch * runs, p.num_threads, [&](int64_t task) {
    const int64_t image = task / runs, begin = image * p.num_pixels + task % runs * kPixelsPerTask;
    const int64_t end = std::min(begin + kPixelsPerTask, (image + 1) * p.num_pixels);
    const float* pyramid = p.pyramid + (p.texture_batch == 1 ? 0 : image * offset[p.levels] * d);
    for (int64_t i = begin; i < end; ++i) {
      float* grad = p.grad_uvs + 2 * i;
      grad[0] = grad[1] = 0.0f;
      if (p.face_index && p.face_index[i] < 0) continue;
      const float at = p.uv_slopes ? hr_texture_level(p.uv_slopes + 4 * i, p.height, p.width, p.levels) : 0.0f;
      const int32_t finer = static_cast<int32_t>(at);
      const float rest = at - static_cast<float>(finer);
      const float *uv = p.uvs + 2 * i, *g = p.grad_values + i * d;
      add_uv_gradient(p, pyramid + offset[finer] * d, finer, 1.0f - rest, uv, g, grad);
      if (rest > 0.0f) add_uv_gradient(p, pyramid + offset[finer + 1] * d, finer + 1, rest, uv, g, grad);
    }
  });
}

int32_t texture_backward(const HrTextureGradParams& p) {
  if (p.grad_uvs) uv_gradients(p);
  if (!p.grad_pyramid) return HR_OK;
  Lookups l;
  const bool shared = p.texture_batch == 1;
  l.pixels = shared ? p.batch * p.num_pixels : p.num_pixels;
  if (l.pixels > (int64_t{1} << 29)) return HR_ERROR_ARGUMENT;  // four touches each must be counted in 32 bits
  l.first_bin[0] = 0;
  for (int32_t level = 0; level <= p.levels; ++level) l.offset[level] = hr_level_offset(p.height, p.width, level);
  for (int32_t level = 0; level < p.levels; ++level) {
    l.first_bin[level + 1] = l.first_bin[level] + ((p.height >> level) + kRowsPerBin - 1) / kRowsPerBin;
  }
  for (int64_t texture = 0; texture < p.texture_batch; ++texture) {
    l.texture = texture;
    l.first_pixel = texture * p.num_pixels;
    sum_lookups(p, l);
  }
  return HR_OK;
}

}  // namespace
}  // namespace hr

int32_t hr_texture_backward_cpu(const HrTextureGradParams* params) {
  const HrTextureGradParams& p = *params;
  if (p.channels < 1 || p.num_threads < 1 || !hr_levels_fit(p.height, p.width, p.levels) ||
      (p.wrap != HR_WRAP_CLAMP && p.wrap != HR_WRAP_REPEAT) || (p.texture_batch != 1 && p.texture_batch != p.batch)) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::texture_backward(p); });
}
