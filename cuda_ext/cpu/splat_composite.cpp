// CPU compositing of splats: checks, tiles as tasks, and the gathering of what the tiles leave for each splat.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "c_api.h"
#include "splat_reach.h"
#include "splat_stages.h"
#include "thread_pool.h"

bool hr_cpu_has_avx512();

namespace hr {

int64_t splat_scratch_floats(const SplatChannels& channels) {
  const int64_t lanes = 16, blocks = kSplatMostBlocks, batch = kSplatBatch, count = channels.count();
  const int64_t fixed = 2 * HR_SPLAT_FIELDS * batch + 4 * lanes * blocks + (batch + lanes) * blocks + 2 * batch + lanes * lanes;
  return fixed + count * (lanes * blocks + batch + lanes) + 64;
}

namespace {

constexpr size_t kKeptBytes = size_t{64} << 20;  // of records, between calls: page faults cost more than the sums
constexpr int64_t kSplatsPerTask = 4096;
constexpr int64_t kFetchAhead = 16;  // entries: the records lie scattered

struct Free {
  void operator()(float* at) const { std::free(at); }
};

struct Scratch {
  std::unique_ptr<float, Free> data;
  size_t floats = 0;

  float* room_for(size_t wanted) {
    if (wanted > floats) {
      data.reset();
      floats = 0;
      data.reset(static_cast<float*>(std::aligned_alloc(64, (wanted * sizeof(float) + 63) / 64 * 64)));
      if (!data) throw std::bad_alloc();
      floats = wanted;
    }
    return data.get();
  }
};

const SplatCompositeStage& stage_for(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa != HR_ISA_BASE && hr_cpu_has_avx512()) return kSplatCompositeStageAvx512;
#else
  (void)isa;
#endif
  return kSplatCompositeStageBase;
}

template <class Params>
int64_t tiles_of(const Params& p) {
  return static_cast<int64_t>((p.width + p.tile_size - 1) / p.tile_size) * ((p.height + p.tile_size - 1) / p.tile_size);
}

template <class Params>
bool sane(const Params& p) {
  return p.batch >= 0 && p.cameras >= 1 && p.num_gaussians >= 0 && p.num_ids >= 0 && p.num_ids <= INT32_MAX && p.height >= 1 &&
         p.width >= 1 && p.height <= HR_SPLAT_MAX_SIDE && p.width <= HR_SPLAT_MAX_SIDE && p.tile_size >= 4 &&
         p.tile_size <= HR_SPLAT_MAX_TILE && p.tile_size % 4 == 0 && p.channels >= 1 && p.num_threads >= 1;
}

// run(image, tile, scratch) for all tiles of all images; HR_ERROR_INDEX when one says no.
template <class Params, class Run>
int32_t over_tiles(const Params& p, const SplatChannels& channels, const Run& run) {
  const int64_t tiles = tiles_of(p), floats = splat_scratch_floats(channels);
  std::atomic<bool> fine{true};
  parallel_for(p.batch * p.cameras * tiles, p.num_threads, [&](int64_t task) {
    static thread_local Scratch scratch;
    if (!run(task / tiles, task % tiles, scratch.room_for(floats))) fine.store(false);
  });
  return fine.load() ? HR_OK : HR_ERROR_INDEX;
}

// --- backward ---

// Where the entries of the splats of each task begin; HR_ERROR_INDEX unless all of them together are M.
int32_t first_entries(const HrSplatCompositeGradParams& p, int64_t tasks, std::vector<int64_t>* first) {
  const int64_t images = p.batch * p.cameras;
  first->assign(images * tasks + 1, 0);
  parallel_for(images * tasks, p.num_threads, [&](int64_t task) {
    const int64_t begin = task % tasks * kSplatsPerTask, end = std::min(begin + kSplatsPerTask, p.num_gaussians);
    int64_t sum = 0;
    for (int64_t n = begin; n < end; ++n) {
      const int32_t tiles = p.tiles[task / tasks * p.num_gaussians + n];
      sum += tiles < 0 ? INT32_MAX : tiles;
    }
    (*first)[task + 1] = sum;
  });
  for (size_t i = 1; i < first->size(); ++i) (*first)[i] += (*first)[i - 1];
  return first->back() == p.num_ids ? HR_OK : HR_ERROR_INDEX;
}

// Gradients of splat n of one image from the sum of its records.
void finish_splat(const HrSplatCompositeGradParams& p, const SplatChannels& channels, int64_t at, const float* sum) {
  const float* field = p.splats + at * HR_SPLAT_FIELDS;
  float by[HR_SPLAT_FIELDS] = {};
  const HrSplatSums<float> parts = {sum[0], sum[1], sum[2], sum[3], sum[4], sum[5]};
  hr_splat_sums_to_fields(parts, field, by);
  by[HR_SPLAT_DEPTH] = channels.depth ? sum[kSplatSums + p.channels] : 0.0f;
  std::memcpy(p.grad_splats + at * HR_SPLAT_FIELDS, by, sizeof(by));
  if (p.grad_centres) {
    const float scale = 2.0f / HR_SPLAT_LOG2E;  // the sums are in powers of 2
    const float centre[4] = {by[HR_SPLAT_X], by[HR_SPLAT_Y], scale * sum[6], scale * sum[7]};
    std::memcpy(p.grad_centres + 4 * at, centre, sizeof(centre));
  }
  if (p.grad_normals) {
    for (int k = 0; k < 3; ++k) p.grad_normals[3 * at + k] = channels.normal ? sum[kSplatSums + p.channels + channels.depth + k] : 0.0f;
  }
}

// Adds up the records of splats begin..end-1 of set b, camera by camera. False when an entry is out of range.
bool gather(const HrSplatCompositeGradParams& p, const SplatChannels& channels, const float* records,
            const std::vector<int64_t>& first, int64_t tasks, int64_t b, int64_t task) {
  const int64_t begin = task * kSplatsPerTask, end = std::min(begin + kSplatsPerTask, p.num_gaussians);
  const int64_t width = splat_record_floats(channels);
  std::vector<float> sum(width);
  for (int64_t c = 0; c < p.cameras; ++c) {
    const int64_t image = b * p.cameras + c;
    const int32_t* entry = p.entries + first[image * tasks + task];
    int64_t left = first[image * tasks + task + 1] - first[image * tasks + task];
    for (int64_t n = begin; n < end; ++n) {
      const int64_t at = image * p.num_gaussians + n;
      const int32_t tiles = p.tiles[at];
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int32_t k = 0; k < tiles; ++k) {
        if (entry[k] < 0 || entry[k] >= p.num_ids) return false;
        const float* record = records + entry[k] * width;
        __builtin_prefetch(records + entry[k + kFetchAhead < left ? k + kFetchAhead : 0] * width);
        for (int64_t j = 0; j < width; ++j) sum[j] += record[j];
      }
      entry += tiles;
      left -= tiles;
      if (tiles > 0) {
        finish_splat(p, channels, at, sum.data());
      } else {
        std::memset(p.grad_splats + at * HR_SPLAT_FIELDS, 0, HR_SPLAT_FIELDS * sizeof(float));
        if (p.grad_centres) std::memset(p.grad_centres + 4 * at, 0, 4 * sizeof(float));
        if (p.grad_normals) std::memset(p.grad_normals + 3 * at, 0, 3 * sizeof(float));
      }
      if (!p.grad_colours) continue;
      const int64_t place = (p.colours_per_image ? at : b * p.num_gaussians + n) * p.channels;
      const bool add = !p.colours_per_image && c > 0;
      for (int k = 0; k < p.channels; ++k) {
        float& colour = p.grad_colours[place + k];
        // What is not finite counted as 0, whatever it was: it has no gradient.
        const float own = std::isfinite(p.colours[place + k]) ? sum[kSplatSums + k] : 0.0f;
        colour = add ? colour + own : own;
      }
    }
  }
  return true;
}

