// Blocks of samples through a small network: compiled once per instruction set, so plain structs only.
#pragma once

#include "mlp.h"

namespace hr {

constexpr int kMlpBlock = 96;  // samples worked on at a time: the rows of every register tile divide it
constexpr int kMlpPad = 16;    // columns come in multiples of this: kWidth in float_lanes.h

inline int mlp_padded(int columns) { return (columns + kMlpPad - 1) / kMlpPad * kMlpPad; }

// Floats between the rows of a matrix that the kernels read 64 columns at a time: rows of 128 and more are moved apart, for a
// power of two would put them all into a few sets of the cache.
inline int64_t mlp_stride(int padded) { return padded > 64 ? padded + kMlpPad : padded; }

// One layer, its matrix packed twice: transposed [inputs, padded outputs] and as it is [outputs, padded inputs].
struct MlpPlanLayer {
  int inputs, outputs;          // as they are
  int padded_inputs, padded_outputs;
  int activation;
  const float* transposed;      // rows are mlp_stride(padded) apart; padding is 0
  const float* straight;        // likewise; null in a forward pass
  const float* bias;            // [padded outputs], or null
  int64_t sums;                 // where the gradient of the matrix [outputs, padded inputs] lies among the sums,
  int64_t bias_sums;            // and that of the biases [padded outputs]
};

struct MlpPlan {
  MlpPlanLayer layers[HR_MLP_MAX_HIDDEN + 1];
  int num_layers;
  float beta;
};

// What the backward pass of a block needs beside its samples; any pointer may be null where a gradient is not wanted.
struct MlpBackward {
  const float* grad_outputs;  // [N,O]
  float* grad_inputs;         // [N,I]
  float* sums;                // gradients of matrices and biases, added to
  bool biases;                // whether those of the biases are wanted
  float* scratch;             // mlp_backward_floats(plan)
};

struct MlpKernels {
  // Samples begin..end-1 of inputs [N,I] to outputs [N,O].
  void (*forward)(const MlpPlan&, const float* inputs, float* outputs, int64_t begin, int64_t end);
  void (*backward)(const MlpPlan&, const float* inputs, const MlpBackward&, int64_t begin, int64_t end);
};

// Activations of every layer and their slopes, the inputs with padding, and two gradients.
inline int64_t mlp_backward_floats(const MlpPlan& plan) {
  int64_t columns = mlp_stride(plan.layers[0].padded_inputs), widest = columns;
  for (int k = 0; k < plan.num_layers; ++k) {
    const int64_t own = mlp_stride(plan.layers[k].padded_outputs);
    columns += 2 * own;
    widest = own > widest ? own : widest;
  }
  return kMlpBlock * (columns + 2 * widest);
}

extern const MlpKernels kMlpBase;
#if defined(HR_WITH_AVX512)
extern const MlpKernels kMlpAvx512;
#endif

}  // namespace hr
