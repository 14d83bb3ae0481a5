/* Triangle set-up of the rasterizer: projection, clipping, and the plane equations of edges and depth. CPU and GPU share
 * it, so that both decide every pixel's coverage from the same integers. */
#ifndef HR_RASTER_TRIANGLE_H
#define HR_RASTER_TRIANGLE_H

#include <math.h>

#include "rasterize.h"

namespace hr {

/* Triangles whose box is at most this wide and high may be walked in 32-bit integers: the edge functions over the box
 * and 16 pixels beyond it stay below (128 + 16) * 128 * 256 * 256 < 2^31. */
constexpr int kSmallSide = 128;
/* A triangle cut by five or six planes has at most this many corners. */
constexpr int kMaxClipped = 9;

struct HomPoint {
  float x, y, z; /* (x z, y z, z) */
};

struct SnappedPoint {
  int32_t x, y;  /* subpixels: decide coverage */
  float px, py;  /* pixels, as they are: decide depth, which on slivers is too sensitive for rounded corners */
  float inv_z;
  bool in_view;  /* between near and far and within the guard band; if not, nothing above means anything */
};

/* Edge functions and 1/z over the image: value at the centre of (x0, y0), change per pixel to the right and down. */
struct TrianglePlanes {
  int64_t edge[3], step_x[3], step_y[3]; /* inside is >= 0: 1 is taken off where an exact tie counts as outside */
  double inv_z, inv_z_dx, inv_z_dy;
};

struct TriangleBox {
  int32_t x0, x1, y0, y1;      /* pixels whose centres lie in the bounding box, end exclusive */
  float inv_z_min, inv_z_max;  /* range of 1/z over the corners: slivers extrapolate wildly without it */
  bool small;                  /* at most kSmallSide wide and high before it was cut to the image */
};

/* Whether a point cannot be projected and snapped as it is (NaN and infinity cannot). */
HR_HD bool outside_view(const HomPoint& p, float near_z, float far_z) {
  const float reach = HR_GUARD_BAND_PX * p.z;
  return !(p.z >= near_z && p.z <= far_z && p.z < INFINITY && p.x <= reach && p.x >= -reach && p.y <= reach && p.y >= -reach);
}

/* Divides, not multiplies by 1/z: the reference has to round to the same subpixel. lrintf rounds half to even, as torch. */
HR_HD SnappedPoint project(const HomPoint& p) {
  const float px = p.x / p.z, py = p.y / p.z;
  return {static_cast<int32_t>(lrintf(px * HR_SUBPIXELS)), static_cast<int32_t>(lrintf(py * HR_SUBPIXELS)), px, py,
          1.0f / p.z, true};
}

/* Signed distance to the clip plane with this number; inside is >= 0. */
HR_HD float clip_distance(int plane, const HomPoint& p, float near_z, float far_z) {
  switch (plane) {
    case 0: return p.z - near_z;
    case 1: return p.x + HR_GUARD_BAND_PX * p.z;
    case 2: return HR_GUARD_BAND_PX * p.z - p.x;
    case 3: return p.y + HR_GUARD_BAND_PX * p.z;
    case 4: return HR_GUARD_BAND_PX * p.z - p.y;
    default: return far_z - p.z;
  }
}

/* Always from the inner to the outer end, so that both faces of an edge compute the same point. */
HR_HD HomPoint clip_cut(const HomPoint& in, float d_in, const HomPoint& out, float d_out) {
  const float t = d_in / (d_in - d_out);
  return {in.x + t * (out.x - in.x), in.y + t * (out.y - in.y), in.z + t * (out.z - in.z)};
}

/* Clip a triangle against near, far and the guard band; writes the polygon's corners and returns how many (0 when nothing
 * is left). An edge shared by two faces is cut at exactly the same point in both, whichever way they run through it. */
HR_HD int clip_triangle(const HomPoint* corners, float near_z, float far_z, HomPoint* polygon) {
  HomPoint buffer[kMaxClipped];
  HomPoint *from = polygon, *to = buffer;
  int count = 3;
  for (int i = 0; i < 3; ++i) {
    if (!(isfinite(corners[i].x) && isfinite(corners[i].y) && isfinite(corners[i].z))) return 0;
    from[i] = corners[i];
  }
  const int planes = isfinite(far_z) ? 6 : 5;
  for (int plane = 0; plane < planes && count > 0; ++plane) {
    int kept = 0;
    for (int i = 0; i < count; ++i) {
      const HomPoint &a = from[i], &b = from[i + 1 == count ? 0 : i + 1];
      const float da = clip_distance(plane, a, near_z, far_z), db = clip_distance(plane, b, near_z, far_z);
      if (da >= 0.0f) to[kept++] = a;
      if (da >= 0.0f && db < 0.0f) to[kept++] = clip_cut(a, da, b, db);
      if (da < 0.0f && db >= 0.0f) to[kept++] = clip_cut(b, db, a, da);
    }
    HomPoint* swap = from;
    from = to;
    to = swap;
    count = kept;
  }
  if (from != polygon) {
    for (int i = 0; i < count; ++i) polygon[i] = from[i];
  }
  return count >= 3 ? count : 0;
}

/* Of numbers: what compares NaN, as fminf has to, is a function call on a CPU. */
template <class T>
HR_HD T min3(T a, T b, T c) {
  const T least = a < b ? a : b;
  return least < c ? least : c;
}

template <class T>
HR_HD T max3(T a, T b, T c) {
  const T most = a > b ? a : b;
  return most > c ? most : c;
}

/* 1/z over the image as a plane: its value at (px, py) and its slopes. */
HR_HD void set_depth_plane(const SnappedPoint& a, const SnappedPoint& b, const SnappedPoint& c, double px, double py,
                           TrianglePlanes& g) {
  const double abx = static_cast<double>(b.px) - a.px, aby = static_cast<double>(b.py) - a.py;
  const double acx = static_cast<double>(c.px) - a.px, acy = static_cast<double>(c.py) - a.py;
  const double abz = static_cast<double>(b.inv_z) - a.inv_z, acz = static_cast<double>(c.inv_z) - a.inv_z;
  const double area = abx * acy - aby * acx;
  /* Rounding alone gave this triangle an area: any depth between its corners will do, and the slopes mean nothing. */
  const double scale = fabs(area) > 1e-9 ? 1.0 / area : 0.0;
  g.inv_z_dx = (abz * acy - acz * aby) * scale;
  g.inv_z_dy = (acz * abx - abz * acx) * scale;
  g.inv_z = a.inv_z + (px - a.px) * g.inv_z_dx + (py - a.py) * g.inv_z_dy;
}

/* The edge function of s->e at (px, py), and its steps. */
HR_HD void set_edge(const SnappedPoint& s, const SnappedPoint& e, int32_t px, int32_t py, int64_t& edge, int64_t& step_x,
                    int64_t& step_y) {
  const int32_t dx = e.x - s.x, dy = e.y - s.y;
  edge = hr_edge_function(s.x, s.y, e.x, e.y, px, py) - (hr_edge_is_top_left(dx, dy) ? 0 : 1);
  step_x = -static_cast<int64_t>(dy) * HR_SUBPIXELS;
  step_y = static_cast<int64_t>(dx) * HR_SUBPIXELS;
}

/* Set up one projected triangle; false when it covers no pixel centre of the image, or is culled. */
HR_HD bool set_up_triangle(const HrRasterizeParams& p, const SnappedPoint& a, const SnappedPoint& second,
                           const SnappedPoint& third, TriangleBox& box, TrianglePlanes& g) {
  const int64_t signed_area = hr_edge_function(a.x, a.y, second.x, second.y, third.x, third.y);
  if (signed_area == 0) return false;
  /* y is down: outward faces (counter-clockwise to the eye) are negative. */
  if (signed_area > 0 && p.cull_backfaces) return false;
  const SnappedPoint &b = signed_area < 0 ? third : second, &c = signed_area < 0 ? second : third;
  const int32_t left = min3(a.x, b.x, c.x), right = max3(a.x, b.x, c.x);
  const int32_t top = min3(a.y, b.y, c.y), bottom = max3(a.y, b.y, c.y);
  const int32_t x0 = hr_first_pixel(left), x1 = hr_end_pixel(right), y0 = hr_first_pixel(top), y1 = hr_end_pixel(bottom);
  box.x0 = x0 < 0 ? 0 : x0;
  box.y0 = y0 < 0 ? 0 : y0;
  box.x1 = x1 > p.width ? p.width : x1;
  box.y1 = y1 > p.height ? p.height : y1;
  if (box.x0 >= box.x1 || box.y0 >= box.y1) return false;
  box.small = right - left <= kSmallSide * HR_SUBPIXELS && bottom - top <= kSmallSide * HR_SUBPIXELS;
  box.inv_z_min = min3(a.inv_z, b.inv_z, c.inv_z);
  box.inv_z_max = max3(a.inv_z, b.inv_z, c.inv_z);

  const int32_t px = box.x0 * HR_SUBPIXELS + HR_SUBPIXELS / 2, py = box.y0 * HR_SUBPIXELS + HR_SUBPIXELS / 2;
  set_edge(b, c, px, py, g.edge[0], g.step_x[0], g.step_y[0]);
  set_edge(c, a, px, py, g.edge[1], g.step_x[1], g.step_y[1]);
  set_edge(a, b, px, py, g.edge[2], g.step_x[2], g.step_y[2]);
  set_depth_plane(a, b, c, box.x0 + 0.5, box.y0 + 0.5, g);
  return true;
}

/* Whether pixel (x, y) of the box is inside, by the integer edge functions. */
HR_HD bool covers(const TrianglePlanes& g, const TriangleBox& box, int32_t x, int32_t y) {
  const int64_t across = x - box.x0, down = y - box.y0;
  int64_t together = 0;
  for (int i = 0; i < 3; ++i) together |= g.edge[i] + across * g.step_x[i] + down * g.step_y[i];
  return together >= 0;
}

/* 1/z at pixel (x, y) of the box, within the range of the corners. */
HR_HD float inv_z_at(const TrianglePlanes& g, const TriangleBox& box, int32_t x, int32_t y) {
  const int32_t across = x - box.x0, down = y - box.y0;
  float value;
  if (box.small) {
    const float row = static_cast<float>(g.inv_z) + static_cast<float>(down) * static_cast<float>(g.inv_z_dy);
    value = static_cast<float>(across) * static_cast<float>(g.inv_z_dx) + row;
  } else {
    value = static_cast<float>(g.inv_z + static_cast<double>(down) * g.inv_z_dy + static_cast<double>(across) * g.inv_z_dx);
  }
  value = value < box.inv_z_min ? box.inv_z_min : value;
  return value > box.inv_z_max ? box.inv_z_max : value;
}

}  // namespace hr

#endif
