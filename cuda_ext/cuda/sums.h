// Sums to which many threads add: the adjoint of reading the same value at many pixels.
//
// By default the terms are added as they arrive, in float32. That order changes from run to run, and with it the last bits.
// When the launch asks for determinism the terms are added as 64-bit integers instead, in units so small that float32's
// own rounding is coarser unless a sum is 10^5 times smaller than its largest term: integers sum to the same in any order.
// The unit follows from the largest term of the whole call, so the op's kernel runs twice.
#pragma once

#include <math.h>

#include "device.h"

namespace hr {

typedef unsigned long long Word;  // CUDA's own spelling of 64 bits, which its atomics insist on

struct FloatSum {
  static constexpr bool kAddsWithinWarp = true;
  float* sums;

  __device__ __forceinline__ void add(int64_t at, float term) const { atomicAdd(sums + at, term); }
};

struct LargestTerm {
  static constexpr bool kAddsWithinWarp = false;
  unsigned* largest;  // bits of the largest finite magnitude, whose order is that of the numbers

  __device__ __forceinline__ void add(int64_t, float term) const {
    const unsigned bits = __float_as_uint(fabsf(term));
    if (bits < 0x7f800000u && bits > *static_cast<volatile unsigned*>(largest)) atomicMax(largest, bits);
  }
};

struct FixedSum {
  static constexpr bool kAddsWithinWarp = false;
  Word* sums;
  float* out;  // takes infinities and NaN, whose sum is the same in any order too
  const unsigned* largest;
  int bits;    // that a term may have, so that all of them fit 63

  // One unit is 1 / scale; a power of two, so that only the rounding to whole units loses anything.
  __device__ __forceinline__ double scale() const {
    const int exponent = static_cast<int>(*largest >> 23);
    return ldexp(1.0, bits - 1 - ((exponent > 0 ? exponent : 1) - 127));
  }
  __device__ __forceinline__ void add(int64_t at, float term) const {
    if (isfinite(term)) {
      atomicAdd(sums + at, static_cast<Word>(llrint(static_cast<double>(term) * scale())));
    } else {
      atomicAdd(out + at, term);
    }
  }
};

// One of the three, chosen when the kernel runs: for kernels so big that three copies would take too long to compile.
struct AnySum {
  static constexpr bool kAddsWithinWarp = false;
  enum Kind { kPlain, kLargest, kFixed } kind;
  FixedSum fixed;

  AnySum() = default;
  __host__ __device__ AnySum(const FloatSum& sum) : kind(kPlain), fixed{nullptr, sum.sums, nullptr, 0} {}
  __host__ __device__ AnySum(const LargestTerm& sum) : kind(kLargest), fixed{nullptr, nullptr, sum.largest, 0} {}
  __host__ __device__ AnySum(const FixedSum& sum) : kind(kFixed), fixed(sum) {}

