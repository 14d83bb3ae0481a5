// One level of a hash grid. Included once per instruction set with HR_HASHGRID_KERNELS defined. Corners and weights of a
// block of positions are worked out first, in loops that the compiler turns into vectors; then the table is read position by
// position (features are the vector), or with gathers where these are faster. Sums are fused and in a fixed order: every
// instruction set gives the same bits.

#include "hashgrid_level.h"
#include "hashgrid_rows.h"

namespace hr {
namespace {

constexpr int kBlock = 64;  // positions whose corners are worked out at a time

template <int D>
struct Corners {
  static constexpr int kCount = 1 << D;
  alignas(64) uint32_t entry[kCount][kBlock];
  alignas(64) float weight[kCount][kBlock];
  alignas(64) float upper[D][kBlock];  // of each coordinate
};

// Bit d of a corner's number says whether it is the upper one of coordinate d.
template <int D, bool kHashed>
inline void find_entries(const HashgridLevel& level, const uint32_t (*lower)[kBlock], Corners<D>& at) {
  for (int c = 0; c < Corners<D>::kCount; ++c) {
    const uint32_t dx = c & 1, dy = c >> 1 & 1, dz = c >> 2;
    const uint32_t* zs = D == 3 ? lower[D - 1] : lower[0];
    for (int i = 0; i < kBlock; ++i) {
      const uint32_t z = D == 3 ? zs[i] + dz : 0u;
      at.entry[c][i] = hr_hashgrid_entry(lower[0][i] + dx, lower[1][i] + dy, z, level.resolution, level.size, kHashed);
    }
  }
}

template <int D>
inline void find_weights(Corners<D>& at) {
  for (int i = 0; i < kBlock; ++i) {
    const float x1 = at.upper[0][i], x0 = 1.0f - x1, y1 = at.upper[1][i], y0 = 1.0f - y1;
    const float plane[4] = {x0 * y0, x1 * y0, x0 * y1, x1 * y1};
    const float z1 = D == 3 ? at.upper[D - 1][i] : 0.0f, z0 = 1.0f - z1;
    for (int c = 0; c < 4; ++c) {
      at.weight[c][i] = D == 3 ? plane[c] * z0 : plane[c];
      if (D == 3) at.weight[Corners<D>::kCount - 4 + c][i] = plane[c] * z1;
    }
  }
}

// Of positions first..first+kBlock-1; those beyond the last one repeat it.
template <int D>
inline void find_corners(const HashgridLevel& level, int64_t first, Corners<D>& at) {
  alignas(64) uint32_t lower[D][kBlock];
  alignas(64) float tail[kBlock];
  for (int d = 0; d < D; ++d) {
    const float* x = level.xyz[d] + first;
    if (level.count - first < kBlock) {
      for (int i = 0; i < kBlock; ++i) tail[i] = first + i < level.count ? x[i] : 0.0f;
      x = tail;
    }
    for (int i = 0; i < kBlock; ++i) {
      const HrHashgridCell cell = hr_hashgrid_cell(x[i], level.scale, level.smoothstep);
      lower[d][i] = cell.corner;
      at.upper[d][i] = cell.upper;
    }
  }
  level.hashed ? find_entries<D, true>(level, lower, at) : find_entries<D, false>(level, lower, at);
  find_weights(at);
}

// Asks for the lines of a block's entries ahead of their use. Corners that differ in x share a line, mostly.
template <int D, int F>
inline void prefetch(const Corners<D>& at, int i, const float* table) {
  for (int c = 0; c < Corners<D>::kCount; c += 2) __builtin_prefetch(table + static_cast<int64_t>(at.entry[c][i]) * F);
}

template <int D, int F>
inline void encode_one(const HashgridLevel& level, const Corners<D>& at, int i, float* out) {
  const auto entry = [&](int c) { return Row<F>::load(level.table + static_cast<int64_t>(at.entry[c][i]) * F); };
  Row<F> even = entry(0).times(at.weight[0][i]), odd = entry(1).times(at.weight[1][i]);
#pragma GCC unroll 3
  for (int c = 2; c < Corners<D>::kCount; c += 2) {
    even = entry(c).times_plus(at.weight[c][i], even);
    odd = entry(c + 1).times_plus(at.weight[c + 1][i], odd);
  }
  even.plus(odd).store(out);
}

#if defined(__AVX512F__)
// Eight pairs of floats, gathered as doubles.
inline __m512 gather_pairs(const float* table, const uint32_t* entry) {
  const __m256i at = _mm256_load_si256(reinterpret_cast<const __m256i*>(entry));
  return _mm512_castpd_ps(_mm512_mask_i32gather_pd(_mm512_setzero_pd(), 0xff, at, table, 8));
}

// Eight positions of two features.
template <int D>
inline void encode_pairs(const HashgridLevel& level, const Corners<D>& at, float* out) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  for (int i = 0; i < kBlock; i += 8) {
    __m512 sum[2];
#pragma GCC unroll 8
    for (int c = 0; c < Corners<D>::kCount; ++c) {
      const __m512 pair = gather_pairs(level.table, at.entry[c] + i);
      const __m512 weight = _mm512_maskz_permutexvar_ps(0xffff, twice, _mm512_castps256_ps512(_mm256_load_ps(at.weight[c] + i)));
      sum[c & 1] = c < 2 ? _mm512_mul_ps(weight, pair) : _mm512_fmadd_ps(weight, pair, sum[c & 1]);
    }
    _mm512_storeu_ps(out + 2 * i, _mm512_add_ps(sum[0], sum[1]));
  }
}
#endif

template <int D, int F>
void encode_level(const HashgridLevel& level, float* values) {
  Corners<D> at;
  for (int64_t first = 0; first < level.count; first += kBlock) {
    find_corners(level, first, at);
    const int n = level.count - first < kBlock ? static_cast<int>(level.count - first) : kBlock;
#if defined(__AVX512F__)
    if (F == 2 && n == kBlock) {
      encode_pairs(level, at, values + first * F);
      continue;
    }
#endif
    for (int i = 0; i < n; ++i) encode_one<D, F>(level, at, i, values + (first + i) * F);
  }
}

template <int D, int F, bool kWhole>
inline void add_block(const Corners<D>& at, int n, const float* grad, float* grad_table, uint32_t begin, uint32_t end) {
  for (int i = 0; i < n; ++i) {
    const Row<F> g = Row<F>::load(grad + i * F);
#pragma GCC unroll 8
    for (int c = 0; c < Corners<D>::kCount; ++c) {
      const uint32_t entry = at.entry[c][i];
      if (!kWhole && (entry < begin || entry >= end)) continue;
      float* out = grad_table + static_cast<int64_t>(entry) * F;
      g.times_plus(at.weight[c][i], Row<F>::load(out)).store(out);
    }
  }
}

template <int D, int F>
void add_to_table(const HashgridLevel& level, const float* grad, float* grad_table, uint32_t begin, uint32_t end) {
  const bool whole = begin == 0 && end >= level.size;
  Corners<D> at;
  for (int64_t first = 0; first < level.count; first += kBlock) {
    find_corners(level, first, at);
    const int n = level.count - first < kBlock ? static_cast<int>(level.count - first) : kBlock;
    if (whole) {
      add_block<D, F, true>(at, n, grad + first * F, grad_table, begin, end);
    } else {
      add_block<D, F, false>(at, n, grad + first * F, grad_table, begin, end);
    }
  }
}

// How the weighted sum of eight (four) numbers at the corners moves with the coordinates; slopes of the weights come later.
template <int D>
inline void differences(const float (*value)[kBlock], const Corners<D>& at, int i, float* out) {
  const float x1 = at.upper[0][i], x0 = 1.0f - x1, y1 = at.upper[1][i], y0 = 1.0f - y1;
  const float z1 = D == 3 ? at.upper[D - 1][i] : 0.0f, z0 = 1.0f - z1;
  float along[2][3];  // of the plane below and the one above
  for (int k = 0; k < (D == 3 ? 2 : 1); ++k) {
    const float a = value[4 * k][i], b = value[4 * k + 1][i], c = value[4 * k + 2][i], d = value[4 * k + 3][i];
    const float low = fmaf(x1, b, x0 * a), high = fmaf(x1, d, x0 * c);
    along[k][0] = fmaf(y1, d - c, y0 * (b - a));
    along[k][1] = high - low;
    along[k][2] = fmaf(y1, high, y0 * low);
  }
  for (int d = 0; d < 2; ++d) out[d] = D == 3 ? fmaf(z1, along[1][d], z0 * along[0][d]) : along[0][d];
  if (D == 3) out[D - 1] = along[1][2] - along[0][2];
}

// Products of the entries of a block with the gradients of the values.
template <int D, int F>
inline void find_products(const HashgridLevel& level, const Corners<D>& at, int n, const float* grad, float (*value)[kBlock]) {
  for (int i = 0; i < n; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < Corners<D>::kCount; ++c) {
      value[c][i] = dot<F>(grad + i * F, level.table + static_cast<int64_t>(at.entry[c][i]) * F);
    }
  }
}

