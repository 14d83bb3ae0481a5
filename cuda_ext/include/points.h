/* Neural points: nearest neighbours within a radius, and features blended by inverse distance.
 *
 * Points are sorted into voxels a little wider than the radius, so that all neighbours of a query lie in 27 of them. Voxels
 * (x,y,z) go to bucket (hash(y,z) + x) mod M: three that are neighbours along x have buckets in a row, and a query reads 9
 * runs of points. Points of other voxels in the same bucket are too far away and fall out by their distance, or else belong
 * to the result; only when two of the 9 runs overlap is a point met twice, and then it has the same key twice. */
#ifndef HR_POINTS_H
#define HR_POINTS_H

#include <math.h>

#include "hr_common.h"

#define HR_POINTS_MAX_NEIGHBOURS 32
#define HR_POINTS_MAX_VOXEL 1073741824.0 /* 2^30: voxel coordinates are cut to this, which keeps neighbours neighbours */
#define HR_POINTS_LEAST_SIDE 1e-18
#define HR_POINTS_VOXEL_MARGIN 1.00001   /* voxel side over radius: makes up for rounding in distances and coordinates */

/* The index of a point set: int32 words [B, hr_points_workspace_words(N)]. Per set:
 *   order  [N]      original numbers of the points, bucket by bucket, rising within a bucket. Points that are not finite
 *                   come last, after the last bucket, with the number -1 and coordinates 0
 *   sorted [3,N]    their coordinates (floats): all x, all y, all z
 *   begins [M+1]    first place of each bucket, and the number of finite points */
typedef struct HrPointIndexParams {
  const float* points;    /* [B,N,3] */
  int32_t* workspace;     /* out, see above */
  int64_t batch;          /* B */
  int64_t num_points;     /* N, below 2^30 */
  float radius;           /* > 0, may be infinite */
  int32_t num_threads;    /* threads to use, at least 1 */
} HrPointIndexParams;

typedef struct HrQueryPointsParams {
  const int32_t* workspace; /* from hr_point_index, for the same radius */
  const float* queries;     /* [B,Q,3] */
  int32_t* neighbours;      /* out [B,Q,K] numbers of the nearest points, nearest first, equal distances by number; -1 */
  float* distances;         /* out [B,Q,K] infinite where there is no neighbour */
  int64_t batch;            /* B */
  int64_t num_points;       /* N */
  int64_t num_queries;      /* Q */
  float radius;
  int32_t count;            /* K: 1 to HR_POINTS_MAX_NEIGHBOURS */
  int32_t num_threads;      /* threads to use, at least 1 */
  int32_t isa;              /* HrIsa */
} HrQueryPointsParams;

/* Features and offsets of the neighbours, blended with weights 1 / (distance + softening) that are made to sum to 1. */
typedef struct HrBlendPointsParams {
  const float* points;        /* [B,N,3] */
  const float* features;      /* [B,N,C], or [N,C] for all sets when feature_batch is 1 */
  const float* queries;       /* [B,Q,3] */
  const int32_t* neighbours;  /* [B,Q,K], -1 for none */
  float* blended;             /* out [B,Q,C]; 0 without neighbours */
  float* offsets;             /* out [B,Q,3]: query minus neighbour; 0 without neighbours */
  int64_t batch;
  int64_t feature_batch;      /* B or 1 */
  int64_t num_points;
  int64_t num_queries;
  int32_t channels;           /* C, at least 1 */
  int32_t count;              /* K: 1 to HR_POINTS_MAX_NEIGHBOURS */
  float softening;            /* > 0, metres */
  int32_t num_threads;        /* threads to use, at least 1 */
} HrBlendPointsParams;

/* Backward. Gradients that are not wanted have a null pointer. */
typedef struct HrBlendPointsGradParams {
  const float* points;        /* as in the forward call */
  const float* features;
  const float* queries;
  const int32_t* neighbours;
  const float* grad_blended;  /* [B,Q,C], or null for zero */
  const float* grad_offsets;  /* [B,Q,3], or null for zero */
  float* grad_points;         /* out [B,N,3]; may be null */
  float* grad_features;       /* out [B,N,C] or [N,C]; may be null */
  float* grad_queries;        /* out [B,Q,3]; may be null */
  int64_t batch;
  int64_t feature_batch;
  int64_t num_points;
  int64_t num_queries;
  int32_t channels;
  int32_t count;
  float softening;
  int32_t num_threads;
} HrBlendPointsGradParams;

