// CPU neural points: features of the neighbours blended by inverse distance, and back.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "c_api.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kQueriesPerTask = 256, kPointsPerTask = 256;
constexpr int kLanes = 8;

// The neighbours of one query.
struct Around {
  int count;                                  // of those present
  int place[HR_POINTS_MAX_NEIGHBOURS];        // which of the K
  int32_t number[HR_POINTS_MAX_NEIGHBOURS];   // of the point
  float away[HR_POINTS_MAX_NEIGHBOURS][3];    // query minus point
  float distance[HR_POINTS_MAX_NEIGHBOURS];
  float weight[HR_POINTS_MAX_NEIGHBOURS];
  float share[HR_POINTS_MAX_NEIGHBOURS];      // the weights made to sum to 1
  float total;                                // of the weights
};

// False when a number is neither -1 nor that of a point.
template <class Params>
bool look_around(const Params& p, int64_t b, int64_t query, Around& around) {
  const int64_t at = b * p.num_queries + query;
  const float* q = p.queries + 3 * at;
  around.count = 0;
  around.total = 0.0f;
  for (int k = 0; k < p.count; ++k) {
    const int32_t number = p.neighbours[at * p.count + k];
    if (number < 0) {
      if (number < -1) return false;
      continue;
    }
    if (number >= p.num_points) return false;
    const float* x = p.points + 3 * (b * p.num_points + number);
    const int n = around.count++;
    for (int d = 0; d < 3; ++d) around.away[n][d] = q[d] - x[d];
    around.place[n] = k;
    around.number[n] = number;
    around.distance[n] = sqrtf(hr_points_square(around.away[n][0], around.away[n][1], around.away[n][2]));
    around.weight[n] = hr_blend_weight(around.distance[n], p.softening);
    around.total += around.weight[n];
  }
  for (int n = 0; n < around.count; ++n) around.share[n] = around.weight[n] / around.total;
  return true;
}

template <class Params>
const float* features_of(const Params& p, int64_t b, int32_t number) {
  return p.features + ((p.feature_batch == 1 ? 0 : b * p.num_points) + number) * p.channels;
}

void blend_features(const HrBlendPointsParams& p, int64_t b, const Around& around, float* out) {
  std::memset(out, 0, sizeof(float) * p.channels);
  for (int n = 0; n < around.count; ++n) {
    const float *f = features_of(p, b, around.number[n]), share = around.share[n];
    for (int c = 0; c < p.channels; ++c) out[c] = fmaf(share, f[c], out[c]);
  }
}

void blend_offsets(const Around& around, float* out) {
  for (int d = 0; d < 3; ++d) out[d] = 0.0f;
  for (int n = 0; n < around.count; ++n) {
    for (int d = 0; d < 3; ++d) out[d] = fmaf(around.share[n], around.away[n][d], out[d]);
  }
}

int32_t blend(const HrBlendPointsParams& p) {
  const int64_t runs = (p.num_queries + kQueriesPerTask - 1) / kQueriesPerTask;
  std::atomic<bool> fine{true};
  parallel_for(p.batch * runs, p.num_threads, [&](int64_t task) {
    const int64_t b = task / runs, begin = task % runs * kQueriesPerTask;
    Around around;
    for (int64_t q = begin; q < std::min(begin + kQueriesPerTask, p.num_queries); ++q) {
      if (!look_around(p, b, q, around)) {
        fine.store(false);
        return;
      }
      const int64_t at = b * p.num_queries + q;
      blend_features(p, b, around, p.blended + at * p.channels);
      blend_offsets(around, p.offsets + 3 * at);
    }
  });
  return fine.load() ? HR_OK : HR_ERROR_INDEX;
}

// In eight sums that are added up at the end: a vector of them, and the same order everywhere.
float dot(const float* a, const float* b, int count) {
  float part[kLanes] = {};
  int c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) part[i] = fmaf(a[c + i], b[c + i], part[i]);
  }
  for (int i = 0; c + i < count; ++i) part[i] = fmaf(a[c + i], b[c + i], part[i]);
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

// What one neighbour of one query passes on to its point.
struct Passed {
  float share;   // times the gradient of the blended features
  float away[3]; // gradient of (query minus point)
};

// With a_n the shares, W the sum of the weights w_n = 1 / (d_n + e), and s_n how much the result would grow with w_n W:
// the gradient of the offset o_n is a_n g - w_n^2 / W s_n o_n / d_n.
void pass_back(const HrBlendPointsGradParams& p, int64_t b, int64_t query, const Around& around, Passed* passed) {
  const int64_t at = b * p.num_queries + query;
  const float* g = p.grad_blended ? p.grad_blended + at * p.channels : nullptr;
  const float* h = p.grad_offsets ? p.grad_offsets + 3 * at : nullptr;
  float gain[HR_POINTS_MAX_NEIGHBOURS], mean = 0.0f, sum[3] = {0.0f, 0.0f, 0.0f};
  for (int n = 0; n < around.count; ++n) {
    gain[n] = g ? dot(g, features_of(p, b, around.number[n]), p.channels) : 0.0f;
    for (int d = 0; d < 3 && h; ++d) gain[n] = fmaf(h[d], around.away[n][d], gain[n]);
    mean = fmaf(around.share[n], gain[n], mean);
  }
  for (int n = 0; n < around.count; ++n) {
    Passed& own = passed[around.place[n]];
    own.share = around.share[n];
    const float towards = around.distance[n] > 0.0f
                              ? -around.weight[n] * around.share[n] * (gain[n] - mean) / around.distance[n]
                              : 0.0f;
    for (int d = 0; d < 3; ++d) {
      own.away[d] = fmaf(towards, around.away[n][d], h ? around.share[n] * h[d] : 0.0f);
      sum[d] += own.away[d];
    }
  }
  for (int d = 0; d < 3 && p.grad_queries; ++d) p.grad_queries[3 * at + d] = sum[d];
}

