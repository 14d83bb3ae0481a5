// Compositing along rays, forward and backward. Included once per instruction set with HR_COMPOSITE_KERNELS defined.
//
// What samples absorb is worked out for a window of 64 at a time, whatever rays they belong to: vectors stay full with packed
// rays of a few samples each, and a ray that ends early wastes a window at most. Light then goes through a ray sample by
// sample, a product and a comparison each, and channels are summed in registers over the samples that it reaches.

#include <algorithm>
#include <cmath>
#include <vector>

#include "composite_rays.h"
#include "opacity_lanes.h"

namespace hr {
namespace {

constexpr int kWindow = 64;

// Intervals begin .. end - 1, counted as the samples that begin them.
struct Window {
  int64_t begin = 0, end = 0;
  float start[kWindow], stop[kWindow], value[kWindow];
  float alpha[kWindow], keep[kWindow], by_value[kWindow], by_length[kWindow];
  bool cut[kWindow];  // at the surface
};

// The intervals of one ray. Those behind the surface get no value, and absorb nothing.
void place_on_ray(const HrCompositeParams& p, int64_t ray, int64_t first, Window& window) {
  const HrRaySamples& s = p.samples;
  for (int64_t index = window.begin; index < window.end; ++index) {
    const int64_t k = index - window.begin;
    hr_interval(&s, ray, first, index - first, &window.start[k], &window.stop[k]);
    const float whole = window.stop[k];
    const bool there = hr_cut(&s, ray, window.start[k], &window.stop[k]) != 0;
    window.cut[k] = there && whole > window.stop[k];
    window.value[k] = there ? p.values[index] : NAN;
    if (there && s.rule == HR_RULE_NEIGHBOURS) window.value[k] = (window.value[k] + p.values[index + 1]) * 0.5f;
  }
}

// The same where borders are given and nothing is cut, for samples of any rays.
void place_all(const HrCompositeParams& p, Window& window) {
  const HrRaySamples& s = p.samples;
  const int count = static_cast<int>(window.end - window.begin);
  const bool pairs = s.rule == HR_RULE_NEIGHBOURS;
  const float *starts = s.starts + window.begin, *stops = pairs ? starts + 1 : s.ends + window.begin;
  const float* values = p.values + window.begin;
  for (int i = 0; i < count; i += kWidth) {
    const int some = std::min(kWidth, count - i);
    F16 value = load_some(values + i, some);
    if (pairs) value = (value + load_some(values + i + 1, some)) * all(0.5f);
    store(window.start + i, load_some(starts + i, some));
    store(window.stop + i, load_some(stops + i, some));
    store(window.value + i, value);
  }
}

// One ray after another, and the window that the one at hand is in.
struct Walk {
  const HrCompositeParams& p;
  int64_t last_sample;  // of all rays that are walked, and one more
  Window window;

  Walk(const HrCompositeParams& params, int64_t rays_end) : p(params) {
    const HrRaySamples& s = p.samples;
    last_sample = s.offsets ? s.offsets[rays_end] : rays_end * s.per_ray;
    // Between neighbours: what begins at the last sample of a ray is an interval to the next ray's, which nobody asks for.
    if (s.rule == HR_RULE_NEIGHBOURS) --last_sample;
    std::fill(window.cut, window.cut + kWindow, false);
    for (float* each : {window.start, window.stop, window.value}) std::fill(each, each + kWindow, 0.0f);
  }

  void look_at(int64_t ray, int64_t first, int64_t ray_end, int64_t index) {
    const HrRaySamples& s = p.samples;
    const bool one_ray = !s.starts || s.surface;
    window.begin = index;
    window.end = std::min(index + kWindow, one_ray ? ray_end : last_sample);
    if (one_ray) {
      place_on_ray(p, ray, first, window);
    } else {
      place_all(p, window);
    }
    for (int i = 0; i < window.end - window.begin; i += kWidth) {
      const Opacities o = opacities_of(s, load(window.value + i), load(window.stop + i) - load(window.start + i));
      store(window.alpha + i, o.alpha);
      store(window.keep + i, o.keep);
      store(window.by_value + i, o.by_value);
      store(window.by_length + i, o.by_length);
    }
  }

