// CUDA compositing along rays, forward and backward: a warp for each ray, a lane for each of 32 samples at a time.
//
// What gets through the samples before comes from a product over the warp's lanes. Expected (H100, 65k rays of 96 samples,
// 32 channels): 6.3M samples of 128 + 8 bytes, 860 MB: 300 us, bound by reading the features once; with 3 channels 40 us.
// Backward reads and writes them: twice that. Nothing is summed by atomics: the same on every run.
#include "rays.h"

namespace hr {
namespace {

constexpr int kFewChannels = 8;      // each lane sums those of its own samples
constexpr int kTurn = 4 * kWarp;     // else lanes are channels, so many in one walk

int32_t check(const HrCompositeParams& p) {
  const bool sane = p.channels >= 0 && sane_samples(p.samples) && rays_fit(p.samples.num_rays);
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

NoScratch lay_out_composite(const HrCompositeParams&, const HrCudaLaunch&, Workspace&) { return {}; }

// Of every interval: the light that reaches it (-1: none does), its weight, and what its value, start and end are worth.
struct RayScratch {
  float *before, *weight, *by_value, *by_start, *by_end;
};

RayScratch lay_out_composite_backward(const HrCompositeParams& p, const HrCudaLaunch&, Workspace& workspace) {
  RayScratch scratch;
  for (float** each : {&scratch.before, &scratch.weight, &scratch.by_value, &scratch.by_start, &scratch.by_end}) {
    *each = workspace.take<float>(p.samples.num_samples);
  }
  return scratch;
}

__device__ __forceinline__ float value_of(const HrCompositeParams& p, int64_t index) {
  if (p.samples.rule != HR_RULE_NEIGHBOURS) return p.values[index];
  return (p.values[index] + p.values[index + 1]) * 0.5f;
}

__device__ __forceinline__ float feature_of(const HrCompositeParams& p, int64_t index, int32_t d) {
  const float own = p.features[index * p.channels + d];
  if (p.samples.rule != HR_RULE_NEIGHBOURS) return own;
  return (own + p.features[(index + 1) * p.channels + d]) * 0.5f;
}

__device__ __forceinline__ HrOpacity opacity_of(const HrCompositeParams& p, int64_t index, const LaneInterval& interval) {
  HrOpacity none = {0.0f, 1.0f, 0.0f};
  if (!interval.there) return none;
  return hr_opacity(p.samples.density, value_of(p, index), interval.end - interval.start, p.samples.shift);
}

// One walk along a ray. Channels first_channel and on, as many as a walk takes; the first walk also writes the rest.
__device__ __forceinline__ void walk(const HrCompositeParams& p, int64_t ray, const RayRange& range, int32_t first_channel) {
  const HrRaySamples& s = p.samples;
  const int lane = lane_of_this_thread();
  const bool few = p.channels <= kFewChannels, first_walk = first_channel == 0;
  float through = 1.0f, distance = 0.0f, absorbed = 0.0f;
  float sum[kFewChannels] = {};
  static_assert(kTurn / kWarp <= kFewChannels, "room for either kind of sum");
  for (int64_t begin = 0; begin < range.intervals; begin += kWarp) {
    const int64_t index = range.first + begin + lane;
    const bool reached = !(through < s.stop);
    const LaneInterval interval = reached ? interval_of_lane(s, ray, range, begin + lane) : LaneInterval();
    const HrOpacity opacity = opacity_of(p, index, interval);
    const float before = light_before(opacity.keep, s.stop, through);
    const float weight = reached && !(before < s.stop) ? before * opacity.alpha : 0.0f;
    if (p.weights && first_walk && begin + lane < range.intervals) p.weights[index] = weight;
    absorbed += weight;
    if (weight != 0.0f) distance += weight * ((interval.start + interval.end) * 0.5f);
    if (few) {
#pragma unroll
      for (int d = 0; d < kFewChannels; ++d) {
        if (weight != 0.0f && d < p.channels) sum[d] += weight * feature_of(p, index, d);
      }
      continue;
    }
    for (unsigned left = __ballot_sync(kWholeWarp, weight != 0.0f); left; left &= left - 1) {
      const int owner = __ffs(static_cast<int>(left)) - 1;
      const float its_weight = __shfl_sync(kWholeWarp, weight, owner);
#pragma unroll
      for (int k = 0; k < kTurn / kWarp; ++k) {
        const int32_t d = first_channel + lane + kWarp * k;
        if (d < p.channels) sum[k] += its_weight * feature_of(p, range.first + begin + owner, d);
      }
    }
  }
  if (few) {
#pragma unroll
    for (int d = 0; d < kFewChannels; ++d) {
      const float total = sum_over_warp(sum[d]);
      if (lane == d && d < p.channels) p.sums[ray * p.channels + d] = total;
    }
  } else {
#pragma unroll
    for (int k = 0; k < kTurn / kWarp; ++k) {
      const int32_t d = first_channel + lane + kWarp * k;
      if (d < p.channels) p.sums[ray * p.channels + d] = sum[k];
    }
  }
  if (!first_walk) return;
  // With HR_RULE_NEIGHBOURS the last sample begins no interval.
  if (p.weights && lane == 0 && range.count > range.intervals) p.weights[range.first + range.count - 1] = 0.0f;
  distance = sum_over_warp(distance);
  absorbed = sum_over_warp(absorbed);
  if (lane == 0) {
    p.distances[ray] = distance;
    p.opacities[ray] = absorbed;
  }
}

__global__ void __launch_bounds__(kThreads) composite_rays(HrCompositeParams p, int32_t* fault) {
  const int64_t ray = ray_of_this_warp();
  if (ray >= p.samples.num_rays) return;  // with its whole warp
  const RayRange range = range_of_ray(p.samples, ray, fault);
  const int32_t turn = p.channels <= kFewChannels ? kFewChannels : kTurn;
  int32_t first = 0;
  do {
    walk(p, ray, range, first);
    first += turn;
  } while (first < p.channels);
}

// First half of the backward pass: the light that reaches every interval.
__device__ __forceinline__ void remember_light(const HrCompositeParams& p, int64_t ray, const RayRange& range,
                                               const RayScratch& scratch) {
  const HrRaySamples& s = p.samples;
  float through = 1.0f;
  for (int64_t begin = 0; begin < range.intervals; begin += kWarp) {
    const int64_t i = begin + lane_of_this_thread(), index = range.first + i;
    const bool reached = !(through < s.stop);
    const LaneInterval interval = reached ? interval_of_lane(s, ray, range, i) : LaneInterval();
    const float before = light_before(opacity_of(p, index, interval).keep, s.stop, through);
    if (i < range.intervals) scratch.before[index] = interval.there && !(before < s.stop) ? before : -1.0f;
  }
}

// Gradient per unit of weight. What is not finite counts only where the weight does.
__device__ __forceinline__ float worth(const HrCompositeParams& p, int64_t ray, int64_t index, const LaneInterval& interval,
                                       bool counts) {
  const float middle = (interval.start + interval.end) * 0.5f;
  float total = p.grad_opacities[ray] + (p.grad_weights ? p.grad_weights[index] : 0.0f);
  if (counts || isfinite(middle)) total += p.grad_distances[ray] * middle;
  const float* grad = p.grad_sums + ray * p.channels;
  for (int32_t d = 0; d < p.channels; ++d) {
    const float feature = feature_of(p, index, d);
    if (counts || isfinite(feature)) total = fmaf(feature, grad[d], total);
  }
  return total;
}

// Second half, from the last interval to the first: what the value, start and end of each are worth.
__device__ __forceinline__ void look_back(const HrCompositeParams& p, int64_t ray, const RayRange& range,
                                          const RayScratch& scratch) {
  const HrRaySamples& s = p.samples;
  const int64_t chunks = divide_up(range.intervals, kWarp);
  float behind = 0.0f;
  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    const int64_t i = chunk * kWarp + lane_of_this_thread(), index = range.first + i;
    const bool mine = i < range.intervals;
    const float before = mine ? scratch.before[index] : -1.0f;
    const bool lit = before >= 0.0f;
    const LaneInterval interval = lit ? interval_of_lane(s, ray, range, i) : LaneInterval();
    const HrOpacity opacity = opacity_of(p, index, interval);
    const float weight = lit ? before * opacity.alpha : 0.0f, length = interval.end - interval.start;
    const float gain = lit ? worth(p, ray, index, interval, weight != 0.0f) : 0.0f;
    const bool absorbs = lit && opacity.alpha > 0.0f;
    Seen all;
    const Seen mine_to_end = compose_behind({absorbs ? opacity.keep : 1.0f, absorbs ? opacity.alpha * gain : 0.0f}, &all);
    const float behind_me = fmaf(mine_to_end.scale, behind, mine_to_end.shift);
    behind = fmaf(all.scale, behind, all.shift);
    float by_value = 0.0f, by_length = 0.0f;
    if (lit) hr_opacity_grad(s.density, value_of(p, index), length, s.shift, opacity, 1.0f, &by_value, &by_length);
    const float by_alpha = lit ? before * (gain - behind_me) : 0.0f;
    if (by_value != 0.0f) by_value *= by_alpha;
    if (by_length != 0.0f) by_length *= by_alpha;
    if (!mine) continue;
    const float half = lit ? 0.5f * weight * p.grad_distances[ray] : 0.0f;
    scratch.weight[index] = weight;
    scratch.by_value[index] = by_value;
    scratch.by_start[index] = half - by_length;
    scratch.by_end[index] = interval.cut ? 0.0f : half + by_length;
  }
}

// Last: what the samples are worth, each of which is one interval, or part of two.
__device__ __forceinline__ void write_gradients(const HrCompositeParams& p, int64_t ray, const RayRange& range,
                                                const RayScratch& scratch) {
  const bool pairs = p.samples.rule == HR_RULE_NEIGHBOURS;
  for (int64_t j = lane_of_this_thread(); j < range.count; j += kWarp) {
    const int64_t index = range.first + j;
    const bool begins = j < range.intervals, ends = pairs && j > 0;
    const float by_value = (begins ? scratch.by_value[index] : 0.0f) + (ends ? scratch.by_value[index - 1] : 0.0f);
    p.grad_values[index] = pairs ? 0.5f * by_value : by_value;
    if (p.grad_starts) {
      p.grad_starts[index] = (begins ? scratch.by_start[index] : 0.0f) + (ends ? scratch.by_end[index - 1] : 0.0f);
    }
    if (p.grad_ends && !pairs) p.grad_ends[index] = scratch.by_end[index];
    if (!p.grad_features) continue;
    float weight = (begins ? scratch.weight[index] : 0.0f) + (ends ? scratch.weight[index - 1] : 0.0f);
    weight = pairs ? 0.5f * weight : weight;
    for (int32_t d = 0; d < p.channels; ++d) {
      p.grad_features[index * p.channels + d] = weight != 0.0f ? weight * p.grad_sums[ray * p.channels + d] : 0.0f;
    }
  }
}

__global__ void __launch_bounds__(kThreads) composite_gradients(HrCompositeParams p, RayScratch scratch, int32_t* fault) {
  const int64_t ray = ray_of_this_warp();
  if (ray >= p.samples.num_rays) return;  // with its whole warp
  const RayRange range = range_of_ray(p.samples, ray, fault);
  remember_light(p, ray, range, scratch);
  look_back(p, ray, range, scratch);
  __syncwarp();
  write_gradients(p, ray, range, scratch);
}

void run_composite(const HrCompositeParams& p, const HrCudaLaunch& launch, NoScratch) {
  if (p.samples.num_rays == 0) return;
  launch_blocks(launch, blocks_for_rays(p.samples.num_rays), composite_rays, p, launch.fault);
}

void run_composite_backward(const HrCompositeParams& p, const HrCudaLaunch& launch, const RayScratch& scratch) {
  if (p.samples.num_rays == 0) return;
  launch_blocks(launch, blocks_for_rays(p.samples.num_rays), composite_gradients, p, scratch, launch.fault);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(composite, HrCompositeParams)
HR_DEFINE_CUDA_OP(composite_backward, HrCompositeParams)
