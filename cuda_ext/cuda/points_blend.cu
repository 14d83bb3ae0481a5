// CUDA neural points: features of the neighbours blended by inverse distance, and back.
//
// A warp has a query: its lanes are neighbours while weights are worked out, channels while features are read (coalesced:
// a row of 32 channels is one line). Shares are summed in the order of neighbours, so forward results equal the CPU's. The
// backward pass adds to points and features where they are; `sums.h` tells in which order.
//
// Expected (H100, 16k queries, K = 8, 32 channels): 17 MB of rows out of the second cache and 2 MB written, 8 us; backward
// as many rows again and 4.3 million atomic additions in lines of 32, 15 us.
#include "points.h"

#include <type_traits>

#include "block.h"
#include "sums.h"

namespace hr {
namespace {

template <class Params>
int32_t check_blend(const Params& p) {
  const bool sane = p.batch >= 0 && (p.feature_batch == 1 || p.feature_batch == p.batch) && p.num_points >= 0 &&
                    p.num_queries >= 0 && p.channels >= 1 && p.count >= 1 && p.count <= HR_POINTS_MAX_NEIGHBOURS &&
                    p.softening > 0.0f && divide_up(p.num_queries, kThreads / kWarp) <= kMaxBlocks;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

int32_t check(const HrBlendPointsParams& p) { return check_blend(p); }
int32_t check(const HrBlendPointsGradParams& p) { return check_blend(p); }

enum Gradient { kOfPoints, kOfFeatures, kGradients };

NoScratch lay_out_blend_points(const HrBlendPointsParams&, const HrCudaLaunch&, Workspace&) { return {}; }

SumSet<kGradients> lay_out_blend_points_backward(const HrBlendPointsGradParams& p, const HrCudaLaunch& launch,
                                                 Workspace& workspace) {
  SumSet<kGradients> sums = {{p.grad_points, p.grad_features},
                             {3 * p.batch * p.num_points, p.feature_batch * p.num_points * p.channels},
                             {}};
  lay_out_sums(sums, launch, workspace);
  return sums;
}

// This lane's neighbour of the warp's query.
struct Neighbour {
  int32_t number;  // -1 for none, or when it points nowhere
  float away[3];   // query minus point
  float distance, weight, share;
};

// All lanes must call it.
template <class Params>
__device__ __forceinline__ Neighbour look_around(const Params& p, int64_t b, int64_t at, int32_t* fault) {
  const int lane = lane_of_this_thread();
  Neighbour own = {-1, {0.0f, 0.0f, 0.0f}, 0.0f, 0.0f, 0.0f};
  if (lane < p.count) own.number = p.neighbours[at * p.count + lane];
  if (own.number < -1 || own.number >= p.num_points) {
    report_bad_index(fault);
    own.number = -1;
  }
  if (own.number >= 0) {
    const float* x = p.points + 3 * (b * p.num_points + own.number);
#pragma unroll
    for (int d = 0; d < 3; ++d) own.away[d] = p.queries[3 * at + d] - x[d];
    own.distance = sqrtf(hr_points_square(own.away[0], own.away[1], own.away[2]));
    own.weight = hr_blend_weight(own.distance, p.softening);
  }
  float total = 0.0f;  // in this order, as the CPU's; nothing where there is no neighbour
  for (int n = 0; n < p.count; ++n) total += __shfl_sync(kWholeWarp, own.weight, n);
  if (own.number >= 0) own.share = own.weight / total;
  return own;
}

template <class Params>
__device__ __forceinline__ int64_t feature_row(const Params& p, int64_t b, int32_t number) {
  return ((p.feature_batch == 1 ? 0 : b * p.num_points) + number) * p.channels;
}

__global__ void __launch_bounds__(kThreads) blend_neighbours(HrBlendPointsParams p, int32_t* fault) {
  const int lane = lane_of_this_thread();
  const int64_t query = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp_of_this_thread();
  if (query >= p.num_queries) return;  // with its whole warp
  for (int64_t b = blockIdx.y; b < p.batch; b += gridDim.y) {
    const int64_t at = b * p.num_queries + query;
    const Neighbour own = look_around(p, b, at, fault);
    float offset[3] = {0.0f, 0.0f, 0.0f};
    for (int32_t first = 0; first < p.channels; first += kWarp) {
      const int32_t c = first + lane;
      float sum = 0.0f;
      for (int n = 0; n < p.count; ++n) {
        const int32_t number = __shfl_sync(kWholeWarp, own.number, n);
        if (number < 0) continue;
        const float share = __shfl_sync(kWholeWarp, own.share, n);
        if (c < p.channels) sum = fmaf(share, p.features[feature_row(p, b, number) + c], sum);
        if (first > 0) continue;
#pragma unroll
        for (int d = 0; d < 3; ++d) offset[d] = fmaf(share, __shfl_sync(kWholeWarp, own.away[d], n), offset[d]);
      }
      if (c < p.channels) p.blended[at * p.channels + c] = sum;
    }
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      if (lane == d) p.offsets[3 * at + d] = offset[d];
    }
  }
}

// What one more of each neighbour's weight would change: the lane's own neighbour's. All lanes must call it.
__device__ __forceinline__ float gain_of_this_lane(const HrBlendPointsGradParams& p, int64_t b, int64_t at, const Neighbour& own) {
  const float* grad = p.grad_blended ? p.grad_blended + at * p.channels : nullptr;
  float gain = 0.0f;
  for (int n = 0; n < p.count && grad; ++n) {
    const int32_t number = __shfl_sync(kWholeWarp, own.number, n);
    if (number < 0) continue;
    float part = 0.0f;
    for (int32_t c = lane_of_this_thread(); c < p.channels; c += kWarp) {
      part = fmaf(grad[c], p.features[feature_row(p, b, number) + c], part);
    }
    const float sum = sum_over_warp(part);
    if (n == lane_of_this_thread()) gain = sum;
  }
  if (p.grad_offsets && own.number >= 0) {
#pragma unroll
    for (int d = 0; d < 3; ++d) gain = fmaf(p.grad_offsets[3 * at + d], own.away[d], gain);
  }
  return gain;
}

// The gradient of query minus point of this lane's neighbour: see pass_back in cpu/points_blend.cpp. All lanes must call it.
__device__ __forceinline__ void away_gradient(const HrBlendPointsGradParams& p, int64_t at, const Neighbour& own, float gain,
                                              float (&by_away)[3]) {
  const bool there = own.number >= 0;
  const float mean = sum_over_warp(there ? own.share * gain : 0.0f);
  const float towards = there && own.distance > 0.0f ? -own.weight * own.share * (gain - mean) / own.distance : 0.0f;
#pragma unroll
  for (int d = 0; d < 3; ++d) {
    const float direct = p.grad_offsets && there ? own.share * p.grad_offsets[3 * at + d] : 0.0f;
    by_away[d] = there ? fmaf(towards, own.away[d], direct) : 0.0f;
  }
}

template <class Sum>
__global__ void __launch_bounds__(kThreads) blend_gradients(HrBlendPointsGradParams p, SumArray<Sum, kGradients> sums,
                                                            int32_t* fault) {
  const int lane = lane_of_this_thread();
  const int64_t query = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp_of_this_thread();
  if (query >= p.num_queries) return;  // with its whole warp
  for (int64_t b = blockIdx.y; b < p.batch; b += gridDim.y) {
    const int64_t at = b * p.num_queries + query;
    const Neighbour own = look_around(p, b, at, fault);
    if (p.grad_points || p.grad_queries) {
      float by_away[3];
      away_gradient(p, at, own, gain_of_this_lane(p, b, at, own), by_away);
#pragma unroll
      for (int d = 0; d < 3; ++d) {
        if (p.grad_points && own.number >= 0) {
          sums.at[kOfPoints].add(3 * (b * p.num_points + own.number) + d, -by_away[d]);
        }
        const float all = sum_over_warp(by_away[d]);
        if (p.grad_queries && lane == d) p.grad_queries[3 * at + d] = all;
      }
    }
    for (int n = 0; n < p.count && p.grad_features && p.grad_blended; ++n) {
      const int32_t number = __shfl_sync(kWholeWarp, own.number, n);
      if (number < 0) continue;
      const float share = __shfl_sync(kWholeWarp, own.share, n);
      for (int32_t c = lane; c < p.channels; c += kWarp) {
        sums.at[kOfFeatures].add(feature_row(p, b, number) + c, share * p.grad_blended[at * p.channels + c]);
      }
    }
  }
}

void run_blend_points(const HrBlendPointsParams& p, const HrCudaLaunch& launch, NoScratch) {
  launch_over(launch, p.num_queries * kWarp, p.batch, blend_neighbours, p, launch.fault);
}

void run_blend_points_backward(const HrBlendPointsGradParams& p, const HrCudaLaunch& launch, const SumSet<kGradients>& scratch) {
  sum_terms(launch, scratch, p.batch * p.num_queries * p.count, [&](const auto& sums) {
    const auto kernel = blend_gradients<std::decay_t<decltype(sums.at[0])>>;
    launch_over(launch, p.num_queries * kWarp, p.batch, kernel, p, sums, launch.fault);
  });
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(blend_points, HrBlendPointsParams)
HR_DEFINE_CUDA_OP(blend_points_backward, HrBlendPointsGradParams)