  __device__ __forceinline__ void add(int64_t at, float term) const {
    if (kind == kPlain) {
      atomicAdd(fixed.out + at, term);
    } else if (kind == kFixed) {
      fixed.add(at, term);
    } else {
      LargestTerm{const_cast<unsigned*>(fixed.largest)}.add(at, term);
    }
  }
};

struct SumScratch {
  Word* fixed = nullptr;
  unsigned* largest = nullptr;
};

inline SumScratch lay_out_sums(int64_t count, const HrCudaLaunch& launch, Workspace& workspace) {
  SumScratch scratch;
  if (!launch.deterministic) return scratch;
  scratch.fixed = workspace.take<Word>(count);
  scratch.largest = workspace.take<unsigned>(1);
  return scratch;
}

namespace {

__global__ void __launch_bounds__(kThreads) fixed_to_float(FixedSum sum, int64_t count) {
  const int64_t i = place_of_this_thread().item;
  if (i < count) sum.out[i] += static_cast<float>(static_cast<double>(static_cast<long long>(sum.sums[i])) / sum.scale());
}

// Fills sums[count] with what `add_terms`, given where to add, launches. terms: an upper bound of how many a sum can get.
template <class AddTerms>
void sum_terms(const HrCudaLaunch& launch, const SumScratch& scratch, float* sums, int64_t count, int64_t terms,
               const AddTerms& add_terms) {
  fill_bytes(launch, sums, 0, count * static_cast<int64_t>(sizeof(float)));
  if (!launch.deterministic) {
    add_terms(FloatSum{sums});
    return;
  }
  fill_bytes(launch, scratch.fixed, 0, count * static_cast<int64_t>(sizeof(Word)));
  fill_bytes(launch, scratch.largest, 0, sizeof(unsigned));
  add_terms(LargestTerm{scratch.largest});
  int bits = 62;
  while (terms > 0) {
    terms >>= 1;
    --bits;
  }
  const FixedSum fixed = {scratch.fixed, sums, scratch.largest, bits};
  add_terms(fixed);
  launch_over(launch, count, 1, fixed_to_float, fixed, count);
}

// Several arrays that one kernel adds to, each in a unit of its own. Arrays that nobody wants have no floats.
template <int kArrays>
struct SumSet {
  float* sums[kArrays];
  int64_t count[kArrays];
  SumScratch scratch[kArrays];
};

template <class Sum, int kArrays>
struct SumArray {
  Sum at[kArrays];
};

template <int kArrays>
void lay_out_sums(SumSet<kArrays>& set, const HrCudaLaunch& launch, Workspace& workspace) {
  for (int i = 0; i < kArrays; ++i) {
    if (!set.sums[i]) set.count[i] = 0;
    set.scratch[i] = lay_out_sums(set.count[i], launch, workspace);
  }
}

// As sum_terms, with `add_terms` given where to add for each array.
template <int kArrays, class AddTerms>
void sum_terms(const HrCudaLaunch& launch, const SumSet<kArrays>& set, int64_t terms, const AddTerms& add_terms) {
  SumArray<FloatSum, kArrays> plain;
  SumArray<LargestTerm, kArrays> largest;
  SumArray<FixedSum, kArrays> fixed;
  int bits = 62;
  for (; terms > 0; terms >>= 1) --bits;
  for (int i = 0; i < kArrays; ++i) {
    plain.at[i] = {set.sums[i]};
    fill_bytes(launch, set.sums[i], 0, set.count[i] * static_cast<int64_t>(sizeof(float)));
    if (!launch.deterministic) continue;
    largest.at[i] = {set.scratch[i].largest};
    fixed.at[i] = {set.scratch[i].fixed, set.sums[i], set.scratch[i].largest, bits};
    fill_bytes(launch, set.scratch[i].fixed, 0, set.count[i] * static_cast<int64_t>(sizeof(Word)));
    fill_bytes(launch, set.scratch[i].largest, 0, sizeof(unsigned));
  }
  if (!launch.deterministic) {
    add_terms(plain);
    return;
  }
  add_terms(largest);
  add_terms(fixed);
  for (int i = 0; i < kArrays; ++i) launch_over(launch, set.count[i], 1, fixed_to_float, fixed.at[i], set.count[i]);
}

// Adds up the values of all lanes of a warp that have the same key, so that one of them can add the sum to memory: where
// neighbouring pixels see the same face this spares most atomics. All lanes must call it. True for the lane that got the
// sum; false where the key is negative. (A tree over the lanes' ranks within their group.)
template <int kValues>
__device__ __forceinline__ bool gather_in_warp(int32_t key, float (&values)[kValues]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  unsigned peers = __match_any_sync(kWholeWarp, key);
  const bool first = __ffs(peers) - 1 == lane;
  int rank = __popc(peers & ((1u << lane) - 1u));
  peers &= 0xfffffffeu << lane;
  while (__any_sync(kWholeWarp, peers != 0)) {
    const int next = __ffs(peers) - 1;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const float other = __shfl_sync(kWholeWarp, values[i], next < 0 ? lane : next);
      if (next >= 0) values[i] += other;
    }
    peers &= __ballot_sync(kWholeWarp, (rank & 1) == 0);
    rank >>= 1;
  }
  return first && key >= 0;
}

// Rows of a table, one per vertex, to whose columns first_column .. first_column + columns - 1 something is added.
struct CornerRows {
  const int32_t* corner;  // the face's three vertices
  int64_t first_row;      // of the image
  int32_t stride, first_column, columns;
};

// Adds values[kColumns * k + d] to column d of corner k. All lanes of a warp must call it, with a negative face where
// there is nothing to add.
template <int kColumns, class Sum>
__device__ __forceinline__ void add_to_corners(const Sum& sum, int32_t face, const CornerRows& rows,
                                               float (&values)[3 * kColumns]) {
  bool adds = face >= 0;
  if (Sum::kAddsWithinWarp) adds = gather_in_warp(face, values);
  if (!adds) return;
  for (int k = 0; k < 3; ++k) {
    const int64_t row = (rows.first_row + rows.corner[k]) * rows.stride + rows.first_column;
#pragma unroll
    for (int d = 0; d < kColumns; ++d) {
      if (d < rows.columns) sum.add(row + d, values[kColumns * k + d]);
    }
  }
}

// The three vertices of a face, or false (and a report) when the tables point nowhere.
__device__ __forceinline__ bool load_face(const int32_t* faces, int64_t num_faces, int64_t num_vertices, int32_t face,
                                          int32_t* corner, int32_t* fault) {
  bool fine = face < num_faces;
  for (int k = 0; k < 3 && fine; ++k) {
    corner[k] = faces[3 * static_cast<int64_t>(face) + k];
    fine = corner[k] >= 0 && corner[k] < num_vertices;
  }
  if (!fine) report_bad_index(fault);
  return fine;
}

}  // namespace
}  // namespace hr
