// CUDA lookup of points in a grid on three planes, with and without a decoder, and their backward passes.
//
// Expected (H100, 786k points, 32 channels, D = 1): 12 cells of 128 bytes a point, 1.2 GB from L2 for a grid of 3 x 256 x 256
// (25 MB), and about 110 instructions of a warp a point: 0.25 ms forward, bound by either. The decoder of 64 hidden units
// adds 4.2 kFLOP x 2 a point, 6.6 GFLOP: 0.15 ms. The grid's gradient takes as many atomics as the lookup takes reads, which
// neighbouring points send to the same lines: 0.5 to 1 ms.
#include "trigrid_decoder.h"

namespace hr {
namespace {

bool fits(const HrTrigrid& f, int64_t num_points) { return num_points >= 0 && divide_up(f.batch * num_points, kLayerRows) <= kMaxBlocks; }

int32_t check(const HrTrigridSampleParams& p) { return sane_field(p.field) && fits(p.field, p.num_points) ? HR_OK : HR_ERROR_ARGUMENT; }
int32_t check(const HrTrigridDecodeParams& p) {
  return sane_field(p.field) && sane_decoder(p.decoder) && fits(p.field, p.num_points) ? HR_OK : HR_ERROR_ARGUMENT;
}

// 64 points, of all images together.
struct Tile {
  int64_t first;
  int rows;
};

template <class Params>
__host__ __device__ __forceinline__ int64_t points_of(const Params& p) {
  return p.field.batch * p.num_points;
}

template <class Params>
__device__ __forceinline__ Tile tile_at(const Params& p, int64_t number) {
  const int64_t first = number * kLayerRows, left = points_of(p) - first;
  return {first, left < kLayerRows ? static_cast<int>(left) : kLayerRows};
}

__device__ __forceinline__ int64_t row_of_lane(const Tile& tile) {
  return tile.first + warp_of_this_thread() * kRowsOfWarp + lane_of_this_thread() / kPlanes;
}

template <class Params>
__device__ __forceinline__ RowPoint point_of_lane(const Params& p, const Tile& tile) {
  const int64_t row = row_of_lane(tile);
  RowPoint own = {};
  own.there = lane_of_this_thread() < kPlaceLanes && row < points_of(p);
  if (!own.there) return own;
  own.image = row / p.num_points;
  for (int k = 0; k < 3; ++k) own.point[k] = p.points[3 * row + k];
  return own;
}

// What gradients[64, C] of the features say of grid and points.
template <class Params>
__device__ __forceinline__ void hand_down(const Params& p, const Tile& tile, const float* gradients, const AnySum& grid) {
  const RowPoint own = point_of_lane(p, tile);
  if (p.grad_grid) scatter_rows(p.field, own, tile.rows, gradients, grid);
  if (!p.grad_points) return;
  float grad[3];
  point_gradients(p.field, own, tile.rows, gradients, grad);
  if (!own.there || lane_of_this_thread() % kPlanes != 0) return;
  for (int k = 0; k < 3; ++k) p.grad_points[3 * row_of_lane(tile) + k] = grad[k];
}

__global__ void __launch_bounds__(kThreads) sample_points(HrTrigridSampleParams p) {
  const Tile tile = tile_at(p, blockIdx.x);
  gather_rows(p.field, point_of_lane(p, tile), tile.rows, p.values + tile.first * p.field.channels);
}

__global__ void __launch_bounds__(kThreads) sample_gradients(HrTrigridSampleParams p, AnySum grid) {
  const Tile tile = tile_at(p, blockIdx.x);
  hand_down(p, tile, p.grad_values + tile.first * p.field.channels, grid);
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads) decode_points(HrTrigridDecodeParams p, DecodeScratch scratch) {
  __shared__ LayerSpace<kColumns> space;
  float* features = scratch.features + static_cast<int64_t>(blockIdx.x) * kLayerRows * p.field.channels;
  const DecoderNet net = {p.decoder, p.field.channels, features};
  for (int64_t number = blockIdx.x; number * kLayerRows < points_of(p); number += gridDim.x) {
    const Tile tile = tile_at(p, number);
    __syncthreads();
    clear_state(space);
    gather_rows(p.field, point_of_lane(p, tile), kLayerRows, features);
    evaluate(net, space);
    for_each_value(p.decoder.features + 1, [&](int row, int column) {
      if (row >= tile.rows) return;
      if (column == 0) {
        p.densities[tile.first + row] = space.state[row][0];
      } else {
        p.features[(tile.first + row) * p.decoder.features + column - 1] = space.state[row][column];
      }
    });
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads) decode_gradients(HrTrigridDecodeParams p, DecodeScratch scratch, AnySum grid) {
  __shared__ LayerSpace<kColumns> space;
  float* features = scratch.features + static_cast<int64_t>(blockIdx.x) * kLayerRows * p.field.channels;
  const DecoderNet net = {p.decoder, p.field.channels, features};
  const OwnScratch own = share_of_this_block(scratch.net, 2);
  const bool below = p.grad_grid || p.grad_points;
  for (int64_t number = blockIdx.x; number * kLayerRows < points_of(p); number += gridDim.x) {
    const Tile tile = tile_at(p, number);
    __syncthreads();
    clear_state(space);
    gather_rows(p.field, point_of_lane(p, tile), kLayerRows, features);
    remember(net, space, own);
    start_back(net, space, own, [&](int row, int column) {
      if (row >= tile.rows) return 0.0f;
      if (column == 0) return p.grad_densities[tile.first + row];
      return p.grad_features[(tile.first + row) * p.decoder.features + column - 1];
    });
    // The features have served once their gradients are known: these take their place.
    differentiate(net, p.grad_decoder.w1 != nullptr, below, space, own,
                  [&](int row, int32_t column, float grad) { features[row * p.field.channels + column] = grad; });
    if (below) hand_down(p, tile, features, grid);
  }
}

template <class Params>
SumScratch lay_out_grid(const Params& p, const HrCudaLaunch& launch, Workspace& workspace) {
  return lay_out_sums(p.grad_grid ? grid_floats(p.field) : 0, launch, workspace);
}

struct DecodeBackwardScratch {
  DecodeScratch decode;
  SumScratch grid;
};

NoScratch lay_out_trigrid_sample(const HrTrigridSampleParams&, const HrCudaLaunch&, Workspace&) { return {}; }
SumScratch lay_out_trigrid_sample_backward(const HrTrigridSampleParams& p, const HrCudaLaunch& launch, Workspace& workspace) {
  return lay_out_grid(p, launch, workspace);
}
DecodeScratch lay_out_trigrid_decode(const HrTrigridDecodeParams& p, const HrCudaLaunch&, Workspace& workspace) {
  return lay_out_decoder(p.field, p.decoder, divide_up(points_of(p), kLayerRows), false, workspace);
}
DecodeBackwardScratch lay_out_trigrid_decode_backward(const HrTrigridDecodeParams& p, const HrCudaLaunch& launch,
                                                      Workspace& workspace) {
  DecodeBackwardScratch scratch;
  scratch.decode = lay_out_decoder(p.field, p.decoder, divide_up(points_of(p), kLayerRows), true, workspace);
  scratch.grid = lay_out_grid(p, launch, workspace);
  return scratch;
}

// Runs `launch_with(sum)` so that the grid's gradient comes out, if it is wanted, and the rest whether or not.
template <class Params, class LaunchWith>
void with_grid_sums(const Params& p, const HrCudaLaunch& launch, const SumScratch& scratch, const LaunchWith& launch_with) {
  if (!p.grad_grid) {
    launch_with(FloatSum{nullptr});
    return;
  }
  // In a plane whose sides are 1 all of a point's corners may be the same cell.
  sum_terms(launch, scratch, p.grad_grid, grid_floats(p.field), points_of(p) * 8, launch_with);
}

struct Decode {
  const HrTrigridDecodeParams& p;
  const HrCudaLaunch& launch;
  const DecodeScratch& scratch;

  template <int kColumns>
  void operator()() const {
    const dim3 blocks(static_cast<unsigned>(scratch.net.blocks));
    launch_blocks(launch, blocks, decode_points<kColumns>, p, scratch);
  }
};

struct DecodeBack {
  const HrTrigridDecodeParams& p;
  const HrCudaLaunch& launch;
  const DecodeScratch& scratch;
  AnySum grid;

  template <int kColumns>
  void operator()() const {
    clear_partial(launch, scratch.net);
    const dim3 blocks(static_cast<unsigned>(scratch.net.blocks));
    launch_blocks(launch, blocks, decode_gradients<kColumns>, p, scratch, grid);
  }
};

void run_trigrid_sample(const HrTrigridSampleParams& p, const HrCudaLaunch& launch, NoScratch) {
  const dim3 blocks(static_cast<unsigned>(divide_up(points_of(p), kLayerRows)));
  if (blocks.x == 0) return;
  launch_blocks(launch, blocks, sample_points, p);
}

void run_trigrid_sample_backward(const HrTrigridSampleParams& p, const HrCudaLaunch& launch, const SumScratch& scratch) {
  const dim3 blocks(static_cast<unsigned>(divide_up(points_of(p), kLayerRows)));
  with_grid_sums(p, launch, scratch, [&](auto sum) {
    if (blocks.x == 0) return;
    launch_blocks(launch, blocks, sample_gradients, p, AnySum(sum));
  });
}

void run_trigrid_decode(const HrTrigridDecodeParams& p, const HrCudaLaunch& launch, const DecodeScratch& scratch) {
  if (points_of(p) > 0) with_columns(widest_of(p.decoder), Decode{p, launch, scratch});
}

void run_trigrid_decode_backward(const HrTrigridDecodeParams& p, const HrCudaLaunch& launch, const DecodeBackwardScratch& scratch) {
  with_grid_sums(p, launch, scratch.grid, [&](auto sum) {
    if (points_of(p) > 0) with_columns(widest_of(p.decoder), DecodeBack{p, launch, scratch.decode, AnySum(sum)});
  });
  write_decoder_gradients(launch, p.field, p.decoder, p.grad_decoder, scratch.decode.net);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(trigrid_sample, HrTrigridSampleParams)
HR_DEFINE_CUDA_OP(trigrid_sample_backward, HrTrigridSampleParams)
HR_DEFINE_CUDA_OP(trigrid_decode, HrTrigridDecodeParams)
HR_DEFINE_CUDA_OP(trigrid_decode_backward, HrTrigridDecodeParams)
