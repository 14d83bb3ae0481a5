/* Analytic antialiasing of outlines, and its adjoint, which moves them.
 *
 * After Laine et al., "Modular Primitives for High-Performance Differentiable Rendering", SIGGRAPH Asia 2020, section 3.5:
 * where an outline passes between the centres of two neighbouring pixels, the one of the two whose square it cuts takes
 * a share of the other's colour, 0 to a half, by how far from the middle it passes. That share depends on the edge's
 * vertices, so a picture's gradient reaches them.
 *
 * One thing is done differently. There the edge is looked for on the nearer pixel's face only. Near an outline the faces
 * of a fine mesh turn edge on and grow thinner than a pixel, so the edge mostly belongs to a face that no pixel sees. Here
 * the search walks from face to face along the line between the two centres until it meets an outline. */
#ifndef HR_ANTIALIAS_H
#define HR_ANTIALIAS_H

#include <math.h>

#include "hr_common.h"

#define HR_MAX_WALK 64

typedef struct HrAntialiasParams {
  const float* image;          /* [B,H,W,D] one sample per pixel */
  const int32_t* face_index;   /* [B,H,W] from the rasterizer */
  const float* depth_z;        /* [B,H,W] from the rasterizer */
  const float* points_hom;     /* [B,V,3] what was rasterized, see rasterize.h */
  const int32_t* faces;        /* [F,3] */
  const int32_t* neighbours;   /* [F,3] the face beyond the edge opposite to each corner, -1 where there is none */
  const float* grad_out;       /* [B,H,W,D] backward only, else null */
  float* out;                  /* [B,H,W,D] forward: the smoothed image; backward: gradient of the image */
  float* grad_points;          /* out [B,V,3] backward only, else null */
  float* pixels;               /* work space [B,V,2]: vertices in pixels, NaN behind the camera */
  uint8_t* outline;            /* work space [B,F]: bit k is set when edge k is an outline */
  uint8_t* rim;                /* work space [B,V]: 1 for ends of outlines */
  int64_t batch;               /* B */
  int64_t num_vertices;        /* V */
  int64_t num_faces;           /* F */
  int32_t height;              /* H */
  int32_t width;               /* W */
  int32_t channels;            /* D */
  int32_t num_threads;         /* threads to use, at least 1 */
} HrAntialiasParams;

/* What one image is made of; all pointers are those of its first element. */
typedef struct HrOutlineView {
  const float* pixels;
  const uint8_t* outline;
  const uint8_t* rim;
  const int32_t* faces;
  const int32_t* neighbours;
  const int32_t* face_index;
  const float* depth_z;
  int32_t width;
} HrOutlineView;

/* One pixel that takes a share of its neighbour. */
typedef struct HrBlend {
  int64_t into;        /* pixel that changes: out[into] += share (image[from] - image[into]) */
  int64_t from;
  float share;         /* 0 .. 0.5 */
  int32_t vertex[2];   /* ends of the outline edge */
  float slope[4];      /* change of the share per pixel that the ends move: x0, y0, x1, y1 */
} HrBlend;

/* A vertex in pixels; NaN when it has no place in the image. */
HR_HD void hr_to_pixels(const float* h, float* pixel) {
  const int front = h[2] > 0.0f;
  const float x = h[0] / (front ? h[2] : 1.0f), y = h[1] / (front ? h[2] : 1.0f);
  /* Beyond a million pixels float32 cannot tell where an edge crosses. */
  const int sane = front && x > -1e6f && x < 1e6f && y > -1e6f && y < 1e6f;
  pixel[0] = sane ? x : NAN;
  pixel[1] = sane ? y : NAN;
}

/* The corner of `face` that is neither of two vertices; 0 if the tables contradict each other. */
HR_HD int hr_other_corner(const int32_t* corner, int32_t a, int32_t b) {
  for (int k = 0; k < 3; ++k) {
    if (corner[k] != a && corner[k] != b) return k;
  }
  return 0;
}

/* Which edges of a face are outlines, one bit each: those without a face beyond, and those whose other face lies on the
 * same side in the image. An edge of which a vertex has no place in the image is none. */
HR_HD uint8_t hr_outline_bits(const float* pixels, const int32_t* faces, const int32_t* neighbours, int32_t face) {
  const int32_t* corner = faces + 3 * (int64_t)face;
  uint8_t bits = 0;
  for (int k = 0; k < 3; ++k) {
    const int32_t a = corner[(k + 1) % 3], b = corner[(k + 2) % 3];
    const float *p = pixels + 2 * (int64_t)a, *q = pixels + 2 * (int64_t)b, *r = pixels + 2 * (int64_t)corner[k];
    const float dx = q[0] - p[0], dy = q[1] - p[1];
    const float own = dx * (r[1] - p[1]) - dy * (r[0] - p[0]);
    const int32_t beyond = neighbours[3 * (int64_t)face + k];
    float other = own;
    if (beyond >= 0) {
      const int32_t* opposite = faces + 3 * (int64_t)beyond;
      const float* s = pixels + 2 * (int64_t)opposite[hr_other_corner(opposite, a, b)];
      other = dx * (s[1] - p[1]) - dy * (s[0] - p[0]);
    }
    if ((own > 0.0f && other > 0.0f) || (own < 0.0f && other < 0.0f)) bits = (uint8_t)(bits | (1 << k));
  }
  return bits;
}

/* Whether two faces meet in a vertex that no outline touches: they are parts of one sheet, and nothing has to be done
 * between them. This spares the walk at nearly every pair inside a fine mesh. */
