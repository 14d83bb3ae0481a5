/* Activations of small networks, and the exponential and logarithm that they need: the same bits on every CPU, since all
 * of it is multiplications, additions and explicitly fused steps in a fixed order. */
#ifndef HR_ACTIVATION_H
#define HR_ACTIVATION_H

#include <math.h>
#include <string.h>

#include "hr_common.h"

enum HrActivation { HR_ACT_NONE = 0, HR_ACT_RELU = 1, HR_ACT_SOFTPLUS = 2, HR_ACT_SIGMOID = 3, HR_ACT_EXP = 4 };

HR_HD float hr_float_of_bits(int32_t bits) {
#if defined(__CUDA_ARCH__)
  return __int_as_float(bits);
#else
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

HR_HD int32_t hr_bits_of_float(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_int(value);
#else
  int32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

/* e^x within 1.1 units in the last place; 0 below -87.3 (no denormals), infinity above 88.7; NaN stays NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2, and the Taylor series of e^r, whose eighth term is below half a unit. */
HR_HD float hr_exp(float x) {
  const float low = x > -87.33654f ? x : -87.33654f;
  const float cut = low < 88.72283f ? low : 88.72283f; /* also what NaN becomes, until the end */
  const float n = floorf(fmaf(cut, 1.44269504f, 0.5f));
  const float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, cut));
  float p = 1.98412698e-4f;
  p = fmaf(p, r, 1.38888889e-3f);
  p = fmaf(p, r, 8.33333333e-3f);
  p = fmaf(p, r, 4.16666667e-2f);
  p = fmaf(p, r, 1.66666667e-1f);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  /* 2^n in two factors: n reaches 128, which one exponent cannot hold */
  const int32_t whole = (int32_t)n, half = whole >> 1;
  const float result = p * hr_float_of_bits((half + 127) << 23) * hr_float_of_bits((whole - half + 127) << 23);
  const float bounded = x < -87.33654f ? 0.0f : (x > 88.72283f ? (float)INFINITY : result);
  return x == x ? bounded : x;
}

/* ln(1 + t) for 0 <= t <= 1, within 3 units in the last place: 2 atanh(s), s = t / (2 + t) <= 1/3. */
HR_HD float hr_log1p_unit(float t) {
  const float s = t / (2.0f + t), q = s * s;
  float p = 1.0f / 15.0f;
  p = fmaf(p, q, 1.0f / 13.0f);
  p = fmaf(p, q, 1.0f / 11.0f);
  p = fmaf(p, q, 1.0f / 9.0f);
  p = fmaf(p, q, 1.0f / 7.0f);
  p = fmaf(p, q, 1.0f / 5.0f);
  p = fmaf(p, q, 1.0f / 3.0f);
  return 2.0f * fmaf(s * q, p, s);
}

/* The activation at z, and in *slope its derivative there. beta bends the softplus: ln(1 + e^(beta z)) / beta. */
HR_HD float hr_activate(int kind, float beta, float z, float* slope) {
  if (kind == HR_ACT_RELU) {
    *slope = z <= 0.0f ? 0.0f : 1.0f;
    return z < 0.0f ? 0.0f : z;
  }
  if (kind == HR_ACT_SOFTPLUS || kind == HR_ACT_SIGMOID) {
    const float b = kind == HR_ACT_SOFTPLUS ? beta * z : z;
    const float t = hr_exp(b < 0.0f ? b : -b); /* of the negative side: no overflow */
    const float small = t / (1.0f + t);        /* sigmoid(-|b|) */
    const float sigmoid = b < 0.0f ? small : 1.0f - small;
    if (kind == HR_ACT_SIGMOID) {
      *slope = small * (1.0f - small);
      return sigmoid;
    }
    *slope = sigmoid;
    return ((b > 0.0f ? b : 0.0f) + hr_log1p_unit(t)) / beta; /* NaN stays NaN: so is t */
  }
  if (kind == HR_ACT_EXP) {
    const float e = hr_exp(z);
    *slope = e;
    return e;
  }
  *slope = 1.0f;
  return z;
}

#endif
