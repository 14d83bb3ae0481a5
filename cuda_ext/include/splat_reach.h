/* Gaussian splatting: which pixels and tiles a splat reaches, its opacity there, and the derivatives of that. */
#ifndef HR_SPLAT_REACH_H
#define HR_SPLAT_REACH_H

#include "splat_maths.h"

/* --- where alpha >= 1/255 ------------------------------------------------------------------------------------------- */

template <class F>
struct HrSplatBounds {
  F x, y, shear, sharp_y;
  F inv_sharp_x;
  F reach2;      /* sharp_x u^2 + sharp_y dy^2 is at most this within */
  F reach_y;     /* half height */
  F rightmost;   /* dy of the ellipse's rightmost point; that of the leftmost is -rightmost */
};

/* A little wider than exact, so that rounding never drops a pixel that the opacity would have kept. */
template <class F>
HR_HD HrSplatBounds<F> hr_splat_bounds(const F* field) {
  HrSplatBounds<F> b;
  b.x = field[HR_SPLAT_X];
  b.y = field[HR_SPLAT_Y];
  b.shear = field[HR_SPLAT_SHEAR];
  b.sharp_y = field[HR_SPLAT_SHARP_Y];
  b.inv_sharp_x = F(1.0f) / field[HR_SPLAT_SHARP_X];
  b.reach2 = hr_fma(F(2.0f * HR_SPLAT_LN2 * 1.0001f), field[HR_SPLAT_LOG2_OPACITY] - F(HR_SPLAT_MIN_POWER), F(1e-3f));
  const F var_y = F(1.0f) / b.sharp_y;
  b.reach_y = hr_sqrt(hr_max(b.reach2 * var_y, F(0.0f)));
  /* The covariance: var_x = 1 / sharp_x + shear^2 var_y, cov = -shear var_y; the rightmost point is at dy = cov / sd_x. */
  const F cov = -(b.shear * var_y), var_x = hr_fma(-b.shear, cov, b.inv_sharp_x);
  b.rightmost = cov * hr_sqrt(hr_max(b.reach2 / var_x, F(0.0f)));
  return b;
}

/* Between which x the splat reaches into rows y0..y1 (of pixel centres, both included); x0 > x1 when it does not. */
template <class F>
HR_HD void hr_splat_span(const HrSplatBounds<F>& b, F y0, F y1, F* x0, F* x1) {
  const F d0 = hr_max(y0 - b.y, -b.reach_y), d1 = hr_min(y1 - b.y, b.reach_y), zero(0.0f);
  const F right = hr_min(hr_max(b.rightmost, d0), d1), left = hr_min(hr_max(-b.rightmost, d0), d1);
  const F half_right = hr_sqrt(hr_max((b.reach2 - b.sharp_y * right * right) * b.inv_sharp_x, zero));
  const F half_left = hr_sqrt(hr_max((b.reach2 - b.sharp_y * left * left) * b.inv_sharp_x, zero));
  const F margin(2e-3f); /* the spacing of floats at HR_SPLAT_MAX_SIDE */
  const auto meets = d0 <= d1;
  *x0 = hr_select(meets, b.x - b.shear * left - half_left - margin, F(HR_SPLAT_HUGE));
  *x1 = hr_select(meets, b.x - b.shear * right + half_right + margin, F(-HR_SPLAT_HUGE));
}

struct HrSplatRange {
  int32_t first, end;
};

/* Cells of `size` pixels with a pixel centre between lo and hi, of those that `pixels` pixels are cut into. */
HR_HD HrSplatRange hr_splat_cells(float lo, float hi, int32_t pixels, int32_t size) {
  const float most = (float)pixels;
  const int32_t first = (int32_t)ceilf(hr_min(hr_max(lo - 0.5f, 0.0f), most));
  const int32_t end = (int32_t)floorf(hr_min(hr_max(hi + 0.5f, 0.0f), most));
  const HrSplatRange none = {0, 0};
  if (first >= end) return none;
  const HrSplatRange range = {first / size, (end - 1) / size + 1};
  return range;
}

/* Rows of tiles that a splat may touch, and the tiles of such a row that it does touch. */
HR_HD HrSplatRange hr_splat_tile_rows(const HrSplatBounds<float>& b, int32_t height, int32_t tile_size) {
  return hr_splat_cells(b.y - b.reach_y - 2e-3f, b.y + b.reach_y + 2e-3f, height, tile_size);
}

