// Sixteen numbers at once, on every instruction set: one AVX-512 register, two of AVX2, four of NEON.
//
// For the templates of include/splat_*.h and kernels written like them. Every operation is IEEE's, fused multiply-adds are
// written out (hr_fma) and sums over lanes have a fixed order: results are the same bits on every instruction set that has
// fused multiply-adds. Included by units that are compiled once per instruction set, hence no external linkage.
#pragma once

#include <stdint.h>
#include <string.h>

#include "hr_common.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define HR_LANE static inline __attribute__((always_inline, unused))
#define HR_LANE_MEMBER inline __attribute__((always_inline))

namespace hr {
namespace {

constexpr int kLanes = 16;

#if defined(__AVX512F__)

struct Mask {
  __mmask16 m;
};
struct Ints {
  __m512i v;
  HR_LANE_MEMBER Ints() = default;
  HR_LANE_MEMBER Ints(__m512i a) : v(a) {}
  HR_LANE_MEMBER explicit Ints(int32_t a) : v(_mm512_set1_epi32(a)) {}
};
struct Floats {
  __m512 v;
  HR_LANE_MEMBER Floats() = default;
  HR_LANE_MEMBER Floats(__m512 a) : v(a) {}
  HR_LANE_MEMBER explicit Floats(float a) : v(_mm512_set1_ps(a)) {}
};

HR_LANE Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
HR_LANE Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.m | b.m)}; }
HR_LANE uint32_t bits_of(Mask a) { return a.m; }
HR_LANE Mask mask_of(uint32_t bits) { return {static_cast<__mmask16>(bits)}; }

HR_LANE Floats operator+(Floats a, Floats b) { return _mm512_add_ps(a.v, b.v); }
HR_LANE Floats operator-(Floats a, Floats b) { return _mm512_sub_ps(a.v, b.v); }
HR_LANE Floats operator*(Floats a, Floats b) { return _mm512_mul_ps(a.v, b.v); }
HR_LANE Floats operator/(Floats a, Floats b) { return _mm512_div_ps(a.v, b.v); }
HR_LANE Floats operator-(Floats a) { return _mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f)); }
HR_LANE Mask operator<(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
HR_LANE Mask operator<=(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
HR_LANE Mask operator>(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
HR_LANE Mask operator>=(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
HR_LANE Mask operator<(Ints a, Ints b) { return {_mm512_cmplt_epi32_mask(a.v, b.v)}; }
HR_LANE Ints operator|(Ints a, Ints b) { return _mm512_or_si512(a.v, b.v); }
HR_LANE Ints operator+(Ints a, Ints b) { return _mm512_add_epi32(a.v, b.v); }
HR_LANE Ints operator-(Ints a, Ints b) { return _mm512_sub_epi32(a.v, b.v); }
template <int kBits>
HR_LANE Ints shift_left(Ints a) { return _mm512_slli_epi32(a.v, kBits); }
template <int kBits>
HR_LANE Ints shift_right(Ints a) { return _mm512_srai_epi32(a.v, kBits); }
HR_LANE Floats as_floats(Ints a) { return _mm512_castsi512_ps(a.v); }
HR_LANE Ints as_ints(Floats a) { return _mm512_castps_si512(a.v); }
HR_LANE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a.v); }
HR_LANE Ints to_ints(Floats a) { return _mm512_cvttps_epi32(a.v); }
HR_LANE Floats floor_of(Floats a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }

HR_LANE Floats hr_fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
HR_LANE Floats hr_sqrt(Floats a) { return _mm512_sqrt_ps(a.v); }
HR_LANE Floats hr_min(Floats a, Floats b) { return _mm512_min_ps(a.v, b.v); }
HR_LANE Floats hr_max(Floats a, Floats b) { return _mm512_max_ps(a.v, b.v); }
HR_LANE Floats abs_of(Floats a) { return _mm512_abs_ps(a.v); }
HR_LANE Floats hr_select(Mask m, Floats yes, Floats no) { return _mm512_mask_blend_ps(m.m, no.v, yes.v); }
HR_LANE Ints hr_select(Mask m, Ints yes, Ints no) { return _mm512_mask_blend_epi32(m.m, no.v, yes.v); }
HR_LANE Floats zero_unless(Mask m, Floats a) { return _mm512_maskz_mov_ps(m.m, a.v); }

HR_LANE Floats load(const float* at) { return _mm512_loadu_ps(at); }
HR_LANE Ints load(const int32_t* at) { return Ints(_mm512_loadu_si512(at)); }
HR_LANE void store(float* at, Floats a) { _mm512_storeu_ps(at, a.v); }
HR_LANE void store(int32_t* at, Ints a) { _mm512_storeu_si512(at, a.v); }

// Writes those of first, first + 1 .. first + 15 whose bit is set, one behind the other; up to 16 places are overwritten.
HR_LANE int append_numbers(int32_t* at, Mask m, int32_t first) {
  const __m512i numbers = _mm512_add_epi32(_mm512_set1_epi32(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  _mm512_storeu_si512(at, _mm512_maskz_compress_epi32(m.m, numbers));
  return __builtin_popcount(m.m);
}

// One step of adding up two vectors at once: lanes that are kDistance apart, of a into one half of the result, of b into the other.
template <int kDistance>
HR_LANE Floats fold(Floats a, Floats b) {
  if (kDistance == 8) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee));
  } else if (kDistance == 4) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x88), _mm512_shuffle_f32x4(a.v, b.v, 0xdd));
  } else if (kDistance == 2) {
    return _mm512_add_ps(_mm512_shuffle_ps(a.v, b.v, 0x44), _mm512_shuffle_ps(a.v, b.v, 0xee));
  }
  return _mm512_add_ps(_mm512_shuffle_ps(a.v, b.v, 0x88), _mm512_shuffle_ps(a.v, b.v, 0xdd));
}

