// The features of one entry of a hash grid, as a vector where the instruction set has one of that size. Included by sources
// that are compiled once per instruction set; everything has internal linkage.
#pragma once

#include <math.h>
#include <string.h>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

#define HR_INLINE inline __attribute__((always_inline, unused))

namespace hr {
namespace {

template <int F>
struct Row {
  float v[F];

  static HR_INLINE Row load(const float* at) {
    Row row;
    for (int f = 0; f < F; ++f) row.v[f] = at[f];
    return row;
  }
  HR_INLINE void store(float* at) const {
    for (int f = 0; f < F; ++f) at[f] = v[f];
  }
  HR_INLINE Row times(float w) const {
    Row row;
    for (int f = 0; f < F; ++f) row.v[f] = w * v[f];
    return row;
  }
  // w times this plus other, rounded once.
  HR_INLINE Row times_plus(float w, const Row& other) const {
    Row row;
    for (int f = 0; f < F; ++f) row.v[f] = fmaf(w, v[f], other.v[f]);
    return row;
  }
  HR_INLINE Row plus(const Row& other) const {
    Row row;
    for (int f = 0; f < F; ++f) row.v[f] = v[f] + other.v[f];
    return row;
  }
};

#if defined(__AVX2__) && defined(__FMA__)
template <>
struct Row<2> {
  __m128 v;

  static HR_INLINE Row load(const float* at) {
    double both;  // memcpy: the compiler may not take a table of floats for one of doubles
    memcpy(&both, at, sizeof both);
    return {_mm_castpd_ps(_mm_set_sd(both))};
  }
  HR_INLINE void store(float* at) const {
    const double both = _mm_cvtsd_f64(_mm_castps_pd(v));
    memcpy(at, &both, sizeof both);
  }
  HR_INLINE Row times(float w) const { return {_mm_mul_ps(_mm_set1_ps(w), v)}; }
  HR_INLINE Row times_plus(float w, const Row& other) const { return {_mm_fmadd_ps(_mm_set1_ps(w), v, other.v)}; }
  HR_INLINE Row plus(const Row& other) const { return {_mm_add_ps(v, other.v)}; }
};

template <>
struct Row<4> {
  __m128 v;

  static HR_INLINE Row load(const float* at) { return {_mm_loadu_ps(at)}; }
  HR_INLINE void store(float* at) const { _mm_storeu_ps(at, v); }
  HR_INLINE Row times(float w) const { return {_mm_mul_ps(_mm_set1_ps(w), v)}; }
  HR_INLINE Row times_plus(float w, const Row& other) const { return {_mm_fmadd_ps(_mm_set1_ps(w), v, other.v)}; }
  HR_INLINE Row plus(const Row& other) const { return {_mm_add_ps(v, other.v)}; }
};

template <>
struct Row<8> {
  __m256 v;

  static HR_INLINE Row load(const float* at) { return {_mm256_loadu_ps(at)}; }
  HR_INLINE void store(float* at) const { _mm256_storeu_ps(at, v); }
  HR_INLINE Row times(float w) const { return {_mm256_mul_ps(_mm256_set1_ps(w), v)}; }
  HR_INLINE Row times_plus(float w, const Row& other) const { return {_mm256_fmadd_ps(_mm256_set1_ps(w), v, other.v)}; }
  HR_INLINE Row plus(const Row& other) const { return {_mm256_add_ps(v, other.v)}; }
};
#endif

// Sum of products, as a tree: not fused, so that vectors may be added up in halves.
template <int F>
HR_INLINE float dot(const float* a, const float* b) {
  if constexpr (F == 1) {
    return a[0] * b[0];
  } else {
    return dot<F / 2>(a, b) + dot<F / 2>(a + F / 2, b + F / 2);
  }
}

}  // namespace
}  // namespace hr