/* M: a power of two, at least twice as many as points and at least 8 (the three buckets of a run are then distinct). */
HR_HD int64_t hr_points_buckets(int64_t num_points) {
  int64_t buckets = 8;
  while (buckets < 2 * num_points) buckets *= 2;
  return buckets;
}

HR_HD int64_t hr_points_workspace_words(int64_t num_points) { return 4 * num_points + hr_points_buckets(num_points) + 1; }

/* Voxels per metre. In double: floats would put points at 100 m and 1 mm radius into the wrong voxel. Squares of distances
 * below the least side underflow, so that points count as near that are farther away than a tinier radius. */
HR_HD double hr_points_voxel_scale(float radius) {
  const double side = (double)radius > HR_POINTS_LEAST_SIDE ? (double)radius : HR_POINTS_LEAST_SIDE;
  return 1.0 / (side * HR_POINTS_VOXEL_MARGIN);
}

HR_HD int32_t hr_points_voxel(float x, double scale) {
  const double at = floor((double)x * scale);
  const double above = at > -HR_POINTS_MAX_VOXEL ? at : -HR_POINTS_MAX_VOXEL;
  return (int32_t)(above < HR_POINTS_MAX_VOXEL ? above : HR_POINTS_MAX_VOXEL);
}

/* Bucket of voxel (0,y,z); that of (x,y,z) is (this + x) & (buckets - 1). */
HR_HD uint32_t hr_points_row(int32_t y, int32_t z) {
  uint32_t h = (uint32_t)y * 2654435761u ^ (uint32_t)z * 805459861u;
  h ^= h >> 15; /* the low bits, which the mask keeps, come to depend on all */
  return h * 2246822519u >> 3;
}

HR_HD uint32_t hr_points_bucket(int32_t x, int32_t y, int32_t z, uint32_t buckets) {
  return (hr_points_row(y, z) + (uint32_t)x) & (buckets - 1u);
}

/* Whether a point or query can have neighbours: NaN and infinities have none. */
HR_HD int hr_points_is_finite(float x, float y, float z) { return (x - x) + (y - y) + (z - z) == 0.0f; }

/* Not fused, in this order: ties come out alike everywhere. */
HR_HD float hr_points_square(float dx, float dy, float dz) { return (dx * dx + dy * dy) + dz * dz; }

/* What neighbours are sorted by: squares of distances are not negative, so their bits rise with them. */
HR_HD uint64_t hr_points_key(uint32_t square_bits, uint32_t number) { return (uint64_t)square_bits << 32 | number; }

/* A query's runs of points: three buckets along x in each of 9 rows. The middle row comes first: what it holds makes the
 * limit tight for the others. A run past the last bucket goes on at the first (`wrapped`, else empty). */
#define HR_POINTS_ROWS 9
typedef struct HrPointsRun {
  int32_t begin, end;                 /* places among the sorted points */
  int32_t wrapped_end;                /* and 0 up to here */
} HrPointsRun;

HR_HD HrPointsRun hr_points_run(const int32_t* begins, uint32_t buckets, const int32_t* voxel, int row) {
  /* (0,0) (-1,0) (1,0) (0,-1) (0,1) (-1,-1) (-1,1) (1,-1) (1,1), two bits a number and one more than it */
  const int32_t y = voxel[1] + (int32_t)(0x28161u >> (2 * row) & 3u) - 1;
  const int32_t z = voxel[2] + (int32_t)(0x22215u >> (2 * row) & 3u) - 1;
  const uint32_t first = (hr_points_row(y, z) + (uint32_t)(voxel[0] - 1)) & (buckets - 1u);
  const uint32_t end = first + 3u;
  HrPointsRun run;
  run.begin = begins[first];
  run.end = begins[end < buckets ? end : buckets];
  run.wrapped_end = end > buckets ? begins[end - buckets] : 0;
  return run;
}

/* Weight of a neighbour before they are made to sum to 1. */
HR_HD float hr_blend_weight(float distance, float softening) { return 1.0f / (distance + softening); }

#endif