#if defined(__AVX512F__)
template <int D>
inline void find_pair_products(const HashgridLevel& level, const Corners<D>& at, const float* grad, float (*value)[kBlock]) {
  const __m512i first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
  for (int i = 0; i < kBlock; i += 16) {
    const __m512 g0 = _mm512_loadu_ps(grad + 2 * i), g1 = _mm512_loadu_ps(grad + 2 * i + 16);
#pragma GCC unroll 8
    for (int c = 0; c < Corners<D>::kCount; ++c) {
      const __m512 low = _mm512_mul_ps(g0, gather_pairs(level.table, at.entry[c] + i));
      const __m512 high = _mm512_mul_ps(g1, gather_pairs(level.table, at.entry[c] + i + 8));
      const __m512 sum = _mm512_add_ps(_mm512_permutex2var_ps(low, first, high), _mm512_permutex2var_ps(low, second, high));
      _mm512_store_ps(value[c] + i, sum);
    }
  }
}
#endif

template <int D, int F>
void add_to_positions(const HashgridLevel& level, const float* grad, float* const* grad_xyz) {
  Corners<D> at;
  alignas(64) float value[Corners<D>::kCount][kBlock] = {};
  alignas(64) float moved[D][kBlock];
  for (int64_t first = 0; first < level.count; first += kBlock) {
    find_corners(level, first, at);
    const int n = level.count - first < kBlock ? static_cast<int>(level.count - first) : kBlock;
#if defined(__AVX512F__)
    if (F == 2 && n == kBlock) {
      find_pair_products(level, at, grad + first * F, value);
    } else {
      find_products<D, F>(level, at, n, grad + first * F, value);
    }
#else
    find_products<D, F>(level, at, n, grad + first * F, value);
#endif
    for (int i = 0; i < kBlock; ++i) {
      float own[D];
      differences(value, at, i, own);
      for (int d = 0; d < D; ++d) moved[d][i] = own[d];
    }
    for (int d = 0; d < D; ++d) {
      const float* xs = level.xyz[d] + first;
      float* out = grad_xyz[d] + first;
      for (int i = 0; i < n; ++i) {
        const float sum = fmaf(hr_hashgrid_slope(xs[i], level.scale, level.smoothstep), moved[d][i], out[i]);
        out[i] = hr_hashgrid_inside(xs[i]) ? sum : 0.0f;
      }
    }
  }
}

