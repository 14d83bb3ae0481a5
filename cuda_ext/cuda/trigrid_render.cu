// CUDA volume rendering of a grid on three planes: lookup, decoder and compositing in one launch.
//
// Nothing is kept of a sample but, if wanted, its weight. Expected (H100, 64² rays of 96 samples, 32 channels, 64 hidden
// units: 393k samples): 0.12 ms for the lookups, 0.1 ms for the decoder (see trigrid_points.cu), compositing in their
// shadow; rays that end early spare what lies behind, unless another of their block's 8 goes on.
#include "trigrid_rays.h"

namespace hr {
namespace {

int32_t check(const HrTrigridRenderParams& p) { return sane_render(p) ? HR_OK : HR_ERROR_ARGUMENT; }

DecodeScratch lay_out_trigrid_render(const HrTrigridRenderParams& p, const HrCudaLaunch&, Workspace& workspace) {
  return lay_out_decoder(p.field, p.decoder, ray_groups(p), false, workspace);
}

// What a ray has come to: features in the lanes, the rest in parts over the lanes.
struct RaySums {
  float through = 1.0f, distance = 0.0f, opacity = 0.0f, feature[kFeatureTurns] = {};
};

// Takes the decoded rows in.
template <int kColumns>
__device__ __forceinline__ void take_in(const HrTrigridRenderParams& p, const RayWalk& walk, int64_t first, const RowSample& row,
                                        const LayerSpace<kColumns>& space, const LastSample& last, RaySums& sums) {
  const int lane = lane_of_this_thread();
  const HrOpacity opacity = opacity_of_row(p, row, value_of_row(p, space, last));
  const bool reached = !(sums.through < p.samples.stop);
  const float before = light_before(opacity.keep, p.samples.stop, sums.through);
  const float weight = reached && row.interval.there && !(before < p.samples.stop) ? before * opacity.alpha : 0.0f;
  if (p.weights && weight != 0.0f) p.weights[index_of_interval(p, walk, first)] = weight;
  if (weight != 0.0f) {
    sums.distance += weight * ((row.interval.start + row.interval.end) * 0.5f);
    sums.opacity += weight;
  }
  for (unsigned left = __ballot_sync(kWholeWarp, weight != 0.0f); left; left &= left - 1) {
    const int from = __ffs(static_cast<int>(left)) - 1;
    const float its_weight = __shfl_sync(kWholeWarp, weight, from);
#pragma unroll
    for (int turn = 0; turn < kFeatureTurns; ++turn) {
      if (lane + kWarp * turn < p.decoder.features) {
        sums.feature[turn] = fmaf(its_weight, feature_of_row(p, space, last, from, turn), sums.feature[turn]);
      }
    }
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads) render_rays(HrTrigridRenderParams p, DecodeScratch scratch, int32_t* fault) {
  __shared__ LayerSpace<kColumns> space;
  float* features = scratch.features + static_cast<int64_t>(blockIdx.x) * kLayerRows * p.field.channels;
  const DecoderNet net = {p.decoder, p.field.channels, features};
  for (int64_t group = blockIdx.x; group * kWarpsOfBlock < p.samples.num_rays; group += gridDim.x) {
    const RayWalk walk = walk_of_warp(p, group, fault);
    RaySums sums;
    LastSample last;
    __syncthreads();
    clear_state(space);
    for (int64_t first = 0;; first += kRowsOfWarp) {
      const bool goes_on = walk.has(first) && !(sums.through < p.samples.stop);
      if (!__syncthreads_or(goes_on)) break;
      const RowSample row = goes_on ? sample_of_row(p, walk, first) : RowSample();
      gather_rows(p.field, point_of_row(p, walk, row), kLayerRows, features);
      evaluate(net, space);
      if (!goes_on) continue;
      take_in(p, walk, first, row, space, last, sums);
      keep_last(p, space, last);
    }
    if (!walk.exists) continue;
    const float distance = sum_over_warp(sums.distance), opacity = sum_over_warp(sums.opacity);
    if (lane_of_this_thread() == 0) {
      p.distances[walk.ray] = distance;
      p.opacities[walk.ray] = opacity;
    }
#pragma unroll
    for (int turn = 0; turn < kFeatureTurns; ++turn) {
      const int32_t d = lane_of_this_thread() + kWarp * turn;
      if (d < p.decoder.features) p.sums[walk.ray * p.decoder.features + d] = sums.feature[turn];
    }
  }
}

struct Render {
  const HrTrigridRenderParams& p;
  const HrCudaLaunch& launch;
  const DecodeScratch& scratch;

  template <int kColumns>
  void operator()() const {
    launch_blocks(launch, dim3(static_cast<unsigned>(scratch.net.blocks)), render_rays<kColumns>, p, scratch, launch.fault);
  }
};

void run_trigrid_render(const HrTrigridRenderParams& p, const HrCudaLaunch& launch, const DecodeScratch& scratch) {
  if (p.weights) fill_bytes(launch, p.weights, 0, p.samples.num_samples * static_cast<int64_t>(sizeof(float)));
  if (p.samples.num_rays > 0) with_columns(widest_of(p.decoder), Render{p, launch, scratch});
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(trigrid_render, HrTrigridRenderParams)
