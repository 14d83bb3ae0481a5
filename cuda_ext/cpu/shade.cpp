// CPU shading. Samples are gathered into blocks of structure-of-arrays, so that the loops over lights vectorise.
#include "shade.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "c_api.h"
#include "texture.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int kBlock = 128;      // samples shaded together: all arrays of a block fit the first-level cache
constexpr int kTable = 4096;     // entries of the transfer curves; linear interpolation is then exact to 1e-6

// The sRGB curve in both directions. Encoding is tabulated over the square root, which makes it nearly straight.
struct Curves {
  float to_linear[kTable + 2], to_srgb_of_root[kTable + 2];
  Curves() {
    for (int i = 0; i <= kTable + 1; ++i) {
      const float t = static_cast<float>(i) / kTable;
      to_linear[i] = hr_srgb_to_linear(t);
      to_srgb_of_root[i] = hr_linear_to_srgb(t * t);
    }
  }
};

const Curves& curves() {
  static const Curves table;
  return table;
}

float look_up(const float* table, float t) {
  t = t > 0.0f ? (t < 1.0f ? t : 1.0f) : 0.0f;  // NaN becomes 0
  const float at = t * kTable;
  const int i = static_cast<int>(at);
  return table[i] + (at - static_cast<float>(i)) * (table[i + 1] - table[i]);
}

float to_srgb(const Curves& table, float linear) {
  return look_up(table.to_srgb_of_root, std::sqrt(linear > 0.0f ? linear : 0.0f));
}

struct Block {
  int count = 0;
  int pixel[kBlock];                                      // column of the picture
  float albedo[3][kBlock], normal[3][kBlock], eye[3][kBlock];
  float side[kBlock];                                     // +1 when the camera sees the outer side, else -1
  float out[3][kBlock];
};

// What the samples of one face share. Neighbouring samples mostly see the same face.
struct FaceData {
  int32_t face = -1;
  float side;
  float colour[9], vertex[9], normal[9], uv[6];  // corner by corner

  void load(const HrShadeParams& p, const float* camera, int32_t index) {
    const int32_t* corner = p.corners + static_cast<int64_t>(index) * 9;
    face = index;
    if (p.colour_source == HR_COLOUR_VERTEX) gather<3>(p.colours, corner, colour);
    if (p.colour_source == HR_COLOUR_TEXTURE) gather<2>(p.uvs, corner + 6, uv);
    if (!p.ambient) return;
    gather<3>(p.normals, corner + 3, normal);
    gather<3>(p.vertices, corner, vertex);
    const float *a = vertex, *b = vertex + 3, *c = vertex + 6;
    const float e1[3] = {b[0] - a[0], b[1] - a[1], b[2] - a[2]}, e2[3] = {c[0] - a[0], c[1] - a[1], c[2] - a[2]};
    const float facing = (e1[1] * e2[2] - e1[2] * e2[1]) * (camera[0] - a[0]) +
                         (e1[2] * e2[0] - e1[0] * e2[2]) * (camera[1] - a[1]) +
                         (e1[0] * e2[1] - e1[1] * e2[0]) * (camera[2] - a[2]);
    side = facing >= 0.0f ? 1.0f : -1.0f;
  }

  template <int kWidth>
  static void gather(const float* table, const int32_t* index, float* out) {
    for (int c = 0; c < 3; ++c) {
      for (int k = 0; k < kWidth; ++k) out[c * kWidth + k] = table[kWidth * static_cast<int64_t>(index[c]) + k];
    }
  }
};

template <int kWidth>
float mix(const float* values, const float* w, int k) {
  return w[0] * values[k] + w[1] * values[kWidth + k] + w[2] * values[2 * kWidth + k];
}

void sample_texture(const HrShadeParams& p, float u, float v, float* out) {
  HrTexels t;
  hr_texels(u, v, p.texture_height, p.texture_width, HR_WRAP_CLAMP, &t);
  const float* upper = p.colours + 3 * static_cast<int64_t>(t.upper) * p.texture_width;
  const float* lower = p.colours + 3 * static_cast<int64_t>(t.lower) * p.texture_width;
  const int left = 3 * t.left, right = 3 * t.right;
  for (int k = 0; k < 3; ++k) out[k] = hr_bilinear(&t, upper[left + k], upper[right + k], lower[left + k], lower[right + k]);
}

