// The row stage of the CPU rasterizer: depth-tested triangles into a band, then barycentrics of what is visible.
// Included once per instruction set, with HR_LANES and HR_STAGE defined. Written with the compilers' vector extension, so
// that one source serves AVX-512, AVX2 and NEON; everything has internal linkage.

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <string.h>

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

inline VecF all(float value) { return value - VecF{}; }  // a broadcast; to add 0 would have to be done, for -0

inline VecI all(int32_t value) { return VecI{} + value; }

// What every vector of a triangle needs.
struct Range {
  VecF low, high;
  VecI face;
};

inline Range range_of(const Triangle& t) { return {all(t.inv_z_min), all(t.inv_z_max), all(t.face)}; }

// Depth test and write: nearer wins, and of equal depths the lower face index (faces arrive in ascending order).
inline void write_lanes(float* z, int32_t* f, VecI inside, VecF inv_z, const Range& range) {
  inv_z = inv_z < range.low ? range.low : inv_z;
  inv_z = inv_z > range.high ? range.high : inv_z;
  const VecF z_old = *reinterpret_cast<const VecF*>(z);
  const VecI f_old = *reinterpret_cast<const VecI*>(f);
  const VecI pass = inside & (inv_z > z_old);
  *reinterpret_cast<VecF*>(z) = pass ? inv_z : z_old;
  *reinterpret_cast<VecI*>(f) = pass ? range.face : f_old;
}

// Column after column of vectors, for most triangles only one; each starts at a multiple of HR_LANES (raster_setup.h).
// No lane beyond the box needs masking: outside the box is outside the triangle. Depth as inv_z_at has it.
void draw_small(const Band& band, const Triangle& t, const Lanes& lanes) {
  const int y_first = t.y0 > band.y0 ? t.y0 : band.y0, y_end = t.y1 < band.y1 ? t.y1 : band.y1;
  const int32_t step_x2 = -t.step_x[0] - t.step_x[1], step_y2 = -t.step_y[0] - t.step_y[1];
  const int down = y_first - t.y0;
  const int32_t row0 = t.edge[0] + down * t.step_y[0], row1 = t.edge[1] + down * t.step_y[1];
  const int32_t row2 = t.edge[2] + down * step_y2;
  const Range range = range_of(t);
  const VecI offset0 = lanes.index * t.step_x[0], offset1 = lanes.index * t.step_x[1];
  for (int x = t.x0 & -HR_LANES; x < t.x1; x += HR_LANES) {
    const int across = x - t.x0;
    VecI e0 = offset0 + (row0 + across * t.step_x[0]), e1 = offset1 + (row1 + across * t.step_x[1]);
    VecI e2 = (row2 + across * step_x2) - offset0 - offset1;
    const VecF z_across = (lanes.findex + static_cast<float>(across)) * t.inv_z_dx;
    int64_t at = static_cast<int64_t>(y_first - band.y0) * band.stride + x;
    for (int y = y_first; y < y_end; ++y, at += band.stride) {
      const VecI inside = (e0 | e1 | e2) >= 0;
      const float z_row = t.inv_z + static_cast<float>(y - t.y0) * t.inv_z_dy;
      write_lanes(band.inv_z + at, band.face + at, inside, z_across + z_row, range);
      e0 += t.step_y[0];
      e1 += t.step_y[1];
      e2 += step_y2;
    }
  }
}

inline int64_t floor_div(int64_t a, int64_t b) {  // b > 0
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

// Large triangles: the span of each row follows exactly from one division per edge, then no edge is tested per pixel.
void draw_large(const Band& band, const Triangle& t, const LargeTriangle& g, const Lanes& lanes) {
  const int y_first = t.y0 > band.y0 ? t.y0 : band.y0, y_end = t.y1 < band.y1 ? t.y1 : band.y1;
  const Range range = range_of(t);
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
    if (first >= end) continue;
    const int x_first = t.x0 + static_cast<int>(first), x_end = t.x0 + static_cast<int>(end);
    const int64_t row = (y - band.y0) * static_cast<int64_t>(band.stride);
    const double z_row = g.inv_z + static_cast<double>(down) * g.inv_z_dy;
    for (int x = x_first & -HR_LANES; x < x_end; x += HR_LANES) {
      const VecI inside = (lanes.index >= x_first - x) & (lanes.index < x_end - x);
      VecF inv_z;
      for (int i = 0; i < HR_LANES; ++i) inv_z[i] = static_cast<float>(z_row + static_cast<double>(x + i - t.x0) * g.inv_z_dx);
      write_lanes(band.inv_z + row + x, band.face + row + x, inside, inv_z, range);
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
struct alignas(HR_LANES * 4) ResolveLanes {
  float corner[9][HR_LANES];
  float lambda[3][HR_LANES];
  float depth[HR_LANES];
};

inline bool all_empty(const int32_t* face) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(_mm512_loadu_si512(face)) == 0xffff;
#else
  int32_t together = -1;
  for (int i = 0; i < HR_LANES; ++i) together &= face[i];
  return together == -1;
#endif
}

// A bit for each pixel that does not see what its left neighbour sees, and for the first.
inline uint32_t run_starts(const int32_t* face) {
#if defined(__AVX512F__)
  const __m512i here = _mm512_loadu_si512(face), left = _mm512_loadu_si512(face - 1);
  return _mm512_cmpneq_epi32_mask(here, left) | 1u;
#elif defined(__AVX2__)
  const __m256i here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(face));
  const __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(face - 1));
  return (~_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(here, left))) & 0xffu) | 1u;
#else
  uint32_t bits = 1;
  for (int i = 1; i < HR_LANES; ++i) bits |= static_cast<uint32_t>(face[i] != face[i - 1]) << i;
  return bits;