#else

#if defined(__AVX2__)
#define HR_PART 8
#else
#define HR_PART 4
#endif
constexpr int kParts = kLanes / HR_PART;
typedef float PartF __attribute__((vector_size(HR_PART * 4)));
typedef int32_t PartI __attribute__((vector_size(HR_PART * 4)));

struct Mask {
  PartI p[kParts];
};
struct Ints {
  PartI p[kParts];
  HR_LANE_MEMBER Ints() = default;
  HR_LANE_MEMBER explicit Ints(int32_t a) {
    for (PartI& part : p) part = PartI{} + a;
  }
};
struct Floats {
  PartF p[kParts];
  HR_LANE_MEMBER Floats() = default;
  HR_LANE_MEMBER explicit Floats(float a) {
    for (PartF& part : p) part = PartF{} + a;
  }
};

#define HR_BY_PARTS(Result, name, First, Second, expression) \
  HR_LANE Result name(First a, Second b) {                   \
    Result out;                                              \
    for (int i = 0; i < kParts; ++i) out.p[i] = expression;  \
    return out;                                              \
  }
HR_BY_PARTS(Mask, operator&, Mask, Mask, a.p[i] & b.p[i])
HR_BY_PARTS(Mask, operator|, Mask, Mask, a.p[i] | b.p[i])
HR_BY_PARTS(Floats, operator+, Floats, Floats, a.p[i] + b.p[i])
HR_BY_PARTS(Floats, operator-, Floats, Floats, a.p[i] - b.p[i])
HR_BY_PARTS(Floats, operator*, Floats, Floats, a.p[i] * b.p[i])
HR_BY_PARTS(Floats, operator/, Floats, Floats, a.p[i] / b.p[i])
HR_BY_PARTS(Mask, operator<, Floats, Floats, a.p[i] < b.p[i])
HR_BY_PARTS(Mask, operator<=, Floats, Floats, a.p[i] <= b.p[i])
HR_BY_PARTS(Mask, operator>, Floats, Floats, a.p[i] > b.p[i])
HR_BY_PARTS(Mask, operator>=, Floats, Floats, a.p[i] >= b.p[i])
HR_BY_PARTS(Mask, operator<, Ints, Ints, a.p[i] < b.p[i])
HR_BY_PARTS(Ints, operator|, Ints, Ints, a.p[i] | b.p[i])
HR_BY_PARTS(Ints, operator+, Ints, Ints, a.p[i] + b.p[i])
HR_BY_PARTS(Ints, operator-, Ints, Ints, a.p[i] - b.p[i])
HR_BY_PARTS(Floats, hr_min, Floats, Floats, a.p[i] < b.p[i] ? a.p[i] : b.p[i])
HR_BY_PARTS(Floats, hr_max, Floats, Floats, a.p[i] > b.p[i] ? a.p[i] : b.p[i])
HR_BY_PARTS(Floats, zero_unless, Mask, Floats, (PartF)(a.p[i] & (PartI)b.p[i]))
#undef HR_BY_PARTS