void add_sample(const HrShadeParams& p, const float* camera, const FaceData& face, const float* w, int pixel, Block& block) {
  const int i = block.count++;
  block.pixel[i] = pixel;
  float srgb[3] = {p.colours[0], p.colours[1], p.colours[2]};
  if (p.colour_source == HR_COLOUR_VERTEX) {
    for (int k = 0; k < 3; ++k) srgb[k] = mix<3>(face.colour, w, k);
  } else if (p.colour_source == HR_COLOUR_TEXTURE) {
    sample_texture(p, mix<2>(face.uv, w, 0), mix<2>(face.uv, w, 1), srgb);
  }
  for (int k = 0; k < 3; ++k) block.albedo[k][i] = srgb[k];
  if (!p.ambient) return;
  block.side[i] = face.side;
  for (int k = 0; k < 3; ++k) {
    block.normal[k][i] = mix<3>(face.normal, w, k);
    block.eye[k][i] = camera[k] - mix<3>(face.vertex, w, k);
  }
}

// Rotate into the axes of the lights and make unit length.
void to_light_axes(const float* r, int n, float (*v)[kBlock], const float* sign) {
  for (int i = 0; i < n; ++i) {
    const float x = v[0][i], y = v[1][i], z = v[2][i];
    const float length_sq = x * x + y * y + z * z;
    const float scale = (sign ? sign[i] : 1.0f) / std::sqrt(length_sq > 1e-24f ? length_sq : 1e-24f);
    v[0][i] = (r[0] * x + r[1] * y + r[2] * z) * scale;
    v[1][i] = (r[3] * x + r[4] * y + r[5] * z) * scale;
    v[2][i] = (r[6] * x + r[7] * y + r[8] * z) * scale;
  }
}

void light_block(const HrShadeParams& p, const Curves& table, const float* camera, Block& block) {
  const int n = block.count;
  for (int k = 0; k < 3; ++k) {
    for (int i = 0; i < n; ++i) block.albedo[k][i] = look_up(table.to_linear, block.albedo[k][i]);
  }
  if (!p.ambient) {
    for (int k = 0; k < 3; ++k) std::copy(block.albedo[k], block.albedo[k] + n, block.out[k]);
    return;
  }
  to_light_axes(camera + 3, n, block.normal, block.side);
  to_light_axes(camera + 3, n, block.eye, nullptr);
  const float *nx = block.normal[0], *ny = block.normal[1], *nz = block.normal[2];
  const float *ex = block.eye[0], *ey = block.eye[1], *ez = block.eye[2];
  float diffuse[3][kBlock], shine[3][kBlock] = {};
  for (int k = 0; k < 3; ++k) {
    for (int i = 0; i < n; ++i) diffuse[k][i] = hr_max0(hr_ambient(p.ambient + k, nx[i], ny[i], nz[i]));
  }
  const float roughness = p.surface[1] > 0.05f ? p.surface[1] : 0.05f;
  const float alpha = roughness * roughness;
  for (int l = 0; l < p.num_lights; ++l) {
    const float* light = p.lights + 6 * l;
    float n_l[kBlock], gloss[kBlock];
    for (int i = 0; i < n; ++i) {
      n_l[i] = light[0] * nx[i] + light[1] * ny[i] + light[2] * nz[i];
      const float v_l = light[0] * ex[i] + light[1] * ey[i] + light[2] * ez[i];
      const float n_v = ex[i] * nx[i] + ey[i] * ny[i] + ez[i] * nz[i];
      gloss[i] = hr_specular(n_l[i], v_l, n_v, p.surface[0], alpha);
    }
    for (int k = 0; k < 3; ++k) {
      const float wrap = p.surface[2 + k], scale = light[3 + k] / ((1.0f + wrap) * (1.0f + wrap));
      const float strength = p.surface[0] > 0.0f ? light[3 + k] : 0.0f;
      for (int i = 0; i < n; ++i) {
        diffuse[k][i] += hr_wrapped(n_l[i], wrap, scale);
        shine[k][i] += gloss[i] * strength;
      }
    }
  }
  for (int k = 0; k < 3; ++k) {
    for (int i = 0; i < n; ++i) {
      const float value = hr_max0(block.albedo[k][i] * diffuse[k][i] + shine[k][i]);
      block.out[k][i] = value < 1.0f ? value : 1.0f;
    }
  }
}

