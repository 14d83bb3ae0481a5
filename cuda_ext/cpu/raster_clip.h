// Clipping of triangles in homogeneous image space against near, far and the guard band.
#pragma once

#include "rasterize.h"

namespace hr {

struct HomPoint {
  float x, y, z;  // (x z, y z, z)
};

// A triangle cut by five or six planes has at most this many corners.
constexpr int kMaxClipped = 9;

// Whether a point cannot be projected and snapped as it is (NaN cannot).
inline bool outside_view(const HomPoint& p, float near_z, float far_z) {
  const float reach = HR_GUARD_BAND_PX * p.z;
  return !(p.z >= near_z && p.z <= far_z && p.x <= reach && p.x >= -reach && p.y <= reach && p.y >= -reach);
}

// Clip a triangle; writes the polygon's corners and returns how many (0 when nothing is left). An edge shared by two
// faces is cut at exactly the same point in both, whichever way they run through it.
int clip_triangle(const HomPoint* corners, float near_z, float far_z, HomPoint* polygon);

}  // namespace hr
