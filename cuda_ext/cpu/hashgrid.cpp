// CPU hash grid. Positions are worked through in rounds, and in a round level by level: all threads then read the same few
// megabytes of table. What a level gives or takes lies in scratch memory, level by level, and is turned into the rows of the
// caller's tensor (or out of them) in a pass of its own.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "c_api.h"
#include "hashgrid_level.h"
#include "thread_pool.h"

bool hr_cpu_has_avx512();

namespace hr {
namespace {

constexpr int64_t kScratchFloats = int64_t{1} << 23;  // of a round: 32 MiB, kept between calls, for page faults cost more
constexpr int64_t kPositionsPerTask = 16384;          // of one level; and the least that a round has
constexpr int64_t kRowsPerTask = 1024;                // turned at a time: what they hold fits a core's cache
constexpr int64_t kEntriesPerStrip = 65536;           // of a table that one thread adds to

const HashgridKernels& kernels_for(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa != HR_ISA_BASE && hr_cpu_has_avx512()) return kHashgridAvx512;
#else
  (void)isa;
#endif
  return kHashgridBase;
}

struct Scratch {
  std::mutex mutex;
  std::vector<float> levels, xyz, grad_xyz;
};

Scratch& scratch() {
  static Scratch* kept = new Scratch();  // leaked: must outlive every thread at exit
  return *kept;
}

// A run of positions, small enough for the scratch memory.
struct Round {
  int64_t first, count, capacity;
};

// Positions between the beginnings of levels in the scratch memory: five cache lines more than a round has. A power of two
// would put the same position of all levels into the same set of every cache, which costs more than the turning itself.
template <class Params>
int64_t level_stride(const Params& p, int64_t capacity) {
  return capacity * p.features + 80;
}

template <class Params>
class Rounds {
 public:
  Rounds(const Params& params, Scratch& memory) : p_(params), memory_(memory) {
    const int64_t row = static_cast<int64_t>(p_.levels) * p_.features;
    capacity_ = std::max(kScratchFloats / row / kPositionsPerTask, int64_t{1}) * kPositionsPerTask;
    capacity_ = std::min(capacity_, p_.num_positions);
    resize(memory_.levels, level_stride(p_, capacity_) * p_.levels);
    resize(memory_.xyz, capacity_ * p_.dims);
  }

  template <class Work>
  void each(const Work& work) {
    for (int64_t first = 0; first < p_.num_positions; first += capacity_) {
      const Round round = {first, std::min(capacity_, p_.num_positions - first), capacity_};
      split_coordinates(round);
      work(round);
    }
  }

  // Level l over positions begin..end-1 of a round.
  HashgridLevel level(int64_t l, int64_t begin, int64_t end) const {
    HashgridLevel level = {};
    for (int d = 0; d < p_.dims; ++d) level.xyz[d] = memory_.xyz.data() + d * capacity_ + begin;
    level.count = end - begin;
    level.table = p_.table + static_cast<int64_t>(p_.grid.offset[l]) * p_.features;
    level.resolution = static_cast<uint32_t>(p_.grid.resolution[l]);
    level.size = static_cast<uint32_t>(p_.grid.size[l]);
    level.scale = p_.grid.scale[l];
    level.hashed = p_.grid.hashed[l] != 0;
    level.smoothstep = p_.smoothstep != 0;
    return level;
  }

  // What the scratch memory holds of level l, from position `begin` of the round on.
  float* values(int64_t l, int64_t begin) { return memory_.levels.data() + l * level_stride(p_, capacity_) + begin * p_.features; }

  static void resize(std::vector<float>& vector, int64_t floats) {
    if (vector.size() < static_cast<size_t>(floats)) vector.resize(floats);
  }

 private:
  void split_coordinates(const Round& round) {
    const int64_t tasks = (round.count + kPositionsPerTask - 1) / kPositionsPerTask;
    parallel_for(tasks, p_.num_threads, [&](int64_t task) {
      const int64_t begin = task * kPositionsPerTask, end = std::min(begin + kPositionsPerTask, round.count);
      for (int d = 0; d < p_.dims; ++d) {
        const float* in = p_.positions + round.first * p_.dims + d;
        float* out = memory_.xyz.data() + d * capacity_;
        for (int64_t i = begin; i < end; ++i) out[i] = in[i * p_.dims];
      }
    });
  }

