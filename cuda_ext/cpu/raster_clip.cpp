#include "raster_clip.h"

#include <cmath>

namespace hr {
namespace {

// Signed distance to the clip plane with this number; inside is >= 0.
float plane_distance(int plane, const HomPoint& p, float near_z, float far_z) {
  switch (plane) {
    case 0: return p.z - near_z;
    case 1: return p.x + HR_GUARD_BAND_PX * p.z;
    case 2: return HR_GUARD_BAND_PX * p.z - p.x;
    case 3: return p.y + HR_GUARD_BAND_PX * p.z;
    case 4: return HR_GUARD_BAND_PX * p.z - p.y;
    default: return far_z - p.z;
  }
}

// Always from the inner to the outer end, so that both faces of an edge compute the same point.
HomPoint cut(const HomPoint& in, float d_in, const HomPoint& out, float d_out) {
  const float t = d_in / (d_in - d_out);
  return {in.x + t * (out.x - in.x), in.y + t * (out.y - in.y), in.z + t * (out.z - in.z)};
}

}  // namespace

int clip_triangle(const HomPoint* corners, float near_z, float far_z, HomPoint* polygon) {
  HomPoint buffer[kMaxClipped];
  HomPoint *from = polygon, *to = buffer;
  int count = 3;
  for (int i = 0; i < 3; ++i) {
    if (!(std::isfinite(corners[i].x) && std::isfinite(corners[i].y) && std::isfinite(corners[i].z))) return 0;
    from[i] = corners[i];
  }
  const int planes = std::isfinite(far_z) ? 6 : 5;
  for (int plane = 0; plane < planes && count > 0; ++plane) {
    int kept = 0;
    for (int i = 0; i < count; ++i) {
      const HomPoint &a = from[i], &b = from[i + 1 == count ? 0 : i + 1];
      const float da = plane_distance(plane, a, near_z, far_z), db = plane_distance(plane, b, near_z, far_z);
      if (da >= 0.0f) to[kept++] = a;
      if (da >= 0.0f && db < 0.0f) to[kept++] = cut(a, da, b, db);
      if (da < 0.0f && db >= 0.0f) to[kept++] = cut(b, db, a, da);
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

}  // namespace hr
