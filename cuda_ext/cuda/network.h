// Fully connected networks on tiles of 64 samples, forward and backward, for whatever brings the samples.
//
// A `Net` says what the layers are: layers(), layer(k) with sizes and offsets, matrix(k) [outputs, inputs] row by row,
// bias(k) or null, activate(k, column, z, slope) and input(row, column), what the first layer gets. Rows beyond rows() are
// computed like the others and count for nothing.
#pragma once

#include "layers.h"
#include "mlp.h"

// Blocks of launches whose blocks take tile after tile, two for each multiprocessor of an H100. Tests make it small.
#if !defined(HR_MAX_GRAD_BLOCKS)
#define HR_MAX_GRAD_BLOCKS 264
#endif

namespace hr {

constexpr int64_t kMostTileBlocks = HR_MAX_GRAD_BLOCKS;

// 16 columns of what the first layer gets, to shared memory; zeros beyond their number.
template <int kColumns, class Net>
__device__ __forceinline__ void load_inputs(const Net& net, LayerSpace<kColumns>& space, int32_t first, int32_t inputs) {
  for (int i = static_cast<int>(threadIdx.x); i < kLayerRows * kLayerSteps; i += kThreads) {
    const int row = i / kLayerSteps, step = i % kLayerSteps;
    space.chunk[row][step] = row < net.rows() && first + step < inputs ? net.input(row, first + step) : 0.0f;
  }
}

// The sums z of layer k, of the inputs (k = 0) or of what the state holds; they take the state's place.
template <int kColumns, class Net>
__device__ __forceinline__ void apply_layer(const Net& net, int32_t k, LayerSpace<kColumns>& space) {
  const HrMlpLayer layer = net.layer(k);
  const float *matrix = net.matrix(k), *biases = net.bias(k);
  LayerSums<kColumns> sums;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = lane_of_this_thread() + kWarp * c;
    const float bias = biases && column < layer.outputs ? biases[column] : 0.0f;
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) sums.at[r][c] = bias;
  }
  for (int32_t first = 0; first < layer.inputs; first += kLayerSteps) {
    __syncthreads();  // the weights before are done with, and the state is written
    load_steps<kColumns, true>(space, first, layer.inputs, layer.outputs,
                               [&](int32_t step, int32_t column) { return matrix[column * layer.inputs + step]; });
    if (k == 0) load_inputs(net, space, first, layer.inputs);
    __syncthreads();
    if (k == 0) {
      multiply_steps(space.chunk, 0, space.weights, sums);
    } else {
      multiply_steps(space.state, first, space.weights, sums);
    }
  }
  store_sums(space, sums);
}

// Shared memory starts as anything; what meets a weight of 0 must not be NaN.
template <int kColumns>
__device__ __forceinline__ void clear_state(LayerSpace<kColumns>& space) {
  constexpr int kWidth = LayerSpace<kColumns>::kWidth;
  for (int i = static_cast<int>(threadIdx.x); i < kLayerRows * kWidth; i += kThreads) space.state[i / kWidth][i % kWidth] = 0.0f;
}

// All layers; the state then holds the outputs. Every warp may read its own rows at once.
template <int kColumns, class Net>
__device__ __forceinline__ void evaluate(const Net& net, LayerSpace<kColumns>& space) {
  for (int32_t k = 0; k < net.layers(); ++k) {
    apply_layer(net, k, space);
    for_each_value(net.layer(k).outputs, [&](int row, int column) {
      float slope;
      space.state[row][column] = net.activate(k, column, space.state[row][column], &slope);
    });
  }
}

// What a backward pass keeps in memory: by block, the sums z of every layer, and its part of the gradients of the weights.
// Matrices are transposed there, so that neighbouring lanes have neighbouring words.
struct NetScratch {
  float* sums;     // [blocks, layers, 64, width]
  float* partial;  // [blocks, weights, then biases]
  int64_t blocks;
  int32_t width;   // of the widest layer
  int64_t weights, biases;
};

