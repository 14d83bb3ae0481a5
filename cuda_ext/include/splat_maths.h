/* Gaussian splatting, one element at a time: projection and its derivatives, where a splat reaches, its opacity at a pixel.
 *
 * Templates over the number type F: float on a GPU, a vector of lanes (cpu/lanes16.h) on the CPU. F brings along hr_fma,
 * hr_sqrt, hr_log2, hr_min, hr_max and hr_select. Sources: Zwicker et al., "EWA splatting", IEEE TVCG 2002; Kerbl et al.,
 * "3D Gaussian splatting", SIGGRAPH 2023; Yu et al., "Mip-Splatting", CVPR 2024 (compensation). */
#ifndef HR_SPLAT_MATHS_H
#define HR_SPLAT_MATHS_H

#include <math.h>

#include "splat.h"

#define HR_SPLAT_MIN_ALPHA 0.00392156862745098f   /* 1/255: what contributes less is left out */
#define HR_SPLAT_MIN_POWER -7.99435343685886f     /* log2 of it */
#define HR_SPLAT_MAX_ALPHA 0.999f                 /* more would hide what is behind from the gradients */
#define HR_SPLAT_MAX_POWER -0.00144341686969f     /* log2 of it */
#define HR_SPLAT_END_TRANSMITTANCE 1e-4f          /* a pixel that lets less through is finished */
#define HR_SPLAT_LOG2E 1.44269504088896f
#define HR_SPLAT_LN2 0.693147180559945f
#define HR_SPLAT_MIN_COMPENSATION2 1e-12f         /* below, the square root's slope is taken as 0 */
#define HR_SPLAT_HUGE 1e30f                       /* numbers beyond are treated as infinite */

HR_HD float hr_fma(float a, float b, float c) { return fmaf(a, b, c); }
HR_HD float hr_sqrt(float a) { return sqrtf(a); }
HR_HD float hr_log2(float a) { return log2f(a); }
/* The second where the first is NaN, as vector instructions have it. */
HR_HD float hr_min(float a, float b) { return a < b ? a : b; }
HR_HD float hr_max(float a, float b) { return a > b ? a : b; }
HR_HD float hr_select(bool condition, float yes, float no) { return condition ? yes : no; }
/* What a colour counts as. */
HR_HD float hr_splat_finite(float a) { return a - a == 0.0f ? a : 0.0f; }

/* --- projection ----------------------------------------------------------------------------------------------------- */

/* x/z and y/z are held between lo and hi in the slope of the projection: beyond the picture's rim by 0.15 of its size the
 * linear approximation would stretch Gaussians without bound. */
struct HrSplatCamera {
  float r[9], t[3];
  float fx, fy, cx, cy;
  float x_lo, x_hi, y_lo, y_hi;
};

struct HrSplatOptions {
  float width, height, near_z, far_z, eps2d, radius_clip;
  bool antialiased;
};

template <class F>
struct HrSplatGaussian {
  F mean[3], quat[4], scale[3], opacity;
};

template <class F>
struct HrSplat {
  F field[HR_SPLAT_FIELDS];
  F radius_x, radius_y; /* 0, as all fields, where it is not drawn */
};

HR_HD HrSplatCamera hr_splat_camera(const float* viewmat, const float* K, int32_t width, int32_t height) {
  HrSplatCamera c;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) c.r[3 * i + j] = viewmat[4 * i + j];
    c.t[i] = viewmat[4 * i + 3];
  }
  c.fx = K[0];
  c.fy = K[4];
  c.cx = K[2];
  c.cy = K[5];
  const float w = (float)width, h = (float)height;
  c.x_lo = -(c.cx + 0.15f * w) / c.fx;
  c.x_hi = (w - c.cx + 0.15f * w) / c.fx;
  c.y_lo = -(c.cy + 0.15f * h) / c.fy;
  c.y_hi = (h - c.cy + 0.15f * h) / c.fy;
  return c;
}

