// CUDA small fully connected networks: all layers in one launch, 64 samples to a block.
//
// Expected (H100, 64 wide, 2 hidden layers, 32 inputs, 16 outputs, 262k samples): 3.8 GFLOP of fused multiply-adds in
// float32; at 60 % of 67 TFLOP/s 95 us, against 15 us for the 50 MB read and written. 25 KB of shared memory and 54
// registers up to 64 wide: 4 blocks on a multiprocessor; 45 KB and 80 registers up to 128: 3.
//
// The backward pass evaluates the layers again. What lies between them goes to scratch memory that stays in L2, since each
// block takes many tiles of samples in turn; gradients of weights are summed per block, then over blocks in order: the same
// on every run without integers.
//
// `allow_half` is a permission that these kernels do not use yet.
#include "network.h"

namespace hr {
namespace {

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

// See network.h: 64 samples of the network.
template <class Params>
struct MlpNet {
  const Params& p;
  int64_t first_sample;

  __device__ __forceinline__ int32_t layers() const { return p.hidden_layers + 1; }
  __device__ __forceinline__ HrMlpLayer layer(int32_t k) const {
    return hr_mlp_layer(p.num_inputs, p.width, p.num_outputs, p.hidden_layers, k);
  }
  __device__ __forceinline__ const float* matrix(int32_t k) const { return p.weights + layer(k).weights; }
  __device__ __forceinline__ const float* bias(int32_t k) const { return p.biases ? p.biases + layer(k).biases : nullptr; }
  __device__ __forceinline__ float activate(int32_t k, int32_t, float z, float* slope) const {
    return hr_activate(k == p.hidden_layers ? p.output_activation : p.activation, p.softplus_beta, z, slope);
  }
  __device__ __forceinline__ int rows() const {
    return p.num_samples - first_sample < kLayerRows ? static_cast<int>(p.num_samples - first_sample) : kLayerRows;
  }
  __device__ __forceinline__ float input(int row, int32_t column) const {
    return p.inputs[(first_sample + row) * p.num_inputs + column];
  }
};

template <int kColumns>
__global__ void __launch_bounds__(kThreads) run_layers(HrMlpParams p) {
  __shared__ LayerSpace<kColumns> space;
  const MlpNet<HrMlpParams> net = {p, static_cast<int64_t>(blockIdx.x) * kLayerRows};
  clear_state(space);
  evaluate(net, space);
  for_each_value(p.num_outputs, [&](int row, int column) {
    if (row < net.rows()) p.outputs[(net.first_sample + row) * p.num_outputs + column] = space.state[row][column];
  });
}

NoScratch lay_out_mlp(const HrMlpParams&, const HrCudaLaunch&, Workspace&) { return {}; }

NetScratch lay_out_mlp_backward(const HrMlpGradParams& p, const HrCudaLaunch&, Workspace& workspace) {
  NetScratch scratch = {};
  scratch.width = p.width > p.num_outputs ? p.width : p.num_outputs;
  scratch.weights = hr_mlp_num_weights(p.num_inputs, p.width, p.num_outputs, p.hidden_layers);
  scratch.biases = p.hidden_layers * p.width + p.num_outputs;
  const int64_t tiles = divide_up(p.num_samples, kLayerRows), room = kMostGradFloats / scratch.weights + 1;
  const int64_t most = room < kMostTileBlocks ? room : kMostTileBlocks;
  scratch.blocks = tiles < most ? tiles : most;
  scratch.sums = workspace.take<float>(scratch.blocks * (p.hidden_layers + 1) * kLayerRows * scratch.width);
  scratch.partial = workspace.take<float>(scratch.blocks * (scratch.weights + scratch.biases));
  return scratch;
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads) differentiate_layers(HrMlpGradParams p, NetScratch scratch) {
  __shared__ LayerSpace<kColumns> space;
  const OwnScratch own = share_of_this_block(scratch, p.hidden_layers + 1);
  for (int64_t tile = blockIdx.x; tile * kLayerRows < p.num_samples; tile += gridDim.x) {
    const MlpNet<HrMlpGradParams> net = {p, tile * kLayerRows};
    clear_state(space);
    remember(net, space, own);
    start_back(net, space, own, [&](int row, int column) {
      return p.grad_outputs[(net.first_sample + row) * p.num_outputs + column];
    });
    differentiate(net, p.grad_weights || p.grad_biases, p.grad_inputs != nullptr, space, own,
                  [&](int row, int32_t column, float grad) {
                    p.grad_inputs[(net.first_sample + row) * p.num_inputs + column] = grad;
                  });
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
  const NetScratch& scratch;

  template <int kColumns>
  void operator()() const {
    launch_blocks(launch, dim3(static_cast<unsigned>(scratch.blocks)), differentiate_layers<kColumns>, p, scratch);
  }
};

template <class Params>
int32_t widest_of(const Params& p) {
  return p.hidden_layers > 0 && p.width > p.num_outputs ? p.width : p.num_outputs;
}

void run_mlp(const HrMlpParams& p, const HrCudaLaunch& launch, NoScratch) {
  if (p.num_samples > 0) with_columns(widest_of(p), Forward{p, launch});
}

void run_mlp_backward(const HrMlpGradParams& p, const HrCudaLaunch& launch, const NetScratch& scratch) {
  const int64_t parameters = scratch.weights + scratch.biases;
  fill_bytes(launch, scratch.partial, 0, scratch.blocks * parameters * static_cast<int64_t>(sizeof(float)));
  if (p.num_samples > 0) with_columns(widest_of(p), Backward{p, launch, scratch});
  for (int32_t k = 0; k <= p.hidden_layers && (p.grad_weights || p.grad_biases); ++k) {
    const HrMlpLayer layer = hr_mlp_layer(p.num_inputs, p.width, p.num_outputs, p.hidden_layers, k);
    launch_add_partial(launch, scratch, {layer, p.grad_weights ? p.grad_weights + layer.weights : nullptr,
                                         p.grad_biases ? p.grad_biases + layer.biases : nullptr});
  }
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(mlp, HrMlpParams)
HR_DEFINE_CUDA_OP(mlp_backward, HrMlpGradParams)
