/* Feature grids on three planes: EG3D's tri-plane (D = 1), PanoHead's tri-grid (D > 1), SphereHead's spherical planes, and
 * the small network that turns a feature into a density and a colour.
 *
 * Where a point falls follows torch's grid_sample with align_corners off and zeros outside: a coordinate c in -1..1 lies
 * at (c + 1) size / 2 - 1/2 cells, corners outside the grid count as 0. With D = 1 the third axis does not matter. */
#ifndef HR_TRIGRID_H
#define HR_TRIGRID_H

#include <math.h>

#include "hr_common.h"

#define HR_TRIGRID_MAX_CHARTS 2
#define HR_TRIGRID_MAX_SIDE 16384
#define HR_TRIGRID_MAX_CHANNELS 256
#define HR_DECODER_MAX_HIDDEN 128
#define HR_DECODER_MAX_FEATURES 127

typedef struct HrTrigrid {
  const float* grid;       /* [B,K,3,D,H,W,C]: charts, planes, then cells with their channels side by side */
  const float* rotations;  /* [K,3,3] world to each sphere, row by row; null: a box, K = 1 */
  int64_t batch;           /* B */
  int32_t charts;          /* K, 1 or 2 */
  int32_t depth;           /* D */
  int32_t height;          /* H */
  int32_t width;           /* W */
  int32_t channels;        /* C */
  int32_t axes[9];         /* plane p: which coordinate runs along W, H and D: axes[3 p], axes[3 p + 1], axes[3 p + 2] */
  float scale;             /* world to -1..1: 2 / side of the box */
} HrTrigrid;

/* One layer of softplus between two matrices, as torch's Linear keeps them. */
typedef struct HrDecoder {
  const float* w1;         /* [Hidden,C] */
  const float* b1;         /* [Hidden] */
  const float* w2;         /* [1+F,Hidden]; row 0 gives the density */
  const float* b2;         /* [1+F] */
  int32_t hidden;
  int32_t features;        /* F, at least 1 */
  int32_t activation;      /* of the features: HrFeatureActivation */
} HrDecoder;

/* Gradients of the decoder; all null or none. */
typedef struct HrDecoderGrad {
  float* w1;
  float* b1;
  float* w2;
  float* b2;
} HrDecoderGrad;

enum HrFeatureActivation {
  HR_FEATURE_NONE = 0,
  HR_FEATURE_SIGMOID = 1, /* EG3D: sigmoid stretched by 0.001 to both sides */
  HR_FEATURE_LEAKY = 2    /* PanoHead: leaky ReLU of slope 0.2, times sqrt 2 */
};

/* Forward: the first block of pointers. Backward reads those and grad_values and writes what is not null of the rest. */
typedef struct HrTrigridSampleParams {
  HrTrigrid field;
  const float* points;       /* [B,N,3] world */
  float* values;             /* out [B,N,C]: the mean over the planes; forward only */
  const float* grad_values;  /* [B,N,C]; backward only */
  float* grad_grid;          /* out, as field.grid; may be null */
  float* grad_points;        /* out [B,N,3]; may be null */
  int64_t num_points;        /* N */
  int32_t num_threads;       /* threads to use, at least 1 */
  int32_t isa;               /* HrIsa */
} HrTrigridSampleParams;

typedef struct HrTrigridDecodeParams {
  HrTrigrid field;
  HrDecoder decoder;
  const float* points;          /* [B,N,3] world */
  float* densities;             /* out [B,N], before any activation; forward only */
  float* features;              /* out [B,N,F]; forward only */
  const float* grad_densities;  /* [B,N]; backward only */
  const float* grad_features;   /* [B,N,F]; backward only */
  HrDecoderGrad grad_decoder;   /* out; may be null */
  float* grad_grid;             /* out; may be null */
  float* grad_points;           /* out [B,N,3]; may be null */
  int64_t num_points;           /* N */
  int32_t num_threads;
  int32_t isa;
} HrTrigridDecodeParams;

/* Two neighbouring cells along one axis: their indices, weights, and how the weights change with the coordinate in -1..1.
 * A neighbour outside the grid has weight and slope 0 and an index inside. */
typedef struct HrTrigridPair {
  int32_t lower, upper;
  float weight[2];
  float slope[2];
} HrTrigridPair;

HR_HD HrTrigridPair hr_trigrid_pair(float coordinate, int32_t size) {
  HrTrigridPair pair;
  const float half = 0.5f * (float)size;
  float at = (coordinate + 1.0f) * half - 0.5f;
  if (!(at > -1.0f && at < (float)size)) at = -2.0f; /* NaN too: outside */
  const float below = floorf(at);
  const int32_t lower = (int32_t)below, upper = lower + 1;
  const float rest = at - below;
  const float in_lower = lower >= 0 ? 1.0f : 0.0f, in_upper = upper >= 0 && upper < size ? 1.0f : 0.0f;
  pair.lower = lower < 0 ? 0 : lower;
  pair.upper = upper < 0 ? 0 : upper >= size ? size - 1 : upper;
  pair.weight[0] = in_lower * (1.0f - rest);
  pair.weight[1] = in_upper * rest;
  pair.slope[0] = -in_lower * half;
  pair.slope[1] = in_upper * half;
  return pair;
}

