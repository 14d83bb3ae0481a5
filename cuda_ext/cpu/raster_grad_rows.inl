// Backward of the rasterizer over a run of pixels. Included once per instruction set with HR_LANES and HR_GRADIENTS
// defined. The maths runs a vector of pixels at a time; sums are taken pixel by pixel, so that every vector width gives the
// same bits.

#include "raster_grad_rows.h"

namespace hr {
namespace {

// Neighbouring pixels mostly see the same face: their gradients are added up before they go to the vertices.
struct FaceSum {
  int32_t face = -1;
  float grad[9];
};

inline void flush(const HrRasterizeGradParams& p, const FaceSum& sum, float* sums) {
  if (sum.face < 0) return;
  const int32_t* corner = p.faces + static_cast<int64_t>(sum.face) * 3;
  for (int k = 0; k < 3; ++k) {
    float* out = sums + static_cast<int64_t>(corner[k]) * 3;
    for (int d = 0; d < 3; ++d) out[d] += sum.grad[3 * k + d];
  }
}

struct GradLanes {
  float corner[9][HR_LANES];
  float in[4][HR_LANES];   // gradients of the barycentrics and the depth
  float px[HR_LANES];
  float out[9][HR_LANES];
};

// Loads what a vector of pixels needs; lanes without a face repeat what was there, and are not used.
inline void load_lanes(const HrRasterizeGradParams& p, const float* points, int64_t pixel, const int32_t* face, int lanes,
                       GradLanes& r) {
  for (int i = 0; i < lanes; ++i) {
    if (face[i] < 0) continue;
    const int32_t* corner = p.faces + static_cast<int64_t>(face[i]) * 3;
    for (int k = 0; k < 3; ++k) {
      const float* h = points + static_cast<int64_t>(corner[k]) * 3;
      for (int d = 0; d < 3; ++d) r.corner[3 * k + d][i] = h[d];
    }
    for (int k = 0; k < 3; ++k) r.in[k][i] = p.grad_barycentrics ? p.grad_barycentrics[3 * (pixel + i) + k] : 0.0f;
    r.in[3][i] = p.grad_depth ? p.grad_depth[pixel + i] : 0.0f;
  }
}

inline void compute_lanes(float py, GradLanes& r) {
  const auto& c = r.corner;
  for (int i = 0; i < HR_LANES; ++i) {
    float grad[9];
    hr_barycentrics_grad(c[0][i], c[1][i], c[2][i], c[3][i], c[4][i], c[5][i], c[6][i], c[7][i], c[8][i], r.px[i], py,
                         r.in[0][i], r.in[1][i], r.in[2][i], r.in[3][i], grad);
    for (int k = 0; k < 9; ++k) r.out[k][i] = grad[k];
  }
}

bool add_gradients(const HrRasterizeGradParams& p, int64_t image, int64_t begin, int64_t end, float* sums) {
  const float* points = p.points_hom + image * p.num_vertices * 3;
  const int64_t base = image * p.height * p.width;
  FaceSum sum;
  GradLanes r = {};
  for (int64_t at = begin; at < end;) {
    const int64_t y = at / p.width, x = at - y * p.width;
    const int64_t row_end = (y + 1) * p.width < end ? (y + 1) * p.width : end;
    const int lanes = row_end - at < HR_LANES ? static_cast<int>(row_end - at) : HR_LANES;
    const int32_t* face = p.face_index + base + at;
    int32_t together = -1;
    for (int i = 0; i < lanes; ++i) {
      if (face[i] >= p.num_faces) return false;
      together &= face[i] < 0 ? -1 : 0;
    }
    if (together == 0) {
      load_lanes(p, points, base + at, face, lanes, r);
      for (int i = 0; i < HR_LANES; ++i) r.px[i] = static_cast<float>(x + i) + 0.5f;
      compute_lanes(static_cast<float>(y) + 0.5f, r);
      for (int i = 0; i < lanes; ++i) {
        if (face[i] < 0) continue;
        if (face[i] != sum.face) {
          flush(p, sum, sums);
          sum.face = face[i];
          for (int k = 0; k < 9; ++k) sum.grad[k] = r.out[k][i];
        } else {
          for (int k = 0; k < 9; ++k) sum.grad[k] += r.out[k][i];
        }
      }
    }
    at += lanes;
  }
  flush(p, sum, sums);
  return true;
}

}  // namespace

const AddRasterGradients HR_GRADIENTS = add_gradients;

}  // namespace hr