void flush(const HrShadeParams& p, const Curves& table, const float* camera, Block& block, float* sums) {
  light_block(p, table, camera, block);
  for (int i = 0; i < block.count; ++i) {
    for (int k = 0; k < 3; ++k) sums[block.pixel[i] * 4 + k] += block.out[k][i];
    sums[block.pixel[i] * 4 + 3] += 1.0f;
  }
  block.count = 0;
}

// Average, put over the background, encode.
void finish_row(const HrShadeParams& p, const Curves& table, const float* sums, const float* behind, int64_t out) {
  const float share = 1.0f / static_cast<float>(p.factor * p.factor);
  float empty[3];
  for (int k = 0; k < 3; ++k) empty[k] = p.background ? p.background[k] : 0.0f;
  for (int x = 0; x < p.width; ++x) {
    const float* sum = sums + x * 4;
    float* image = p.image_srgb + (out + x) * 3;
    const float alpha = sum[3] * share;
    p.alpha[out + x] = alpha;
    for (int k = 0; k < 3; ++k) {
      if (sum[3] == 0.0f) {
        image[k] = empty[k];
      } else {
        image[k] = to_srgb(table, p.background ? sum[k] * share + (1.0f - alpha) * behind[k] : sum[k] / sum[3]);
      }
    }
  }
}

struct Workspace {
  std::vector<float> sums;  // per pixel of a row: light in red, green, blue, and the number of samples
  Block block;
};

bool shade_row(const HrShadeParams& p, int64_t camera_index, int y, const float* behind) {
  thread_local Workspace workspace;
  const Curves& table = curves();
  Block& block = workspace.block;
  block.count = 0;
  workspace.sums.assign(static_cast<size_t>(p.width) * 4, 0.0f);
  float* sums = workspace.sums.data();
  const float* camera = p.cameras + camera_index * 12;
  const int64_t fine_width = static_cast<int64_t>(p.width) * p.factor, fine_height = static_cast<int64_t>(p.height) * p.factor;
  FaceData data;
  for (int sub = 0; sub < p.factor; ++sub) {
    const int64_t row = (camera_index * fine_height + static_cast<int64_t>(y) * p.factor + sub) * fine_width;
    for (int x = 0; x < p.width; ++x) {
      for (int s = 0; s < p.factor; ++s) {
        const int64_t at = row + static_cast<int64_t>(x) * p.factor + s;
        const int32_t face = p.face_index[at];
        if (face < 0) continue;
        if (face >= p.num_faces) return false;
        if (face != data.face) data.load(p, camera, face);
        add_sample(p, camera, data, p.barycentrics + at * 3, x, block);
        if (block.count == kBlock) flush(p, table, camera, block, sums);
      }
    }
  }
  flush(p, table, camera, block, sums);
  finish_row(p, table, sums, behind, (camera_index * p.height + y) * p.width);
  return true;
}

// Every index is checked once here, so that no sample has to.
bool indices_fit(const HrShadeParams& p) {
  const int64_t limits[3] = {p.num_vertices, p.num_normals, p.colour_source == HR_COLOUR_TEXTURE ? p.num_uvs : INT64_MAX};
  for (int64_t f = 0; f < p.num_faces; ++f) {
    for (int k = 0; k < 9; ++k) {
      const int32_t index = p.corners[f * 9 + k];
      if (index < 0 || index >= limits[k / 3]) return false;
    }
  }
  return true;
}

int32_t shade(const HrShadeParams& p) {
  if (!indices_fit(p)) return HR_ERROR_INDEX;
  float behind[3] = {};
  for (int k = 0; k < 3 && p.background; ++k) behind[k] = look_up(curves().to_linear, p.background[k]);
  std::atomic<bool> fine{true};
  parallel_for(static_cast<int64_t>(p.num_cameras) * p.height, p.num_threads, [&](int64_t task) {
    if (!shade_row(p, task / p.height, static_cast<int>(task % p.height), behind)) fine.store(false);
  });
  return fine.load() ? HR_OK : HR_ERROR_INDEX;
}

}  // namespace
}  // namespace hr

int32_t hr_shade_cpu(const HrShadeParams* params) {
  const HrShadeParams& p = *params;
  if (p.factor < 1 || p.num_threads < 1 || p.num_lights < 0 ||
      (p.colour_source == HR_COLOUR_TEXTURE && (p.texture_height < 1 || p.texture_width < 1 || !p.uvs))) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::shade(p); });
}
