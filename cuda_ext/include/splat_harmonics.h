/* Real spherical harmonics to degree 3 and their slopes, in the order and with the signs of geometry/harmonics.py. */
#ifndef HR_SPLAT_HARMONICS_H
#define HR_SPLAT_HARMONICS_H

#include "splat_maths.h"

#define HR_SH_0 0.282094791773878f
#define HR_SH_1 0.488602511902920f
#define HR_SH_2XY 1.09254843059208f
#define HR_SH_2ZZ 0.315391565252520f
#define HR_SH_2XX 0.546274215296040f
#define HR_SH_3A 0.590043589926644f
#define HR_SH_3B 2.89061144264055f
#define HR_SH_3C 0.457045799464466f
#define HR_SH_3D 0.373176332590115f
#define HR_SH_3E 1.44530572132028f

#define HR_SH_MAX 16 /* harmonics up to degree 3 */

/* Values at the unit direction (x, y, z): (degree + 1)^2 of them. */
template <class F>
HR_HD void hr_harmonics(F x, F y, F z, int degree, F* out) {
  out[0] = F(HR_SH_0);
  if (degree < 1) return;
  out[1] = F(-HR_SH_1) * y;
  out[2] = F(HR_SH_1) * z;
  out[3] = F(-HR_SH_1) * x;
  if (degree < 2) return;
  const F xx = x * x, yy = y * y, zz = z * z, xy = x * y;
  out[4] = F(HR_SH_2XY) * xy;
  out[5] = F(-HR_SH_2XY) * y * z;
  out[6] = F(HR_SH_2ZZ) * (F(3.0f) * zz - F(1.0f));
  out[7] = F(-HR_SH_2XY) * x * z;
  out[8] = F(HR_SH_2XX) * (xx - yy);
  if (degree < 3) return;
  out[9] = F(-HR_SH_3A) * y * (F(3.0f) * xx - yy);
  out[10] = F(HR_SH_3B) * xy * z;
  out[11] = F(-HR_SH_3C) * y * (F(5.0f) * zz - F(1.0f));
  out[12] = F(HR_SH_3D) * z * (F(5.0f) * zz - F(3.0f));
  out[13] = F(-HR_SH_3C) * x * (F(5.0f) * zz - F(1.0f));
  out[14] = F(HR_SH_3E) * z * (xx - yy);
  out[15] = F(-HR_SH_3A) * x * (xx - F(3.0f) * yy);
}

/* The gradient by (x, y, z) from that by the values, the polynomials being taken as they stand above. */
template <class F>
HR_HD void hr_harmonics_backward(F x, F y, F z, int degree, const F* by, F* out) {
  out[0] = out[1] = out[2] = F(0.0f);
  if (degree < 1) return;
  out[0] = F(-HR_SH_1) * by[3];
  out[1] = F(-HR_SH_1) * by[1];
  out[2] = F(HR_SH_1) * by[2];
  if (degree < 2) return;
  const F two(2.0f), six(6.0f);
  out[0] = out[0] + F(HR_SH_2XY) * (y * by[4] - z * by[7]) + F(2.0f * HR_SH_2XX) * x * by[8];
  out[1] = out[1] + F(HR_SH_2XY) * (x * by[4] - z * by[5]) - F(2.0f * HR_SH_2XX) * y * by[8];
  out[2] = out[2] - F(HR_SH_2XY) * (y * by[5] + x * by[7]) + F(6.0f * HR_SH_2ZZ) * z * by[6];
  if (degree < 3) return;
  const F xx = x * x, yy = y * y, zz = z * z, xy = x * y, three(3.0f), five(5.0f), one(1.0f);
  const F rim = five * zz - one, wide = F(HR_SH_3A) * three * (xx - yy);
  out[0] = out[0] - F(HR_SH_3A) * six * xy * by[9] + F(HR_SH_3B) * y * z * by[10] - F(HR_SH_3C) * rim * by[13] +
           F(HR_SH_3E) * two * x * z * by[14] - wide * by[15];
  out[1] = out[1] - wide * by[9] + F(HR_SH_3B) * x * z * by[10] - F(HR_SH_3C) * rim * by[11] -
           F(HR_SH_3E) * two * y * z * by[14] + F(HR_SH_3A) * six * xy * by[15];
  out[2] = out[2] + F(HR_SH_3B) * xy * by[10] - F(10.0f * HR_SH_3C) * z * (y * by[11] + x * by[13]) +
           F(HR_SH_3D) * (F(15.0f) * zz - three) * by[12] + F(HR_SH_3E) * (xx - yy) * by[14];
}

#endif
