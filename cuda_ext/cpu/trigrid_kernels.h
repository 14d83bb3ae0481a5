// What the tri-grid ops run block by block, compiled once per instruction set, and what passes between their steps.
#pragma once

#include "ray_samples.h"

namespace hr {

// Where a point falls in one chart: its coordinates in -1..1, and its share of the mean over the planes.
struct Place {
  float at[3];
  float share;
};

// A decoder laid out for vectors: rows padded with zeros to whole vectors of 16.
struct PreparedDecoder {
  int channels, hidden, features, activation;
  int padded_channels, padded_hidden, padded_features;
  const float* w1t;      // [channels, padded_hidden]
  const float* b1;       // [padded_hidden]
  const float* w2t;      // [hidden, padded_features]
  const float* b2;       // [padded_features]
  const float* density;  // [padded_hidden], the row of w2 that gives the density
  float density_bias;
  const float* w1;       // [hidden, padded_channels]
  const float* w2;       // [features, padded_hidden]
};

// Sums of the decoder's gradients, laid out as PreparedDecoder's transposed weights.
struct DecoderSums {
  float* w1t;
  float* b1;
  float* w2t;
  float* b2;
  float* density;
  float* density_bias;
};

// Points on their way through the decoder, row by row. The rows of `features` are padded with zeros.
struct Batch {
  float* features;  // [n, padded_channels]
  float* hidden;    // [n, padded_hidden] after softplus
  float* slopes;    // [n, padded_hidden] derivative of softplus; null: not wanted
  float* out;       // [n, out_stride] features after activation
  float* density;   // [n]
  int out_stride;   // features, or padded_features
};

// One plane of the gradient of the grid, and the points that fall onto some of its rows.
struct PlaneSums {
  float* cells;            // [D,H,W,C]
  const Place* places;     // of all slots, `charts` for each
  const float* gradients;  // [slots, C]
  const uint32_t* slots;
  int64_t count;
  int charts, chart;
  int axes[3];             // which coordinate runs along W, H, D
  int depth, height, width, channels;
};

struct TrigridKernels {
  // Values of n points of one image, C of each at out + i stride.
  void (*gather)(const HrTrigrid&, int64_t image, const Place* places, int n, float* out, int stride);
  // For each point and chart the gradients of the three coordinates and of the share.
  void (*place_gradients)(const HrTrigrid&, int64_t image, const Place* places, int n, const float* grad, int stride, Place* out);
  // For each place (every charts-th from the first) the bin of rows that its lower row lies in, -1 outside.
  void (*find_bins)(const HrTrigrid&, int plane, int rows_per_bin, const Place* places, int n, int32_t* bins);
  // Adds the gradients of the points to the cells.
  void (*scatter)(const PlaneSums&);
  // From batch.features to the rest.
  void (*decode)(const PreparedDecoder&, const Batch&, int n);
  // grad_out [n, padded_features] (spoilt), grad_density [n] -> grad_features [n, stride]; adds to sums unless w1t is null.
  void (*decode_backward)(const PreparedDecoder&, const Batch&, int n, float* grad_out, const float* grad_density,
                          float* grad_features, int stride, const DecoderSums& sums);
  // alpha, keep and what a unit of gradient of alpha means to the value, of n intervals with raw values and lengths.
  void (*opacities)(const HrRaySamples&, const float* values, const float* lengths, int n, float* alpha, float* keep, float* slope);
};

extern const TrigridKernels kTrigridBase;
#if defined(HR_WITH_AVX512)
extern const TrigridKernels kTrigridAvx512;
#endif

}  // namespace hr