// One block's share of it.
struct OwnScratch {
  float *sums, *weights, *biases;
  int32_t width;

  __device__ __forceinline__ float& sum(int32_t k, int row, int column) const {
    return sums[(static_cast<int64_t>(k) * kLayerRows + row) * width + column];
  }
};

__device__ __forceinline__ OwnScratch share_of_this_block(const NetScratch& scratch, int32_t layers) {
  const int64_t block = blockIdx.x;
  OwnScratch own;
  own.width = scratch.width;
  own.sums = scratch.sums + block * layers * kLayerRows * scratch.width;
  own.weights = scratch.partial + block * (scratch.weights + scratch.biases);
  own.biases = own.weights + scratch.weights;
  return own;
}

// As `evaluate`, but the sums of all layers go to scratch.
template <int kColumns, class Net>
__device__ __forceinline__ void remember(const Net& net, LayerSpace<kColumns>& space, const OwnScratch& own) {
  for (int32_t k = 0; k < net.layers(); ++k) {
    apply_layer(net, k, space);
    for_each_value(net.layer(k).outputs, [&](int row, int column) {
      float slope;
      own.sum(k, row, column) = space.state[row][column];
      space.state[row][column] = net.activate(k, column, space.state[row][column], &slope);
    });
  }
}

// Puts the gradient by the last layer's sums into the state, from grad(row, column) by its outputs.
template <int kColumns, class Net, class Grad>
__device__ __forceinline__ void start_back(const Net& net, LayerSpace<kColumns>& space, const OwnScratch& own, const Grad& grad) {
  const int32_t k = net.layers() - 1;
  for_each_value(net.layer(k).outputs, [&](int row, int column) {
    float slope;
    net.activate(k, column, own.sum(k, row, column), &slope);
    space.state[row][column] = row < net.rows() ? slope * grad(row, column) : 0.0f;
  });
}

// Gradients of layer k's matrix and biases, from those of its sums in the state and what it was given.
template <int kColumns, class Net>
__device__ __forceinline__ void add_weight_gradients(const Net& net, int32_t k, LayerSpace<kColumns>& space, const OwnScratch& own) {
  constexpr int kOwn = kLayerSteps / (kThreads / kWarp);  // inputs that a thread has of every 16
  const HrMlpLayer layer = net.layer(k);
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kOwn;
  for (int32_t first = 0; first < layer.inputs; first += kLayerSteps) {
    __syncthreads();
    if (k == 0) {
      load_inputs(net, space, first, layer.inputs);
    } else {
      for (int i = static_cast<int>(threadIdx.x); i < kLayerRows * kLayerSteps; i += kThreads) {
        const int row = i / kLayerSteps, step = i % kLayerSteps;
        float slope, value = 0.0f;
        if (first + step < layer.inputs) value = net.activate(k - 1, first + step, own.sum(k - 1, row, first + step), &slope);
        space.chunk[row][step] = value;
      }
    }
    __syncthreads();
    float sums[kOwn][kColumns] = {};
    // A row beyond the last has no gradient, and may have an infinite activation.
    for (int row = 0; row < net.rows(); ++row) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const float delta = space.state[row][lane + kWarp * c];
#pragma unroll
        for (int i = 0; i < kOwn; ++i) sums[i][c] = fmaf(delta, space.chunk[row][top + i], sums[i][c]);
      }
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int32_t input = first + top + i, output = lane + kWarp * c;
        if (input < layer.inputs && output < layer.outputs) {
          own.weights[layer.weights + static_cast<int64_t>(input) * layer.outputs + output] += sums[i][c];
        }
      }
    }
  }
  const int column = static_cast<int>(threadIdx.x);
  if (column >= layer.outputs) return;
  float sum = 0.0f;
  for (int row = 0; row < kLayerRows; ++row) sum += space.state[row][column];
  own.biases[layer.biases + column] += sum;
}

