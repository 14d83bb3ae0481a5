/* Multiresolution hash encoding (Mueller, Evans, Schied and Keller, "Instant Neural Graphics Primitives with a
 * Multiresolution Hash Encoding", SIGGRAPH 2022, section 3), with parameters laid out as in tiny-cuda-nn.
 *
 * Level l has a grid of cells 1/scale wide, scale = base b^l - 1; a position x in 0..1 lies at x scale + 0.5 in it. Its
 * table has as many entries as the grid has corners (rounded up to a multiple of 8), then entry = x + y res + z res^2, or
 * 2^T if that is less, then the entry is a hash of the corner. */
#ifndef HR_HASHGRID_H
#define HR_HASHGRID_H

#include <math.h>

#include "hr_common.h"

#define HR_HASHGRID_MAX_LEVELS 32
#define HR_HASHGRID_MAX_SCALE 16777216.0f /* beyond 2^24 a float has no digits left to tell cells apart */
#define HR_HASHGRID_PRIME_Y 2654435761u
#define HR_HASHGRID_PRIME_Z 805459861u

typedef struct HrHashgridLevels {
  float scale[HR_HASHGRID_MAX_LEVELS];        /* cells per unit */
  int32_t resolution[HR_HASHGRID_MAX_LEVELS]; /* corners along a side that have entries of their own: ceil(scale) + 1 */
  int32_t size[HR_HASHGRID_MAX_LEVELS];       /* entries of the level: a power of two unless it is dense */
  int32_t offset[HR_HASHGRID_MAX_LEVELS];     /* its first entry in the table */
  int32_t hashed[HR_HASHGRID_MAX_LEVELS];     /* 0: dense, resolution^D <= size. 1: hashed, size is a power of two */
} HrHashgridLevels;

typedef struct HrHashgridParams {
  const float* positions;   /* [N,D]; cut to 0..1, NaN to 0 */
  const float* table;       /* [E,F] */
  float* values;            /* out [N,L*F], the first level's features first */
  int64_t num_positions;    /* N */
  int64_t num_entries;      /* E, the sum of the sizes */
  int32_t dims;             /* D: 2 or 3 */
  int32_t levels;           /* L, at most HR_HASHGRID_MAX_LEVELS */
  int32_t features;         /* F: 1, 2, 4 or 8 */
  int32_t smoothstep;       /* nonzero: weights 3 f^2 - 2 f^3 instead of f */
  int32_t num_threads;      /* threads to use, at least 1 */
  int32_t isa;              /* HrIsa */
  HrHashgridLevels grid;
} HrHashgridParams;

/* Backward. Gradients that are not wanted have a null pointer. */
typedef struct HrHashgridGradParams {
  const float* positions;   /* as in the forward call */
  const float* table;
  const float* grad_values; /* [N,L*F] */
  float* grad_table;        /* out [E,F]; may be null */
  float* grad_positions;    /* out [N,D]; 0 for coordinates outside 0..1; may be null */
  int64_t num_positions;
  int64_t num_entries;
  int32_t dims;
  int32_t levels;
  int32_t features;
  int32_t smoothstep;
  int32_t num_threads;
  int32_t isa;
  HrHashgridLevels grid;
} HrHashgridGradParams;

/* Where a coordinate falls on a level: the lower corner of its cell, and the weight of the upper one. */
typedef struct HrHashgridCell {
  uint32_t corner;
  float upper;      /* weight of corner + 1; that of corner is 1 - upper */
} HrHashgridCell;

/* A coordinate in 0..1: what lies outside is moved to the border, NaN to 0. */
HR_HD float hr_hashgrid_unit(float x) {
  const float above = x > 0.0f ? x : 0.0f;
  return above < 1.0f ? above : 1.0f;
}

/* Fused, as on the GPU: the cell then does not depend on the back end. */
HR_HD HrHashgridCell hr_hashgrid_cell(float x, float scale, int smoothstep) {
  const float at = fmaf(scale, hr_hashgrid_unit(x), 0.5f);
  const int32_t corner = (int32_t)at; /* at >= 0.5: truncating is rounding down */
  const float f = at - (float)corner;
  HrHashgridCell cell;
  cell.corner = (uint32_t)corner;
  cell.upper = smoothstep ? f * f * fmaf(-2.0f, f, 3.0f) : f;
  return cell;
}

/* Whether a coordinate counts as it is: if not, its gradient is 0, even where the table holds what is not finite. */
HR_HD int hr_hashgrid_inside(float x) { return x >= 0.0f && x <= 1.0f; }

/* How the upper weight grows with the coordinate, of one that is inside. */
HR_HD float hr_hashgrid_slope(float x, float scale, int smoothstep) {
  const float at = fmaf(scale, hr_hashgrid_unit(x), 0.5f);
  const float f = at - (float)(int32_t)at;
  const float slope = smoothstep ? 6.0f * f * (1.0f - f) : 1.0f;
  return slope * scale;
}

/* Entry of a corner within a dense level. Corners one beyond the last run over into the next row; the very last ones
 * start again from the first entry: the index stays below twice the size, so one subtraction is the remainder. */
HR_HD uint32_t hr_hashgrid_dense_entry(uint32_t x, uint32_t y, uint32_t z, uint32_t resolution, uint32_t size) {
  const uint32_t entry = x + resolution * (y + resolution * z);
  return entry >= size ? entry - size : entry;
}

/* Entry of a corner within a hashed level. x has the factor 1: corners x and x + 1 share a cache line, mostly. */
HR_HD uint32_t hr_hashgrid_hashed_entry(uint32_t x, uint32_t y, uint32_t z, uint32_t size) {
  return (x ^ (y * HR_HASHGRID_PRIME_Y) ^ (z * HR_HASHGRID_PRIME_Z)) & (size - 1u);
}

/* Entry within the level; z is 0 in two dimensions. */
HR_HD uint32_t hr_hashgrid_entry(uint32_t x, uint32_t y, uint32_t z, uint32_t resolution, uint32_t size, int hashed) {
  return hashed ? hr_hashgrid_hashed_entry(x, y, z, size) : hr_hashgrid_dense_entry(x, y, z, resolution, size);
}

#endif
