/* Small fully connected networks, evaluated for many samples without writing what lies between the layers.
 *
 * Layer k of H + 1 maps n_k inputs to m_k outputs: z = A x (+ b), then the activation; n_0 = I, m_H = O, all others are the
 * width W. The matrices A [m_k,n_k] lie row by row, one after the other; so do the biases. */
#ifndef HR_MLP_H
#define HR_MLP_H

#include "activation.h"
#include "hr_common.h"

#define HR_MLP_MAX_WIDTH 128    /* W and O */
#define HR_MLP_MAX_INPUTS 256   /* I */
#define HR_MLP_MAX_HIDDEN 15    /* H */

typedef struct HrMlpParams {
  const float* inputs;        /* [N,I] */
  const float* weights;       /* [P], P = I W + (H - 1) W W + W O, or I O when H is 0 */
  const float* biases;        /* [H W + O], or null */
  float* outputs;             /* out [N,O] */
  int64_t num_samples;        /* N */
  int32_t num_inputs;         /* I */
  int32_t num_outputs;        /* O */
  int32_t width;              /* W */
  int32_t hidden_layers;      /* H */
  int32_t activation;         /* HrActivation of the hidden layers */
  int32_t output_activation;  /* HrActivation of the last layer */
  float softplus_beta;        /* > 0, for both */
  int32_t allow_half;         /* nonzero: a GPU may round what it multiplies to float16 (sums stay float32) */
  int32_t num_threads;        /* threads to use, at least 1 */
  int32_t isa;                /* HrIsa */
} HrMlpParams;

/* Backward: the layers are evaluated again. Gradients that are not wanted have a null pointer. */
typedef struct HrMlpGradParams {
  const float* inputs;        /* as in the forward call */
  const float* weights;
  const float* biases;
  const float* grad_outputs;  /* [N,O] */
  float* grad_inputs;         /* out [N,I]; may be null */
  float* grad_weights;        /* out [P]; may be null */
  float* grad_biases;         /* out [H W + O]; may be null */
  int64_t num_samples;
  int32_t num_inputs;
  int32_t num_outputs;
  int32_t width;
  int32_t hidden_layers;
  int32_t activation;
  int32_t output_activation;
  float softplus_beta;
  int32_t allow_half;
  int32_t num_threads;
  int32_t isa;
} HrMlpGradParams;

/* One layer: its size and where its parameters begin. */
typedef struct HrMlpLayer {
  int32_t inputs, outputs;
  int32_t weights, biases; /* offsets */
} HrMlpLayer;

HR_HD HrMlpLayer hr_mlp_layer(int32_t num_inputs, int32_t width, int32_t num_outputs, int32_t hidden, int32_t k) {
  HrMlpLayer layer;
  layer.inputs = k == 0 ? num_inputs : width;
  layer.outputs = k == hidden ? num_outputs : width;
  layer.weights = k == 0 ? 0 : num_inputs * width + (k - 1) * width * width;
  layer.biases = k * width;
  return layer;
}

HR_HD int32_t hr_mlp_num_weights(int32_t num_inputs, int32_t width, int32_t num_outputs, int32_t hidden) {
  const HrMlpLayer last = hr_mlp_layer(num_inputs, width, num_outputs, hidden, hidden);
  return last.weights + last.inputs * last.outputs;
}

/* Whether the sizes and activations are ones that the kernels know. */
HR_HD int hr_mlp_is_sane(int32_t num_inputs, int32_t width, int32_t num_outputs, int32_t hidden, int32_t activation,
                         int32_t output_activation, float beta) {
  return num_inputs >= 1 && num_inputs <= HR_MLP_MAX_INPUTS && width >= 1 && width <= HR_MLP_MAX_WIDTH && num_outputs >= 1 &&
         num_outputs <= HR_MLP_MAX_WIDTH && hidden >= 0 && hidden <= HR_MLP_MAX_HIDDEN && activation >= HR_ACT_NONE &&
         activation <= HR_ACT_EXP && output_activation >= HR_ACT_NONE && output_activation <= HR_ACT_EXP && beta > 0.0f;
}

#endif