// Gradients by what layer k was given, columns first_column and on, from those of its sums in the state.
template <int kColumns, class Net>
__device__ __forceinline__ void go_back(const Net& net, int32_t k, int32_t first_column, LayerSpace<kColumns>& space,
                                        LayerSums<kColumns>& sums) {
  const HrMlpLayer layer = net.layer(k);
  const float* matrix = net.matrix(k) + first_column;
  const int32_t columns = layer.inputs - first_column;
  sums = {};
  for (int32_t first = 0; first < layer.outputs; first += kLayerSteps) {
    __syncthreads();
    load_steps<kColumns, false>(space, first, layer.outputs, columns,
                                [&](int32_t step, int32_t column) { return matrix[step * layer.inputs + column]; });
    __syncthreads();
    multiply_steps(space.state, first, space.weights, sums);
  }
}

// From the gradient by the last layer's sums in the state to those of weights (in the block's scratch) and inputs, which
// write(row, column, gradient) takes.
template <int kColumns, class Net, class Write>
__device__ __forceinline__ void differentiate(const Net& net, bool weights, bool inputs, LayerSpace<kColumns>& space,
                                              const OwnScratch& own, const Write& write) {
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kRowsOfWarp;
  for (int32_t k = net.layers() - 1; k >= 0; --k) {
    const HrMlpLayer layer = net.layer(k);
    if (weights) add_weight_gradients(net, k, space, own);
    LayerSums<kColumns> sums;
    if (k > 0) {
      go_back(net, k, 0, space, sums);
      __syncthreads();  // every warp has read what add_weight_gradients wants of the state
      store_sums(space, sums);
      for_each_value(layer.inputs, [&](int row, int column) {
        float slope;
        net.activate(k - 1, column, own.sum(k - 1, row, column), &slope);
        space.state[row][column] *= slope;
      });
      continue;
    }
    for (int32_t first = 0; first < layer.inputs && inputs; first += LayerSpace<kColumns>::kWidth) {
      go_back(net, k, first, space, sums);
#pragma unroll
      for (int r = 0; r < kRowsOfWarp; ++r) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int32_t input = first + lane + kWarp * c;
          if (top + r < net.rows() && input < layer.inputs) write(top + r, input, sums.at[r][c]);
        }
      }
    }
  }
  __syncthreads();  // the state may be written again
}

// Where to write gradients of weights: a network in one piece, or a pointer for each layer's matrix and biases.
struct LayerGradients {
  HrMlpLayer layer;
  float *matrix, *biases;
};

namespace {

// One thread per parameter of one layer: the sum over the blocks, in order.
__global__ void __launch_bounds__(kThreads) add_partial_gradients(NetScratch scratch, LayerGradients to) {
  const int64_t i = place_of_this_thread().item;
  const HrMlpLayer layer = to.layer;
  const int64_t weights = static_cast<int64_t>(layer.inputs) * layer.outputs;
  if (i >= weights + layer.outputs) return;
  const bool is_weight = i < weights;
  const int64_t at = is_weight ? layer.weights + i : scratch.weights + layer.biases + (i - weights);
  float sum = 0.0f;
  for (int64_t block = 0; block < scratch.blocks; ++block) sum += scratch.partial[block * (scratch.weights + scratch.biases) + at];
  if (is_weight && to.matrix) to.matrix[i % layer.outputs * layer.inputs + i / layer.outputs] = sum;
  if (!is_weight && to.biases) to.biases[i - weights] = sum;
}

}  // namespace

inline void launch_add_partial(const HrCudaLaunch& launch, const NetScratch& scratch, const LayerGradients& to) {
  const int64_t parameters = (static_cast<int64_t>(to.layer.inputs) + 1) * to.layer.outputs;
  launch_over(launch, parameters, 1, add_partial_gradients, scratch, to);
}

// Calls with.template operator()<kColumns>() of the narrowest kernel that is wide enough.
template <class With>
void with_columns(int32_t widest, const With& with) {
  if (widest <= kWarp) {
    with.template operator()<1>();
  } else if (widest <= 2 * kWarp) {
    with.template operator()<2>();
  } else {
    with.template operator()<4>();
  }
}

}  // namespace hr
