/* Texture lookup: bilinear, or trilinear in a pyramid of halved pictures; and its adjoint.
 *
 * UVs are OBJ's: u to the right, v up; texel (row i, column j) of an H x W picture has its centre at
 * u = (j + 0.5) / W, v = 1 - (i + 0.5) / H.
 *
 * A pyramid holds its levels one after the other, the finest first, each row by row. Level k is H >> k by W >> k texels,
 * each the mean of four of the level before (Williams, "Pyramidal Parametrics", SIGGRAPH 1983). A picture is halved only
 * while both sides are even: an odd one would shift the texels against the UVs. */
#ifndef HR_TEXTURE_H
#define HR_TEXTURE_H

#include <math.h>

#include "hr_common.h"

#define HR_MAX_LEVELS 16

enum HrWrap {
  HR_WRAP_CLAMP = 0, /* beyond 0..1 lies the border's colour */
  HR_WRAP_REPEAT = 1 /* beyond 0..1 the picture starts again */
};

/* Forward writes the coarser levels; backward folds the gradients of the coarser levels into the finest. */
typedef struct HrPyramidParams {
  float* pyramid;          /* [T,N,D], N = texels of all levels. Forward: level 0 is input, the others output. Backward: the
                            * gradient of the pyramid, changed in place; its level 0 ends as that of the texture. */
  int64_t batch;           /* T */
  int32_t height;          /* H of level 0 */
  int32_t width;           /* W of level 0 */
  int32_t levels;          /* how many, 1 .. HR_MAX_LEVELS */
  int32_t channels;        /* D */
  int32_t num_threads;     /* threads to use, at least 1 */
} HrPyramidParams;

typedef struct HrTextureParams {
  const float* pyramid;        /* [T,N,D]; plain bilinear lookup: [T,H W,D] with levels = 1 */
  const float* uvs;            /* [B,P,2] */
  const float* uv_slopes;      /* [B,P,4] (du/dx, du/dy, dv/dx, dv/dy) per pixel, or null: level 0 everywhere */
  const int32_t* face_index;   /* [B,P], or null. Pixels with -1 give 0. */
  float* values;               /* out [B,P,D] */
  int64_t batch;               /* B */
  int64_t texture_batch;       /* T: B, or 1 for the same texture in every image */
  int64_t num_pixels;          /* P */
  int32_t height;              /* H of level 0 */
  int32_t width;               /* W of level 0 */
  int32_t levels;              /* 1 .. HR_MAX_LEVELS */
  int32_t channels;            /* D */
  int32_t wrap;                /* HrWrap */
  int32_t num_threads;         /* threads to use, at least 1 */
} HrTextureParams;

/* Backward. The level is a constant: slopes get no gradient. Gradients that are not wanted have a null pointer. */
typedef struct HrTextureGradParams {
  const float* pyramid;        /* as in the forward call */
  const float* uvs;
  const float* uv_slopes;
  const int32_t* face_index;
  const float* grad_values;    /* [B,P,D] */
  float* grad_pyramid;         /* out [T,N,D], may be null; summed over the images when texture_batch is 1 */
  float* grad_uvs;             /* out [B,P,2], may be null */
  int64_t batch;
  int64_t texture_batch;
  int64_t num_pixels;
  int32_t height;
  int32_t width;
  int32_t levels;
  int32_t channels;
  int32_t wrap;
  int32_t num_threads;
} HrTextureGradParams;

/* Texels of the levels before this one. */
HR_HD int64_t hr_level_offset(int32_t height, int32_t width, int32_t level) {
  int64_t texels = 0;
  for (int32_t k = 0; k < level; ++k) texels += (int64_t)(height >> k) * (width >> k);
  return texels;
}

/* Whether a picture can be halved levels - 1 times. */
HR_HD int hr_levels_fit(int32_t height, int32_t width, int32_t levels) {
  if (height < 1 || width < 1 || levels < 1 || levels > HR_MAX_LEVELS) return 0;
  for (int32_t k = 1; k < levels; ++k) {
    if (((height >> (k - 1)) & 1) || ((width >> (k - 1)) & 1)) return 0;
  }
  return 1;
}

/* One texel of the next coarser level. */
HR_HD float hr_halve(float a, float b, float c, float d) { return 0.25f * ((a + b) + (c + d)); }

/* Where a lookup falls in one level. */
typedef struct HrTexels {
  int32_t left, right, upper, lower; /* columns and rows of the four texels around */
  float across, down;                /* weights of right and lower */
  float across_du, down_dv;          /* their derivatives; 0 where the border is reached */
} HrTexels;

/* u in 0..size texels along one axis to two texels and the weight of the second. NaN reads texel 0. */
HR_HD void hr_texel_axis(float t, int32_t size, int32_t wrap, int32_t* first, int32_t* second, float* weight, int* free) {
  const float last = (float)(size - 1);
  if (wrap == HR_WRAP_REPEAT) {
    const float turn = t - floorf(t); /* NaN for infinities */
    const float x = turn >= 0.0f ? turn * (float)size - 0.5f : 0.0f;
    const float f = floorf(x);
    const int32_t i = (int32_t)f;
    *weight = x - f;
    *first = i < 0 ? size - 1 : (i > size - 1 ? size - 1 : i);
    *second = i + 1 > size - 1 ? 0 : i + 1;
    *free = turn >= 0.0f;
  } else {
    const float x = t * (float)size - 0.5f;
    const float inside = x > 0.0f ? (x < last ? x : last) : 0.0f;
    const int32_t i = (int32_t)inside;
    *weight = inside - (float)i;
    *first = i;
    *second = i < size - 1 ? i + 1 : size - 1;
    *free = x > 0.0f && x < last;
  }
}

HR_HD void hr_texels(float u, float v, int32_t height, int32_t width, int32_t wrap, HrTexels* t) {
  int free_u, free_v;
  hr_texel_axis(u, width, wrap, &t->left, &t->right, &t->across, &free_u);
  hr_texel_axis(1.0f - v, height, wrap, &t->upper, &t->lower, &t->down, &free_v);
  t->across_du = free_u ? (float)width : 0.0f;
  t->down_dv = free_v ? -(float)height : 0.0f;
}

HR_HD float hr_bilinear(const HrTexels* t, float t00, float t01, float t10, float t11) {
  const float upper = t00 + t->across * (t01 - t00), lower = t10 + t->across * (t11 - t10);
  return upper + t->down * (lower - upper);
}

/* The level for a pixel whose UVs have these slopes (du/dx, du/dy, dv/dx, dv/dy): the pixel covers an ellipse of the
 * texture, whose longer axis should span one texel (Heckbert, "Fundamentals of Texture Mapping", 1989, section 3.5).
 * The ellipse, unlike the longer of the two slopes, does not change when the camera rolls. NaN gives level 0. */
HR_HD float hr_texture_level(const float* slopes, int32_t height, int32_t width, int32_t levels) {
  const float ux = slopes[0] * (float)width, uy = slopes[1] * (float)width;
  const float vx = slopes[2] * (float)height, vy = slopes[3] * (float)height;
  const float a = ux * ux + vx * vx, b = uy * uy + vy * vy, c = ux * uy + vx * vy;
  const float half = 0.5f * (a - b);
  const float longest_sq = 0.5f * (a + b) + sqrtf(half * half + c * c);
  const float last = (float)(levels - 1);
  if (!(longest_sq > 1.0f)) return 0.0f;
  if (longest_sq >= 1e30f) return last;
  const float level = 0.5f * log2f(longest_sq);
  return level < last ? level : last;
}

#endif
