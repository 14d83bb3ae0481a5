// A vector of floats with a fused multiply-add, for sources that are compiled once per instruction set. Everything has
// internal linkage.
#pragma once

#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define HR_FLOATS 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define HR_FLOATS 8
#else
#define HR_FLOATS 4
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#endif

namespace hr {
namespace {

typedef float Floats __attribute__((vector_size(HR_FLOATS * 4), may_alias));
typedef Floats FloatsAnywhere __attribute__((aligned(4), may_alias));  // need not be aligned

inline __attribute__((always_inline, unused)) Floats load(const float* at) {
  return *reinterpret_cast<const FloatsAnywhere*>(at);
}
inline __attribute__((always_inline, unused)) void store(float* at, Floats value) {
  *reinterpret_cast<FloatsAnywhere*>(at) = value;
}

// The same number in every lane. Not by adding it to a vector of zeros: that takes two instructions more.
inline __attribute__((always_inline, unused)) Floats all(float value) {
#if defined(__AVX512F__)
  return (Floats)_mm512_set1_ps(value);
#elif defined(__AVX2__)
  return (Floats)_mm256_set1_ps(value);
#elif defined(__ARM_NEON)
  return (Floats)vdupq_n_f32(value);
#else
  return Floats{value, value, value, value};
#endif
}

// a b + c, rounded once.
inline __attribute__((always_inline, unused)) Floats fused(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  for (int i = 0; i < HR_FLOATS; ++i) c[i] = fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

}  // namespace
}  // namespace hr