/* Everything between the Gaussian and its splat that both directions need. */
template <class F>
struct HrSplatStages {
  F inv_length, q[4];              /* unit quaternion */
  F rot[9];                        /* rotation, row by row */
  F x, y, z, inv_z, slope_x, slope_y;
  F j00, j02, j11, j12;            /* slope of the projection */
  F jw0[3], jw1[3];                /* its rows times the camera's rotation */
  F g0[3], g1[3];                  /* and times the Gaussian's axes: cov2d = G G^T */
  F cross[3];                      /* g0 x g1, whose square is the determinant without cancellation */
  F a, b, c, det;                  /* cov2d blurred by eps2d, and its determinant */
  F ratio, compensation;           /* unblurred determinant over det; its root, or 1 */
};

template <class F>
HR_HD F hr_dot3(const F* a, const F* b) {
  return hr_fma(a[2], b[2], hr_fma(a[1], b[1], a[0] * b[0]));
}

template <class F>
HR_HD void hr_cross3(const F* a, const F* b, F* out) {
  out[0] = hr_fma(a[1], b[2], -(a[2] * b[1]));
  out[1] = hr_fma(a[2], b[0], -(a[0] * b[2]));
  out[2] = hr_fma(a[0], b[1], -(a[1] * b[0]));
}

template <class F>
HR_HD void hr_rotation_of_quat(const F* q, F* r) {
  const F w = q[0], x = q[1], y = q[2], z = q[3], one(1.0f), two(2.0f);
  r[0] = one - two * hr_fma(y, y, z * z);
  r[1] = two * hr_fma(x, y, -(w * z));
  r[2] = two * hr_fma(x, z, w * y);
  r[3] = two * hr_fma(x, y, w * z);
  r[4] = one - two * hr_fma(x, x, z * z);
  r[5] = two * hr_fma(y, z, -(w * x));
  r[6] = two * hr_fma(x, z, -(w * y));
  r[7] = two * hr_fma(y, z, w * x);
  r[8] = one - two * hr_fma(x, x, y * y);
}

template <class F>
HR_HD void hr_splat_stages(const HrSplatGaussian<F>& g, const HrSplatCamera& k, float eps2d, bool antialiased,
                           HrSplatStages<F>* out) {
  HrSplatStages<F>& s = *out;
  const F one(1.0f), eps(eps2d);
  const F length2 = hr_fma(g.quat[3], g.quat[3], hr_fma(g.quat[2], g.quat[2], hr_fma(g.quat[1], g.quat[1], g.quat[0] * g.quat[0])));
  s.inv_length = one / hr_sqrt(length2);
  for (int i = 0; i < 4; ++i) s.q[i] = g.quat[i] * s.inv_length;
  hr_rotation_of_quat(s.q, s.rot);
  F at[3];
  for (int i = 0; i < 3; ++i) {
    at[i] = hr_fma(F(k.r[3 * i + 2]), g.mean[2], hr_fma(F(k.r[3 * i + 1]), g.mean[1], hr_fma(F(k.r[3 * i]), g.mean[0], F(k.t[i]))));
  }
  s.x = at[0];
  s.y = at[1];
  s.z = at[2];
  s.inv_z = one / s.z;
  s.slope_x = hr_min(hr_max(s.x * s.inv_z, F(k.x_lo)), F(k.x_hi));
  s.slope_y = hr_min(hr_max(s.y * s.inv_z, F(k.y_lo)), F(k.y_hi));
  s.j00 = F(k.fx) * s.inv_z;
  s.j11 = F(k.fy) * s.inv_z;
  s.j02 = -(s.j00 * s.slope_x);
  s.j12 = -(s.j11 * s.slope_y);
  for (int j = 0; j < 3; ++j) {
    s.jw0[j] = hr_fma(s.j02, F(k.r[6 + j]), s.j00 * F(k.r[j]));
    s.jw1[j] = hr_fma(s.j12, F(k.r[6 + j]), s.j11 * F(k.r[3 + j]));
  }
  for (int j = 0; j < 3; ++j) {
    const F axis[3] = {s.rot[j], s.rot[3 + j], s.rot[6 + j]};
    s.g0[j] = hr_dot3(s.jw0, axis) * g.scale[j];
    s.g1[j] = hr_dot3(s.jw1, axis) * g.scale[j];
  }
  hr_cross3(s.g0, s.g1, s.cross);
  const F plain = hr_dot3(s.cross, s.cross);
  s.a = hr_dot3(s.g0, s.g0) + eps;
  s.b = hr_dot3(s.g0, s.g1);
  s.c = hr_dot3(s.g1, s.g1) + eps;
  s.det = hr_fma(eps, s.a + s.c - eps, plain);
  s.ratio = plain / s.det;
  s.compensation = antialiased ? hr_sqrt(hr_max(s.ratio, F(HR_SPLAT_MIN_COMPENSATION2))) : one;
}

