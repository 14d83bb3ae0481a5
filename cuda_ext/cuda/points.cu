// CUDA neural points: the index, and the search for neighbours. Both equal the CPU's, number for number.
//
// The index is a sort of the points by bucket, stable, so that a bucket's points keep their order; the sets of a batch are
// sorted together. A warp searches for one query: its lanes are candidates, up to 32 at a time out of the nine runs of buckets
// strung together, and its lanes are the best K so far, into which what is near enough goes one by one by
// v[i] = min(v[i], max(v[i-1], key)), as in the CPU's vectors.
//
// Expected (H100, 20k points, 16k queries, K = 8): the sort has 3 passes of 3 launches, 30 us of latency; the search reads 2
// to 4 chunks of candidates a query out of the second cache and takes some 600 instructions a warp: 10 to 15 us.
#include "points.h"

#include "sort.h"

namespace hr {
namespace {

constexpr int64_t kMostKeys = int64_t{1} << 32;

int64_t buckets_and_none(int64_t num_points) { return hr_points_buckets(num_points) + 1; }

// Sets that one sort can take: bucket and set have to fit a key, the number of the point in all of them a value.
int64_t sets_at_a_time(const HrPointIndexParams& p) {
  const int64_t fit = kMostKeys / 2 / buckets_and_none(p.num_points);
  return p.batch < fit ? p.batch : (fit > 0 ? fit : 1);
}

bool sane_points(int64_t batch, int64_t num_points, float radius) {
  return batch >= 0 && num_points >= 0 && num_points < (int64_t{1} << 30) && radius > 0.0f;
}

int32_t check(const HrPointIndexParams& p) {
  return sane_points(p.batch, p.num_points, p.radius) ? HR_OK : HR_ERROR_ARGUMENT;
}

int32_t check(const HrQueryPointsParams& p) {
  const bool sane = sane_points(p.batch, p.num_points, p.radius) && p.num_queries >= 0 && p.count >= 1 &&
                    p.count <= HR_POINTS_MAX_NEIGHBOURS && divide_up(p.num_queries, kThreads / kWarp) <= kMaxBlocks;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

struct IndexScratch {
  Pairs pairs;
  SortScratch sort;
};

IndexScratch lay_out_point_index(const HrPointIndexParams& p, const HrCudaLaunch&, Workspace& workspace) {
  const int64_t count = sets_at_a_time(p) * p.num_points;
  IndexScratch scratch;
  scratch.pairs.keys = workspace.take<uint32_t>(count);
  scratch.pairs.values = workspace.take<uint32_t>(count);
  scratch.sort = lay_out_sort(count, workspace);
  return scratch;
}

NoScratch lay_out_query_points(const HrQueryPointsParams&, const HrCudaLaunch&, Workspace&) { return {}; }

// The sets that are sorted together: `sets` of them, the first of which is `first`.
struct Sets {
  HrPointIndexParams p;
  int64_t first, sets;
};

__device__ __forceinline__ uint32_t keys_of_a_set(const HrPointIndexParams& p) {
  return static_cast<uint32_t>(hr_points_buckets(p.num_points)) + 1u;
}

// A thread for each point: the key is its set and bucket. Points that are not finite come behind the last bucket.
__global__ void __launch_bounds__(kThreads) find_buckets(Sets at, Pairs pairs) {
  const int64_t i = place_of_this_thread().item;
  if (i >= at.sets * at.p.num_points) return;
  const float* x = at.p.points + 3 * (at.first * at.p.num_points + i);
  const double scale = hr_points_voxel_scale(at.p.radius);
  const uint32_t keys = keys_of_a_set(at.p), buckets = keys - 1u, set = static_cast<uint32_t>(i / at.p.num_points);
  const uint32_t bucket = hr_points_is_finite(x[0], x[1], x[2])
                              ? hr_points_bucket(hr_points_voxel(x[0], scale), hr_points_voxel(x[1], scale),
                                                 hr_points_voxel(x[2], scale), buckets)
                              : buckets;
  pairs.keys[i] = set * keys + bucket;
  pairs.values[i] = static_cast<uint32_t>(i - set * at.p.num_points);
}

// A thread for each place among the sorted: the point that is there.
__global__ void __launch_bounds__(kThreads) gather_points(Sets at, Pairs sorted) {
  const int64_t i = place_of_this_thread().item, count = at.p.num_points;
  if (i >= at.sets * count) return;
  const uint32_t keys = keys_of_a_set(at.p), key = sorted.keys[i], set = key / keys;
  const int64_t number = sorted.values[i], place = i - set * count;
  const bool finite = key - set * keys < keys - 1u;
  int32_t* workspace = at.p.workspace + (at.first + set) * hr_points_workspace_words(count);
  const float* x = at.p.points + 3 * ((at.first + set) * count + number);
  float* coordinates = reinterpret_cast<float*>(workspace + count);
  workspace[place] = finite ? static_cast<int32_t>(number) : -1;
#pragma unroll
  for (int d = 0; d < 3; ++d) coordinates[d * count + place] = finite ? x[d] : 0.0f;
}

// A thread for each bucket: the first of the sorted that is not before it. (A thread per point that fills in the empty
// buckets before its own would leave nearly all of them to one thread when the points lie close together.)
__global__ void __launch_bounds__(kThreads) find_begins(Sets at, const uint32_t* sorted_keys) {
  const int64_t i = place_of_this_thread().item, count = at.p.num_points;
  const uint32_t keys = keys_of_a_set(at.p);
  if (i >= at.sets * keys) return;
  const int64_t set = i / keys;
  int64_t low = set * count, high = low + count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sorted_keys[middle] < static_cast<uint32_t>(i)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  int32_t* begins = at.p.workspace + (at.first + set) * hr_points_workspace_words(count) + 4 * count;
  begins[i - set * keys] = static_cast<int32_t>(low - set * count);
}

// What follows from the number of points and the radius.
struct Voxels {
  int64_t words;     // of a set's workspace
  uint32_t buckets;
  double scale;
};

// The candidates of one query: up to 18 runs strung together, one to a lane.
struct Candidates {
  int32_t begin;          // of this lane's run
  int64_t before, total;  // candidates of the lanes before, and of all: runs may overlap, so more than there are points
};

__device__ __forceinline__ Candidates find_candidates(const Voxels& voxels, const int32_t* begins, const float* query) {
  const int lane = lane_of_this_thread();
  int32_t begin = 0;
  int64_t length = 0;
  if (lane < 2 * HR_POINTS_ROWS && hr_points_is_finite(query[0], query[1], query[2])) {
    const int32_t voxel[3] = {hr_points_voxel(query[0], voxels.scale), hr_points_voxel(query[1], voxels.scale),
                              hr_points_voxel(query[2], voxels.scale)};
    const HrPointsRun run = hr_points_run(begins, voxels.buckets, voxel, lane % HR_POINTS_ROWS);
    begin = lane < HR_POINTS_ROWS ? run.begin : 0;
    length = lane < HR_POINTS_ROWS ? run.end - run.begin : run.wrapped_end;
  }
  Candidates found;
  found.begin = begin;
  found.before = scan_warp(length, &found.total);
  return found;
}

// Where candidate i is among the sorted points. All lanes must call it.
__device__ __forceinline__ int32_t place_of(const Candidates& candidates, int64_t i) {
  int run = 0;
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    if (__shfl_sync(kWholeWarp, candidates.before, run + step) <= i) run += step;
  }
  const int64_t in_run = i - __shfl_sync(kWholeWarp, candidates.before, run);
  return __shfl_sync(kWholeWarp, candidates.begin, run) + static_cast<int32_t>(in_run);
}

constexpr unsigned long long kNone = ~0ull;  // after every key; its low half is -1

// A warp for each query.
__global__ void __launch_bounds__(kThreads) search(HrQueryPointsParams p, Voxels voxels) {
  const int lane = lane_of_this_thread();
  const int64_t own = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp_of_this_thread();
  if (own >= p.num_queries) return;  // with its whole warp
  for (int64_t b = blockIdx.y; b < p.batch; b += gridDim.y) {
    const int32_t* order = p.workspace + b * voxels.words;
    const float *x = reinterpret_cast<const float*>(order + p.num_points), *y = x + p.num_points, *z = y + p.num_points;
    const int64_t at = b * p.num_queries + own;
    const float q[3] = {p.queries[3 * at], p.queries[3 * at + 1], p.queries[3 * at + 2]};
    const Candidates candidates = find_candidates(voxels, order + 4 * p.num_points, q);
    unsigned long long best = kNone;  // this lane's of the K, which rise from lane to lane
    float limit = p.radius * p.radius;
    for (int64_t turn = 0; turn < candidates.total; turn += kWarp) {
      const int64_t i = turn + lane;
      const int32_t place = place_of(candidates, i < candidates.total ? i : candidates.total - 1);
      const float square = hr_points_square(q[0] - x[place], q[1] - y[place], q[2] - z[place]);
      const unsigned long long key = hr_points_key(__float_as_uint(square), static_cast<uint32_t>(order[place]));
      const bool near = i < candidates.total && square <= limit;
      for (unsigned hits = __ballot_sync(kWholeWarp, near); hits != 0; hits &= hits - 1) {
        const unsigned long long added = __shfl_sync(kWholeWarp, key, __ffs(static_cast<int>(hits)) - 1);
        if (__any_sync(kWholeWarp, best == added)) continue;  // met in another run
        unsigned long long above = __shfl_up_sync(kWholeWarp, best, 1u);
        above = lane == 0 || above < added ? added : above;
        best = above < best ? above : best;
      }
      const unsigned long long worst = __shfl_sync(kWholeWarp, best, p.count - 1);
      if (worst != kNone) limit = __uint_as_float(static_cast<unsigned>(worst >> 32));
    }
    if (lane >= p.count) continue;
    p.neighbours[at * p.count + lane] = static_cast<int32_t>(static_cast<uint32_t>(best));
    const float square = __uint_as_float(static_cast<unsigned>(best >> 32));
    p.distances[at * p.count + lane] = best == kNone ? static_cast<float>(INFINITY) : sqrtf(square);
  }
}

void run_point_index(const HrPointIndexParams& p, const HrCudaLaunch& launch, const IndexScratch& scratch) {
  const int64_t step = sets_at_a_time(p), keys = buckets_and_none(p.num_points);
  for (int64_t first = 0; first < p.batch; first += step) {
    const Sets at = {p, first, first + step < p.batch ? step : p.batch - first};
    const int64_t count = at.sets * p.num_points;
    int bits = 0;
    while ((at.sets * keys - 1) >> bits != 0) ++bits;
    launch_over(launch, count, 1, find_buckets, at, scratch.pairs);
    const Pairs sorted = launch_sort(launch, scratch.sort, scratch.pairs, PairCount{count, nullptr}, bits);
    launch_over(launch, count, 1, gather_points, at, sorted);
    launch_over(launch, at.sets * keys, 1, find_begins, at, static_cast<const uint32_t*>(sorted.keys));
  }
}

void run_query_points(const HrQueryPointsParams& p, const HrCudaLaunch& launch, NoScratch) {
  const Voxels voxels = {hr_points_workspace_words(p.num_points), static_cast<uint32_t>(hr_points_buckets(p.num_points)),
                         hr_points_voxel_scale(p.radius)};
  launch_over(launch, p.num_queries * kWarp, p.batch, search, p, voxels);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(point_index, HrPointIndexParams)
HR_DEFINE_CUDA_OP(query_points, HrQueryPointsParams)