// For each point (of each set) the places in [B,Q,K] that name it, in rising order.
struct Mentions {
  std::vector<int64_t> begins, places;
};

Mentions gather_mentions(const HrBlendPointsGradParams& p) {
  const int64_t per_set = p.num_queries * p.count, total = p.batch * per_set;
  Mentions found;
  found.begins.assign(p.batch * p.num_points + 1, 0);
  const auto point_of = [&](int64_t i) { return i / per_set * p.num_points + p.neighbours[i]; };
  for (int64_t i = 0; i < total; ++i) {
    if (p.neighbours[i] >= 0) ++found.begins[point_of(i) + 1];
  }
  for (size_t k = 1; k < found.begins.size(); ++k) found.begins[k] += found.begins[k - 1];
  found.places.resize(found.begins.back());
  std::vector<int64_t> next(found.begins.begin(), found.begins.end() - 1);
  for (int64_t i = 0; i < total; ++i) {
    if (p.neighbours[i] >= 0) found.places[next[point_of(i)]++] = i;
  }
  return found;
}

// Each point gathers from the queries that name it: the order is that of the queries, whatever the number of threads.
void add_up_points(const HrBlendPointsGradParams& p, const Passed* passed, int64_t begin, int64_t end, const Mentions& mentions) {
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t point = b * p.num_points + n;
      float* features = p.grad_features ? p.grad_features + (p.feature_batch == 1 ? n : point) * p.channels : nullptr;
      if (features && (b == 0 || p.feature_batch != 1)) std::memset(features, 0, sizeof(float) * p.channels);
      float sum[3] = {0.0f, 0.0f, 0.0f};
      for (int64_t m = mentions.begins[point]; m < mentions.begins[point + 1]; ++m) {
        const int64_t place = mentions.places[m];
        const Passed& own = passed[place];
        for (int d = 0; d < 3; ++d) sum[d] -= own.away[d];
        if (!features || !p.grad_blended) continue;
        const float* g = p.grad_blended + place / p.count * p.channels;
        for (int c = 0; c < p.channels; ++c) features[c] = fmaf(own.share, g[c], features[c]);
      }
      for (int d = 0; d < 3 && p.grad_points; ++d) p.grad_points[3 * point + d] = sum[d];
    }
  }
}

int32_t blend_backward(const HrBlendPointsGradParams& p) {
  const int64_t runs = (p.num_queries + kQueriesPerTask - 1) / kQueriesPerTask;
  std::vector<Passed> passed(p.batch * p.num_queries * p.count);
  std::atomic<bool> fine{true};
  parallel_for(p.batch * runs, p.num_threads, [&](int64_t task) {
    const int64_t b = task / runs, begin = task % runs * kQueriesPerTask;
    Around around;
    for (int64_t q = begin; q < std::min(begin + kQueriesPerTask, p.num_queries); ++q) {
      if (!look_around(p, b, q, around)) {
        fine.store(false);
        return;
      }
      pass_back(p, b, q, around, passed.data() + (b * p.num_queries + q) * p.count);
    }
  });
  if (!fine.load()) return HR_ERROR_INDEX;
  if (!p.grad_points && !p.grad_features) return HR_OK;
  const Mentions mentions = gather_mentions(p);
  parallel_for((p.num_points + kPointsPerTask - 1) / kPointsPerTask, p.num_threads, [&](int64_t task) {
    const int64_t begin = task * kPointsPerTask;
    add_up_points(p, passed.data(), begin, std::min(begin + kPointsPerTask, p.num_points), mentions);
  });
  return HR_OK;
}

template <class Params>
bool is_sane(const Params& p) {
  return p.batch >= 0 && (p.feature_batch == 1 || p.feature_batch == p.batch) && p.num_points >= 0 && p.num_queries >= 0 &&
         p.channels >= 1 && p.count >= 1 && p.count <= HR_POINTS_MAX_NEIGHBOURS && p.softening > 0.0f && p.num_threads >= 1;
}

}  // namespace
}  // namespace hr

int32_t hr_blend_points_cpu(const HrBlendPointsParams* params) {
  if (!hr::is_sane(*params)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::blend(*params); });
}

int32_t hr_blend_points_backward_cpu(const HrBlendPointsGradParams* params) {
  if (!hr::is_sane(*params)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::blend_backward(*params); });
}