HR_HD HrSplatRange hr_splat_tile_span(const HrSplatBounds<float>& b, int32_t row, int32_t height, int32_t width,
                                      int32_t tile_size) {
  const int32_t end = (row + 1) * tile_size;
  float x0, x1;
  hr_splat_span(b, (float)(row * tile_size) + 0.5f, (float)(end < height ? end : height) - 0.5f, &x0, &x1);
  return hr_splat_cells(x0, x1, width, tile_size);
}

/* --- opacity at a pixel --------------------------------------------------------------------------------------------- */

/* A splat as compositing reads it: with everything in powers of 2. */
template <class F>
struct HrSplatShape {
  F x, y, sharp_x, shear, sharp_y, power;
};

template <class F>
HR_HD HrSplatShape<F> hr_splat_shape(const F* field) {
  const F half_log2e(0.5f * HR_SPLAT_LOG2E);
  HrSplatShape<F> s;
  s.x = field[HR_SPLAT_X];
  s.y = field[HR_SPLAT_Y];
  s.sharp_x = field[HR_SPLAT_SHARP_X] * half_log2e;
  s.shear = field[HR_SPLAT_SHEAR];
  s.sharp_y = field[HR_SPLAT_SHARP_Y] * half_log2e;
  s.power = field[HR_SPLAT_LOG2_OPACITY];
  return s;
}

/* log2 of the opacity at the pixel centre (px, py). The pixel is left out below HR_SPLAT_MIN_POWER; else alpha is 2 to
 * this, or to HR_SPLAT_MAX_POWER if that is less, and then without slope. u and dy are for the backward pass. */
template <class F>
HR_HD F hr_splat_power(const HrSplatShape<F>& s, F px, F py, F* u, F* dy) {
  *dy = py - s.y;
  *u = hr_fma(s.shear, *dy, px - s.x);
  const F at_row = hr_fma(-(s.sharp_y * *dy), *dy, s.power);
  return hr_fma(-(s.sharp_x * *u), *u, at_row);
}

/* 2^power for HR_SPLAT_MIN_POWER <= power <= 0, to 2 units in the last place, without a branch or a table. */
HR_HD float hr_splat_exp2(float power) {
  const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits */
  const float shifted = power + magic, f = power - (shifted - magic);
  float p = 1.32647e-3f;
  p = hr_fma(p, f, 9.67151e-3f);
  p = hr_fma(p, f, 5.550734e-2f);
  p = hr_fma(p, f, 2.4022242e-1f);
  p = hr_fma(p, f, 6.9314698e-1f);
  p = hr_fma(p, f, 1.0f);
  union {
    float f;
    uint32_t i;
  } bits, whole;
  bits.f = p;
  whole.f = shifted;
  bits.i += whole.i << 23;
  return bits.f;
}

/* --- backward ------------------------------------------------------------------------------------------------------- */

/* What the pixels add up for one splat. With g = alpha * dL/dalpha (0 where alpha is at its most): */
template <class F>
struct HrSplatSums {
  F g, gu, gy, guu, guy, gyy; /* sums of g, g u, g dy, g u^2, g u dy, g dy^2 */
};

/* The gradient by all fields of a splat but its depth. */
template <class F>
HR_HD void hr_splat_sums_to_fields(const HrSplatSums<F>& sum, const F* field, F* by) {
  const F half(0.5f), sharp_x = field[HR_SPLAT_SHARP_X], shear = field[HR_SPLAT_SHEAR];
  by[HR_SPLAT_X] = sharp_x * sum.gu;
  by[HR_SPLAT_Y] = hr_fma(shear, by[HR_SPLAT_X], field[HR_SPLAT_SHARP_Y] * sum.gy);
  by[HR_SPLAT_SHARP_X] = -(half * sum.guu);
  by[HR_SPLAT_SHEAR] = -(sharp_x * sum.guy);
  by[HR_SPLAT_SHARP_Y] = -(half * sum.gyy);
  by[HR_SPLAT_OPACITY] = sum.g / field[HR_SPLAT_OPACITY];
}

#endif
