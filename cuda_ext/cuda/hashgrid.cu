// CUDA multiresolution hash encoding and its backward pass.
//
// Expected (H100, L 16, F 2, T 2^19, 262k positions): 8 corners x 8 bytes x 16 levels x 262k = 268 MB of reads, nearly all
// from L2 (a level's table has at most 4 MB), and 34 MB written: 30 to 60 us, bound by L2's sectors. A row of blocks works
// on one level at a time, as in tiny-cuda-nn, so that few tables are in use at once.
#include "hashgrid.h"

#include "sums.h"

namespace hr {
namespace {

template <class Params>
bool sane_grid(const Params& p) {
  bool sane = (p.dims == 2 || p.dims == 3) && p.levels >= 1 && p.levels <= HR_HASHGRID_MAX_LEVELS &&
              (p.features == 1 || p.features == 2 || p.features == 4 || p.features == 8) && p.num_entries >= 0 &&
              p.num_positions >= 0 && fits_grid(p.num_positions);
  for (int32_t l = 0; l < p.levels && sane; ++l) {
    // The farthest corner of a dense level, whose coordinates are all `res`, must come back below `size` when that is
    // subtracted once.
    const double res = p.grid.resolution[l], size = p.grid.size[l];
    const double farthest = res + res * (res + (p.dims == 3 ? res * res : 0.0));
    sane = p.grid.scale[l] >= 0.0f && p.grid.scale[l] <= HR_HASHGRID_MAX_SCALE && p.grid.size[l] >= 1 &&
           p.grid.offset[l] >= 0 && p.grid.offset[l] + static_cast<int64_t>(p.grid.size[l]) <= p.num_entries &&
           (p.grid.hashed[l] ? (p.grid.size[l] & (p.grid.size[l] - 1)) == 0
                             : res >= ceilf(p.grid.scale[l]) + 1.0 && farthest < 2.0 * size);
  }
  return sane;
}

int32_t check(const HrHashgridParams& p) { return sane_grid(p) ? HR_OK : HR_ERROR_ARGUMENT; }
int32_t check(const HrHashgridGradParams& p) { return sane_grid(p) ? HR_OK : HR_ERROR_ARGUMENT; }

NoScratch lay_out_hashgrid(const HrHashgridParams&, const HrCudaLaunch&, Workspace&) { return {}; }
SumScratch lay_out_hashgrid_backward(const HrHashgridGradParams& p, const HrCudaLaunch& launch, Workspace& workspace) {
  return lay_out_sums(p.grad_table ? p.num_entries * p.features : 0, launch, workspace);
}

// A position on one level: its cell along each axis (z stands still in two dimensions).
template <int kDims>
struct Cell {
  HrHashgridCell axis[3];
};

template <int kDims>
__device__ __forceinline__ Cell<kDims> cell_of(const float* position, float scale, int smoothstep) {
  Cell<kDims> cell;
  cell.axis[2] = {0u, 0.0f};
#pragma unroll
  for (int k = 0; k < kDims; ++k) cell.axis[k] = hr_hashgrid_cell(position[k], scale, smoothstep);
  return cell;
}

// Entry in the table of corner `which`, a bit per axis. Below size whatever the position: see `sane_grid`.
template <int kDims>
__device__ __forceinline__ int64_t entry_of(const HrHashgridLevels& grid, int32_t level, const Cell<kDims>& cell, int which) {
  const uint32_t x = cell.axis[0].corner + (which & 1), y = cell.axis[1].corner + ((which >> 1) & 1);
  const uint32_t z = kDims == 3 ? cell.axis[2].corner + (which >> 2) : 0u;
  return grid.offset[level] + static_cast<int64_t>(hr_hashgrid_entry(x, y, z, static_cast<uint32_t>(grid.resolution[level]),
                                                                    static_cast<uint32_t>(grid.size[level]),
                                                                    grid.hashed[level]));
}

template <int kDims>
__device__ __forceinline__ float weight_of(const Cell<kDims>& cell, int which) {
  float weight = 1.0f;
#pragma unroll
  for (int k = 0; k < kDims; ++k) weight *= (which >> k) & 1 ? cell.axis[k].upper : 1.0f - cell.axis[k].upper;
  return weight;
}

// One thread per position, one row of blocks per level.
template <int kDims, int kFeatures>
__global__ void __launch_bounds__(kThreads) encode(HrHashgridParams p) {
  const Place place = place_of_this_thread();
  if (place.item >= p.num_positions) return;
  for (int64_t l = place.first_image; l < p.levels; l += place.image_step) {
    const int32_t level = static_cast<int32_t>(l);
    const Cell<kDims> cell = cell_of<kDims>(p.positions + place.item * kDims, p.grid.scale[level], p.smoothstep);
    float sum[kFeatures] = {};
#pragma unroll
    for (int corner = 0; corner < (1 << kDims); ++corner) {
      const float weight = weight_of(cell, corner);
      const float* row = p.table + entry_of(p.grid, level, cell, corner) * kFeatures;
#pragma unroll
      for (int f = 0; f < kFeatures; ++f) sum[f] = fmaf(weight, row[f], sum[f]);
    }
    float* out = p.values + (place.item * p.levels + level) * kFeatures;
#pragma unroll
    for (int f = 0; f < kFeatures; ++f) out[f] = sum[f];
  }
}

// The same threads. Coarse levels have fewer entries than a picture has samples, so many meet at one; L2 adds them up.
template <int kDims, int kFeatures, class Sum>
__global__ void __launch_bounds__(kThreads) add_table_gradients(HrHashgridGradParams p, Sum sum) {
  const Place place = place_of_this_thread();
  if (place.item >= p.num_positions) return;
  for (int64_t l = place.first_image; l < p.levels; l += place.image_step) {
    const int32_t level = static_cast<int32_t>(l);
    const Cell<kDims> cell = cell_of<kDims>(p.positions + place.item * kDims, p.grid.scale[level], p.smoothstep);
    float grad[kFeatures];
    const float* given = p.grad_values + (place.item * p.levels + level) * kFeatures;
#pragma unroll
    for (int f = 0; f < kFeatures; ++f) grad[f] = given[f];
#pragma unroll
    for (int corner = 0; corner < (1 << kDims); ++corner) {
      const float weight = weight_of(cell, corner);
      const int64_t row = entry_of(p.grid, level, cell, corner) * kFeatures;
#pragma unroll
      for (int f = 0; f < kFeatures; ++f) sum.add(row + f, weight * grad[f]);
    }
  }
}

// One thread per position, which works through all levels: it alone writes the position's gradient.
template <int kDims, int kFeatures>
__global__ void __launch_bounds__(kThreads) position_gradients(HrHashgridGradParams p) {
  const int64_t item = place_of_this_thread().item;
  if (item >= p.num_positions) return;
  const float* position = p.positions + item * kDims;
  float total[kDims] = {};
  for (int32_t level = 0; level < p.levels; ++level) {
    const Cell<kDims> cell = cell_of<kDims>(position, p.grid.scale[level], p.smoothstep);
    const float* grad = p.grad_values + (item * p.levels + level) * kFeatures;
    float answer[1 << kDims];  // how much the loss wants of each corner
#pragma unroll
    for (int corner = 0; corner < (1 << kDims); ++corner) {
      const float* row = p.table + entry_of(p.grid, level, cell, corner) * kFeatures;
      answer[corner] = 0.0f;
#pragma unroll
      for (int f = 0; f < kFeatures; ++f) answer[corner] = fmaf(grad[f], row[f], answer[corner]);
    }
#pragma unroll
    for (int axis = 0; axis < kDims; ++axis) {
      float change = 0.0f;
#pragma unroll
      for (int corner = 0; corner < (1 << kDims); ++corner) {
        if ((corner >> axis) & 1) continue;
        float weight = 1.0f;
#pragma unroll
        for (int k = 0; k < kDims; ++k) {
          if (k != axis) weight *= (corner >> k) & 1 ? cell.axis[k].upper : 1.0f - cell.axis[k].upper;
        }
        change = fmaf(weight, answer[corner | (1 << axis)] - answer[corner], change);
      }
      total[axis] = fmaf(hr_hashgrid_slope(position[axis], p.grid.scale[level], p.smoothstep), change, total[axis]);
    }
  }
#pragma unroll
  for (int axis = 0; axis < kDims; ++axis) {
    p.grad_positions[item * kDims + axis] = hr_hashgrid_inside(position[axis]) ? total[axis] : 0.0f;
  }
}

template <int kDims, int kFeatures>
void run_with(const HrHashgridParams& p, const HrCudaLaunch& launch) {
  launch_over(launch, p.num_positions, p.levels, encode<kDims, kFeatures>, p);
}

template <int kDims, int kFeatures>
void run_with(const HrHashgridGradParams& p, const HrCudaLaunch& launch, const SumScratch& scratch) {
  if (p.grad_table) {
    // A position may add all of its corners to one entry: they may have the same hash.
    const int64_t terms = p.num_positions << kDims;
    sum_terms(launch, scratch, p.grad_table, p.num_entries * kFeatures, terms, [&](auto sum) {
      launch_over(launch, p.num_positions, p.levels, add_table_gradients<kDims, kFeatures, decltype(sum)>, p, sum);
    });
  }
  if (p.grad_positions) launch_over(launch, p.num_positions, 1, position_gradients<kDims, kFeatures>, p);
}

template <int kDims, class Params, class... More>
void run_in(const Params& p, const HrCudaLaunch& launch, const More&... more) {
  if (p.features == 1) run_with<kDims, 1>(p, launch, more...);
  if (p.features == 2) run_with<kDims, 2>(p, launch, more...);
  if (p.features == 4) run_with<kDims, 4>(p, launch, more...);
  if (p.features == 8) run_with<kDims, 8>(p, launch, more...);
}

void run_hashgrid(const HrHashgridParams& p, const HrCudaLaunch& launch, NoScratch) {
  if (p.dims == 2) run_in<2>(p, launch);
  if (p.dims == 3) run_in<3>(p, launch);
}

void run_hashgrid_backward(const HrHashgridGradParams& p, const HrCudaLaunch& launch, const SumScratch& scratch) {
  if (p.dims == 2) run_in<2>(p, launch, scratch);
  if (p.dims == 3) run_in<3>(p, launch, scratch);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(hashgrid, HrHashgridParams)
HR_DEFINE_CUDA_OP(hashgrid_backward, HrHashgridGradParams)
