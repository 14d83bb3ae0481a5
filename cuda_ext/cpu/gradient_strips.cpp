#include "gradient_strips.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <vector>

#include "hr_common.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kMostStrips = 16, kFewestStrips = 4;
constexpr int64_t kPixelsPerStrip = 4096;             // fewer are not worth a table
constexpr int64_t kFloatsPerGroup = int64_t{1} << 25;  // tables are worked on in groups of this size, to bound memory
constexpr int64_t kFloatsKept = int64_t{1} << 23;      // scratch kept between calls: page faults cost more than the sums
constexpr int64_t kFloatsPerTask = 16384;

struct Scratch {
  std::mutex mutex;
  std::vector<float> sums;
};

Scratch& scratch() {
  static Scratch* kept = new Scratch();  // leaked: must outlive every thread at exit
  return *kept;
}

// Emptying and adding up a table costs about as much per float as a pixel does, hence the ratio of the two.
int64_t strips_for(const Tables& t) {
  const int64_t wanted = std::clamp(t.pixels / std::max<int64_t>(t.floats, 1), kFewestStrips, kMostStrips);
  return std::clamp<int64_t>(t.pixels / kPixelsPerStrip, 1, wanted);
}

void add_up(const float* sums, int64_t strips, int64_t floats, int64_t begin, int64_t end, float* out) {
  std::memcpy(out + begin, sums + begin, (end - begin) * sizeof(float));
  for (int64_t s = 1; s < strips; ++s) {
    const float* strip = sums + s * floats;
    for (int64_t i = begin; i < end; ++i) out[i] += strip[i];
  }
}

}  // namespace

int32_t sum_over_strips(const Tables& t, int num_threads, float* out, const AddPixels& add) {
  const int64_t strips = strips_for(t);
  const int64_t group = std::max<int64_t>(1, kFloatsPerGroup / std::max<int64_t>(strips * t.floats, 1));
  const int64_t runs = (t.floats + kFloatsPerTask - 1) / kFloatsPerTask;
  std::atomic<bool> fine{true};
  Scratch& shared = scratch();
  std::lock_guard<std::mutex> lock(shared.mutex);
  for (int64_t first = 0; first < t.count; first += group) {
    const int64_t tables = std::min(group, t.count - first);
    // A single strip needs no table of its own.
    if (strips > 1 && shared.sums.size() < static_cast<size_t>(tables * strips * t.floats)) {
      shared.sums.resize(tables * strips * t.floats);
    }
    float* sums = strips > 1 ? shared.sums.data() : out + first * t.floats;
    parallel_for(tables * strips, num_threads, [&](int64_t task) {
      const int64_t strip = task % strips;
      float* own = sums + task * t.floats;
      std::memset(own, 0, t.floats * sizeof(float));
      if (!add(first + task / strips, t.pixels * strip / strips, t.pixels * (strip + 1) / strips, own)) fine.store(false);
    });
    if (strips == 1) continue;
    parallel_for(tables * runs, num_threads, [&](int64_t task) {
      const int64_t table = task / runs, begin = task % runs * kFloatsPerTask;
      add_up(sums + table * strips * t.floats, strips, t.floats, begin, std::min(begin + kFloatsPerTask, t.floats),
             out + (first + table) * t.floats);
    });
  }
  if (shared.sums.size() > static_cast<size_t>(kFloatsKept)) std::vector<float>().swap(shared.sums);
  return fine.load() ? HR_OK : HR_ERROR_INDEX;
}

bool indices_within(const int32_t* index, int64_t count, int64_t lowest, int64_t limit) {
  int32_t least = INT32_MAX, most = INT32_MIN;
  for (int64_t i = 0; i < count; ++i) {
    least = index[i] < least ? index[i] : least;
    most = index[i] > most ? index[i] : most;
  }
  return count == 0 || (least >= lowest && most < limit);
}

}  // namespace hr
