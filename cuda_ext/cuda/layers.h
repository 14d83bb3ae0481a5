// Fully connected layers in shared memory: the multiplication that small networks are made of.
//
// A block has 64 rows (samples), each of its 8 warps 8 of them; a lane has every 32nd column (neuron). A thread so keeps
// 8 x kColumns sums in registers and for each step reads 8 values that the whole warp shares and kColumns weights from
// different banks: 3 to 5 multiplications for every read. Rows belong to one warp from layer to layer; only the weights,
// which come 16 steps at a time, are common to the block. Products are fused explicitly: the library is compiled without
// contraction.
#pragma once

#include "block.h"

namespace hr {

constexpr int kLayerRows = 64;     // of a block
constexpr int kRowsOfWarp = 8;
constexpr int kLayerSteps = 16;    // of the sum whose weights are in shared memory at a time
static_assert(kLayerRows == kRowsOfWarp * (kThreads / kWarp), "one group of rows for each warp");

template <int kColumns>
struct LayerSpace {
  static constexpr int kWidth = kWarp * kColumns;
  float state[kLayerRows][kWidth];
  float weights[kLayerSteps][kWidth + 1];        // the odd row length keeps transposed writes apart
  float chunk[kLayerRows][kLayerSteps + 1];
};

// sums[r][c] of row 8 warp + r and column lane + 32 c.
template <int kColumns>
struct LayerSums {
  float at[kRowsOfWarp][kColumns];
};

// Adds rows[.][first ..] times the weights in shared memory.
template <int kColumns, int kStride>
__device__ __forceinline__ void multiply_steps(const float (*rows)[kStride], int32_t first,
                                               const float (*weights)[kWarp * kColumns + 1], LayerSums<kColumns>& sums) {
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kRowsOfWarp;
#pragma unroll 4
  for (int step = 0; step < kLayerSteps; ++step) {
    float weight[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) weight[c] = weights[step][lane + kWarp * c];
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const float value = rows[top + r][first + step];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sums.at[r][c] = fmaf(value, weight[c], sums.at[r][c]);
    }
  }
}

// Brings weights of 16 steps into shared memory, with zeros beyond `steps` and `columns`. weight_at(step, column) reads one;
// where neighbours in memory are neighbouring steps, `along_steps` makes the reads coalesce.
template <int kColumns, bool kAlongSteps, class WeightAt>
__device__ __forceinline__ void load_steps(LayerSpace<kColumns>& space, int32_t first, int32_t steps, int32_t columns,
                                           const WeightAt& weight_at) {
  constexpr int kWidth = LayerSpace<kColumns>::kWidth;
  for (int i = static_cast<int>(threadIdx.x); i < kLayerSteps * kWidth; i += kThreads) {
    const int step = kAlongSteps ? i % kLayerSteps : i / kWidth, column = kAlongSteps ? i / kLayerSteps : i % kWidth;
    const bool there = first + step < steps && column < columns;
    space.weights[step][column] = there ? weight_at(first + step, column) : 0.0f;
  }
}

// The sums to the warp's rows of the state; each thread writes what for_each_value lets it visit.
template <int kColumns>
__device__ __forceinline__ void store_sums(LayerSpace<kColumns>& space, const LayerSums<kColumns>& sums) {
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kRowsOfWarp;
  __syncwarp();  // the warp has read the state
#pragma unroll
  for (int r = 0; r < kRowsOfWarp; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) space.state[top + r][lane + kWarp * c] = sums.at[r][c];
  }
}

// Runs visit(row, column) over the values of this thread, one after another: activations are long, and a copy for each of
// 32 values would cost registers and the instruction cache. Ends when the warp may read the state.
template <class Visit>
__device__ __forceinline__ void for_each_value(int32_t columns, const Visit& visit) {
  const int top = warp_of_this_thread() * kRowsOfWarp;
#pragma unroll 1
  for (int32_t column = lane_of_this_thread(); column < columns; column += kWarp) {
#pragma unroll 1
    for (int r = 0; r < kRowsOfWarp; ++r) visit(top + r, column);
  }
  __syncwarp();
}

}  // namespace hr
