// The search for neighbours. Included once per instruction set with HR_QUERY_POINTS defined.
//
// The best K so far are 64-bit keys, distance before number, in rising order. A new key goes in by
// v[i] = min(v[i], max(v[i-1], key)) for all i at once, without a branch.

#include <string.h>

#include "points_query.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace hr {
namespace {

constexpr uint64_t kNone = ~uint64_t{0};  // after every key; its low half is -1

#if defined(__AVX512F__)

// kVectors times eight keys.
template <int kVectors>
struct Best {
  __m512i keys[kVectors];
  float limit;  // greatest square that can still go in
  int worst;    // place of the last of the K

  void clear(float radius_square, int count) {
    for (__m512i& v : keys) v = _mm512_set1_epi64(-1);
    limit = radius_square;
    worst = count - 1;
  }

  void add(uint64_t key) {
    const __m512i all = _mm512_set1_epi64(static_cast<int64_t>(key));
    __mmask8 met = 0;  // in another run
    for (const __m512i& v : keys) met |= _mm512_cmpeq_epi64_mask(v, all);
    if (met) return;
    for (int v = kVectors - 1; v >= 0; --v) {
      const __m512i before = _mm512_alignr_epi64(keys[v], v > 0 ? keys[v > 0 ? v - 1 : 0] : _mm512_setzero_si512(), 7);
      keys[v] = _mm512_min_epu64(keys[v], _mm512_max_epu64(before, all));
    }
  }

  void tighten() {
    alignas(64) uint64_t held[8 * kVectors];
    for (int v = 0; v < kVectors; ++v) _mm512_store_si512(held + 8 * v, keys[v]);
    if (held[worst] == kNone) return;
    const uint32_t bits = static_cast<uint32_t>(held[worst] >> 32);
    memcpy(&limit, &bits, sizeof limit);
  }

  void write(uint64_t* out) const {
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_si512(out + 8 * v, keys[v]);
  }
};

template <class Best>
inline void search(const PointSet& set, int32_t begin, int32_t end, const float* q, Best& best) {
  const __m512 qx = _mm512_set1_ps(q[0]), qy = _mm512_set1_ps(q[1]), qz = _mm512_set1_ps(q[2]);
  for (int32_t i = begin; i < end; i += 16) {
    const __mmask16 inside = end - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (end - i)) - 1u);
    const __m512 dx = _mm512_sub_ps(qx, _mm512_maskz_loadu_ps(inside, set.x + i));
    const __m512 dy = _mm512_sub_ps(qy, _mm512_maskz_loadu_ps(inside, set.y + i));
    const __m512 dz = _mm512_sub_ps(qz, _mm512_maskz_loadu_ps(inside, set.z + i));
    const __m512 plane = _mm512_add_ps(_mm512_mul_ps(dx, dx), _mm512_mul_ps(dy, dy));
    const __m512 square = _mm512_add_ps(plane, _mm512_mul_ps(dz, dz));
    const __mmask16 near = _mm512_mask_cmp_ps_mask(inside, square, _mm512_set1_ps(best.limit), _CMP_LE_OQ);
    if (!near) continue;
    alignas(64) uint32_t squares[16], numbers[16];
    _mm512_store_si512(squares, _mm512_maskz_compress_epi32(near, _mm512_castps_si512(square)));
    _mm512_store_si512(numbers, _mm512_maskz_compress_epi32(near, _mm512_maskz_loadu_epi32(inside, set.order + i)));
    const int hits = __builtin_popcount(near);
    for (int k = 0; k < hits; ++k) best.add(hr_points_key(squares[k], numbers[k]));
    best.tighten();
  }
}

#else

template <int kVectors>
struct Best {
  uint64_t keys[8 * kVectors];
  float limit;
  int worst;

  void clear(float radius_square, int count) {
    for (uint64_t& key : keys) key = kNone;
    limit = radius_square;
    worst = count - 1;
  }