/* The third axis of a tri-plane: one cell that counts fully. */
HR_HD HrTrigridPair hr_trigrid_single(void) {
  HrTrigridPair pair = {0, 0, {1.0f, 0.0f}, {0.0f, 0.0f}};
  return pair;
}

/* A world point in the coordinates (-1..1) of one chart, and the weight of that chart, not yet divided by their sum.
 *
 * A box: the scaled position, weight 1. A sphere (Li et al., "SphereHead", ECCV 2024, and its published code): (theta, phi,
 * r) of the rotated position, theta from +z in 0..pi, phi around z in -pi..pi, r up to the corner of the box; all mapped
 * to -1..1. The weight sin^2(theta) (1 + cos(phi)) / 2 vanishes at the poles and at the seam. */
HR_HD void hr_trigrid_chart(const float* rotation, float scale, const float* point, float* coordinate, float* weight) {
  const float p[3] = {scale * point[0], scale * point[1], scale * point[2]};
  if (!rotation) {
    for (int k = 0; k < 3; ++k) coordinate[k] = p[k];
    *weight = 1.0f;
    return;
  }
  float q[3];
  for (int k = 0; k < 3; ++k) q[k] = rotation[3 * k] * p[0] + rotation[3 * k + 1] * p[1] + rotation[3 * k + 2] * p[2];
  const float flat2 = q[0] * q[0] + q[1] * q[1], flat = sqrtf(flat2), far2 = flat2 + q[2] * q[2];
  const float inv_pi = 0.31830988618f, two_inv_sqrt3 = 1.15470053838f;
  coordinate[0] = 2.0f * inv_pi * atan2f(flat, q[2]) - 1.0f;
  coordinate[1] = inv_pi * atan2f(q[1], q[0]);
  coordinate[2] = two_inv_sqrt3 * sqrtf(far2) - 1.0f;
  /* sin^2(theta) = flat^2 / far^2 and cos(phi) = x / flat. */
  *weight = far2 > 1e-30f && far2 < 3e38f ? 0.5f * flat * (flat + q[0]) / far2 : 0.0f;
}

/* What the gradients of a chart's coordinates and weight say about the point; adds to grad_point. On the axis of a sphere
 * the angles have no derivative: 0 there. */
HR_HD void hr_trigrid_chart_grad(const float* rotation, float scale, const float* point, const float* grad_coordinate,
                                 float grad_weight, float* grad_point) {
  if (!rotation) {
    for (int k = 0; k < 3; ++k) grad_point[k] += scale * grad_coordinate[k];
    return;
  }
  const float p[3] = {scale * point[0], scale * point[1], scale * point[2]};
  float q[3];
  for (int k = 0; k < 3; ++k) q[k] = rotation[3 * k] * p[0] + rotation[3 * k + 1] * p[1] + rotation[3 * k + 2] * p[2];
  const float flat2 = q[0] * q[0] + q[1] * q[1], far2 = flat2 + q[2] * q[2];
  if (!(flat2 > 1e-30f && far2 < 1e30f)) return;
  const float flat = sqrtf(flat2), inv_pi = 0.31830988618f, two_inv_sqrt3 = 1.15470053838f;
  const float theta = 2.0f * inv_pi * grad_coordinate[0] / far2, phi = inv_pi * grad_coordinate[1] / flat2;
  const float radius = two_inv_sqrt3 * grad_coordinate[2] / sqrtf(far2);
  const float w = 0.5f * flat * (flat + q[0]) / far2, share = grad_weight / far2;
  float g[3];
  g[0] = theta * q[0] * q[2] / flat - phi * q[1] + radius * q[0] +
         share * (0.5f * (flat + q[0] * q[0] / flat) + q[0] - 2.0f * w * q[0]);
  g[1] = theta * q[1] * q[2] / flat + phi * q[0] + radius * q[1] + share * (q[1] + 0.5f * q[0] * q[1] / flat - 2.0f * w * q[1]);
  g[2] = -theta * flat + radius * q[2] - share * 2.0f * w * q[2];
  for (int k = 0; k < 3; ++k) {
    grad_point[k] += scale * (rotation[k] * g[0] + rotation[3 + k] * g[1] + rotation[6 + k] * g[2]);
  }
}

/* Shares of the charts: weight / (sum of weights + this), as published. */
#define HR_TRIGRID_CHART_EPSILON 1e-8f

HR_HD float hr_volume_softplus(float x) { return (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x))); }
/* Derivative of softplus. */
HR_HD float hr_volume_sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

HR_HD float hr_feature_activate(int32_t activation, float x) {
  if (activation == HR_FEATURE_SIGMOID) return 1.002f * hr_volume_sigmoid(x) - 0.001f;
  if (activation == HR_FEATURE_LEAKY) return 1.41421356237f * (x > 0.0f ? x : 0.2f * x);
  return x;
}

/* Derivative of hr_feature_activate by x, where y is its value. */
HR_HD float hr_feature_slope(int32_t activation, float x, float y) {
  if (activation == HR_FEATURE_SIGMOID) {
    const float s = (y + 0.001f) / 1.002f;
    return 1.002f * s * (1.0f - s);
  }
  if (activation == HR_FEATURE_LEAKY) return x > 0.0f ? 1.41421356237f : 0.282842712475f;
  return 1.0f;
}

#endif
