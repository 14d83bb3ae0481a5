// CPU neural points: the index, and the search shared out among threads.
#include <algorithm>
#include <vector>

#include "c_api.h"
#include "points_query.h"
#include "thread_pool.h"

bool hr_cpu_has_avx512();

namespace hr {
namespace {

constexpr int64_t kPointsPerTask = 8192, kQueriesPerTask = 256;

QuerySet query_for(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa != HR_ISA_BASE && hr_cpu_has_avx512()) return kQueryPointsAvx512;
#else
  (void)isa;
#endif
  return kQueryPointsBase;
}

// Bucket of each point; points that are not finite get one behind the last.
void find_buckets(const float* points, int64_t begin, int64_t end, double scale, uint32_t buckets, uint32_t* bucket) {
  for (int64_t i = begin; i < end; ++i) {
    const float *p = points + 3 * i;
    const int32_t x = hr_points_voxel(p[0], scale), y = hr_points_voxel(p[1], scale), z = hr_points_voxel(p[2], scale);
    bucket[i] = hr_points_is_finite(p[0], p[1], p[2]) ? hr_points_bucket(x, y, z, buckets) : buckets;
  }
}

// Counting sort, stable: points of a bucket keep their order. places has buckets + 1 elements, of which the last is for
// points that are not finite.
void sort_points(const float* points, const uint32_t* bucket, int64_t count, uint32_t buckets, int32_t* workspace,
                 int32_t* places) {
  int32_t* begins = workspace + 4 * count;
  std::fill_n(places, buckets + 1, 0);
  for (int64_t i = 0; i < count; ++i) ++places[bucket[i]];
  int32_t total = 0;
  for (uint32_t b = 0; b <= buckets; ++b) {
    const int32_t own = places[b];
    begins[b] = places[b] = total;
    total += own;
  }
  float* sorted = reinterpret_cast<float*>(workspace + count);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t at = places[bucket[i]]++;
    const bool finite = bucket[i] < buckets;
    workspace[at] = finite ? static_cast<int32_t>(i) : -1;
    for (int d = 0; d < 3; ++d) sorted[d * count + at] = finite ? points[3 * i + d] : 0.0f;
  }
}

int32_t build(const HrPointIndexParams& p) {
  const int64_t count = p.num_points, words = hr_points_workspace_words(count);
  const uint32_t buckets = static_cast<uint32_t>(hr_points_buckets(count));
  const double scale = hr_points_voxel_scale(p.radius);
  std::vector<uint32_t> bucket(p.batch * count);
  const int64_t runs = (count + kPointsPerTask - 1) / kPointsPerTask;
  parallel_for(p.batch * runs, p.num_threads, [&](int64_t task) {
    const int64_t b = task / runs, begin = task % runs * kPointsPerTask;
    find_buckets(p.points + 3 * b * count, begin, std::min(begin + kPointsPerTask, count), scale, buckets,
                 bucket.data() + b * count);
  });
  parallel_for(p.batch, p.num_threads, [&](int64_t b) {
    std::vector<int32_t> places(buckets + 1);
    sort_points(p.points + 3 * b * count, bucket.data() + b * count, count, buckets, p.workspace + b * words, places.data());
  });
  return HR_OK;
}

int32_t query(const HrQueryPointsParams& p) {
  const QuerySet run = query_for(p.isa);
  const int64_t words = hr_points_workspace_words(p.num_points);
  const int64_t runs = (p.num_queries + kQueriesPerTask - 1) / kQueriesPerTask;
  parallel_for(p.batch * runs, p.num_threads, [&](int64_t task) {
    const int64_t b = task / runs, begin = task % runs * kQueriesPerTask, first = b * p.num_queries;
    const PointSet set = point_set(p.workspace + b * words, p.num_points);
    run(set, p, p.queries + 3 * first, p.neighbours + first * p.count, p.distances + first * p.count, begin,
        std::min(begin + kQueriesPerTask, p.num_queries));
  });
  return HR_OK;
}

bool points_are_sane(int64_t batch, int64_t num_points, float radius, int32_t num_threads) {
  return batch >= 0 && num_points >= 0 && num_points < (int64_t{1} << 30) && radius > 0.0f && num_threads >= 1;
}

}  // namespace
}  // namespace hr

int32_t hr_point_index_cpu(const HrPointIndexParams* params) {
  if (!hr::points_are_sane(params->batch, params->num_points, params->radius, params->num_threads)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::build(*params); });
}

int32_t hr_query_points_cpu(const HrQueryPointsParams* params) {
  const HrQueryPointsParams& p = *params;
  if (!hr::points_are_sane(p.batch, p.num_points, p.radius, p.num_threads) || p.num_queries < 0 || p.count < 1 ||
      p.count > HR_POINTS_MAX_NEIGHBOURS) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::query(p); });
}