HR_LANE Floats operator-(Floats a) {
  for (PartF& part : a.p) part = -part;
  return a;
}
template <int kBits>
HR_LANE Ints shift_left(Ints a) {
  for (PartI& part : a.p) part = part << kBits;
  return a;
}
template <int kBits>
HR_LANE Ints shift_right(Ints a) {
  for (PartI& part : a.p) part = part >> kBits;
  return a;
}
HR_LANE Floats as_floats(Ints a) {
  Floats out;
  for (int i = 0; i < kParts; ++i) out.p[i] = (PartF)a.p[i];
  return out;
}
HR_LANE Ints as_ints(Floats a) {
  Ints out;
  for (int i = 0; i < kParts; ++i) out.p[i] = (PartI)a.p[i];
  return out;
}
HR_LANE Floats to_floats(Ints a) {
  Floats out;
  for (int i = 0; i < kParts; ++i) out.p[i] = __builtin_convertvector(a.p[i], PartF);
  return out;
}
HR_LANE Ints to_ints(Floats a) {
  Ints out;
  for (int i = 0; i < kParts; ++i) out.p[i] = __builtin_convertvector(a.p[i], PartI);
  return out;
}
HR_LANE Floats hr_select(Mask m, Floats yes, Floats no) {
  for (int i = 0; i < kParts; ++i) yes.p[i] = m.p[i] ? yes.p[i] : no.p[i];
  return yes;
}
HR_LANE Ints hr_select(Mask m, Ints yes, Ints no) {
  for (int i = 0; i < kParts; ++i) yes.p[i] = m.p[i] ? yes.p[i] : no.p[i];
  return yes;
}
HR_LANE Floats load(const float* at) {
  Floats out;
  memcpy(&out, at, sizeof(out));
  return out;
}
HR_LANE Ints load(const int32_t* at) {
  Ints out;
  memcpy(&out, at, sizeof(out));
  return out;
}
HR_LANE void store(float* at, Floats a) { memcpy(at, &a, sizeof(a)); }
HR_LANE void store(int32_t* at, Ints a) { memcpy(at, &a, sizeof(a)); }

#if defined(__AVX2__)
HR_LANE Floats hr_fma(Floats a, Floats b, Floats c) {
  for (int i = 0; i < kParts; ++i) c.p[i] = _mm256_fmadd_ps(a.p[i], b.p[i], c.p[i]);
  return c;
}
HR_LANE Floats hr_sqrt(Floats a) {
  for (PartF& part : a.p) part = _mm256_sqrt_ps(part);
  return a;
}
HR_LANE Floats floor_of(Floats a) {
  for (PartF& part : a.p) part = _mm256_floor_ps(part);
  return a;
}
HR_LANE uint32_t bits_of(Mask a) {
  uint32_t bits = 0;
  for (int i = 0; i < kParts; ++i) bits |= static_cast<uint32_t>(_mm256_movemask_ps((__m256)a.p[i])) << (HR_PART * i);
  return bits;
}
#else
HR_LANE Floats hr_fma(Floats a, Floats b, Floats c) {
  for (int i = 0; i < kParts; ++i) {
    for (int j = 0; j < HR_PART; ++j) c.p[i][j] = __builtin_fmaf(a.p[i][j], b.p[i][j], c.p[i][j]);
  }
  return c;
}
HR_LANE Floats hr_sqrt(Floats a) {
  for (PartF& part : a.p) {
    for (int j = 0; j < HR_PART; ++j) part[j] = __builtin_sqrtf(part[j]);
  }
  return a;
}
HR_LANE Floats floor_of(Floats a) {
  for (PartF& part : a.p) {
    for (int j = 0; j < HR_PART; ++j) part[j] = __builtin_floorf(part[j]);
  }
  return a;
}
HR_LANE uint32_t bits_of(Mask a) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(a.p[i / HR_PART][i % HR_PART] & 1) << i;
  return bits;
}
#endif
HR_LANE Floats abs_of(Floats a) {
  for (PartF& part : a.p) part = (PartF)((PartI)part & 0x7fffffff);
  return a;
}
HR_LANE Mask mask_of(uint32_t bits) {
  Mask out;
  for (int i = 0; i < kLanes; ++i) out.p[i / HR_PART][i % HR_PART] = bits >> i & 1 ? -1 : 0;
  return out;
}

HR_LANE int append_numbers(int32_t* at, Mask m, int32_t first) {
  int count = 0;
  for (uint32_t bits = bits_of(m); bits; bits &= bits - 1) at[count++] = first + __builtin_ctz(bits);
  return count;
}

#endif

