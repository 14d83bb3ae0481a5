// The row stage of the CPU rasterizer: depth-tested triangles into a band, then barycentrics of what is visible.
// Included once per instruction set, with HR_LANES and HR_STAGE defined. Written with the compilers' vector extension, so
// that one source serves AVX-512, AVX2 and NEON; everything has internal linkage.

#include "raster_setup.h"

namespace hr {
namespace {

typedef int32_t VecI __attribute__((vector_size(HR_LANES * 4), aligned(4), may_alias));
typedef float VecF __attribute__((vector_size(HR_LANES * 4), aligned(4), may_alias));

struct Lanes {
  VecI index;
  VecF findex;
};

inline Lanes make_lanes() {
  Lanes lanes;
  for (int i = 0; i < HR_LANES; ++i) {
    lanes.index[i] = i;
    lanes.findex[i] = static_cast<float>(i);
  }
  return lanes;
}

// Depth test and write: nearer wins, and of equal depths the lower face index (faces arrive in ascending order).
inline void write_lanes(float* z, int32_t* f, VecI inside, VecF inv_z, const Triangle& t) {
  inv_z = inv_z < t.inv_z_min ? VecF{} + t.inv_z_min : inv_z;
  inv_z = inv_z > t.inv_z_max ? VecF{} + t.inv_z_max : inv_z;
  VecF& z_old = *reinterpret_cast<VecF*>(z);
  VecI& f_old = *reinterpret_cast<VecI*>(f);
  const VecI pass = inside & (inv_z > z_old);
  z_old = pass ? inv_z : z_old;
  f_old = pass ? VecI{} + t.face : f_old;
}

void draw_small(const Band& band, const Triangle& t, const Lanes& lanes) {
  const int y_first = t.y0 > band.y0 ? t.y0 : band.y0, y_end = t.y1 < band.y1 ? t.y1 : band.y1;
  const VecI offset0 = lanes.index * t.step_x[0], offset1 = lanes.index * t.step_x[1], offset2 = lanes.index * t.step_x[2];
  const VecF z_offset = lanes.findex * t.inv_z_dx;
  for (int y = y_first; y < y_end; ++y) {
    const int down = y - t.y0;
    int32_t e0 = t.edge[0] + down * t.step_y[0], e1 = t.edge[1] + down * t.step_y[1], e2 = t.edge[2] + down * t.step_y[2];
    const int64_t row = static_cast<int64_t>(y - band.y0) * band.stride;
    const float z_row = t.inv_z + static_cast<float>(down) * t.inv_z_dy;
    for (int x = t.x0; x < t.x1; x += HR_LANES) {
      // No lane beyond the box needs masking: outside the box is outside the triangle.
      const VecI inside = ((offset0 + e0) | (offset1 + e1) | (offset2 + e2)) >= 0;
      const VecF inv_z = z_offset + (z_row + static_cast<float>(x - t.x0) * t.inv_z_dx);
      write_lanes(band.inv_z + row + x, band.face + row + x, inside, inv_z, t);
      e0 += HR_LANES * t.step_x[0];
      e1 += HR_LANES * t.step_x[1];
      e2 += HR_LANES * t.step_x[2];
    }
  }
}

inline int64_t floor_div(int64_t a, int64_t b) {  // b > 0
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

// Large triangles: the span of each row follows exactly from one division per edge, then no edge is tested per pixel.
void draw_large(const Band& band, const Triangle& t, const LargeTriangle& g, const Lanes& lanes) {
  const int y_first = t.y0 > band.y0 ? t.y0 : band.y0, y_end = t.y1 < band.y1 ? t.y1 : band.y1;
  const VecF z_offset = lanes.findex * t.inv_z_dx;
  for (int y = y_first; y < y_end; ++y) {
    const int64_t down = y - t.y0;
    int64_t first = 0, end = t.x1 - t.x0;
    for (int i = 0; i < 3; ++i) {
      const int64_t e = g.edge[i] + down * g.step_y[i], step = g.step_x[i];
      if (step > 0) {
        const int64_t at = floor_div(-e + step - 1, step);  // first pixel with e + n step >= 0
        first = at > first ? at : first;
      } else if (step < 0) {
        const int64_t at = floor_div(e, -step) + 1;  // one past the last
        end = at < end ? at : end;
      } else if (e < 0) {
        end = first;
      }
    }
    const int64_t row = (y - band.y0) * static_cast<int64_t>(band.stride) + t.x0;
    const double z_row = g.inv_z + static_cast<double>(down) * g.inv_z_dy;
    for (int64_t n = first; n < end; n += HR_LANES) {
      const VecI inside = lanes.index < static_cast<int32_t>(end - n);
      const VecF inv_z = z_offset + static_cast<float>(z_row + static_cast<double>(n) * g.inv_z_dx);
      write_lanes(band.inv_z + row + n, band.face + row + n, inside, inv_z, t);
    }
  }
}

void draw(const Band& band, const Triangle* triangles, const LargeTriangle* large, const uint32_t* order, int64_t count) {
  const Lanes lanes = make_lanes();
  for (int64_t i = 0; i < count; ++i) {
    const Triangle& t = triangles[order[i]];
    if (t.large < 0) {
      draw_small(band, t, lanes);
    } else {
      draw_large(band, t, large[t.large], lanes);
    }
  }
}

// The corners of the faces of one vector of pixels, and what follows from them.
struct ResolveLanes {
  float corner[9][HR_LANES];
  float lambda[3][HR_LANES];
  float depth[HR_LANES];
};

inline bool all_empty(const int32_t* face) {
  int32_t together = -1;
  for (int i = 0; i < HR_LANES; ++i) together &= face[i];
  return together == -1;
}

void resolve(const Band& band, const HrRasterizeParams& p, int64_t image) {
  const float* points = p.points_hom + image * p.num_vertices * 3;
  ResolveLanes r = {};
  for (int y = band.y0; y < band.y1; ++y) {
    const int32_t* face_row = band.face + static_cast<int64_t>(y - band.y0) * band.stride;
    const int64_t row = (image * p.height + y) * p.width;
    const float py = static_cast<float>(y) + 0.5f;
    for (int x = 0; x < p.width; x += HR_LANES) {
      const int32_t* face = face_row + x;  // the row's padding is empty, or covered by nothing that is written below
      const int lanes = p.width - x < HR_LANES ? p.width - x : HR_LANES;
      float* lambda = p.barycentrics + (row + x) * 3;
      for (int i = 0; i < lanes; ++i) p.face_index[row + x + i] = face[i];
      if (all_empty(face)) {
        for (int i = 0; i < 3 * lanes; ++i) lambda[i] = 0.0f;
        for (int i = 0; i < lanes; ++i) p.depth_z[row + x + i] = 0.0f;
        continue;
      }
      for (int i = 0; i < HR_LANES; ++i) {
        const int32_t* corner = p.faces + static_cast<int64_t>(face[i] < 0 ? 0 : face[i]) * 3;
        for (int k = 0; k < 3; ++k) {
          const float* h = points + static_cast<int64_t>(corner[k]) * 3;
          r.corner[3 * k][i] = h[0];
          r.corner[3 * k + 1][i] = h[1];
          r.corner[3 * k + 2][i] = h[2];
        }
      }
      const auto& c = r.corner;
      for (int i = 0; i < HR_LANES; ++i) {
        r.depth[i] = hr_barycentrics_at(c[0][i], c[1][i], c[2][i], c[3][i], c[4][i], c[5][i], c[6][i], c[7][i], c[8][i],
                                        static_cast<float>(x + i) + 0.5f, py, &r.lambda[0][i], &r.lambda[1][i],
                                        &r.lambda[2][i]);
      }
      for (int i = 0; i < lanes; ++i) {
        const bool empty = face[i] < 0;
        for (int k = 0; k < 3; ++k) lambda[3 * i + k] = empty ? 0.0f : r.lambda[k][i];
        p.depth_z[row + x + i] = empty ? 0.0f : r.depth[i];
      }
    }
  }
}

}  // namespace

const RowStage HR_STAGE = {draw, resolve};

}  // namespace hr
