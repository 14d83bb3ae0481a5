/* Interpolation of vertex attributes over rasterized pixels. */
#ifndef HR_INTERPOLATE_H
#define HR_INTERPOLATE_H

#include "hr_common.h"

typedef struct HrInterpolateParams {
  const float* attributes;     /* [B,V,D], or [V,D] for all images when attribute_batch is 1 */
  const int32_t* faces;        /* [F,3] indices into V (may be another table than the one rasterized, e.g. of UVs) */
  const int32_t* face_index;   /* [B,P] face of each pixel, -1 for none */
  const float* barycentrics;   /* [B,P,3] */
  float* values;               /* out [B,P,D]; 0 where there is no face */
  int64_t batch;               /* B */
  int64_t attribute_batch;     /* B or 1 */
  int64_t num_vertices;        /* V */
  int64_t num_faces;           /* F */
  int64_t num_pixels;          /* P */
  int32_t channels;            /* D */
  int32_t num_threads;         /* threads to use, at least 1 */
} HrInterpolateParams;

/* Backward. Gradients that are not wanted have a null pointer. */
typedef struct HrInterpolateGradParams {
  const float* attributes;     /* as in the forward call */
  const int32_t* faces;
  const int32_t* face_index;
  const float* barycentrics;
  const float* grad_values;    /* [B,P,D] */
  float* grad_attributes;      /* out [B,V,D], or [V,D] summed over the images when attribute_batch is 1; may be null */
  float* grad_barycentrics;    /* out [B,P,3]; 0 where there is no face; may be null */
  int64_t batch;               /* B */
  int64_t attribute_batch;     /* B or 1 */
  int64_t num_vertices;        /* V */
  int64_t num_faces;           /* F */
  int64_t num_pixels;          /* P */
  int32_t channels;            /* D */
  int32_t num_threads;         /* threads to use, at least 1 */
} HrInterpolateGradParams;

/* How attributes change per pixel to the right and down: what mipmapping needs to know about UVs. */
typedef struct HrScreenSlopesParams {
  const float* points_hom;         /* [B,V,3] what was rasterized, see rasterize.h */
  const int32_t* faces;            /* [F,3] */
  const float* attributes;         /* [N,D], the same for all images */
  const int32_t* attribute_faces;  /* [F,3] indices into N */
  const int32_t* face_index;       /* [B,H,W] */
  float* slopes;                   /* out [B,H,W,D,2]: per pixel to the right, per pixel down; 0 without a face */
  int64_t batch;                   /* B */
  int64_t num_vertices;            /* V */
  int64_t num_attributes;          /* N */
  int64_t num_faces;               /* F */
  int32_t height;                  /* H */
  int32_t width;                   /* W */
  int32_t channels;                /* D */
  int32_t num_threads;             /* threads to use, at least 1 */
} HrScreenSlopesParams;

/* One value: the weights already carry the perspective. */
HR_HD float hr_interpolate(const float* lambda, float a0, float a1, float a2) {
  return lambda[0] * a0 + lambda[1] * a1 + lambda[2] * a2;
}

#endif
