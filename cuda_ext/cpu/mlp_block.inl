// Blocks of samples through a small network. Included once per instruction set with HR_MLP_KERNELS defined.
//
// All three products of the two passes, outputs = inputs A^T, grad inputs = grad outputs A and grad A = grad outputs^T
// inputs, are one: C[m,:] = sum over k of a[m,k] B[k,:], with rows of B as vectors and single numbers of a in all lanes. A
// tile of C stays in registers while k runs. Each number of C is a chain of fused steps in the order of k, so that every
// instruction set gives the same bits.

#include "float_lanes.h"
#include "mlp_block.h"

namespace hr {
namespace {

// Sixteens across a tile, and rows down: 24 of 32 registers (AVX-512, NEON), or 12 of 16 (AVX2). Narrow tiles do not get more
// rows to make up for it: 12 sums hide the latency as well as 24, and 12 rows take more addresses than there are registers.
#if defined(__AVX512F__)
constexpr int kMostColumns = 4;
constexpr int tile_rows(int columns) { return columns == 1 ? 12 : 6; }
#else
constexpr int kMostColumns = 1;
constexpr int tile_rows(int) { return 6; }
#endif

// a[m * row + k * column]; C is added to when `add`, else it starts from the bias or from 0.
struct Product {
  const float* a;
  int64_t row, column;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int depth;              // how far k runs
  const float* bias;
  bool add;
};

template <int kRows, int kColumns>
inline __attribute__((always_inline)) void tile(const Product& p, int m, int n) {
  F16 sum[kRows][kColumns];
  float* c = p.c + m * p.c_stride + n;
#pragma GCC unroll 24
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      const int at = j * kWidth;
      sum[i][j] = p.add ? load(c + i * p.c_stride + at) : (p.bias ? load(p.bias + n + at) : zeros());
    }
  }
  const float *a = p.a + m * p.row, *b = p.b + n;
  for (int k = 0; k < p.depth; ++k) {
    F16 row[kColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) row[j] = load(b + j * kWidth);
#pragma GCC unroll 24
    for (int i = 0; i < kRows; ++i) {
      const F16 every = all(a[i * p.row]);
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) sum[i][j] = fused(every, row[j], sum[i][j]);
    }
    a += p.column;
    b += p.b_stride;
  }
#pragma GCC unroll 24
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) store(c + i * p.c_stride + j * kWidth, sum[i][j]);
  }
}

// The last rows: fewer than a tile has.
template <int kRows, int kColumns>
void last_rows(const Product& p, int m, int n, int rows) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      tile<kRows, kColumns>(p, m, n);
    } else {
      last_rows<kRows - 1, kColumns>(p, m, n, rows);
    }
  }
}

template <int kColumns>
void columns_of_tiles(const Product& p, int rows, int n) {
  constexpr int kRows = tile_rows(kColumns);
  int m = 0;
  for (; m + kRows <= rows; m += kRows) tile<kRows, kColumns>(p, m, n);
  last_rows<kRows - 1, kColumns>(p, m, n, rows - m);
}

// columns: a multiple of kMlpPad.
void multiply(const Product& p, int rows, int columns) {
  int n = 0;
  for (; n + kMostColumns * kWidth <= columns; n += kMostColumns * kWidth) columns_of_tiles<kMostColumns>(p, rows, n);
#if defined(__AVX512F__)
  switch ((columns - n) / kWidth) {
    case 1: return columns_of_tiles<1>(p, rows, n);
    case 2: return columns_of_tiles<2>(p, rows, n);
    case 3: return columns_of_tiles<3>(p, rows, n);
  }
#endif
}

// The kind is a constant within the loop, so that it becomes vectors. slopes may be null.
template <int kKind>
void activate_all(float beta, float* values, float* slopes, int64_t count) {
  if (slopes) {
    for (int64_t i = 0; i < count; ++i) {
      float slope;
      values[i] = hr_activate(kKind, beta, values[i], &slope);
      slopes[i] = slope;
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      float slope;
      values[i] = hr_activate(kKind, beta, values[i], &slope);
    }
  }
}

void activate(int kind, float beta, float* values, float* slopes, int64_t count) {
  switch (kind) {
    case HR_ACT_RELU: return activate_all<HR_ACT_RELU>(beta, values, slopes, count);
    case HR_ACT_SOFTPLUS: return activate_all<HR_ACT_SOFTPLUS>(beta, values, slopes, count);
    case HR_ACT_SIGMOID: return activate_all<HR_ACT_SIGMOID>(beta, values, slopes, count);
    case HR_ACT_EXP: return activate_all<HR_ACT_EXP>(beta, values, slopes, count);
    default: return;  // slopes are not read then
  }
}

inline void copy_rows(const float* from, int64_t from_stride, float* to, int64_t to_stride, int rows, int columns) {
  for (int i = 0; i < rows; ++i) memcpy(to + i * to_stride, from + i * from_stride, sizeof(float) * columns);
}

void run_layer(const MlpPlan& plan, int k, const float* in, int64_t in_stride, float* out, float* slopes, int rows) {
  const MlpPlanLayer& layer = plan.layers[k];
  const int64_t stride = mlp_stride(layer.padded_outputs);
  const Product product = {in, in_stride, 1, layer.transposed, stride, out, stride, layer.inputs, layer.bias, false};
  multiply(product, rows, layer.padded_outputs);
  activate(layer.activation, plan.beta, out, slopes, rows * stride);
}

