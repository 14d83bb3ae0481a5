// One level of a hash grid over a run of positions: compiled once per instruction set, so plain structs only.
#pragma once

#include "hashgrid.h"

namespace hr {

struct HashgridLevel {
  const float* xyz[3];  // coordinates of the positions, one array each
  int64_t count;        // of positions
  const float* table;   // [size,F]
  uint32_t resolution, size;
  float scale;
  bool hashed, smoothstep;
};

// For 2 or 3 dims and 1, 2, 4 or 8 features.
struct HashgridKernels {
  // values [count,F]
  void (*encode)(const HashgridLevel&, int dims, int features, float* values);
  // Adds to those entries of grad_table [size,F] that lie in first..end-1, in the order of the positions.
  void (*add_to_table)(const HashgridLevel&, int dims, int features, const float* grad_values, float* grad_table,
                       uint32_t first, uint32_t end);
  // Adds to grad_xyz, an array of `count` for each coordinate.
  void (*add_to_positions)(const HashgridLevel&, int dims, int features, const float* grad_values, float* const* grad_xyz);
};

extern const HashgridKernels kHashgridBase;
#if defined(HR_WITH_AVX512)
extern const HashgridKernels kHashgridAvx512;
#endif

}  // namespace hr