  const Params& p_;
  Scratch& memory_;
  int64_t capacity_;
};

// Moves features between the rows [N, L F] of a tensor and the levels [L][capacity, F] of the scratch memory.
template <int F, bool kToRows, class Float>
void turn(Float* rows, float* levels, int64_t level_stride, int64_t num_levels, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    Float* row = rows + i * num_levels * F;
    for (int64_t l = 0; l < num_levels; ++l) {
      float* level = levels + l * level_stride + i * F;
      if constexpr (kToRows) {
        std::memcpy(row + l * F, level, F * sizeof(float));
      } else {
        std::memcpy(level, row + l * F, F * sizeof(float));
      }
    }
  }
}

template <bool kToRows, class Float, class Params>
void turn_round(const Params& p, const Round& round, Float* rows, float* levels) {
  const int64_t tasks = (round.count + kRowsPerTask - 1) / kRowsPerTask, stride = level_stride(p, round.capacity);
  Float* first = rows + round.first * p.levels * p.features;
  parallel_for(tasks, p.num_threads, [&](int64_t task) {
    const int64_t begin = task * kRowsPerTask, end = std::min(begin + kRowsPerTask, round.count);
    switch (p.features) {
      case 1: return turn<1, kToRows>(first, levels, stride, p.levels, begin, end);
      case 2: return turn<2, kToRows>(first, levels, stride, p.levels, begin, end);
      case 4: return turn<4, kToRows>(first, levels, stride, p.levels, begin, end);
      default: return turn<8, kToRows>(first, levels, stride, p.levels, begin, end);
    }
  });
}

int32_t encode(const HrHashgridParams& p) {
  const HashgridKernels& kernels = kernels_for(p.isa);
  Scratch& memory = scratch();
  std::lock_guard<std::mutex> lock(memory.mutex);
  Rounds<HrHashgridParams> rounds(p, memory);
  rounds.each([&](const Round& round) {
    const int64_t runs = (round.count + kPositionsPerTask - 1) / kPositionsPerTask;
    parallel_for(runs * p.levels, p.num_threads, [&](int64_t task) {
      const int64_t l = task / runs, begin = task % runs * kPositionsPerTask;
      const HashgridLevel level = rounds.level(l, begin, std::min(begin + kPositionsPerTask, round.count));
      kernels.encode(level, p.dims, p.features, rounds.values(l, begin));
    });
    turn_round<true>(p, round, p.values, memory.levels.data());
  });
  return HR_OK;
}

// Strips of a level's table: enough of them to keep the threads busy. Every entry lies in one strip, and gathers from the
// positions in their order: the sums do not depend on how many strips there are.
int64_t strips_of(const HrHashgridGradParams& p, int64_t l) {
  const int64_t wanted = p.num_threads <= 2 ? 1 : (4 * p.num_threads + p.levels - 1) / p.levels;
  return std::clamp<int64_t>(p.grid.size[l] / kEntriesPerStrip, 1, wanted);
}

void add_to_tables(const HrHashgridGradParams& p, const Round& round, Rounds<HrHashgridGradParams>& rounds) {
  struct Strip {
    int32_t level;
    uint32_t first, end;
  };
  std::vector<Strip> strips;
  for (int32_t l = p.levels - 1; l >= 0; --l) {  // the large ones first
    const int64_t count = strips_of(p, l), size = p.grid.size[l];
    for (int64_t k = 0; k < count; ++k) {
      strips.push_back({l, static_cast<uint32_t>(size * k / count), static_cast<uint32_t>(size * (k + 1) / count)});
    }
  }
  const HashgridKernels& kernels = kernels_for(p.isa);
  parallel_for(static_cast<int64_t>(strips.size()), p.num_threads, [&](int64_t task) {
    const Strip& s = strips[task];
    float* grad = p.grad_table + static_cast<int64_t>(p.grid.offset[s.level]) * p.features;
    if (round.first == 0) {
      std::memset(grad + static_cast<int64_t>(s.first) * p.features, 0, sizeof(float) * (s.end - s.first) * p.features);
    }
    const HashgridLevel level = rounds.level(s.level, 0, round.count);
    kernels.add_to_table(level, p.dims, p.features, rounds.values(s.level, 0), grad, s.first, s.end);
  });
}

