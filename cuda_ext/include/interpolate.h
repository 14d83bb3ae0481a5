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

/* One value: the weights already carry the perspective. */
HR_HD float hr_interpolate(const float* lambda, float a0, float a1, float a2) {
  return lambda[0] * a0 + lambda[1] * a1 + lambda[2] * a2;
}

#endif