#if defined(__AVX2__)
// Eight rows of eight become eight columns.
HR_LANE void turn_eight(__m256 (&row)[8]) {
  __m256 pair[8], four[8];
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int k = 0; k < 2; ++k) {
      four[i + 2 * k] = _mm256_shuffle_ps(pair[i + k], pair[i + 2 + k], 0x44);
      four[i + 2 * k + 1] = _mm256_shuffle_ps(pair[i + k], pair[i + 2 + k], 0xee);
    }
  }
  for (int k = 0; k < 4; ++k) {
    row[k] = _mm256_permute2f128_ps(four[k], four[4 + k], 0x20);
    row[4 + k] = _mm256_permute2f128_ps(four[k], four[4 + k], 0x31);
  }
}
#endif

HR_LANE bool any(Mask a) { return bits_of(a) != 0; }
HR_LANE Floats lane_numbers() {
  const float numbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(numbers);
}

// log2 of positive normal numbers, to 1e-7 of 1 or of the result.
HR_LANE Floats hr_log2(Floats a) {
  // a = m 2^e with m in [1/sqrt 2, sqrt 2); log2 m = 2 / ln 2 (t + t^3/3 + ...) with t = (m - 1) / (m + 1)
  const Ints exponent = shift_right<23>(as_ints(a) - Ints(0x3f3504f3));
  const Floats m = as_floats(as_ints(a) - shift_left<23>(exponent)), one(1.0f);
  const Floats t = (m - one) / (m + one), t2 = t * t;
  Floats p(2.0f * 1.44269504f / 9.0f);
  p = hr_fma(p, t2, Floats(2.0f * 1.44269504f / 7.0f));
  p = hr_fma(p, t2, Floats(2.0f * 1.44269504f / 5.0f));
  p = hr_fma(p, t2, Floats(2.0f * 1.44269504f / 3.0f));
  p = hr_fma(p, t2, Floats(2.0f * 1.44269504f));
  return hr_fma(p, t, to_floats(exponent));
}

// 2^power for -126 < power <= 0: hr_splat_exp2 in splat_reach.h, operation by operation.
HR_LANE Floats hr_splat_exp2(Floats power) {
  const Floats magic(12582912.0f), shifted = power + magic, f = power - (shifted - magic);
  Floats p(1.32647e-3f);
  p = hr_fma(p, f, Floats(9.67151e-3f));
  p = hr_fma(p, f, Floats(5.550734e-2f));
  p = hr_fma(p, f, Floats(2.4022242e-1f));
  p = hr_fma(p, f, Floats(6.9314698e-1f));
  p = hr_fma(p, f, Floats(1.0f));
  return as_floats(as_ints(p) + shift_left<23>(as_ints(shifted)));
}

// out[i] = the sum of the lanes of v[i]: first lanes 8 apart are added, then 4, 2 and 1 apart.
HR_LANE void store_sums(float* out, const Floats (&v)[kLanes]) {
#if defined(__AVX512F__)
  Floats level[kLanes];
  for (int i = 0; i < kLanes; ++i) level[i] = v[4 * (i % 4) + i / 4];  // undoes the order that the folds leave
  for (int i = 0; i < 8; ++i) level[i] = fold<8>(level[2 * i], level[2 * i + 1]);
  for (int i = 0; i < 4; ++i) level[i] = fold<4>(level[2 * i], level[2 * i + 1]);
  for (int i = 0; i < 2; ++i) level[i] = fold<2>(level[2 * i], level[2 * i + 1]);
  store(out, fold<1>(level[0], level[1]));
#elif defined(__AVX2__)
  for (int half = 0; half < kLanes; half += 8) {
    __m256 level[8];
    for (int i = 0; i < 8; ++i) {  // in the order that the folds below undo
      const Floats& a = v[half + 4 * (i % 2) + i / 2];
      level[i] = a.p[0] + a.p[1];
    }
    for (int i = 0; i < 4; ++i) {
      const __m256 a = level[2 * i], b = level[2 * i + 1];
      level[i] = _mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31);
    }
    for (int i = 0; i < 2; ++i) {
      const __m256 a = level[2 * i], b = level[2 * i + 1];
      level[i] = _mm256_shuffle_ps(a, b, 0x44) + _mm256_shuffle_ps(a, b, 0xee);
    }
    _mm256_storeu_ps(out + half, _mm256_shuffle_ps(level[0], level[1], 0x88) + _mm256_shuffle_ps(level[0], level[1], 0xdd));
  }
#else
  for (int i = 0; i < kLanes; ++i) {
    float x[kLanes];
    store(x, v[i]);
    for (int j = 0; j < 8; ++j) x[j] += x[j + 8];
    for (int j = 0; j < 4; ++j) x[j] += x[j + 4];
    out[i] = (x[0] + x[2]) + (x[1] + x[3]);
  }
#endif
}

}  // namespace
}  // namespace hr
