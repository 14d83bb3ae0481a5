/* Mesh rasterization: parameters, and the per-element maths that CPU and GPU share.
 *
 * Vertices come in homogeneous image space: h = K (R X + t) = (x z, y z, z), pixels times metres and metres. They are
 * linear in the world position, so nothing has to be divided for a vertex at or behind the camera, and the
 * perspective-correct barycentrics of a pixel follow from three cross products (Olano and Greer, "Triangle Scan
 * Conversion using 2D Homogeneous Coordinates", Graphics Hardware 1997, section 4).
 *
 * Coverage is decided in integers: projected vertices are rounded to 1/256 pixel, pixel centres lie at +0.5, and a
 * centre exactly on an edge belongs to the triangle for which the edge is a left or a top one. So two faces that share
 * an edge never leave a hole between them and never cover a pixel twice. */
#ifndef HR_RASTERIZE_H
#define HR_RASTERIZE_H

#include "hr_common.h"

#define HR_SUBPIXEL_BITS 8
#define HR_SUBPIXELS (1 << HR_SUBPIXEL_BITS)
#define HR_MAX_IMAGE_SIDE 16384
/* Vertices beyond this many pixels from the origin are clipped first: products of differences then fit 64 bits, and
 * are exact in double. */
#define HR_GUARD_BAND_PX 32768.0f

typedef struct HrRasterizeParams {
  const float* points_hom;   /* [B,V,3] homogeneous image space (x z, y z, z) */
  const int32_t* faces;      /* [F,3] vertex indices, shared by the batch */
  int32_t* face_index;       /* out [B,H,W] nearest face, -1 where there is none */
  float* barycentrics;       /* out [B,H,W,3] perspective-correct, >= 0, sum 1; 0 where there is no face */
  float* depth_z;            /* out [B,H,W] metres along the optical axis; 0 where there is no face */
  int64_t batch;             /* B */
  int64_t num_vertices;      /* V */
  int64_t num_faces;         /* F */
  int32_t height;            /* H, at most HR_MAX_IMAGE_SIDE */
  int32_t width;             /* W, at most HR_MAX_IMAGE_SIDE */
  float near_z;              /* metres, > 0: surfaces nearer than this are cut away */
  float far_z;               /* metres, > near_z, may be infinite: surfaces beyond are cut away */
  int32_t cull_backfaces;    /* nonzero: drop faces whose vertices run clockwise as seen by the camera */
  int32_t num_threads;       /* threads to use, at least 1 */
  int32_t isa;               /* HrIsa */
} HrRasterizeParams;

/* Backward: how the vertices moved the barycentrics and depths of the pixels. Which face a pixel sees is a constant here
 * (antialias.h makes outlines move). */
typedef struct HrRasterizeGradParams {
  const float* points_hom;        /* [B,V,3] as in the forward call */
  const int32_t* faces;           /* [F,3] */
  const int32_t* face_index;      /* [B,H,W] from the forward call */
  const float* grad_barycentrics; /* [B,H,W,3], or null for zero */
  const float* grad_depth;        /* [B,H,W], or null for zero */
  float* grad_points;             /* out [B,V,3] */
  int64_t batch;                  /* B */
  int64_t num_vertices;           /* V */
  int64_t num_faces;              /* F */
  int32_t height;                 /* H */
  int32_t width;                  /* W */
  int32_t num_threads;            /* threads to use, at least 1 */
  int32_t isa;                    /* HrIsa */
} HrRasterizeGradParams;

/* Twice the signed area of (a,b,p) in square subpixels: > 0 when p lies to the right of a->b in an image with y down. */
HR_HD int64_t hr_edge_function(int32_t ax, int32_t ay, int32_t bx, int32_t by, int32_t px, int32_t py) {
  return (int64_t)(bx - ax) * (py - ay) - (int64_t)(by - ay) * (px - ax);
}

/* Whether a centre exactly on the edge with this direction counts as inside (triangle oriented so that inside is > 0). */
HR_HD int hr_edge_is_top_left(int32_t dx, int32_t dy) { return dy < 0 || (dy == 0 && dx > 0); }

/* First pixel whose centre is at or right of a subpixel coordinate, and one past the last at or left of it. */
HR_HD int32_t hr_first_pixel(int32_t s) { return (s + HR_SUBPIXELS / 2 - 1) >> HR_SUBPIXEL_BITS; }
HR_HD int32_t hr_end_pixel(int32_t s) { return (s + HR_SUBPIXELS / 2) >> HR_SUBPIXEL_BITS; }

/* Perspective-correct barycentrics of the pixel (px,py) on a face with homogeneous vertices (x_i, y_i, z_i).
 * With d_i = h_i.xy - p h_i.z, each weight is proportional to the cross product of the other two d. Rounding the
 * vertices for coverage can leave a centre outside by 1/256 px: negative weights are cut to 0. A face seen exactly edge on
 * has no barycentrics; it gets equal weights. Returns the interpolated depth. */