/* Numbers that are not finite, a quaternion of length 0, and what lies outside near_z..far_z or the picture give nothing. */
template <class F>
HR_HD HrSplat<F> hr_splat_project(const HrSplatGaussian<F>& g, const HrSplatCamera& k, const HrSplatOptions& o) {
  HrSplatStages<F> s;
  hr_splat_stages(g, k, o.eps2d, o.antialiased, &s);
  HrSplat<F> out;
  const F zero(0.0f), huge(HR_SPLAT_HUGE);
  const F u = hr_fma(F(k.fx) * s.x, s.inv_z, F(k.cx)), v = hr_fma(F(k.fy) * s.y, s.inv_z, F(k.cy));
  const F opacity = g.opacity * s.compensation;
  const F power = hr_log2(hr_max(opacity, F(1e-30f)));
  const F reach2 = F(2.0f * HR_SPLAT_LN2) * (power - F(HR_SPLAT_MIN_POWER)); /* u^2 sharp <= reach2 where alpha >= 1/255 */
  const F rx = hr_sqrt(hr_max(reach2 * s.a, zero)), ry = hr_sqrt(hr_max(reach2 * s.c, zero));
  const auto in_depth = (s.z > F(o.near_z)) & (s.z < F(o.far_z)) & (s.z < huge);
  const auto sane = (s.inv_length < huge) & (s.inv_length > F(1.0f / HR_SPLAT_HUGE)) & (s.a < huge) & (s.c < huge) &
                    (s.det > F(1e-36f)) & (s.det < huge) & (opacity < huge) & (reach2 >= zero);
  const auto in_picture = (u + rx > zero) & (u - rx < F(o.width)) & (v + ry > zero) & (v - ry < F(o.height));
  const auto drawn = in_depth & sane & in_picture & (hr_max(rx, ry) > F(o.radius_clip));
  const F inv_c = F(1.0f) / s.c;
  out.field[HR_SPLAT_X] = hr_select(drawn, u, zero);
  out.field[HR_SPLAT_Y] = hr_select(drawn, v, zero);
  out.field[HR_SPLAT_SHARP_X] = hr_select(drawn, s.c / s.det, zero);
  out.field[HR_SPLAT_SHEAR] = hr_select(drawn, -(s.b * inv_c), zero);
  out.field[HR_SPLAT_SHARP_Y] = hr_select(drawn, inv_c, zero);
  out.field[HR_SPLAT_OPACITY] = hr_select(drawn, opacity, zero);
  out.field[HR_SPLAT_DEPTH] = hr_select(drawn, s.z, zero);
  out.field[HR_SPLAT_LOG2_OPACITY] = hr_select(drawn, power, zero);
  out.radius_x = hr_select(drawn, rx, zero);
  out.radius_y = hr_select(drawn, ry, zero);
  return out;
}

/* The shortest axis (of equal ones the first) in the world, towards the camera; and which it is, as weights 0 or +-1 of the
 * three axes, which are constants of the backward pass. */
template <class F>
HR_HD void hr_splat_normal(const HrSplatGaussian<F>& g, const HrSplatCamera& k, const F* rot, F* normal, F* weight) {
  const F zero(0.0f), one(1.0f);
  const auto first = (g.scale[0] <= g.scale[1]) & (g.scale[0] <= g.scale[2]);
  const auto second = g.scale[1] <= g.scale[2];
  weight[0] = hr_select(first, one, zero);
  weight[1] = hr_select(first, zero, hr_select(second, one, zero));
  weight[2] = one - weight[0] - weight[1];
  /* From the mean to the camera: R^T (0 - p), with p the mean in the camera. */
  F p[3], away = zero;
  for (int i = 0; i < 3; ++i) {
    p[i] = hr_fma(F(k.r[3 * i + 2]), g.mean[2], hr_fma(F(k.r[3 * i + 1]), g.mean[1], hr_fma(F(k.r[3 * i]), g.mean[0], F(k.t[i]))));
  }
  for (int i = 0; i < 3; ++i) {
    normal[i] = hr_fma(rot[3 * i + 2], weight[2], hr_fma(rot[3 * i + 1], weight[1], rot[3 * i] * weight[0]));
    const F towards = hr_fma(F(k.r[6 + i]), p[2], hr_fma(F(k.r[3 + i]), p[1], F(k.r[i]) * p[0]));
    away = hr_fma(normal[i], towards, away);
  }
  const F sign = hr_select(away > zero, F(-1.0f), one);
  for (int i = 0; i < 3; ++i) {
    normal[i] = normal[i] * sign;
    weight[i] = weight[i] * sign;
  }
}

