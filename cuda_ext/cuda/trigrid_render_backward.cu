// CUDA volume rendering of a grid on three planes, backward.
//
// The rays are walked twice. On the way there the samples are decoded for what a unit of each interval's weight is worth;
// then, from the last interval to the first, for what its density is worth; then all is decoded again, and the gradients go
// down through the decoder to the grid and the rays. Between the walks 12 bytes are kept per sample, in the order of the
// samples; features are not.
//
// Expected: 4 times the forward pass, 5 with gradients of rays: 220 registers leave room for one block on a multiprocessor,
// which beats spilling 300 bytes of them. The grid's atomics and the products of the decoder's
// weights are half of it.
#include "trigrid_rays.h"

namespace hr {
namespace {

int32_t check(const HrTrigridRenderParams& p) { return sane_render(p) ? HR_OK : HR_ERROR_ARGUMENT; }

// Of every interval: first the light that reaches it (-1: none does), its raw value, and what a unit of its weight is worth;
// then weight and gradient by the raw value in the first two's places.
struct RenderScratch {
  DecodeScratch decode;
  SumScratch grid;
  float *light, *value, *gain;
  int64_t* looked_at;  // samples of each ray that were decoded
};

RenderScratch lay_out_trigrid_render_backward(const HrTrigridRenderParams& p, const HrCudaLaunch& launch, Workspace& workspace) {
  RenderScratch scratch;
  scratch.decode = lay_out_decoder(p.field, p.decoder, ray_groups(p), true, workspace);
  scratch.grid = lay_out_sums(p.grad_grid ? grid_floats(p.field) : 0, launch, workspace);
  scratch.light = workspace.take<float>(p.samples.num_samples);
  scratch.value = workspace.take<float>(p.samples.num_samples);
  scratch.gain = workspace.take<float>(p.samples.num_samples);
  scratch.looked_at = workspace.take<int64_t>(p.samples.num_rays);
  return scratch;
}

// The way there, after decoding: remembers what the lane's interval is and is worth.
template <int kColumns>
__device__ __forceinline__ void look_ahead(const HrTrigridRenderParams& p, const RayWalk& walk, int64_t first, const RowSample& row,
                                           const LayerSpace<kColumns>& space, const LastSample& last, const RenderScratch& scratch,
                                           float& through) {
  const int lane = lane_of_this_thread();
  const float value = value_of_row(p, space, last);
  const float before = light_before(opacity_of_row(p, row, value).keep, p.samples.stop, through);
  const float middle = (row.interval.start + row.interval.end) * 0.5f;
  float gain = 0.0f;
  for (int r = 0; r < kRowsOfWarp; ++r) {
    float sum = 0.0f;
#pragma unroll
    for (int turn = 0; turn < kFeatureTurns; ++turn) {
      const int32_t d = lane + kWarp * turn;
      if (d < p.decoder.features) {
        sum = fmaf(p.grad_sums[walk.ray * p.decoder.features + d], feature_of_row(p, space, last, r, turn), sum);
      }
    }
    sum = sum_over_warp(sum);
    if (lane == r) gain = sum + p.grad_distances[walk.ray] * middle + p.grad_opacities[walk.ray];
  }
  // Only rows below 8 have an interval, and the first sample of neighbours ends none.
  const int64_t i = first + lane, shift = p.samples.rule == HR_RULE_NEIGHBOURS ? 1 : 0;
  if (lane >= kRowsOfWarp || !walk.has(i) || i < shift) return;
  const int64_t index = index_of_interval(p, walk, first);
  scratch.light[index] = row.interval.there && !(before < p.samples.stop) ? before : -1.0f;
  scratch.value[index] = value;
  scratch.gain[index] = gain;
}

// Intervals of the ray from the last that was looked at to the first: weights and gradients of their values.
__device__ __forceinline__ void look_back(const HrTrigridRenderParams& p, const RayWalk& walk, int64_t looked_at,
                                          const RenderScratch& scratch) {
  const HrRaySamples& s = p.samples;
  const int64_t seen = looked_at < walk.range.intervals ? looked_at : walk.range.intervals;
  float behind = 0.0f;
  for (int64_t chunk = divide_up(walk.range.intervals, kWarp) - 1; chunk >= 0; --chunk) {
    const int64_t i = chunk * kWarp + lane_of_this_thread(), index = walk.range.first + i;
    const float light = i < seen ? scratch.light[index] : -1.0f;
    const bool lit = light >= 0.0f;
    const float value = lit ? scratch.value[index] : 0.0f, gain = lit ? scratch.gain[index] : 0.0f;
    const LaneInterval interval = lit ? interval_of_lane(s, walk.ray, walk.range, i) : LaneInterval();
    const float length = interval.end - interval.start;
    HrOpacity opacity = {0.0f, 1.0f, 0.0f};
    if (lit) opacity = hr_opacity(s.density, value, length, s.shift);
    const bool absorbs = opacity.alpha > 0.0f;
    Seen all;
    const Seen rest = compose_behind({absorbs ? opacity.keep : 1.0f, absorbs ? opacity.alpha * gain : 0.0f}, &all);
    const float behind_me = fmaf(rest.scale, behind, rest.shift);
    behind = fmaf(all.scale, behind, all.shift);
    float by_value = 0.0f, by_length = 0.0f;
    if (lit) hr_opacity_grad(s.density, value, length, s.shift, opacity, 1.0f, &by_value, &by_length);
    if (by_value != 0.0f) by_value *= light * (gain - behind_me);
    if (i >= walk.range.intervals) continue;
    scratch.light[index] = lit ? light * opacity.alpha : 0.0f;
    scratch.value[index] = by_value;
  }
  __syncwarp();
}

// Weight and gradient of the raw density of the lane's sample, which is an interval or ends two.
__device__ __forceinline__ float2 share_of_sample(const HrTrigridRenderParams& p, const RayWalk& walk, int64_t first,
                                                  const RenderScratch& scratch) {
  const int64_t i = first + lane_of_this_thread(), index = walk.range.first + i;
  if (lane_of_this_thread() >= kRowsOfWarp || !walk.has(i)) return make_float2(0.0f, 0.0f);
  if (p.samples.rule != HR_RULE_NEIGHBOURS) return make_float2(scratch.light[index], scratch.value[index]);
  float2 sum = make_float2(0.0f, 0.0f);
  for (int64_t part = i > 0 ? i - 1 : 0; part <= i && part < walk.range.intervals; ++part) {
    sum.x += 0.5f * scratch.light[walk.range.first + part];
    sum.y += 0.5f * scratch.value[walk.range.first + part];
  }
  return sum;
}

// Adds what the rows' points say of the ray: in lanes 3 r.
__device__ __forceinline__ void add_ray_gradients(const HrTrigridRenderParams& p, const RowPoint& point, const RowSample& row,
                                                  const float* features, float (&by_ray)[6]) {
  float grad[3];
  point_gradients(p.field, point, kLayerRows, features, grad);
  const int lane = lane_of_this_thread(), from = lane < kPlaceLanes ? lane / kPlanes : 0;
  const float distance = __shfl_sync(kWholeWarp, row.distance, from);
  if (!point.there || lane % kPlanes != 0) return;
  for (int k = 0; k < 3; ++k) {
    by_ray[k] += grad[k];
    by_ray[3 + k] += distance * grad[k];
  }
}

// The way there for the block's rays; returns how many samples this warp's ray looked at.
template <int kColumns>
__device__ __forceinline__ int64_t walk_there(const HrTrigridRenderParams& p, const RayWalk& walk, const RenderScratch& scratch,
                                              const DecoderNet& net, float* features, LayerSpace<kColumns>& space) {
  float through = 1.0f;
  LastSample last;
  int64_t looked_at = 0;
  for (int64_t first = 0;; first += kRowsOfWarp) {
    const bool goes_on = walk.has(first) && !(through < p.samples.stop);
    if (!__syncthreads_or(goes_on)) break;
    const RowSample row = goes_on ? sample_of_row(p, walk, first) : RowSample();
    gather_rows(p.field, point_of_row(p, walk, row), kLayerRows, features);
    evaluate(net, space);
    if (!goes_on) continue;
    look_ahead(p, walk, first, row, space, last, scratch, through);
    keep_last(p, space, last);
    looked_at = first + kRowsOfWarp;
  }
  return looked_at;
}

// Decodes once more and hands gradients down.
template <int kColumns>
__device__ __forceinline__ void walk_back(const HrTrigridRenderParams& p, const RayWalk& walk, int64_t looked_at,
                                          const RenderScratch& scratch, const DecoderNet& net, float* features,
                                          LayerSpace<kColumns>& space, const AnySum& grid) {
  const OwnScratch own = share_of_this_block(scratch.decode.net, 2);
  const bool below = p.grad_grid || p.grad_origins;
  const int top = warp_of_this_thread() * kRowsOfWarp;
  float by_ray[6] = {};
  for (int64_t first = 0;; first += kRowsOfWarp) {
    const bool goes_on = first < looked_at;
    if (!__syncthreads_or(goes_on)) break;
    const RowSample row = goes_on ? sample_of_row(p, walk, first) : RowSample();
    const float2 share = goes_on ? share_of_sample(p, walk, first, scratch) : make_float2(0.0f, 0.0f);
    const RowPoint point = point_of_row(p, walk, row);
    gather_rows(p.field, point, kLayerRows, features);
    remember(net, space, own);
    // Rows of the state that the warp's own lanes fill in: shares come from the lane of the row.
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const float weight = __shfl_sync(kWholeWarp, share.x, r), density = __shfl_sync(kWholeWarp, share.y, r);
      for (int32_t column = lane_of_this_thread(); column <= p.decoder.features; column += kWarp) {
        float slope, grad = density;
        net.activate(1, column, own.sum(1, top + r, column), &slope);
        if (column > 0) grad = weight != 0.0f ? weight * p.grad_sums[walk.ray * p.decoder.features + column - 1] : 0.0f;
        space.state[top + r][column] = grad != 0.0f ? slope * grad : 0.0f;
      }
    }
    __syncwarp();
    differentiate(net, p.grad_decoder.w1 != nullptr, below, space, own,
                  [&](int at, int32_t column, float grad) { features[at * p.field.channels + column] = grad; });
    if (p.grad_grid) scatter_rows(p.field, point, kLayerRows, features, grid);
    if (p.grad_origins) add_ray_gradients(p, point, row, features, by_ray);
  }
  if (!p.grad_origins || !walk.exists) return;
  for (int k = 0; k < 3; ++k) {
    const float origin = sum_over_warp(by_ray[k]), direction = sum_over_warp(by_ray[3 + k]);
    if (lane_of_this_thread() != 0) continue;
    p.grad_origins[3 * walk.ray + k] = origin;
    p.grad_directions[3 * walk.ray + k] = direction;
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads, 1) trace_rays(HrTrigridRenderParams p, RenderScratch scratch, int32_t* fault) {
  __shared__ LayerSpace<kColumns> space;
  float* features = scratch.decode.features + static_cast<int64_t>(blockIdx.x) * kLayerRows * p.field.channels;
  const DecoderNet net = {p.decoder, p.field.channels, features};
  for (int64_t group = blockIdx.x; group * kWarpsOfBlock < p.samples.num_rays; group += gridDim.x) {
    const RayWalk walk = walk_of_warp(p, group, fault);
    __syncthreads();
    clear_state(space);
    const int64_t looked_at = walk_there(p, walk, scratch, net, features, space);
    if (!walk.exists) continue;
    look_back(p, walk, looked_at - (p.samples.rule == HR_RULE_NEIGHBOURS && looked_at > 0 ? 1 : 0), scratch);
    if (lane_of_this_thread() == 0) scratch.looked_at[walk.ray] = looked_at;
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads, 1) hand_down_rays(HrTrigridRenderParams p, RenderScratch scratch, AnySum grid, int32_t* fault) {
  __shared__ LayerSpace<kColumns> space;
  float* features = scratch.decode.features + static_cast<int64_t>(blockIdx.x) * kLayerRows * p.field.channels;
  const DecoderNet net = {p.decoder, p.field.channels, features};
  for (int64_t group = blockIdx.x; group * kWarpsOfBlock < p.samples.num_rays; group += gridDim.x) {
    const RayWalk walk = walk_of_warp(p, group, fault);
    __syncthreads();
    clear_state(space);
    walk_back(p, walk, walk.exists ? scratch.looked_at[walk.ray] : 0, scratch, net, features, space, grid);
  }
}

struct RenderBack {
  const HrTrigridRenderParams& p;
  const HrCudaLaunch& launch;
  const RenderScratch& scratch;
  AnySum grid;

  template <int kColumns>
  void operator()() const {
    clear_partial(launch, scratch.decode.net);
    const dim3 blocks(static_cast<unsigned>(scratch.decode.net.blocks));
    launch_blocks(launch, blocks, trace_rays<kColumns>, p, scratch, launch.fault);
    launch_blocks(launch, blocks, hand_down_rays<kColumns>, p, scratch, grid, launch.fault);
  }
};

void run_trigrid_render_backward(const HrTrigridRenderParams& p, const HrCudaLaunch& launch, const RenderScratch& scratch) {
  const auto run = [&](const AnySum& sum) {
    if (p.samples.num_rays > 0) with_columns(widest_of(p.decoder), RenderBack{p, launch, scratch, sum});
  };
  if (p.grad_grid) {
    const int64_t terms = p.samples.num_samples * 8;  // see trigrid_points.cu
    sum_terms(launch, scratch.grid, p.grad_grid, grid_floats(p.field), terms, [&](auto sum) { run(AnySum(sum)); });
  } else {
    run(AnySum(FloatSum{nullptr}));
  }
  write_decoder_gradients(launch, p.field, p.decoder, p.grad_decoder, scratch.decode.net);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(trigrid_render_backward, HrTrigridRenderParams)
