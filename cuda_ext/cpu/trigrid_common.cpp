#include "trigrid_common.h"

#include <algorithm>
#include <cstring>

bool hr_cpu_has_avx512();

namespace hr {

const TrigridKernels& trigrid_kernels(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa == HR_ISA_AVX512 || (isa == HR_ISA_AUTO && hr_cpu_has_avx512())) return kTrigridAvx512;
#endif
  (void)isa;
  return kTrigridBase;
}

bool is_sane(const HrTrigrid& f) {
  bool sane = f.batch >= 0 && f.charts >= 1 && f.charts <= HR_TRIGRID_MAX_CHARTS && f.channels >= 1 &&
              f.channels <= HR_TRIGRID_MAX_CHANNELS && (f.rotations || f.charts == 1) && f.scale > 0.0f;
  for (const int32_t side : {f.depth, f.height, f.width}) sane = sane && side >= 1 && side <= HR_TRIGRID_MAX_SIDE;
  for (int plane = 0; plane < 3; ++plane) {
    int seen = 0;
    for (int k = 0; k < 3; ++k) {
      const int32_t axis = f.axes[3 * plane + k];
      seen |= axis >= 0 && axis < 3 ? 1 << axis : 0;
    }
    sane = sane && seen == 7;
  }
  return sane && static_cast<int64_t>(f.depth) * f.height * f.width <= INT32_MAX;
}

bool is_sane(const HrTrigrid& field, const HrDecoder& d) {
  return is_sane(field) && d.hidden >= 1 && d.hidden <= HR_DECODER_MAX_HIDDEN && d.features >= 1 &&
         d.features <= HR_DECODER_MAX_FEATURES && d.activation >= HR_FEATURE_NONE && d.activation <= HR_FEATURE_LEAKY;
}

void find_places(const HrTrigrid& f, const float* points, int64_t n, Place* places) {
  if (!f.rotations) {
    for (int64_t i = 0; i < n; ++i) {
      for (int k = 0; k < 3; ++k) places[i].at[k] = f.scale * points[3 * i + k];
      places[i].share = 1.0f / 3.0f;
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    Place* place = places + i * f.charts;
    float total = HR_TRIGRID_CHART_EPSILON;
    for (int chart = 0; chart < f.charts; ++chart) {
      hr_trigrid_chart(f.rotations + 9 * chart, f.scale, points + 3 * i, place[chart].at, &place[chart].share);
      total += place[chart].share;
    }
    for (int chart = 0; chart < f.charts; ++chart) place[chart].share /= 3.0f * total;
  }
}

void point_gradients(const HrTrigrid& f, const float* points, int64_t n, const Place* grad, float* grad_points) {
  for (int64_t i = 0; i < n; ++i, grad += f.charts) {
    float* out = grad_points + 3 * i;
    const float* point = points + 3 * i;
    out[0] = out[1] = out[2] = 0.0f;
    if (!f.rotations) {
      hr_trigrid_chart_grad(nullptr, f.scale, point, grad->at, 0.0f, out);
      continue;
    }
    float weight[HR_TRIGRID_MAX_CHARTS], coordinates[3], total = HR_TRIGRID_CHART_EPSILON, mean = 0.0f;
    for (int chart = 0; chart < f.charts; ++chart) {
      hr_trigrid_chart(f.rotations + 9 * chart, f.scale, point, coordinates, weight + chart);
      total += weight[chart];
    }
    for (int chart = 0; chart < f.charts; ++chart) mean += grad[chart].share * weight[chart] / total;
    for (int chart = 0; chart < f.charts; ++chart) {
      // share = weight / (3 total), and total grows with every weight
      const float grad_weight = (grad[chart].share - mean) / (3.0f * total);
      hr_trigrid_chart_grad(f.rotations + 9 * chart, f.scale, point, grad[chart].at, grad_weight, out);
    }
  }
}

DecoderMemory::DecoderMemory(const HrDecoder& d, int channels) {
  PreparedDecoder& p = prepared_;
  p.channels = channels;
  p.hidden = d.hidden;
  p.features = d.features;
  p.activation = d.activation;
  p.padded_channels = whole_vectors(channels);
  p.padded_hidden = whole_vectors(d.hidden);
  p.padded_features = whole_vectors(d.features);
  const int64_t across = p.padded_hidden, out = p.padded_features;
  memory_.assign(channels * across + 2 * across + d.hidden * out + out + d.hidden * int64_t{p.padded_channels} + d.features * across, 0.0f);
  float* at = memory_.data();
  const auto take = [&](int64_t floats) { return (at += floats) - floats; };
  float *w1t = take(channels * across), *b1 = take(across), *w2t = take(d.hidden * out), *b2 = take(out), *density = take(across);
  float *w1 = take(d.hidden * int64_t{p.padded_channels}), *w2 = take(d.features * across);
  for (int h = 0; h < d.hidden; ++h) {
    b1[h] = d.b1[h];
    density[h] = d.w2[h];
    for (int c = 0; c < channels; ++c) w1t[c * across + h] = w1[h * p.padded_channels + c] = d.w1[h * channels + c];
    for (int k = 0; k < d.features; ++k) w2t[h * out + k] = w2[k * across + h] = d.w2[(k + 1) * d.hidden + h];
  }
  std::copy(d.b2 + 1, d.b2 + 1 + d.features, b2);
  p.w1t = w1t, p.b1 = b1, p.w2t = w2t, p.b2 = b2, p.density = density, p.w1 = w1, p.w2 = w2;
  p.density_bias = d.b2[0];
}

int64_t DecoderTables::floats() const {
  const int64_t across = decoder_.padded_hidden, out = decoder_.padded_features;
  return decoder_.channels * across + 2 * across + decoder_.hidden * out + out + 16;
}

DecoderSums DecoderTables::at(float* memory) const {
  const int64_t across = decoder_.padded_hidden, out = decoder_.padded_features;
  DecoderSums s;
  s.w1t = memory;
  s.b1 = s.w1t + decoder_.channels * across;
  s.w2t = s.b1 + across;
  s.b2 = s.w2t + decoder_.hidden * out;
  s.density = s.b2 + out;
  s.density_bias = s.density + across;
  return s;
}

void DecoderTables::clear(int64_t tables) {
  if (!wanted_) return;
  tables_.assign(tables * floats(), 0.0f);
  if (total_.empty()) total_.assign(floats(), 0.0f);
}

DecoderSums DecoderTables::table(int64_t index) {
  return wanted_ ? at(tables_.data() + index * floats()) : DecoderSums{};
}

void DecoderTables::add_up() {
  for (size_t i = 0; i < tables_.size(); ++i) total_[i % total_.size()] += tables_[i];
}

void DecoderTables::write(const HrDecoderGrad& out) const {
  if (!wanted_) return;
  std::vector<float> none(floats(), 0.0f);
  const DecoderSums s = at(const_cast<float*>(total_.empty() ? none.data() : total_.data()));
  const PreparedDecoder& d = decoder_;
  for (int h = 0; h < d.hidden; ++h) {
    out.b1[h] = s.b1[h];
    out.w2[h] = s.density[h];
    for (int c = 0; c < d.channels; ++c) out.w1[h * d.channels + c] = s.w1t[c * d.padded_hidden + h];
    for (int k = 0; k < d.features; ++k) out.w2[(k + 1) * d.hidden + h] = s.w2t[h * d.padded_features + k];
  }
  out.b2[0] = *s.density_bias;
  std::copy(s.b2, s.b2 + d.features, out.b2 + 1);
}

std::vector<float>& thread_memory() {
  static thread_local std::vector<float> memory;
  return memory;
}

}  // namespace hr