template <class F>
struct HrSplatGaussianGrad {
  F mean[3], quat[4], scale[3], opacity;
  F r[9], t[3]; /* of the camera */
};

template <class F>
HR_HD void hr_grad_of_quat(const F* q, F inv_length, const F* m, F* out) {
  const F w = q[0], x = q[1], y = q[2], z = q[3], two(2.0f);
  F g[4];
  g[0] = two * (x * (m[7] - m[5]) + y * (m[2] - m[6]) + z * (m[3] - m[1]));
  g[1] = two * (w * (m[7] - m[5]) + y * (m[1] + m[3]) + z * (m[2] + m[6]) - two * x * (m[4] + m[8]));
  g[2] = two * (w * (m[2] - m[6]) + x * (m[1] + m[3]) + z * (m[5] + m[7]) - two * y * (m[0] + m[8]));
  g[3] = two * (w * (m[3] - m[1]) + x * (m[2] + m[6]) + y * (m[5] + m[7]) - two * z * (m[0] + m[4]));
  const F along = hr_fma(g[3], q[3], hr_fma(g[2], q[2], hr_fma(g[1], q[1], g[0] * q[0])));
  for (int i = 0; i < 4; ++i) out[i] = (g[i] - along * q[i]) * inv_length;
}

/* From the covariance to the slope of the projection and the Gaussian's axes. Reads and adds to grad_rot (by rot), writes
 * grad_scale and grad_jw (rows 0 and 1). */
template <class F>
HR_HD void hr_splat_cov_backward(const HrSplatGaussian<F>& g, const HrSplatStages<F>& s, F grad_a, F grad_b, F grad_c,
                                 F grad_plain, F* grad_rot, F* grad_scale, F* grad_jw) {
  F by_g0[3], by_g1[3];
  hr_cross3(s.g1, s.cross, by_g0);
  hr_cross3(s.cross, s.g0, by_g1);
  const F two(2.0f);
  for (int i = 0; i < 6; ++i) grad_jw[i] = F(0.0f);
  for (int j = 0; j < 3; ++j) {
    const F to_g0 = two * hr_fma(grad_plain, by_g0[j], grad_a * s.g0[j]) + grad_b * s.g1[j];
    const F to_g1 = two * hr_fma(grad_plain, by_g1[j], grad_c * s.g1[j]) + grad_b * s.g0[j];
    const F axis[3] = {s.rot[j], s.rot[3 + j], s.rot[6 + j]};
    grad_scale[j] = to_g0 * hr_dot3(s.jw0, axis) + to_g1 * hr_dot3(s.jw1, axis);
    const F w0 = to_g0 * g.scale[j], w1 = to_g1 * g.scale[j];
    for (int i = 0; i < 3; ++i) {
      grad_rot[3 * i + j] = grad_rot[3 * i + j] + hr_fma(w0, s.jw0[i], w1 * s.jw1[i]);
      grad_jw[i] = hr_fma(w0, axis[i], grad_jw[i]);
      grad_jw[3 + i] = hr_fma(w1, axis[i], grad_jw[3 + i]);
    }
  }
}

