// Clipping of triangles in homogeneous image space against near, far and the guard band.
#pragma once

#include "rasterize.h"

namespace hr {

struct HomPoint {
  float x, y, z;  // (x z, y z, z)
};

// A triangle cut by five or six planes has at most this many corners.
constexpr int kMaxClipped = 9;

// Whether the triangle can be projected and snapped as it is.
bool needs_clipping(const HomPoint* corners, float near_z, float far_z);

// Clip a triangle; writes the polygon's corners and returns how many (0 when nothing is left). An edge shared by two
// faces is cut at exactly the same point in both, whichever way they run through it.
int clip_triangle(const HomPoint* corners, float near_z, float far_z, HomPoint* polygon);

}  // namespace hr