HR_HD float hr_barycentrics_at(float x0, float y0, float z0, float x1, float y1, float z1, float x2, float y2, float z2,
                               float px, float py, float* lambda0, float* lambda1, float* lambda2) {
  const float d0x = x0 - px * z0, d0y = y0 - py * z0;
  const float d1x = x1 - px * z1, d1y = y1 - py * z1;
  const float d2x = x2 - px * z2, d2y = y2 - py * z2;
  float e0 = d1x * d2y - d1y * d2x;
  float e1 = d2x * d0y - d2y * d0x;
  float e2 = d0x * d1y - d0y * d1x;
  const float sign = (e0 + e1 + e2) < 0.0f ? -1.0f : 1.0f;
  e0 = e0 * sign > 0.0f ? e0 * sign : 0.0f;
  e1 = e1 * sign > 0.0f ? e1 * sign : 0.0f;
  e2 = e2 * sign > 0.0f ? e2 * sign : 0.0f;
  const float total = e0 + e1 + e2;
  const int flat = !(total > 1e-30f);
  const float scale = 1.0f / (flat ? 1.0f : total);
  const float l0 = flat ? 1.0f / 3.0f : e0 * scale;
  const float l1 = flat ? 1.0f / 3.0f : e1 * scale;
  const float l2 = flat ? 1.0f / 3.0f : e2 * scale;
  *lambda0 = l0;
  *lambda1 = l1;
  *lambda2 = l2;
  return l0 * z0 + l1 * z1 + l2 * z2;
}

/* The adjoint of hr_barycentrics_at: from the gradients of the three weights (g0,g1,g2) and of the depth (gd) to those
 * of the corners, grad[9] = (x0,y0,z0, x1,y1,z1, x2,y2,z2). A weight that was cut to 0 passes nothing on. */
HR_HD void hr_barycentrics_grad(float x0, float y0, float z0, float x1, float y1, float z1, float x2, float y2, float z2,
                                float px, float py, float g0, float g1, float g2, float gd, float* grad) {
  const float d0x = x0 - px * z0, d0y = y0 - py * z0;
  const float d1x = x1 - px * z1, d1y = y1 - py * z1;
  const float d2x = x2 - px * z2, d2y = y2 - py * z2;
  float e0 = d1x * d2y - d1y * d2x;
  float e1 = d2x * d0y - d2y * d0x;
  float e2 = d0x * d1y - d0y * d1x;
  const float sign = (e0 + e1 + e2) < 0.0f ? -1.0f : 1.0f;
  e0 *= sign;
  e1 *= sign;
  e2 *= sign;
  const float c0 = e0 > 0.0f ? e0 : 0.0f, c1 = e1 > 0.0f ? e1 : 0.0f, c2 = e2 > 0.0f ? e2 : 0.0f;
  const float total = c0 + c1 + c2;
  const int flat = !(total > 1e-30f);
  const float scale = flat ? 0.0f : 1.0f / (flat ? 1.0f : total);
  const float third = 1.0f / 3.0f;
  const float l0 = flat ? third : c0 * scale, l1 = flat ? third : c1 * scale, l2 = flat ? third : c2 * scale;
  /* depth = sum of l z, so its gradient joins those of the weights */
  const float w0 = g0 + gd * z0, w1 = g1 + gd * z1, w2 = g2 + gd * z2;
  const float mean = l0 * w0 + l1 * w1 + l2 * w2;
  const float s = sign * scale;
  const float q0 = e0 >= 0.0f ? (w0 - mean) * s : 0.0f;
  const float q1 = e1 >= 0.0f ? (w1 - mean) * s : 0.0f;
  const float q2 = e2 >= 0.0f ? (w2 - mean) * s : 0.0f;
  const float a0 = q2 * d1y - q1 * d2y, b0 = q1 * d2x - q2 * d1x;
  const float a1 = q0 * d2y - q2 * d0y, b1 = q2 * d0x - q0 * d2x;
  const float a2 = q1 * d0y - q0 * d1y, b2 = q0 * d1x - q1 * d0x;
  grad[0] = a0;
  grad[1] = b0;
  grad[2] = gd * l0 - px * a0 - py * b0;
  grad[3] = a1;
  grad[4] = b1;
  grad[5] = gd * l1 - px * a1 - py * b1;
  grad[6] = a2;
  grad[7] = b2;
  grad[8] = gd * l2 - px * a2 - py * b2;
}

/* How the barycentrics change per pixel to the right (slope[0..2]) and down (slope[3..5]). 0 for a face seen edge on. */
HR_HD void hr_barycentric_slopes(float x0, float y0, float z0, float x1, float y1, float z1, float x2, float y2, float z2,
                                 float px, float py, float* slope) {
  const float d0x = x0 - px * z0, d0y = y0 - py * z0;
  const float d1x = x1 - px * z1, d1y = y1 - py * z1;
  const float d2x = x2 - px * z2, d2y = y2 - py * z2;
  const float e0 = d1x * d2y - d1y * d2x, e1 = d2x * d0y - d2y * d0x, e2 = d0x * d1y - d0y * d1x;
  const float total = e0 + e1 + e2;
  const int flat = !(total > 1e-30f || total < -1e-30f);
  const float scale = flat ? 0.0f : 1.0f / (flat ? 1.0f : total);
  const float r0 = d1y * z2 - z1 * d2y, r1 = d2y * z0 - z2 * d0y, r2 = d0y * z1 - z0 * d1y; /* of e, to the right */
  const float t0 = z1 * d2x - d1x * z2, t1 = z2 * d0x - d2x * z0, t2 = z0 * d1x - d0x * z1; /* and down */
  const float r = r0 + r1 + r2, t = t0 + t1 + t2;
  const float l0 = e0 * scale, l1 = e1 * scale, l2 = e2 * scale;
  slope[0] = (r0 - l0 * r) * scale;
  slope[1] = (r1 - l1 * r) * scale;
  slope[2] = (r2 - l2 * r) * scale;
  slope[3] = (t0 - l0 * t) * scale;
  slope[4] = (t1 - l1 * t) * scale;
  slope[5] = (t2 - l2 * t) * scale;
}

#endif
