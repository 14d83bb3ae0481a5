/* Shading of rasterized samples to a finished picture: parameters, and the maths of one sample.
 *
 * Light is linear; 1 is what a white matt surface facing a light of intensity 1 shows. Diffuse light: spherical
 * harmonics of degree 2 (Ramamoorthi and Hanrahan, SIGGRAPH 2001) and wrapped Lambert per light. Specular: GGX (Walter
 * et al., EGSR 2007) with Smith shadowing (Hammon's approximation, GDC 2017) and Schlick's Fresnel term. */
#ifndef HR_SHADE_H
#define HR_SHADE_H

#include <math.h>

#include "hr_common.h"

enum HrColourSource {
  HR_COLOUR_UNIFORM = 0, /* colours is [1,1,3] */
  HR_COLOUR_VERTEX = 1,  /* colours is [1,V,3], one per vertex */
  HR_COLOUR_TEXTURE = 2  /* colours is [Th,Tw,3], a picture with row 0 on top, looked up at the uvs (v up) */
};

typedef struct HrShadeParams {
  const int32_t* face_index;   /* [C,H s,W s] samples, -1 for none */
  const float* barycentrics;   /* [C,H s,W s,3] */
  const int32_t* corners;      /* [F,9] per face: 3 indices of vertices, 3 of normals, 3 of uvs */
  const float* vertices;       /* [V,3] world space, metres */
  const float* normals;        /* [N,3] outward, world space */
  const float* uvs;            /* [T,2]; may be null unless colours are a texture */
  const float* colours;        /* sRGB, see HrColourSource */
  const float* cameras;        /* [C,12] camera centre (3), rotation from world to the axes of the lights (9, by rows) */
  const float* ambient;        /* [9,3] light on a matt surface in harmonics of its normal; null for unlit colours */
  const float* lights;         /* [L,6] unit direction to the light (3), intensity (3) */
  const float* surface;        /* [5] specular reflectance, roughness, wrap in red, green, blue */
  const float* background;     /* [3] sRGB, or null: colours then come out straight, not multiplied by alpha */
  float* image_srgb;           /* out [C,H,W,3] */
  float* alpha;                /* out [C,H,W] share of samples that see a face */
  int64_t num_vertices;        /* V */
  int64_t num_normals;         /* N */
  int64_t num_uvs;             /* T */
  int64_t num_faces;           /* F */
  int32_t num_cameras;         /* C */
  int32_t height;              /* H of the picture */
  int32_t width;               /* W of the picture */
  int32_t factor;              /* s, samples per pixel and direction */
  int32_t colour_source;       /* HrColourSource */
  int32_t texture_height;      /* Th */
  int32_t texture_width;       /* Tw */
  int32_t num_lights;          /* L */
  int32_t num_threads;         /* threads to use, at least 1 */
} HrShadeParams;

HR_HD float hr_max0(float x) { return x > 0.0f ? x : 0.0f; }

/* Light from harmonics of degree 2 for a normal; sh strides over 3 colours. Basis as geometry/harmonics.py. */
HR_HD float hr_ambient(const float* sh, float x, float y, float z) {
  const float c0 = 0.28209479177387814f, c1 = 0.4886025119029199f, c2 = 1.0925484305920792f;
  const float c2z = 0.31539156525252005f, c2d = 0.5462742152960396f;
  return c0 * sh[0] + c1 * (sh[6] * z - sh[3] * y - sh[9] * x) + c2 * (sh[12] * x * y - sh[15] * y * z - sh[21] * x * z) +
         c2z * sh[18] * (3.0f * z * z - 1.0f) + c2d * sh[24] * (x * x - y * y);
}

/* Wrapped Lambert; scale is 1 / (1 + wrap)^2, which keeps the energy of plain Lambert. */
HR_HD float hr_wrapped(float n_l, float wrap, float scale) { return hr_max0((n_l + wrap) * scale); }

/* Specular answer times n.l and pi, from the dot products of normal, light and eye. */
HR_HD float hr_specular(float n_l, float v_l, float n_v, float reflectance, float alpha) {
  const float alpha_sq = alpha * alpha;
  const float half = 0.5f + 0.5f * v_l;
  const float half_sq = half > 1e-3f ? half : 1e-3f; /* (l.h)^2 */
  const float sum = n_l + n_v;
  const float n_h = sum * sum / (4.0f * half_sq);
  const float n_h_sq = n_h < 1.0f ? n_h : 1.0f;
  const float d = n_h_sq * (alpha_sq - 1.0f) + 1.0f;
  const float grazing = 1.0f - sqrtf(half_sq);
  const float g2 = grazing * grazing;
  const float fresnel = reflectance + (1.0f - reflectance) * g2 * g2 * grazing;
  const float lit = n_v > 0.0f ? hr_max0(n_l) : 0.0f;
  const float seen = n_v > 1e-3f ? n_v : 1e-3f;
  const float shadowing = (1.0f - alpha) * 2.0f * lit * seen + alpha * (lit + seen);
  return 0.5f * alpha_sq * fresnel * lit / (d * d * shadowing);
}

HR_HD float hr_srgb_to_linear(float s) { return s <= 0.04045f ? s / 12.92f : powf((s + 0.055f) / 1.055f, 2.4f); }
HR_HD float hr_linear_to_srgb(float l) {
  return l <= 0.0031308f ? l * 12.92f : 1.055f * powf(l, 1.0f / 2.4f) - 0.055f;
}

#endif