  // Calls visit(k of the window, index, light before it) for each interval that light reaches, front to back.
  template <class Visit>
  inline __attribute__((always_inline)) void along(int64_t ray, int64_t first, int64_t intervals, const Visit& visit) {
    const float least = p.samples.stop;
    float through = 1.0f;
    for (int64_t index = first; index < first + intervals && !(through < least);) {
      if (index < window.begin || index >= window.end) look_at(ray, first, first + intervals, index);
      const int64_t end = std::min(window.end, first + intervals);
      for (; index < end && !(through < least); ++index) {
        const int k = static_cast<int>(index - window.begin);
        visit(k, index, through);
        through *= window.keep[k];
        through = through < HR_FAINTEST ? 0.0f : through;
      }
    }
  }
};

// --- channels ---------------------------------------------------------------------------------------------------------

// The samples of a ray that weigh something.
struct Lit {
  std::vector<int64_t> index;
  std::vector<float> weight;
  int64_t count = 0;
};

// Of a sample's row, or of the mean of two: a vector from channel d on.
template <bool kPairs>
HR_LANES_FN F16 feature_lanes(const float* row, int64_t channels, int some) {
  const F16 own = some == kWidth ? load(row) : load_some(row, some);
  if (!kPairs) return own;
  return (own + (some == kWidth ? load(row + channels) : load_some(row + channels, some))) * all(0.5f);
}

template <bool kPairs, int kVectors>
HR_LANES_FN void add_vectors(const HrCompositeParams& p, const Lit& lit, int d, float* sums) {
  F16 total[kVectors];
  for (int v = 0; v < kVectors; ++v) total[v] = zeros();
  for (int64_t i = 0; i < lit.count; ++i) {
    const float* row = p.features + lit.index[i] * p.channels + d;
    const F16 weight = all(lit.weight[i]);
    for (int v = 0; v < kVectors; ++v) {
      total[v] = fused(weight, feature_lanes<kPairs>(row + v * kWidth, p.channels, kWidth), total[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) store(sums + d + v * kWidth, total[v]);
}

template <bool kPairs>
void add_channels(const HrCompositeParams& p, const Lit& lit, float* sums) {
  int d = 0;
  for (; d + 4 * kWidth <= p.channels; d += 4 * kWidth) add_vectors<kPairs, 4>(p, lit, d, sums);
  for (; d + 2 * kWidth <= p.channels; d += 2 * kWidth) add_vectors<kPairs, 2>(p, lit, d, sums);
  for (; d + kWidth <= p.channels; d += kWidth) add_vectors<kPairs, 1>(p, lit, d, sums);
  if (d + 4 < p.channels) {
    F16 total = zeros();
    const int some = p.channels - d;
    for (int64_t i = 0; i < lit.count; ++i) {
      const float* row = p.features + lit.index[i] * p.channels + d;
      total = fused(all(lit.weight[i]), feature_lanes<kPairs>(row, p.channels, some), total);
    }
    store_some(sums + d, total, some);
    return;
  }
  for (; d < p.channels; ++d) {  // colours: no vector is worth its while
    float total = 0.0f;
    for (int64_t i = 0; i < lit.count; ++i) {
      const float* row = p.features + lit.index[i] * p.channels + d;
      total = std::fma(lit.weight[i], kPairs ? (row[0] + row[p.channels]) * 0.5f : row[0], total);
    }
    sums[d] = total;
  }
}

void forward(const HrCompositeParams& p, int64_t begin, int64_t end) {
  const HrRaySamples& s = p.samples;
  Walk walk(p, end);
  Lit lit;
  for (int64_t ray = begin; ray < end; ++ray) {
    int64_t first, count;
    hr_ray_range(&s, ray, &first, &count);
    if (static_cast<int64_t>(lit.index.size()) < count) lit.index.resize(count), lit.weight.resize(count);
    lit.count = 0;
    float distance = 0.0f, opacity = 0.0f;
    int64_t written = first;
    walk.along(ray, first, hr_intervals(&s, count), [&](int k, int64_t index, float before) {
      const float weight = before * walk.window.alpha[k];
      lit.index[lit.count] = index;
      lit.weight[lit.count] = weight;
      if (p.weights) p.weights[index] = weight;
      written = index + 1;
      if (!(weight > 0.0f)) return;
      ++lit.count;
      opacity += weight;
      distance += weight * ((walk.window.start[k] + walk.window.stop[k]) * 0.5f);
    });
    if (p.weights) std::fill(p.weights + written, p.weights + first + count, 0.0f);
    p.distances[ray] = distance;
    p.opacities[ray] = opacity;
    float* sums = p.sums + ray * p.channels;
    if (s.rule == HR_RULE_NEIGHBOURS) {
      add_channels<true>(p, lit, sums);
    } else {
      add_channels<false>(p, lit, sums);
    }
  }
}

// --- backward ---------------------------------------------------------------------------------------------------------

// What the backward pass finds out about the intervals of one ray, by their place on it; one more than there are.
struct RayGradients {
  std::vector<float> before, alpha, keep, by_value, by_length, middle, weight, grad_start, grad_end;

  void make_room(size_t count) {
    if (before.size() >= count) return;
    for (std::vector<float>* each : {&before, &alpha, &keep, &by_value, &by_length, &middle, &weight, &grad_start, &grad_end}) {
      each->resize(count);
    }
  }
};

// The feature of one interval times the gradient of the sums. Where that is no number and the weight is nothing, what is no
// number counts as nothing too.
template <bool kPairs>
HR_LANES_FN float feature_worth(const HrCompositeParams& p, const float* row, const float* grad, bool counts) {
  F16 total = zeros();
  int d = 0;
  for (; d + kWidth <= p.channels; d += kWidth) total = fused(feature_lanes<kPairs>(row + d, p.channels, kWidth), load(grad + d), total);
  const int tail = p.channels - d;
  if (tail > 4) total = fused(feature_lanes<kPairs>(row + d, p.channels, tail), load_some(grad + d, tail), total);
  float found = sum(total);
  for (int k = 0; tail <= 4 && k < tail; ++k) {
    found = std::fma(kPairs ? (row[d + k] + row[p.channels + d + k]) * 0.5f : row[d + k], grad[d + k], found);
  }
  if (counts || std::isfinite(found)) return found;
  found = 0.0f;
  for (d = 0; d < p.channels; ++d) {
    const float feature = kPairs ? (row[d] + row[p.channels + d]) * 0.5f : row[d];
    if (std::isfinite(feature)) found = std::fma(feature, grad[d], found);
  }
  return found;
}

// From the last interval to the first, with what is seen behind each per unit of light: no division by what gets through.
template <bool kPairs>
void look_back(const HrCompositeParams& p, int64_t ray, int64_t first, int64_t lit, RayGradients& g) {
  const float* grad = p.grad_sums + ray * p.channels;
  const float by_opacity = p.grad_opacities[ray], by_distance = p.grad_distances[ray];
  float behind = 0.0f;
  for (int64_t j = lit - 1; j >= 0; --j) {
    const float weight = g.weight[j];
    const bool counts = weight != 0.0f;
    float gain = by_opacity + (p.grad_weights ? p.grad_weights[first + j] : 0.0f);
    if (counts || std::isfinite(g.middle[j])) gain += by_distance * g.middle[j];
    if (p.channels > 0) gain += feature_worth<kPairs>(p, p.features + (first + j) * p.channels, grad, counts);
    const float by_alpha = g.before[j] * (gain - behind);
    if (g.alpha[j] > 0.0f) behind = g.alpha[j] * gain + g.keep[j] * behind;
    const float half = 0.5f * weight * by_distance;
    const float length = g.by_length[j] != 0.0f ? g.by_length[j] * by_alpha : 0.0f;
    g.by_value[j] = g.by_value[j] != 0.0f ? g.by_value[j] * by_alpha : 0.0f;
    g.grad_start[j] = half - length;
    g.grad_end[j] = half + length;
  }
}

// Samples: each is one interval, or half of two.
template <bool kPairs>
void write_numbers(const HrCompositeParams& p, int64_t first, int64_t count, const RayGradients& g, const std::vector<uint8_t>& cut) {
  for (int64_t j = 0; j < count; ++j) {
    const int64_t index = first + j;
    const bool after = kPairs && j > 0;
    p.grad_values[index] = kPairs ? 0.5f * (g.by_value[j] + (after ? g.by_value[j - 1] : 0.0f)) : g.by_value[j];
    if (!p.grad_starts) continue;
    const float end = cut[j] ? 0.0f : g.grad_end[j];
    p.grad_starts[index] = g.grad_start[j] + (after && !cut[j - 1] ? g.grad_end[j - 1] : 0.0f);
    if (!kPairs) p.grad_ends[index] = end;
  }
}

template <bool kPairs>
void write_features(const HrCompositeParams& p, int64_t ray, int64_t first, int64_t count, const RayGradients& g) {
  const float* grad = p.grad_sums + ray * p.channels;
  for (int64_t j = 0; j < count; ++j) {
    const float weight = kPairs ? 0.5f * (g.weight[j] + (j > 0 ? g.weight[j - 1] : 0.0f)) : g.weight[j];
    float* out = p.grad_features + (first + j) * p.channels;
    if (weight == 0.0f) {
      std::fill(out, out + p.channels, 0.0f);
      continue;
    }
    int d = 0;
    for (; d + kWidth <= p.channels; d += kWidth) store(out + d, all(weight) * load(grad + d));
    for (; d < p.channels; ++d) out[d] = weight * grad[d];
  }
}

template <bool kPairs>
void backward_rays(const HrCompositeParams& p, int64_t begin, int64_t end) {
  const HrRaySamples& s = p.samples;
  Walk walk(p, end);
  RayGradients g;
  std::vector<uint8_t> cut;
  for (int64_t ray = begin; ray < end; ++ray) {
    int64_t first, count, lit = 0;
    hr_ray_range(&s, ray, &first, &count);
    g.make_room(static_cast<size_t>(count) + 1);
    if (static_cast<int64_t>(cut.size()) < count + 1) cut.resize(count + 1);
    walk.along(ray, first, hr_intervals(&s, count), [&](int k, int64_t index, float before) {
      const Window& w = walk.window;
      lit = index - first + 1;
      g.before[lit - 1] = before;
      g.alpha[lit - 1] = w.alpha[k];
      g.keep[lit - 1] = w.keep[k];
      g.by_value[lit - 1] = w.by_value[k];
      g.by_length[lit - 1] = w.by_length[k];
      g.middle[lit - 1] = (w.start[k] + w.stop[k]) * 0.5f;
      g.weight[lit - 1] = before * w.alpha[k];
      cut[lit - 1] = w.cut[k];
    });
    for (int64_t j = lit; j < count; ++j) g.weight[j] = g.by_value[j] = g.grad_start[j] = g.grad_end[j] = 0.0f, cut[j] = 0;
    look_back<kPairs>(p, ray, first, lit, g);
    write_numbers<kPairs>(p, first, count, g, cut);
    if (p.grad_features) write_features<kPairs>(p, ray, first, count, g);
  }
}

void backward(const HrCompositeParams& p, int64_t begin, int64_t end) {
  if (p.samples.rule == HR_RULE_NEIGHBOURS) return backward_rays<true>(p, begin, end);
  backward_rays<false>(p, begin, end);
}

}  // namespace

const CompositeKernels HR_COMPOSITE_KERNELS = {forward, backward};

}  // namespace hr
