// Sixteen floats at once: one register of AVX-512, two of AVX2, or a plain array. Steps marked fused are fused on every
// instruction set, so that all of them give the same bits. Everything is local to the unit that includes this.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace hr {
namespace {

constexpr int kWidth = 16;

#define HR_LANES_FN static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__)

struct F16 {
  __m512 v;
};
HR_LANES_FN F16 zeros() { return {_mm512_setzero_ps()}; }
HR_LANES_FN F16 all(float x) { return {_mm512_set1_ps(x)}; }
HR_LANES_FN F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
HR_LANES_FN F16 load_some(const float* p, int n) { return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p)}; }
HR_LANES_FN void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
HR_LANES_FN void store_some(float* p, F16 a, int n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), a.v); }
HR_LANES_FN F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
HR_LANES_FN F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
HR_LANES_FN F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
HR_LANES_FN F16 fused(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }  // a b + c
HR_LANES_FN F16 less(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }   // of NaN and b: b
HR_LANES_FN F16 more(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
HR_LANES_FN F16 nearest(F16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
HR_LANES_FN F16 floor_of(F16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
HR_LANES_FN void store_whole(int32_t* p, F16 a) { _mm512_storeu_si512(p, _mm512_cvtps_epi32(a.v)); }  // whole numbers
HR_LANES_FN F16 if_above(F16 a, F16 b, F16 yes, F16 no) {  // a > b ? yes : no; NaN: no
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), no.v, yes.v)};
}
HR_LANES_FN F16 power_of_two(F16 whole) {  // of whole numbers in -126..127
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(whole.v), _mm512_set1_epi32(127)), 23))};
}
HR_LANES_FN float sum(F16 a) {  // lanes i and i + 8 first, then i + 4, i + 2, i + 1
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

#elif defined(__AVX2__)

struct F16 {
  __m256 a, b;
};
HR_LANES_FN F16 zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
HR_LANES_FN F16 all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HR_LANES_FN F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HR_LANES_FN F16 load_some(const float* p, int n) {
  float room[16] = {};
  std::memcpy(room, p, static_cast<size_t>(n) * sizeof(float));
  return load(room);
}
HR_LANES_FN void store(float* p, F16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
HR_LANES_FN void store_some(float* p, F16 x, int n) {
  float room[16];
  store(room, x);
  std::memcpy(p, room, static_cast<size_t>(n) * sizeof(float));
}
HR_LANES_FN F16 operator+(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
HR_LANES_FN F16 operator-(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
HR_LANES_FN F16 operator*(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
HR_LANES_FN F16 fused(F16 x, F16 y, F16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
HR_LANES_FN F16 less(F16 x, F16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
HR_LANES_FN F16 more(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
HR_LANES_FN F16 nearest(F16 x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}
HR_LANES_FN F16 floor_of(F16 x) { return {_mm256_floor_ps(x.a), _mm256_floor_ps(x.b)}; }
HR_LANES_FN void store_whole(int32_t* p, F16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvtps_epi32(x.a));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), _mm256_cvtps_epi32(x.b));
}
HR_LANES_FN F16 if_above(F16 x, F16 y, F16 yes, F16 no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))};
}
HR_LANES_FN __m256 power_of_two_half(__m256 whole) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23));
}
HR_LANES_FN F16 power_of_two(F16 x) { return {power_of_two_half(x.a), power_of_two_half(x.b)}; }
HR_LANES_FN float sum(F16 x) {
  const __m256 h = _mm256_add_ps(x.a, x.b);
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

#else

struct F16 {
  float v[16];
};
#define HR_EACH(expression)               \
  F16 r;                                  \
  for (int i = 0; i < 16; ++i) r.v[i] = (expression); \
  return r
HR_LANES_FN F16 all(float x) { HR_EACH(x); }
HR_LANES_FN F16 zeros() { return all(0.0f); }
HR_LANES_FN F16 load(const float* p) { HR_EACH(p[i]); }
HR_LANES_FN F16 load_some(const float* p, int n) { HR_EACH(i < n ? p[i] : 0.0f); }
HR_LANES_FN void store_some(float* p, F16 a, int n) { std::memcpy(p, a.v, static_cast<size_t>(n) * sizeof(float)); }
HR_LANES_FN void store(float* p, F16 a) { store_some(p, a, 16); }
HR_LANES_FN F16 operator+(F16 a, F16 b) { HR_EACH(a.v[i] + b.v[i]); }
HR_LANES_FN F16 operator-(F16 a, F16 b) { HR_EACH(a.v[i] - b.v[i]); }
HR_LANES_FN F16 operator*(F16 a, F16 b) { HR_EACH(a.v[i] * b.v[i]); }
HR_LANES_FN F16 fused(F16 a, F16 b, F16 c) { HR_EACH(std::fma(a.v[i], b.v[i], c.v[i])); }
HR_LANES_FN F16 less(F16 a, F16 b) { HR_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
HR_LANES_FN F16 more(F16 a, F16 b) { HR_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
HR_LANES_FN F16 nearest(F16 a) { HR_EACH(std::nearbyint(a.v[i])); }
HR_LANES_FN F16 floor_of(F16 a) { HR_EACH(std::floor(a.v[i])); }
HR_LANES_FN void store_whole(int32_t* p, F16 a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int32_t>(a.v[i]);
}
HR_LANES_FN F16 if_above(F16 a, F16 b, F16 yes, F16 no) { HR_EACH(a.v[i] > b.v[i] ? yes.v[i] : no.v[i]); }
HR_LANES_FN F16 power_of_two(F16 whole) {
  F16 r;
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(whole.v[i]) + 127) << 23;
    std::memcpy(&r.v[i], &bits, sizeof bits);
  }
  return r;
}
HR_LANES_FN float sum(F16 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  }
  return a.v[0];
}
#undef HR_EACH