/* Backward of hr_splat_project where the splat is drawn. by: gradients by its fields; by_normal: by its normal, or null. */
template <class F>
HR_HD HrSplatGaussianGrad<F> hr_splat_project_backward(const HrSplatGaussian<F>& g, const HrSplatCamera& k, float eps2d,
                                                       bool antialiased, const F* by, const F* by_normal) {
  HrSplatStages<F> s;
  hr_splat_stages(g, k, eps2d, antialiased, &s);
  HrSplatGaussianGrad<F> out;
  const F zero(0.0f), eps(eps2d), inv_c = F(1.0f) / s.c, inv_det = F(1.0f) / s.det, sharp = s.c * inv_det;
  /* sharp_x = c / det, shear = -b / c, sharp_y = 1 / c */
  F grad_c = by[HR_SPLAT_SHARP_X] * inv_det + (by[HR_SPLAT_SHEAR] * s.b - by[HR_SPLAT_SHARP_Y]) * inv_c * inv_c;
  const F grad_b = -(by[HR_SPLAT_SHEAR] * inv_c);
  F grad_det = -(by[HR_SPLAT_SHARP_X] * sharp * inv_det), grad_plain = zero;
  out.opacity = by[HR_SPLAT_OPACITY] * s.compensation;
  if (antialiased) {
    const F half_slope = by[HR_SPLAT_OPACITY] * g.opacity * F(0.5f) / s.compensation;
    const F grad_ratio = hr_select(s.ratio > F(HR_SPLAT_MIN_COMPENSATION2), half_slope, zero);
    grad_plain = grad_ratio * inv_det;
    grad_det = grad_det - grad_ratio * s.ratio * inv_det;
  }
  grad_plain = grad_plain + grad_det;
  const F grad_a = eps * grad_det;
  grad_c = grad_c + grad_a;
  F grad_rot[9], grad_jw[6], weight[3], normal[3];
  if (by_normal) hr_splat_normal(g, k, s.rot, normal, weight);
  for (int i = 0; i < 9; ++i) grad_rot[i] = by_normal ? by_normal[i / 3] * weight[i % 3] : zero;
  hr_splat_cov_backward(g, s, grad_a, grad_b, grad_c, grad_plain, grad_rot, out.scale, grad_jw);
  hr_grad_of_quat(s.q, s.inv_length, grad_rot, out.quat);
  F by_j[4] = {zero, zero, zero, zero}; /* j00, j02, j11, j12 */
  for (int j = 0; j < 3; ++j) {
    const F r0(k.r[j]), r1(k.r[3 + j]), r2(k.r[6 + j]);
    by_j[0] = hr_fma(grad_jw[j], r0, by_j[0]);
    by_j[1] = hr_fma(grad_jw[j], r2, by_j[1]);
    by_j[2] = hr_fma(grad_jw[3 + j], r1, by_j[2]);
    by_j[3] = hr_fma(grad_jw[3 + j], r2, by_j[3]);
    out.r[j] = s.j00 * grad_jw[j];
    out.r[3 + j] = s.j11 * grad_jw[3 + j];
    out.r[6 + j] = hr_fma(s.j02, grad_jw[j], s.j12 * grad_jw[3 + j]);
  }
  const F fx(k.fx), fy(k.fy), x_z = s.x * s.inv_z, y_z = s.y * s.inv_z;
  const F by_u = by[HR_SPLAT_X] * fx, by_v = by[HR_SPLAT_Y] * fy;
  const F by_slope_x = hr_select((x_z >= F(k.x_lo)) & (x_z <= F(k.x_hi)), -(by_j[1] * s.j00), zero) + by_u;
  const F by_slope_y = hr_select((y_z >= F(k.y_lo)) & (y_z <= F(k.y_hi)), -(by_j[3] * s.j11), zero) + by_v;
  const F by_inv_z = fx * (by_j[0] - by_j[1] * s.slope_x) + fy * (by_j[2] - by_j[3] * s.slope_y) + by_slope_x * s.x + by_slope_y * s.y;
  out.t[0] = by_slope_x * s.inv_z;
  out.t[1] = by_slope_y * s.inv_z;
  out.t[2] = by[HR_SPLAT_DEPTH] - by_inv_z * s.inv_z * s.inv_z;
  for (int j = 0; j < 3; ++j) {
    out.mean[j] = hr_fma(F(k.r[6 + j]), out.t[2], hr_fma(F(k.r[3 + j]), out.t[1], F(k.r[j]) * out.t[0]));
    for (int i = 0; i < 3; ++i) out.r[3 * i + j] = hr_fma(out.t[i], g.mean[j], out.r[3 * i + j]);
  }
  return out;
}

#endif