HR_HD int hr_one_sheet(const HrOutlineView* view, int32_t face_a, int32_t face_b) {
  const int32_t *a = view->faces + 3 * (int64_t)face_a, *b = view->faces + 3 * (int64_t)face_b;
  for (int i = 0; i < 3; ++i) {
    if ((a[i] == b[0] || a[i] == b[1] || a[i] == b[2]) && !view->rim[a[i]]) return 1;
  }
  return 0;
}

/* Follow the line from the centre (cx, cy) of a pixel that sees `face` to its neighbour's, one pixel away along axis 0
 * (x) or 1 (y) in the given direction (+1 or -1), to the first outline. Fills share, vertex and slope of `blend` as if
 * the neighbour were to change (share > 0) or the pixel itself (share < 0, slope likewise to be negated). Returns 0 when no
 * outline lies between, or one that runs more along the line than across it (the other axis' pairs see to that one). */
HR_HD int hr_walk_to_outline(const HrOutlineView* view, int32_t face, float cx, float cy, int axis, float direction,
                             HrBlend* blend) {
  int entry = -1;
  for (int step = 0; step < HR_MAX_WALK; ++step) {
    const int32_t* corner = view->faces + 3 * (int64_t)face;
    float along[3], beside[3];
    for (int k = 0; k < 3; ++k) {
      const float* at = view->pixels + 2 * (int64_t)corner[k];
      along[k] = (axis == 0 ? at[0] - cx : at[1] - cy) * direction;
      beside[k] = axis == 0 ? at[1] - cy : at[0] - cx;
      if (!(along[k] == along[k])) return 0;
    }
    int out = -1;
    float crossing = 0.0f;
    for (int k = 0; k < 3; ++k) {
      const int p = (k + 1) % 3, q = (k + 2) % 3;
      if (k == entry || (beside[p] < 0.0f) == (beside[q] < 0.0f)) continue;
      const float at = (along[p] * beside[q] - along[q] * beside[p]) / (beside[q] - beside[p]);
      if (out < 0 || at > crossing) {
        out = k;
        crossing = at;
      }
    }
    if (out < 0 || !(crossing < 1.0f)) return 0;
    const int p = (out + 1) % 3, q = (out + 2) % 3;
    if ((view->outline[face] >> out) & 1) {
      const float da = along[p] - along[q], db = beside[q] - beside[p];
      const float length_a = da < 0.0f ? -da : da, length_b = db < 0.0f ? -db : db;
      /* At exactly 45 degrees the horizontal pairs have it. */
      if (axis == 0 ? length_a > length_b : length_a >= length_b) return 0;
      const int cut = !(crossing > 0.0f); /* rounding to subpixels put the centre inside */
      const float scale = cut ? 0.0f : 1.0f / db, tilt = da * scale;
      blend->share = (cut ? 0.0f : crossing) - 0.5f;
      blend->vertex[0] = corner[p];
      blend->vertex[1] = corner[q];
      const float along_p = beside[q] * scale * direction, along_q = -beside[p] * scale * direction;
      const float beside_p = beside[q] * scale * tilt, beside_q = -beside[p] * scale * tilt;
      blend->slope[0] = axis == 0 ? along_p : beside_p;
      blend->slope[1] = axis == 0 ? beside_p : along_p;
      blend->slope[2] = axis == 0 ? along_q : beside_q;
      blend->slope[3] = axis == 0 ? beside_q : along_q;
      return 1;
    }
    const int32_t next = view->neighbours[3 * (int64_t)face + out];
    if (next < 0) return 0; /* an edge without area beside it */
    const int32_t* beyond = view->faces + 3 * (int64_t)next;
    entry = hr_other_corner(beyond, corner[p], corner[q]);
    face = next;
  }
  return 0;
}

/* The pair of pixel (x, y) and its neighbour to the right (axis 0) or below (axis 1), which must exist. Returns 1 and
 * fills `blend` when one takes a share of the other. */
HR_HD int hr_blend_pair(const HrOutlineView* view, int32_t x, int32_t y, int axis, HrBlend* blend) {
  const int64_t first = (int64_t)y * view->width + x, second = first + (axis == 0 ? 1 : view->width);
  const int32_t a = view->face_index[first], b = view->face_index[second];
  if (a == b || (a >= 0 && b >= 0 && hr_one_sheet(view, a, b))) return 0;
  /* The nearer surface has the outline. */
  const int from_first = b < 0 || (a >= 0 && view->depth_z[first] <= view->depth_z[second]);
  const float cx = (float)x + 0.5f + (!from_first && axis == 0 ? 1.0f : 0.0f);
  const float cy = (float)y + 0.5f + (!from_first && axis == 1 ? 1.0f : 0.0f);
  if (!hr_walk_to_outline(view, from_first ? a : b, cx, cy, axis, from_first ? 1.0f : -1.0f, blend)) return 0;
  const int64_t near = from_first ? first : second, far = from_first ? second : first;
  const int beyond_middle = blend->share > 0.0f;
  blend->into = beyond_middle ? far : near;
  blend->from = beyond_middle ? near : far;
  if (!beyond_middle) {
    blend->share = -blend->share;
    for (int k = 0; k < 4; ++k) blend->slope[k] = -blend->slope[k];
  }
  return 1;
}

/* From a gradient in pixels to one of the homogeneous point (x z, y z, z). */
HR_HD void hr_pixel_grad_to_hom(const float* h, float gx, float gy, float* grad) {
  const float inv_z = 1.0f / h[2];
  grad[0] = gx * inv_z;
  grad[1] = gy * inv_z;
  grad[2] = -(gx * h[0] + gy * h[1]) * inv_z * inv_z;
}

#endif