#endif

// Rows of four floats to four columns of sixteen.
HR_LANES_FN void load_columns(const float* rows, F16* columns) {
#if defined(__AVX512F__)
  const __m512 a = _mm512_loadu_ps(rows), b = _mm512_loadu_ps(rows + 16), c = _mm512_loadu_ps(rows + 32), d = _mm512_loadu_ps(rows + 48);
  const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
  const __m512d ab2 = _mm512_castps_pd(_mm512_unpackhi_ps(a, b)), cd2 = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512d found[4] = {_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd), _mm512_unpacklo_pd(ab2, cd2),
                            _mm512_unpackhi_pd(ab2, cd2)};
  for (int k = 0; k < 4; ++k) columns[k].v = _mm512_permutexvar_ps(order, _mm512_castpd_ps(found[k]));
#else
  float column[4][16];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 4; ++k) column[k][i] = rows[4 * i + k];
  }
  for (int k = 0; k < 4; ++k) columns[k] = load(column[k]);
#endif
}

HR_LANES_FN F16 magnitude(F16 a) { return more(a, zeros() - a); }

// e^x and e^x - 1 (exact near 0) for x in -87..0, at most two units in the last place off: x = n ln 2 + r, a polynomial of
// (e^r - 1) / r. Below -87 they are as at -87, which is no denormal.
struct Exponential {
  F16 value, minus_one;
};
HR_LANES_FN Exponential exponential(F16 x) {
  x = more(x, all(-87.0f));
  const F16 n = nearest(x * all(1.44269504f));
  const F16 r = fused(n, all(2.12194440e-4f), fused(n, all(-0.693359375f), x));
  F16 q = all(0.00138888689f);
  q = fused(q, r, all(0.008369074f));
  q = fused(q, r, all(0.0416671364f));
  q = fused(q, r, all(0.166665062f));
  q = fused(q, r, all(0.499999981f));
  q = fused(q, r, all(1.0f)) * r;
  const F16 scale = power_of_two(n);
  const F16 value = fused(q, scale, scale);
  return {value, fused(q, scale, scale - all(1.0f))};
}

// e^-|x|, at least e^-60: what is made of it must not become a denormal.
HR_LANES_FN F16 decay(F16 x) { return exponential(more(zeros() - magnitude(x), all(-60.0f))).value; }

// softplus and its derivative, from t = e^-|x|: max(x, 0) + ln(1 + t) and 1 / (1 + t) or t / (1 + t), as polynomials of t.
HR_LANES_FN F16 softplus_of(F16 x, F16 t) {
  F16 p = all(0.00523262407f);
  p = fused(p, t, all(-0.0295049575f));
  p = fused(p, t, all(0.0782254938f));
  p = fused(p, t, all(-0.136632069f));
  p = fused(p, t, all(0.191059885f));
  p = fused(p, t, all(-0.248429775f));
  p = fused(p, t, all(0.333190962f));
  p = fused(p, t, all(-0.499994931f));
  p = fused(p, t, all(0.99999997f));
  return fused(p, t, more(x, zeros()));
}
HR_LANES_FN F16 sigmoid_of(F16 x, F16 t) {
  F16 p = all(-0.0231781686f);
  p = fused(p, t, all(0.139069563f));
  p = fused(p, t, all(-0.385340084f));
  p = fused(p, t, all(0.675071842f));
  p = fused(p, t, all(-0.881054411f));
  p = fused(p, t, all(0.971687444f));
  p = fused(p, t, all(-0.995964367f));
  p = fused(p, t, all(0.999699317f));
  p = fused(p, t, all(-0.999991113f));
  p = fused(p, t, all(0.999999956f));
  return if_above(zeros(), x, t * p, p);
}
HR_LANES_FN F16 sigmoid(F16 x) { return sigmoid_of(x, decay(x)); }

}  // namespace
}  // namespace hr
