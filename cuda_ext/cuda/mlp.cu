// CUDA small fully connected networks: all layers in one launch, 64 samples to a block.
//
// Expected (H100, 64 wide, 2 hidden layers, 32 inputs, 16 outputs, 262k samples): 3.8 GFLOP of fused multiply-adds in
// float32; at 60 % of 67 TFLOP/s 95 us, against 15 us for the 50 MB read and written. 30 KB of shared memory (46 KB when 128
// wide) and about 96 registers: 2 blocks on a multiprocessor.
//
// The backward pass evaluates the layers again. What lies between them goes to scratch memory that stays in L2, since each
// block takes many tiles of samples in turn; gradients of weights are summed per block, then over blocks in order: the same
// on every run without integers.
//
// `allow_half` is a permission that these kernels do not use yet.
#include "mlp.h"

#include "layers.h"

// Blocks of a backward pass, two for each multiprocessor of an H100; each takes tile after tile. Tests make it small.
#if !defined(HR_MAX_GRAD_BLOCKS)
#define HR_MAX_GRAD_BLOCKS 264
#endif

namespace hr {
namespace {

constexpr int64_t kMostGradBlocks = HR_MAX_GRAD_BLOCKS;
constexpr int64_t kMostGradFloats = 1 << 24;  // of scratch for gradients of weights, all blocks together

template <class Params>
int32_t check_network(const Params& p) {
  const bool sane = hr_mlp_is_sane(p.num_inputs, p.width, p.num_outputs, p.hidden_layers, p.activation, p.output_activation,
                                   p.softplus_beta) &&
                    p.num_samples >= 0 && divide_up(p.num_samples, kLayerRows) <= kMaxBlocks;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

int32_t check(const HrMlpParams& p) { return check_network(p); }
int32_t check(const HrMlpGradParams& p) { return check_network(p); }

template <class Params>
__host__ __device__ HrMlpLayer layer_of(const Params& p, int32_t k) {
  return hr_mlp_layer(p.num_inputs, p.width, p.num_outputs, p.hidden_layers, k);
}

template <class Params>
__device__ __forceinline__ float activate(const Params& p, int32_t k, float z, float* slope) {
  return hr_activate(k == p.hidden_layers ? p.output_activation : p.activation, p.softplus_beta, z, slope);
}

// 16 columns of the inputs to shared memory; zeros beyond their number and beyond the last sample.
template <int kColumns, class Params>
__device__ __forceinline__ void load_inputs(const Params& p, LayerSpace<kColumns>& space, int64_t first_sample, int32_t first) {
  for (int i = static_cast<int>(threadIdx.x); i < kLayerRows * kLayerSteps; i += kThreads) {
    const int row = i / kLayerSteps, step = i % kLayerSteps;
    const bool there = first_sample + row < p.num_samples && first + step < p.num_inputs;
    space.chunk[row][step] = there ? p.inputs[(first_sample + row) * p.num_inputs + first + step] : 0.0f;
  }
}

// The sums z of layer k, of the inputs (k = 0) or of what the state holds; they take the state's place.
template <int kColumns, class Params>
__device__ __forceinline__ void apply_layer(const Params& p, int32_t k, int64_t first_sample, LayerSpace<kColumns>& space) {
  LayerSums<kColumns> sums;
  const HrMlpLayer layer = layer_of(p, k);
  const float* matrix = p.weights + layer.weights;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = lane_of_this_thread() + kWarp * c;
    const float bias = p.biases && column < layer.outputs ? p.biases[layer.biases + column] : 0.0f;
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) sums.at[r][c] = bias;
  }
  for (int32_t first = 0; first < layer.inputs; first += kLayerSteps) {
    __syncthreads();  // the weights before are done with, and the state is written
    load_steps<kColumns, true>(space, first, layer.inputs, layer.outputs,
                               [&](int32_t step, int32_t column) { return matrix[column * layer.inputs + step]; });
    if (k == 0) load_inputs(p, space, first_sample, first);
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

template <int kColumns>
__global__ void __launch_bounds__(kThreads) run_layers(HrMlpParams p) {
  __shared__ LayerSpace<kColumns> space;
  const int64_t first_sample = static_cast<int64_t>(blockIdx.x) * kLayerRows;
  clear_state(space);
  for (int32_t k = 0; k <= p.hidden_layers; ++k) {
    apply_layer(p, k, first_sample, space);
    for_each_value(layer_of(p, k).outputs, [&](int row, int column) {
      float slope;
      const float value = activate(p, k, space.state[row][column], &slope);
      if (k < p.hidden_layers) {
        space.state[row][column] = value;
      } else if (first_sample + row < p.num_samples) {
        p.outputs[(first_sample + row) * p.num_outputs + column] = value;
      }
    });
  }
}

struct MlpScratch {
  float* sums;     // [blocks, hidden + 1, 64, width]: z of every layer
  float* partial;  // [blocks, weights, then biases]; matrices transposed, so that neighbouring lanes have neighbouring words
  int64_t blocks;
  int32_t width;   // of the widest layer
  int64_t weights, biases;
};

int64_t grad_blocks(const HrMlpGradParams& p) {
  const int64_t parameters = hr_mlp_num_weights(p.num_inputs, p.width, p.num_outputs, p.hidden_layers);
  const int64_t tiles = divide_up(p.num_samples, kLayerRows), room = kMostGradFloats / parameters + 1;
  const int64_t most = room < kMostGradBlocks ? room : kMostGradBlocks;
  return tiles < most ? tiles : most;
}

MlpScratch lay_out_mlp_backward(const HrMlpGradParams& p, const HrCudaLaunch&, Workspace& workspace) {
  MlpScratch scratch = {};
  scratch.blocks = grad_blocks(p);
  scratch.width = p.width > p.num_outputs ? p.width : p.num_outputs;
  scratch.weights = hr_mlp_num_weights(p.num_inputs, p.width, p.num_outputs, p.hidden_layers);
  scratch.biases = p.hidden_layers * p.width + p.num_outputs;
  scratch.sums = workspace.take<float>(scratch.blocks * (p.hidden_layers + 1) * kLayerRows * scratch.width);
  scratch.partial = workspace.take<float>(scratch.blocks * (scratch.weights + scratch.biases));
  return scratch;
}

NoScratch lay_out_mlp(const HrMlpParams&, const HrCudaLaunch&, Workspace&) { return {}; }

// One block's share of the scratch.
struct Own {
  float *sums, *weights, *biases;
  int32_t width;

  __device__ __forceinline__ float& sum(int32_t k, int row, int column) const {
    return sums[(static_cast<int64_t>(k) * kLayerRows + row) * width + column];
  }
};

// The layers forward again; their sums to scratch. Leaves the gradient by the last layer's sums in the state.
template <int kColumns>
__device__ __forceinline__ void remember_layers(const HrMlpGradParams& p, int64_t first_sample, LayerSpace<kColumns>& space,
                                                const Own& own) {
  for (int32_t k = 0; k <= p.hidden_layers; ++k) {
    apply_layer(p, k, first_sample, space);
    for_each_value(layer_of(p, k).outputs, [&](int row, int column) {
      float slope;
      const float z = space.state[row][column], value = activate(p, k, z, &slope);
      own.sum(k, row, column) = z;
      const int64_t sample = first_sample + row;
      if (k == p.hidden_layers) {
        space.state[row][column] = sample < p.num_samples ? slope * p.grad_outputs[sample * p.num_outputs + column] : 0.0f;
      } else {
        space.state[row][column] = value;
      }
    });
  }
}

// Gradients of layer k's matrix and biases, from those of its sums in the state and what it was given.
template <int kColumns>
__device__ __forceinline__ void add_weight_gradients(const HrMlpGradParams& p, int32_t k, int64_t first_sample,
                                                     LayerSpace<kColumns>& space, const Own& own) {
  constexpr int kOwn = kLayerSteps / (kThreads / kWarp);  // inputs that a thread has of every 16
  const HrMlpLayer layer = layer_of(p, k);
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kOwn;
  for (int32_t first = 0; first < layer.inputs; first += kLayerSteps) {
    __syncthreads();
    if (k == 0) {
      load_inputs(p, space, first_sample, first);
    } else {
      for (int i = static_cast<int>(threadIdx.x); i < kLayerRows * kLayerSteps; i += kThreads) {
        const int row = i / kLayerSteps, step = i % kLayerSteps;
        float slope, value = 0.0f;
        if (first + step < layer.inputs) value = activate(p, k - 1, own.sum(k - 1, row, first + step), &slope);
        space.chunk[row][step] = value;
      }
    }
    __syncthreads();
    float sums[kOwn][kColumns] = {};
    for (int row = 0; row < kLayerRows; ++row) {
      // A sample beyond the last has no gradient, and may have an infinite activation.
      if (first_sample + row >= p.num_samples) break;
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
  if (!p.grad_biases || column >= layer.outputs) return;
  float sum = 0.0f;
  for (int row = 0; row < kLayerRows; ++row) sum += space.state[row][column];
  own.biases[layer.biases + column] += sum;
}

// Gradients by what layer k was given, columns first_column and on, from those of its sums in the state.
template <int kColumns>
__device__ __forceinline__ void go_back(const HrMlpGradParams& p, int32_t k, int32_t first_column, LayerSpace<kColumns>& space,
                                        LayerSums<kColumns>& sums) {
  const HrMlpLayer layer = layer_of(p, k);
  const float* matrix = p.weights + layer.weights + first_column;
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

template <int kColumns>
__device__ __forceinline__ void write_input_gradients(const HrMlpGradParams& p, int64_t first_sample, int32_t first,
                                                      const LayerSums<kColumns>& sums) {
  const int lane = lane_of_this_thread(), top = warp_of_this_thread() * kRowsOfWarp;
#pragma unroll
  for (int r = 0; r < kRowsOfWarp; ++r) {
    const int64_t sample = first_sample + top + r;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int32_t input = first + lane + kWarp * c;
      if (sample < p.num_samples && input < p.num_inputs) p.grad_inputs[sample * p.num_inputs + input] = sums.at[r][c];
    }
  }
}

template <int kColumns>
__device__ __forceinline__ void differentiate_tile(const HrMlpGradParams& p, int64_t first_sample, LayerSpace<kColumns>& space,
                                                   const Own& own) {
  constexpr int kWidth = LayerSpace<kColumns>::kWidth;
  __syncthreads();
  clear_state(space);
  remember_layers(p, first_sample, space, own);
  for (int32_t k = p.hidden_layers; k >= 0; --k) {
    const HrMlpLayer layer = layer_of(p, k);
    if (p.grad_weights || p.grad_biases) add_weight_gradients(p, k, first_sample, space, own);
    LayerSums<kColumns> sums;
    if (k > 0) {
      go_back(p, k, 0, space, sums);
      __syncthreads();  // every warp has read what add_weight_gradients wants of the state
      store_sums(space, sums);
      for_each_value(layer.inputs, [&](int row, int column) {
        float slope;
        activate(p, k - 1, own.sum(k - 1, row, column), &slope);
        space.state[row][column] *= slope;
      });
      continue;
    }
    for (int32_t first = 0; first < layer.inputs && p.grad_inputs; first += kWidth) {
      go_back(p, k, first, space, sums);
      write_input_gradients(p, first_sample, first, sums);
    }
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads) differentiate_layers(HrMlpGradParams p, MlpScratch scratch) {
  __shared__ LayerSpace<kColumns> space;
  const int64_t block = blockIdx.x;
  Own own;
  own.width = scratch.width;
  own.sums = scratch.sums + block * (p.hidden_layers + 1) * kLayerRows * scratch.width;
  own.weights = scratch.partial + block * (scratch.weights + scratch.biases);
  own.biases = own.weights + scratch.weights;
  for (int64_t tile = block; tile * kLayerRows < p.num_samples; tile += gridDim.x) {
    differentiate_tile(p, tile * kLayerRows, space, own);
  }
}

// One thread per parameter: the sum over the blocks, in order.
__global__ void __launch_bounds__(kThreads) add_partial_gradients(HrMlpGradParams p, MlpScratch scratch) {
  const int64_t i = place_of_this_thread().item;
  if (i >= scratch.weights + scratch.biases) return;
  float sum = 0.0f;
  for (int64_t block = 0; block < scratch.blocks; ++block) {
    sum += scratch.partial[block * (scratch.weights + scratch.biases) + i];
  }
  if (i >= scratch.weights) {
    if (p.grad_biases) p.grad_biases[i - scratch.weights] = sum;
    return;
  }
  if (!p.grad_weights) return;
  int32_t k = p.hidden_layers;
  while (layer_of(p, k).weights > i) --k;
  const HrMlpLayer layer = layer_of(p, k);
  const int64_t within = i - layer.weights, input = within / layer.outputs, output = within % layer.outputs;
  p.grad_weights[layer.weights + output * layer.inputs + input] = sum;
}

// The launch for the narrowest kernel that is wide enough.
template <class Params, class With>
void with_columns(const Params& p, const With& with) {
  const int32_t widest = p.hidden_layers > 0 && p.width > p.num_outputs ? p.width : p.num_outputs;
  if (widest <= kWarp) {
    with.template operator()<1>();
  } else if (widest <= 2 * kWarp) {
    with.template operator()<2>();
  } else {
    with.template operator()<4>();
  }
}

struct Forward {
  const HrMlpParams& p;
  const HrCudaLaunch& launch;

  template <int kColumns>
  void operator()() const {
    const dim3 blocks(static_cast<unsigned>(divide_up(p.num_samples, kLayerRows)));
    launch_blocks(launch, blocks, run_layers<kColumns>, p);
  }
};

struct Backward {
  const HrMlpGradParams& p;
  const HrCudaLaunch& launch;
  const MlpScratch& scratch;

  template <int kColumns>
  void operator()() const {
    launch_blocks(launch, dim3(static_cast<unsigned>(scratch.blocks)), differentiate_layers<kColumns>, p, scratch);
  }
};

void run_mlp(const HrMlpParams& p, const HrCudaLaunch& launch, NoScratch) {
  if (p.num_samples > 0) with_columns(p, Forward{p, launch});
}

void run_mlp_backward(const HrMlpGradParams& p, const HrCudaLaunch& launch, const MlpScratch& scratch) {
  const int64_t parameters = scratch.weights + scratch.biases;
  fill_bytes(launch, scratch.partial, 0, scratch.blocks * parameters * static_cast<int64_t>(sizeof(float)));
  if (p.num_samples > 0) with_columns(p, Backward{p, launch, scratch});
  launch_over(launch, parameters, 1, add_partial_gradients, p, scratch);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(mlp, HrMlpParams)
HR_DEFINE_CUDA_OP(mlp_backward, HrMlpGradParams)