void sum_backgrounds(const HrSplatCompositeGradParams& p, const std::vector<float>& parts) {
  const int64_t images = p.batch * p.cameras, tiles = tiles_of(p);
  std::vector<double> sum(p.channels, 0.0);
  for (int64_t image = 0; image < images; ++image) {
    if (p.background_per_image) std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t t = 0; t < tiles; ++t) {
      for (int k = 0; k < p.channels; ++k) sum[k] += parts[(image * tiles + t) * p.channels + k];
    }
    float* out = p.grad_background + (p.background_per_image ? image * p.channels : 0);
    for (int k = 0; k < p.channels; ++k) out[k] = static_cast<float>(sum[k]);
  }
}

int32_t composite_backward(const HrSplatCompositeGradParams& p) {
  static std::mutex* one_at_a_time = new std::mutex();  // leaked: must outlive every thread at exit
  static Scratch* kept = new Scratch();
  const SplatChannels channels = {p.channels, p.grad_depth_sum ? 1 : 0, p.grad_normal_sum ? 3 : 0};
  const int64_t tasks = (p.num_gaussians + kSplatsPerTask - 1) / kSplatsPerTask;
  std::vector<int64_t> first;
  int32_t status = first_entries(p, tasks, &first);
  if (status != HR_OK) return status;
  std::vector<float> backgrounds(p.grad_background ? p.batch * p.cameras * tiles_of(p) * p.channels : 0);
  std::lock_guard<std::mutex> lock(*one_at_a_time);
  const SplatTileSums sums = {kept->room_for(std::max<int64_t>(1, p.num_ids) * splat_record_floats(channels)),
                              p.grad_background ? backgrounds.data() : nullptr, p.grad_centres != nullptr};
  const SplatCompositeStage& stage = stage_for(p.isa);
  status = over_tiles(p, channels, [&](int64_t i, int64_t t, float* scratch) { return stage.backward(p, sums, i, t, scratch); });
  if (status == HR_OK) {
    std::atomic<bool> fine{true};
    parallel_for(p.batch * tasks, p.num_threads, [&](int64_t task) {
      if (!gather(p, channels, sums.records, first, tasks, task / tasks, task % tasks)) fine.store(false);
    });
    if (p.grad_background) sum_backgrounds(p, backgrounds);
    status = fine.load() ? HR_OK : HR_ERROR_INDEX;
  }
  if (kept->floats * sizeof(float) > kKeptBytes) *kept = Scratch();
  return status;
}

}  // namespace
}  // namespace hr

int32_t hr_splat_composite_cpu(const HrSplatCompositeParams* params) {
  const HrSplatCompositeParams& p = *params;
  if (!hr::sane(p) || (p.normal_sum && !p.normals && p.num_gaussians > 0)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] {
    const hr::SplatCompositeStage& stage = hr::stage_for(p.isa);
    const hr::SplatChannels channels = {p.channels, p.depth_sum ? 1 : 0, p.normal_sum ? 3 : 0};
    return hr::over_tiles(p, channels, [&](int64_t i, int64_t t, float* scratch) { return stage.forward(p, i, t, scratch); });
  });
}

int32_t hr_splat_composite_backward_cpu(const HrSplatCompositeGradParams* params) {
  const HrSplatCompositeGradParams& p = *params;
  const bool given = p.num_gaussians == 0 || (p.tiles && (p.entries || p.num_ids == 0) && (!p.grad_normal_sum || p.normals));
  if (!hr::sane(p) || !given) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::composite_backward(p); });
}
