// CUDA shading: one thread per pixel of the picture goes through its samples.
#include "shade.h"

#include "device.h"
#include "texture.h"

namespace hr {
namespace {

struct ShadeScratch {
  int32_t* bad;  // set when an index is out of range: the picture is then empty
};

struct Vec {
  float x, y, z;
};

int32_t check(const HrShadeParams& p) {
  const bool texture = p.colour_source == HR_COLOUR_TEXTURE;
  const bool sane = p.factor >= 1 && p.num_lights >= 0 && p.num_cameras >= 0 && p.height >= 0 && p.width >= 0 &&
                    p.num_faces >= 0 && !(texture && (p.texture_height < 1 || p.texture_width < 1 || !p.uvs));
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

ShadeScratch lay_out_shade(const HrShadeParams&, const HrCudaLaunch&, Workspace& workspace) {
  return {workspace.take<int32_t>(1)};
}

// The corners' three indices each of vertices, normals and uvs.
__global__ void __launch_bounds__(kThreads) check_corners(HrShadeParams p, int32_t* bad, int32_t* fault) {
  const int64_t face = place_of_this_thread().item;
  if (face >= p.num_faces) return;
  const int64_t limits[3] = {p.num_vertices, p.num_normals, p.colour_source == HR_COLOUR_TEXTURE ? p.num_uvs : INT64_MAX};
  bool fine = true;
#pragma unroll
  for (int k = 0; k < 9; ++k) {
    const int32_t index = p.corners[face * 9 + k];
    fine = fine && index >= 0 && index < limits[k / 3];
  }
  if (fine) return;
  *static_cast<volatile int32_t*>(bad) = 1;
  report_bad_index(fault);
}

__device__ __forceinline__ float to_unit(float t) { return t > 0.0f ? (t < 1.0f ? t : 1.0f) : 0.0f; }  // NaN becomes 0

__device__ __forceinline__ float linear_of(float srgb) { return hr_srgb_to_linear(to_unit(srgb)); }
__device__ __forceinline__ float srgb_of(float linear) { return hr_linear_to_srgb(to_unit(linear)); }

__device__ __forceinline__ Vec row_of(const float* table, int32_t row) {
  const float* at = table + 3 * static_cast<int64_t>(row);
  return {at[0], at[1], at[2]};
}

__device__ __forceinline__ Vec mix(const float* w, Vec a, Vec b, Vec c) {
  return {w[0] * a.x + w[1] * b.x + w[2] * c.x, w[0] * a.y + w[1] * b.y + w[2] * c.y, w[0] * a.z + w[1] * b.z + w[2] * c.z};
}

// Linear surface colour of a sample.
__device__ __forceinline__ Vec albedo_of(const HrShadeParams& p, const int32_t* corner, const float* w) {
  Vec srgb = {p.colours[0], p.colours[1], p.colours[2]};
  if (p.colour_source == HR_COLOUR_VERTEX) {
    srgb = mix(w, row_of(p.colours, corner[0]), row_of(p.colours, corner[1]), row_of(p.colours, corner[2]));
  } else if (p.colour_source == HR_COLOUR_TEXTURE) {
    const float *a = p.uvs + 2 * static_cast<int64_t>(corner[6]), *b = p.uvs + 2 * static_cast<int64_t>(corner[7]);
    const float* c = p.uvs + 2 * static_cast<int64_t>(corner[8]);
    HrTexels t;
    hr_texels(w[0] * a[0] + w[1] * b[0] + w[2] * c[0], w[0] * a[1] + w[1] * b[1] + w[2] * c[1], p.texture_height,
              p.texture_width, HR_WRAP_CLAMP, &t);
    const float* upper = p.colours + 3 * static_cast<int64_t>(t.upper) * p.texture_width;
    const float* lower = p.colours + 3 * static_cast<int64_t>(t.lower) * p.texture_width;
    const Vec t00 = row_of(upper, t.left), t01 = row_of(upper, t.right), t10 = row_of(lower, t.left), t11 = row_of(lower, t.right);
    srgb = {hr_bilinear(&t, t00.x, t01.x, t10.x, t11.x), hr_bilinear(&t, t00.y, t01.y, t10.y, t11.y),
            hr_bilinear(&t, t00.z, t01.z, t10.z, t11.z)};
  }
  return {linear_of(srgb.x), linear_of(srgb.y), linear_of(srgb.z)};
}

// Rotate into the axes of the lights and make unit length.
__device__ __forceinline__ Vec to_light_axes(const float* r, Vec v, float sign) {
  const float length_sq = v.x * v.x + v.y * v.y + v.z * v.z;
  const float scale = sign / sqrtf(length_sq > 1e-24f ? length_sq : 1e-24f);
  return {(r[0] * v.x + r[1] * v.y + r[2] * v.z) * scale, (r[3] * v.x + r[4] * v.y + r[5] * v.z) * scale,
          (r[6] * v.x + r[7] * v.y + r[8] * v.z) * scale};
}

// +1 where the camera sees the outer side of a face, else -1.
__device__ __forceinline__ float side_of(const float* camera, Vec a, Vec b, Vec c) {
  const Vec e1 = {b.x - a.x, b.y - a.y, b.z - a.z}, e2 = {c.x - a.x, c.y - a.y, c.z - a.z};
  const float facing = (e1.y * e2.z - e1.z * e2.y) * (camera[0] - a.x) + (e1.z * e2.x - e1.x * e2.z) * (camera[1] - a.y) +
                       (e1.x * e2.y - e1.y * e2.x) * (camera[2] - a.z);
  return facing >= 0.0f ? 1.0f : -1.0f;
}

// Light that a sample sends to the camera, linear, 0 .. 1.
__device__ __forceinline__ Vec light_of(const HrShadeParams& p, const float* camera, const int32_t* corner, const float* w) {
  const Vec albedo = albedo_of(p, corner, w);
  if (!p.ambient) return albedo;
  const Vec a = row_of(p.vertices, corner[0]), b = row_of(p.vertices, corner[1]), c = row_of(p.vertices, corner[2]);
  const Vec at = mix(w, a, b, c);
  const Vec normal = mix(w, row_of(p.normals, corner[3]), row_of(p.normals, corner[4]), row_of(p.normals, corner[5]));
  const Vec n = to_light_axes(camera + 3, normal, side_of(camera, a, b, c));
  const Vec e = to_light_axes(camera + 3, {camera[0] - at.x, camera[1] - at.y, camera[2] - at.z}, 1.0f);
  float diffuse[3], shine[3] = {};
  for (int k = 0; k < 3; ++k) diffuse[k] = hr_max0(hr_ambient(p.ambient + k, n.x, n.y, n.z));
  const float roughness = p.surface[1] > 0.05f ? p.surface[1] : 0.05f;
  const float n_v = e.x * n.x + e.y * n.y + e.z * n.z;
  for (int l = 0; l < p.num_lights; ++l) {
    const float* light = p.lights + 6 * l;
    const float n_l = light[0] * n.x + light[1] * n.y + light[2] * n.z;
    const float v_l = light[0] * e.x + light[1] * e.y + light[2] * e.z;
    const float gloss = hr_specular(n_l, v_l, n_v, p.surface[0], roughness * roughness);
    for (int k = 0; k < 3; ++k) {
      const float wrap = p.surface[2 + k];
      diffuse[k] += hr_wrapped(n_l, wrap, light[3 + k] / ((1.0f + wrap) * (1.0f + wrap)));
      shine[k] += p.surface[0] > 0.0f ? gloss * light[3 + k] : 0.0f;
    }
  }
  return {to_unit(albedo.x * diffuse[0] + shine[0]), to_unit(albedo.y * diffuse[1] + shine[1]),
          to_unit(albedo.z * diffuse[2] + shine[2])};
}

__global__ void __launch_bounds__(kThreads) shade_pixels(HrShadeParams p, const int32_t* bad, int32_t* fault) {
  const Place place = place_of_this_thread();
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  if (place.item >= pixels) return;
  const int64_t y = quotient(place.item, p.width), x = place.item - y * p.width;
  const int64_t fine_width = static_cast<int64_t>(p.width) * p.factor;
  for (int64_t image = place.first_image; image < p.num_cameras; image += place.image_step) {
    const float* camera = p.cameras + 12 * image;
    float sum[3] = {}, seen = 0.0f;
    const int samples = *bad ? 0 : p.factor * p.factor;
    for (int s = 0; s < samples; ++s) {
      const int64_t row = (image * p.height + y) * p.factor + s / p.factor;
      const int64_t at = row * fine_width + x * p.factor + s % p.factor;
      const int32_t face = p.face_index[at];
      if (face < 0) continue;
      if (face >= p.num_faces) {
        report_bad_index(fault);
        continue;
      }
      const Vec light = light_of(p, camera, p.corners + 9 * static_cast<int64_t>(face), p.barycentrics + 3 * at);
      sum[0] += light.x;
      sum[1] += light.y;
      sum[2] += light.z;
      seen += 1.0f;
    }
    const float share = 1.0f / static_cast<float>(p.factor * p.factor), alpha = seen * share;
    const int64_t out = image * pixels + place.item;
    p.alpha[out] = alpha;
    for (int k = 0; k < 3; ++k) {
      float value = p.background ? p.background[k] : 0.0f;
      if (seen > 0.0f) {
        const float behind = p.background ? (1.0f - alpha) * linear_of(p.background[k]) : 0.0f;
        value = srgb_of(p.background ? sum[k] * share + behind : sum[k] / seen);
      }
      p.image_srgb[3 * out + k] = value;
    }
  }
}

void run_shade(const HrShadeParams& p, const HrCudaLaunch& launch, const ShadeScratch& scratch) {
  fill_bytes(launch, scratch.bad, 0, sizeof(int32_t));
  launch_over(launch, p.num_faces, 1, check_corners, p, scratch.bad, launch.fault);
  const int32_t* bad = scratch.bad;
  launch_over(launch, static_cast<int64_t>(p.height) * p.width, p.num_cameras, shade_pixels, p, bad, launch.fault);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(shade, HrShadeParams)