  void add(uint64_t key) {
    if (key >= keys[worst]) return;
    int at = worst;
    while (at > 0 && keys[at - 1] > key) --at;
    if (at > 0 && keys[at - 1] == key) return;  // met in another run
    for (int k = worst; k > at; --k) keys[k] = keys[k - 1];
    keys[at] = key;
  }

  void tighten() {
    if (keys[worst] == kNone) return;
    const uint32_t bits = static_cast<uint32_t>(keys[worst] >> 32);
    memcpy(&limit, &bits, sizeof limit);
  }

  void write(uint64_t* out) const { memcpy(out, keys, sizeof keys); }
};

template <class Best>
inline void search(const PointSet& set, int32_t begin, int32_t end, const float* q, Best& best) {
  constexpr int kLanes = 8;
  float square[kLanes];
  for (int32_t i = begin; i < end; i += kLanes) {
    const int n = end - i < kLanes ? end - i : kLanes;
    if (n == kLanes) {
      for (int k = 0; k < kLanes; ++k) square[k] = hr_points_square(q[0] - set.x[i + k], q[1] - set.y[i + k], q[2] - set.z[i + k]);
    } else {
      for (int k = 0; k < n; ++k) square[k] = hr_points_square(q[0] - set.x[i + k], q[1] - set.y[i + k], q[2] - set.z[i + k]);
    }
    for (int k = 0; k < n; ++k) {
      if (!(square[k] <= best.limit)) continue;
      uint32_t bits;
      memcpy(&bits, &square[k], sizeof bits);
      best.add(hr_points_key(bits, static_cast<uint32_t>(set.order[i + k])));
    }
    best.tighten();
  }
}

#endif

template <class Best>
inline void search_all(const PointSet& set, const float* q, double scale, Best& best) {
  const int32_t voxel[3] = {hr_points_voxel(q[0], scale), hr_points_voxel(q[1], scale), hr_points_voxel(q[2], scale)};
  HrPointsRun runs[HR_POINTS_ROWS];
  int wrapped = 0;
  for (int k = 0; k < HR_POINTS_ROWS; ++k) {
    runs[k] = hr_points_run(set.begins, set.buckets, voxel, k);
    wrapped |= runs[k].wrapped_end;
  }
  for (const HrPointsRun& run : runs) search(set, run.begin, run.end, q, best);
  if (wrapped == 0) return;
  for (const HrPointsRun& run : runs) search(set, 0, run.wrapped_end, q, best);
}

template <int kVectors>
void query(const PointSet& set, const HrQueryPointsParams& p, const float* queries, int32_t* neighbours, float* distances,
           int64_t begin, int64_t end) {
  const double scale = hr_points_voxel_scale(p.radius);
  const float radius_square = p.radius * p.radius;
  for (int64_t i = begin; i < end; ++i) {
    const float* q = queries + 3 * i;
    Best<kVectors> best;
    best.clear(radius_square, p.count);
    if (hr_points_is_finite(q[0], q[1], q[2])) search_all(set, q, scale, best);
    uint64_t keys[8 * kVectors];
    best.write(keys);
    for (int32_t k = 0; k < p.count; ++k) {
      const uint32_t bits = static_cast<uint32_t>(keys[k] >> 32);
      float square;
      memcpy(&square, &bits, sizeof square);
      neighbours[i * p.count + k] = static_cast<int32_t>(static_cast<uint32_t>(keys[k]));
      distances[i * p.count + k] = keys[k] == kNone ? static_cast<float>(INFINITY) : sqrtf(square);
    }
  }
}

void query_any(const PointSet& set, const HrQueryPointsParams& p, const float* queries, int32_t* neighbours, float* distances,
               int64_t begin, int64_t end) {
  if (p.count <= 8) return query<1>(set, p, queries, neighbours, distances, begin, end);
  if (p.count <= 16) return query<2>(set, p, queries, neighbours, distances, begin, end);
  return query<4>(set, p, queries, neighbours, distances, begin, end);
}

}  // namespace

const QuerySet HR_QUERY_POINTS = query_any;

}  // namespace hr