#define HR_FOR_SIZES(call)                                                \
  switch (dims * 16 + features) {                                         \
    case 2 * 16 + 1: call(2, 1); break;                                   \
    case 2 * 16 + 2: call(2, 2); break;                                   \
    case 2 * 16 + 4: call(2, 4); break;                                   \
    case 2 * 16 + 8: call(2, 8); break;                                   \
    case 3 * 16 + 1: call(3, 1); break;                                   \
    case 3 * 16 + 2: call(3, 2); break;                                   \
    case 3 * 16 + 4: call(3, 4); break;                                   \
    case 3 * 16 + 8: call(3, 8); break;                                   \
  }

void encode_any(const HashgridLevel& level, int dims, int features, float* values) {
#define HR_CALL(D, F) encode_level<D, F>(level, values)
  HR_FOR_SIZES(HR_CALL)
#undef HR_CALL
}

void add_to_any_table(const HashgridLevel& level, int dims, int features, const float* grad_values, float* grad_table,
                      uint32_t first, uint32_t end) {
#define HR_CALL(D, F) add_to_table<D, F>(level, grad_values, grad_table, first, end)
  HR_FOR_SIZES(HR_CALL)
#undef HR_CALL
}

void add_to_any_positions(const HashgridLevel& level, int dims, int features, const float* grad_values,
                          float* const* grad_xyz) {
#define HR_CALL(D, F) add_to_positions<D, F>(level, grad_values, grad_xyz)
  HR_FOR_SIZES(HR_CALL)
#undef HR_CALL
}

}  // namespace

const HashgridKernels HR_HASHGRID_KERNELS = {encode_any, add_to_any_table, add_to_any_positions};

}  // namespace hr