#endif
}

// Neighbours mostly see the same face: its corners go to all of its lanes at once. Written lane by lane, they would have to
// be read back before they are in the cache.
inline void load_corners(const HrRasterizeParams& p, const float* points, const int32_t* face, ResolveLanes& r) {
  const VecI faces = *reinterpret_cast<const VecI*>(face);
  VecF corners[9] = {};
  for (uint32_t bits = run_starts(face); bits != 0; bits &= bits - 1) {
    const int32_t first = face[__builtin_ctz(bits)];
    const int32_t* corner = p.faces + static_cast<int64_t>(first < 0 ? 0 : first) * 3;
    const VecI same = faces == first;
    for (int k = 0; k < 3; ++k) {
      const float* h = points + static_cast<int64_t>(corner[k]) * 3;
      for (int j = 0; j < 3; ++j) corners[3 * k + j] = same ? all(h[j]) : corners[3 * k + j];
    }
  }
  for (int k = 0; k < 9; ++k) *reinterpret_cast<VecF*>(r.corner[k]) = corners[k];
}

// Where the elements of a0 b0 c0 a1 b1 c1 ... come from: of each of its three vectors, first from (a, b), then from that
// and c. A table, as the compiler would work it out for every pixel.
struct alignas(HR_LANES * 4) Interleaving {
  int32_t from_two[3][HR_LANES], from_third[3][HR_LANES];

  constexpr Interleaving() : from_two(), from_third() {
    for (int at = 0; at < 3 * HR_LANES; ++at) {
      from_two[at / HR_LANES][at % HR_LANES] = at / 3 + (at % 3 == 1 ? HR_LANES : 0);
      from_third[at / HR_LANES][at % HR_LANES] = at % 3 == 2 ? HR_LANES + at / 3 : at % HR_LANES;
    }
  }
};
constexpr Interleaving kInterleaving;

// Three vectors a, b, c to memory as a0 b0 c0 a1 b1 c1 ...
inline void store_interleaved(const float (*lanes)[HR_LANES], float* out) {
#if defined(__GNUC__) && !defined(__clang__)
  const VecF a = *reinterpret_cast<const VecF*>(lanes[0]), b = *reinterpret_cast<const VecF*>(lanes[1]);
  const VecF c = *reinterpret_cast<const VecF*>(lanes[2]);
  for (int part = 0; part < 3; ++part) {
    const VecI& from_two = *reinterpret_cast<const VecI*>(kInterleaving.from_two[part]);
    const VecI& from_third = *reinterpret_cast<const VecI*>(kInterleaving.from_third[part]);
    *reinterpret_cast<VecF*>(out + part * HR_LANES) = __builtin_shuffle(__builtin_shuffle(a, b, from_two), c, from_third);
  }
#else
  for (int i = 0; i < 3 * HR_LANES; ++i) out[i] = lanes[i % 3][i / 3];
#endif
}

// Barycentrics and depths of HR_LANES pixels, all 0 where there is no face.
inline void resolve_lanes(const HrRasterizeParams& p, const float* points, const int32_t* face, int x, int y,
                          ResolveLanes& r) {
  load_corners(p, points, face, r);
  const auto& c = r.corner;
  const float py = static_cast<float>(y) + 0.5f;
  for (int i = 0; i < HR_LANES; ++i) {
    float l0, l1, l2;
    const float depth = hr_barycentrics_at(c[0][i], c[1][i], c[2][i], c[3][i], c[4][i], c[5][i], c[6][i], c[7][i], c[8][i],
                                           static_cast<float>(x + i) + 0.5f, py, &l0, &l1, &l2);
    const bool empty = face[i] < 0;
    r.lambda[0][i] = empty ? 0.0f : l0;
    r.lambda[1][i] = empty ? 0.0f : l1;
    r.lambda[2][i] = empty ? 0.0f : l2;
    r.depth[i] = empty ? 0.0f : depth;
  }
}

void resolve(const Band& band, const HrRasterizeParams& p, int64_t image) {
  const float* points = p.points_hom + image * p.num_vertices * 3;
  ResolveLanes r;
  for (int y = band.y0; y < band.y1; ++y) {
    const int32_t* face_row = band.face + static_cast<int64_t>(y - band.y0) * band.stride;
    const int64_t row = (image * p.height + y) * p.width;
    for (int x = 0; x < p.width; x += HR_LANES) {
      const int32_t* face = face_row + x;  // the row's padding is empty, or covered by nothing that is written below
      const int lanes = p.width - x < HR_LANES ? p.width - x : HR_LANES;
      float *lambda = p.barycentrics + (row + x) * 3, *depth = p.depth_z + row + x;
      const bool empty = all_empty(face);
      if (!empty) resolve_lanes(p, points, face, x, y, r);
      if (lanes < HR_LANES) {
        for (int i = 0; i < 3 * lanes; ++i) lambda[i] = empty ? 0.0f : r.lambda[i % 3][i / 3];
        for (int i = 0; i < lanes; ++i) depth[i] = empty ? 0.0f : r.depth[i];
        for (int i = 0; i < lanes; ++i) p.face_index[row + x + i] = face[i];
        continue;
      }
      memcpy(p.face_index + row + x, face, sizeof(VecI));
      if (empty) {
        memset(lambda, 0, 3 * sizeof(VecF));
        memset(depth, 0, sizeof(VecF));
      } else {
        store_interleaved(r.lambda, lambda);
        memcpy(depth, r.depth, sizeof(VecF));
      }
    }
  }
}

}  // namespace

const RowStage HR_STAGE = {draw, resolve};

}  // namespace hr
