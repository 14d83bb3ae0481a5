// CPU small networks: packs the matrices, and shares blocks of samples out among threads.
#include <algorithm>
#include <vector>

#include "c_api.h"
#include "gradient_strips.h"
#include "mlp_block.h"
#include "thread_pool.h"

bool hr_cpu_has_avx512();

namespace hr {
namespace {

constexpr int64_t kSamplesPerTask = 16 * kMlpBlock;

const MlpKernels& kernels_for(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa != HR_ISA_BASE && hr_cpu_has_avx512()) return kMlpAvx512;
#else
  (void)isa;
#endif
  return kMlpBase;
}

// The plan and the memory that it points to.
struct Packed {
  MlpPlan plan = {};
  std::vector<float> floats;
  int64_t sums = 0;  // how many
};

void pack_layer(const float* matrix, const float* bias, const MlpPlanLayer& layer, float* transposed, float* straight,
                float* biases) {
  for (int o = 0; o < layer.outputs; ++o) {
    for (int i = 0; i < layer.inputs; ++i) {
      const float value = matrix[static_cast<int64_t>(o) * layer.inputs + i];
      transposed[i * mlp_stride(layer.padded_outputs) + o] = value;
      if (straight) straight[o * mlp_stride(layer.padded_inputs) + i] = value;
    }
    if (bias) biases[o] = bias[o];
  }
}

template <class Params>
Packed pack(const Params& p, bool backward) {
  Packed packed;
  MlpPlan& plan = packed.plan;
  plan.num_layers = p.hidden_layers + 1;
  plan.beta = p.softplus_beta;
  int64_t floats = 0;
  for (int k = 0; k < plan.num_layers; ++k) {
    const HrMlpLayer own = hr_mlp_layer(p.num_inputs, p.width, p.num_outputs, p.hidden_layers, k);
    MlpPlanLayer& layer = plan.layers[k];
    layer = {own.inputs, own.outputs, mlp_padded(own.inputs), mlp_padded(own.outputs), 0, nullptr, nullptr, nullptr, 0, 0};
    layer.activation = k == p.hidden_layers ? p.output_activation : p.activation;
    layer.sums = packed.sums;
    layer.bias_sums = packed.sums + static_cast<int64_t>(layer.outputs) * layer.padded_inputs;
    packed.sums = layer.bias_sums + layer.padded_outputs;
    floats += (layer.inputs + 1) * mlp_stride(layer.padded_outputs);
    if (backward) floats += layer.outputs * mlp_stride(layer.padded_inputs);
  }
  constexpr int64_t kLine = 16;  // floats; all parts are multiples of it, so that no vector lies across two lines
  packed.floats.assign(floats + kLine, 0.0f);
  const uintptr_t past = reinterpret_cast<uintptr_t>(packed.floats.data()) / sizeof(float) % kLine;
  float* at = packed.floats.data() + (kLine - past) % kLine;
  for (int k = 0; k < plan.num_layers; ++k) {
    const HrMlpLayer own = hr_mlp_layer(p.num_inputs, p.width, p.num_outputs, p.hidden_layers, k);
    MlpPlanLayer& layer = plan.layers[k];
    float *transposed = at, *bias = transposed + layer.inputs * mlp_stride(layer.padded_outputs);
    float* straight = bias + mlp_stride(layer.padded_outputs);
    at = straight + (backward ? layer.outputs * mlp_stride(layer.padded_inputs) : 0);
    pack_layer(p.weights + own.weights, p.biases ? p.biases + own.biases : nullptr, layer, transposed,
               backward ? straight : nullptr, bias);
    layer.transposed = transposed;
    layer.straight = backward ? straight : nullptr;
    layer.bias = p.biases ? bias : nullptr;
  }
  return packed;
}

int32_t run_forward(const HrMlpParams& p) {
  const Packed packed = pack(p, false);
  const MlpKernels& kernels = kernels_for(p.isa);
  const int64_t tasks = (p.num_samples + kSamplesPerTask - 1) / kSamplesPerTask;
  parallel_for(tasks, p.num_threads, [&](int64_t task) {
    const int64_t begin = task * kSamplesPerTask;
    kernels.forward(packed.plan, p.inputs, p.outputs, begin, std::min(begin + kSamplesPerTask, p.num_samples));
  });
  return HR_OK;
}

// The sums without their padding.
void unpack(const HrMlpGradParams& p, const MlpPlan& plan, const float* sums) {
  for (int k = 0; k < plan.num_layers; ++k) {
    const HrMlpLayer own = hr_mlp_layer(p.num_inputs, p.width, p.num_outputs, p.hidden_layers, k);
    const MlpPlanLayer& layer = plan.layers[k];
    for (int o = 0; o < layer.outputs; ++o) {
      const float* row = sums + layer.sums + static_cast<int64_t>(o) * layer.padded_inputs;
      if (p.grad_weights) {
        std::copy_n(row, layer.inputs, p.grad_weights + own.weights + static_cast<int64_t>(o) * layer.inputs);
      }
    }
    if (p.grad_biases) std::copy_n(sums + layer.bias_sums, layer.outputs, p.grad_biases + own.biases);
  }
}

int32_t run_backward(const HrMlpGradParams& p) {
  const Packed packed = pack(p, true);
  const MlpKernels& kernels = kernels_for(p.isa);
  const bool summed = p.grad_weights || p.grad_biases;
  std::vector<float> sums(summed ? packed.sums : 0);
  const Tables tables = {1, summed ? packed.sums : 0, p.num_samples};
  const int32_t status = sum_over_strips(tables, p.num_threads, sums.data(), [&](int64_t, int64_t begin, int64_t end, float* own) {
    std::vector<float> scratch(mlp_backward_floats(packed.plan));  // one for each strip: at most 16
    const MlpBackward back = {p.grad_outputs, p.grad_inputs, summed ? own : nullptr, p.grad_biases != nullptr, scratch.data()};
    kernels.backward(packed.plan, p.inputs, back, begin, end);
    return true;
  });
  if (summed) unpack(p, packed.plan, sums.data());
  return status;
}

template <class Params>
bool is_sane(const Params& p) {
  return p.num_samples >= 1 && p.num_threads >= 1 &&
         hr_mlp_is_sane(p.num_inputs, p.width, p.num_outputs, p.hidden_layers, p.activation, p.output_activation, p.softplus_beta);
}

}  // namespace
}  // namespace hr

int32_t hr_mlp_cpu(const HrMlpParams* params) {
  if (!hr::is_sane(*params)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::run_forward(*params); });
}

int32_t hr_mlp_backward_cpu(const HrMlpGradParams* params) {
  if (!hr::is_sane(*params)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::run_backward(*params); });
}
