// Eight of the sixteen lanes of lanes16.h in one register of AVX2, for loops that keep many sums; the same operations, and the
// same bits. And how to read lanes and compare numbers of either kind.
#pragma once

#include "lanes16.h"
#include "splat_reach.h"

namespace hr {
namespace {

HR_LANE void read_lanes(const float* at, Floats* out) { *out = load(at); }
HR_LANE Mask number_below(int32_t number, const int32_t* at, const Floats&) { return Ints(number) < load(at); }

#if defined(__AVX2__)

struct EightMask {
  __m256 m;
};
struct Eight {
  __m256 v;
  HR_LANE_MEMBER Eight() = default;
  HR_LANE_MEMBER Eight(__m256 a) : v(a) {}
  HR_LANE_MEMBER explicit Eight(float a) : v(_mm256_set1_ps(a)) {}
};

HR_LANE Eight operator+(Eight a, Eight b) { return _mm256_add_ps(a.v, b.v); }
HR_LANE Eight operator-(Eight a, Eight b) { return _mm256_sub_ps(a.v, b.v); }
HR_LANE Eight operator*(Eight a, Eight b) { return _mm256_mul_ps(a.v, b.v); }
HR_LANE Eight operator/(Eight a, Eight b) { return _mm256_div_ps(a.v, b.v); }
HR_LANE Eight operator-(Eight a) { return _mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f)); }
HR_LANE EightMask operator<(Eight a, Eight b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
HR_LANE EightMask operator>=(Eight a, Eight b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
HR_LANE EightMask operator&(EightMask a, EightMask b) { return {_mm256_and_ps(a.m, b.m)}; }
HR_LANE bool any(EightMask a) { return _mm256_movemask_ps(a.m) != 0; }
HR_LANE Eight zero_unless(EightMask m, Eight a) { return _mm256_and_ps(m.m, a.v); }
HR_LANE Eight hr_fma(Eight a, Eight b, Eight c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
HR_LANE Eight hr_min(Eight a, Eight b) { return _mm256_min_ps(a.v, b.v); }
HR_LANE Eight abs_of(Eight a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
HR_LANE void store(float* at, Eight a) { _mm256_storeu_ps(at, a.v); }
HR_LANE void read_lanes(const float* at, Eight* out) { out->v = _mm256_loadu_ps(at); }
HR_LANE EightMask number_below(int32_t number, const int32_t* at, const Eight&) {
  const __m256i others = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(others, _mm256_set1_epi32(number)))};
}

// As lanes16.h has it.
HR_LANE Eight hr_splat_exp2(Eight power) {
  const Eight magic(12582912.0f), shifted = power + magic, f = power - (shifted - magic);
  Eight p(1.32647e-3f);
  p = hr_fma(p, f, Eight(9.67151e-3f));
  p = hr_fma(p, f, Eight(5.550734e-2f));
  p = hr_fma(p, f, Eight(2.4022242e-1f));
  p = hr_fma(p, f, Eight(6.9314698e-1f));
  p = hr_fma(p, f, Eight(1.0f));
  const __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(p.v), _mm256_slli_epi32(_mm256_castps_si256(shifted.v), 23));
  return _mm256_castsi256_ps(scaled);
}

// Lanes 0 to 7 and 8 to 15.
HR_LANE Floats both_halves(Eight low, Eight high) {
  float lanes[kLanes];
  store(lanes, low);
  store(lanes + 8, high);
  return load(lanes);
}

#endif

}  // namespace
}  // namespace hr