// Level after level, so that all threads read the same table; the sums of a position are in the order of the levels.
void add_to_positions(const HrHashgridGradParams& p, const Round& round, Rounds<HrHashgridGradParams>& rounds,
                      std::vector<float>& grad_xyz) {
  const HashgridKernels& kernels = kernels_for(p.isa);
  Rounds<HrHashgridGradParams>::resize(grad_xyz, round.capacity * p.dims);
  std::fill_n(grad_xyz.data(), round.capacity * p.dims, 0.0f);
  const int64_t tasks = (round.count + kPositionsPerTask - 1) / kPositionsPerTask;
  for (int64_t l = 0; l < p.levels; ++l) {
    parallel_for(tasks, p.num_threads, [&](int64_t task) {
      const int64_t begin = task * kPositionsPerTask, end = std::min(begin + kPositionsPerTask, round.count);
      float* own[3] = {};
      for (int d = 0; d < p.dims; ++d) own[d] = grad_xyz.data() + d * round.capacity + begin;
      kernels.add_to_positions(rounds.level(l, begin, end), p.dims, p.features, rounds.values(l, begin), own);
    });
  }
  parallel_for(tasks, p.num_threads, [&](int64_t task) {
    const int64_t begin = task * kPositionsPerTask, end = std::min(begin + kPositionsPerTask, round.count);
    for (int64_t i = begin; i < end; ++i) {
      float* out = p.grad_positions + (round.first + i) * p.dims;
      for (int d = 0; d < p.dims; ++d) out[d] = grad_xyz[d * round.capacity + i];
    }
  });
}

int32_t encode_backward(const HrHashgridGradParams& p) {
  Scratch& memory = scratch();
  std::lock_guard<std::mutex> lock(memory.mutex);
  Rounds<HrHashgridGradParams> rounds(p, memory);
  rounds.each([&](const Round& round) {
    turn_round<false>(p, round, p.grad_values, memory.levels.data());
    if (p.grad_table) add_to_tables(p, round, rounds);
    if (p.grad_positions) add_to_positions(p, round, rounds, memory.grad_xyz);
  });
  return HR_OK;
}

template <class Params>
bool is_sane(const Params& p) {
  const bool features = p.features == 1 || p.features == 2 || p.features == 4 || p.features == 8;
  if (!features || p.dims < 2 || p.dims > 3 || p.levels < 1 || p.levels > HR_HASHGRID_MAX_LEVELS || p.num_threads < 1 ||
      p.num_positions < 1) {
    return false;
  }
  for (int32_t l = 0; l < p.levels; ++l) {
    const int64_t size = p.grid.size[l], resolution = p.grid.resolution[l];
    const bool fits = p.grid.hashed[l] ? (size & (size - 1)) == 0 : resolution * resolution * (p.dims == 3 ? resolution : 1) <= size;
    const bool scaled = p.grid.scale[l] >= 0.0f && p.grid.scale[l] <= HR_HASHGRID_MAX_SCALE && resolution <= (1 << 25) &&
                        static_cast<float>(resolution) >= p.grid.scale[l];
    if (size < 1 || p.grid.offset[l] < 0 || p.grid.offset[l] + size > p.num_entries || resolution < 1 || !fits || !scaled) {
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace hr

int32_t hr_hashgrid_cpu(const HrHashgridParams* params) {
  if (!hr::is_sane(*params)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::encode(*params); });
}

int32_t hr_hashgrid_backward_cpu(const HrHashgridGradParams* params) {
  if (!hr::is_sane(*params)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::encode_backward(*params); });
}