void forward(const MlpPlan& plan, const float* inputs, float* outputs, int64_t begin, int64_t end) {
  alignas(64) float held[2][kMlpBlock * (HR_MLP_MAX_WIDTH + kMlpPad)] = {};
  const int last = plan.num_layers - 1, num_inputs = plan.layers[0].inputs, num_outputs = plan.layers[last].outputs;
  for (int64_t first = begin; first < end; first += kMlpBlock) {
    const int rows = end - first < kMlpBlock ? static_cast<int>(end - first) : kMlpBlock;
    const float* in = inputs + first * num_inputs;
    int64_t stride = num_inputs;
    for (int k = 0; k <= last; ++k) {
      run_layer(plan, k, in, stride, held[k & 1], nullptr, rows);
      in = held[k & 1];
      stride = mlp_stride(plan.layers[k].padded_outputs);
    }
    copy_rows(in, stride, outputs + first * num_outputs, num_outputs, rows, num_outputs);
  }
}

// Where the parts of a block's scratch memory begin.
struct Held {
  float* inputs;
  float* values[HR_MLP_MAX_HIDDEN + 1];
  float* slopes[HR_MLP_MAX_HIDDEN + 1];
  float* grads[2];
};

Held lay_out(const MlpPlan& plan, float* scratch) {
  Held held;
  int64_t widest = mlp_stride(plan.layers[0].padded_inputs);
  held.inputs = scratch;
  scratch += kMlpBlock * widest;
  for (int k = 0; k < plan.num_layers; ++k) {
    const int64_t own = mlp_stride(plan.layers[k].padded_outputs);
    held.values[k] = scratch;
    held.slopes[k] = scratch + kMlpBlock * own;
    scratch += 2 * kMlpBlock * own;
    widest = own > widest ? own : widest;
  }
  held.grads[0] = scratch;
  held.grads[1] = scratch + kMlpBlock * widest;
  return held;
}

void add_bias_gradients(const float* grad, int64_t stride, int columns, int rows, float* sums) {
  for (int i = 0; i < rows; ++i) {
    for (int c = 0; c < columns; ++c) sums[c] += grad[i * stride + c];
  }
}

// One layer back: from the gradient of its outputs (overwritten) to the sums and to that of its inputs.
void back_layer(const MlpPlan& plan, int k, const Held& held, const MlpBackward& back, float* grad, float* grad_in, int rows) {
  const MlpPlanLayer& layer = plan.layers[k];
  const int64_t stride = mlp_stride(layer.padded_outputs), in_stride = mlp_stride(layer.padded_inputs);
  if (layer.activation != HR_ACT_NONE) {
    for (int64_t i = 0; i < rows * stride; ++i) grad[i] *= held.slopes[k][i];
  }
  if (back.sums) {
    const float* in = k == 0 ? held.inputs : held.values[k - 1];
    float* sums = back.sums + layer.sums;
    const Product product = {grad, 1, stride, in, in_stride, sums, layer.padded_inputs, rows, nullptr, true};
    multiply(product, layer.outputs, layer.padded_inputs);
    if (back.biases) add_bias_gradients(grad, stride, layer.padded_outputs, rows, back.sums + layer.bias_sums);
  }
  if (!grad_in) return;
  const Product product = {grad, stride, 1, layer.straight, in_stride, grad_in, in_stride, layer.outputs, nullptr, false};
  multiply(product, rows, layer.padded_inputs);
}

void backward(const MlpPlan& plan, const float* inputs, const MlpBackward& back, int64_t begin, int64_t end) {
  const Held held = lay_out(plan, back.scratch);
  const int last = plan.num_layers - 1, num_inputs = plan.layers[0].inputs, num_outputs = plan.layers[last].outputs;
  const int64_t in_stride = mlp_stride(plan.layers[0].padded_inputs);
  const int64_t out_stride = mlp_stride(plan.layers[last].padded_outputs);
  memset(held.inputs, 0, sizeof(float) * kMlpBlock * in_stride);
  for (int64_t first = begin; first < end; first += kMlpBlock) {
    const int rows = end - first < kMlpBlock ? static_cast<int>(end - first) : kMlpBlock;
    copy_rows(inputs + first * num_inputs, num_inputs, held.inputs, in_stride, rows, num_inputs);
    for (int k = 0; k <= last; ++k) {
      const float* in = k == 0 ? held.inputs : held.values[k - 1];
      // Nothing but its slopes is asked of the last layer.
      if (k < last || plan.layers[k].activation != HR_ACT_NONE) {
        run_layer(plan, k, in, mlp_stride(plan.layers[k].padded_inputs), held.values[k], held.slopes[k], rows);
      }
    }
    memset(held.grads[last & 1], 0, sizeof(float) * rows * out_stride);
    copy_rows(back.grad_outputs + first * num_outputs, num_outputs, held.grads[last & 1], out_stride, rows, num_outputs);
    for (int k = last; k >= 0; --k) {
      float* grad_in = k > 0 || back.grad_inputs ? held.grads[(k & 1) ^ 1] : nullptr;
      back_layer(plan, k, held, back, held.grads[k & 1], grad_in, rows);
    }
    if (back.grad_inputs) {
      copy_rows(held.grads[1], in_stride, back.grad_inputs + first * num_inputs, num_inputs, rows, num_inputs);
    }
  }
}

}  // namespace

const MlpKernels HR_MLP_KERNELS = {forward, backward};

}  // namespace hr
