// The search for neighbours: compiled once per instruction set, so plain structs only.
#pragma once

#include "points.h"

namespace hr {

// The parts of one point set's workspace: see points.h.
struct PointSet {
  const int32_t* order;
  const float *x, *y, *z;
  const int32_t* begins;
  uint32_t buckets;
};

inline PointSet point_set(const int32_t* workspace, int64_t num_points) {
  const float* sorted = reinterpret_cast<const float*>(workspace + num_points);
  return {workspace, sorted, sorted + num_points, sorted + 2 * num_points, workspace + 4 * num_points,
          static_cast<uint32_t>(hr_points_buckets(num_points))};
}

// Queries begin..end-1 of one set; pointers are those of the set's first query.
using QuerySet = void (*)(const PointSet&, const HrQueryPointsParams&, const float* queries, int32_t* neighbours,
                          float* distances, int64_t begin, int64_t end);

extern const QuerySet kQueryPointsBase;
#if defined(HR_WITH_AVX512)
extern const QuerySet kQueryPointsAvx512;
#endif

}  // namespace hr
