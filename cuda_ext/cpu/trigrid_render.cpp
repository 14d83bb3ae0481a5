// CPU volume rendering of a grid on three planes, forward: lookup, decoder and compositing of a few rays at a time.
#include <algorithm>
#include <cstring>

#include "c_api.h"
#include "thread_pool.h"
#include "trigrid_rays.h"

namespace hr {
namespace {

constexpr int64_t kGroupsPerTask = 4;

// Room for a list of samples, in this thread's memory.
struct Room {
  Batch batch;
  float* points;
  Place* places;
  float *alpha, *keep, *slope;

  Room(const PreparedDecoder& d, int charts) {
    const int64_t n = kMostEntries;
    Scratch scratch(thread_memory(), n * (d.padded_channels + d.padded_hidden + d.padded_features + 7 + 4 * charts));
    batch.features = scratch.take(n * d.padded_channels);
    batch.hidden = scratch.take(n * d.padded_hidden);
    batch.slopes = nullptr;
    batch.out = scratch.take(n * d.padded_features);
    batch.out_stride = d.padded_features;
    batch.density = scratch.take(n);
    points = scratch.take(3 * n);
    places = reinterpret_cast<Place*>(scratch.take(4 * n * charts));
    alpha = scratch.take(n);
    keep = scratch.take(n);
    slope = scratch.take(n);
  }
};

// Adds the intervals of the present list to the sums of their rays.
void add_intervals(const HrTrigridRenderParams& p, const RayGroup& group, const Room& room, RayWalk& walk) {
  const int features = p.decoder.features;
  for (size_t k = 0; k < walk.intervals.size(); ++k) {
    const Interval& at = walk.intervals[k];
    float& through = walk.through[at.ray];
    if (through < p.samples.stop) continue;
    const float weight = through * room.alpha[k];
    through *= room.keep[k];
    if (through < HR_FAINTEST) through = 0.0f;
    if (weight == 0.0f) continue;
    if (p.weights) p.weights[at.sample] = weight;
    p.distances[group.begin + at.ray] += weight * at.middle;
    p.opacities[group.begin + at.ray] += weight;
    float* sums = p.sums + (group.begin + at.ray) * features;
    const float* last = room.batch.out + int64_t{at.last} * room.batch.out_stride;
    if (at.first == at.last) {
      for (int d = 0; d < features; ++d) sums[d] += weight * last[d];
      continue;
    }
    const float* first = at.first >= 0 ? room.batch.out + int64_t{at.first} * room.batch.out_stride
                                       : walk.last_features.data() + int64_t{at.ray} * walk.last_stride;
    for (int d = 0; d < features; ++d) sums[d] += weight * ((first[d] + last[d]) * 0.5f);
  }
}

void render_group(const HrTrigridRenderParams& p, const PreparedDecoder& d, const TrigridKernels& kernels, const RayGroup& group) {
  std::fill(p.sums + group.begin * d.features, p.sums + group.end * d.features, 0.0f);
  std::fill(p.distances + group.begin, p.distances + group.end, 0.0f);
  std::fill(p.opacities + group.begin, p.opacities + group.end, 0.0f);
  if (p.weights) std::fill(p.weights + group.first_sample, p.weights + group.first_sample + group.samples, 0.0f);
  const Room room(d, p.field.charts);
  RayWalk walk(p, group);
  while (walk.next()) {
    const int n = static_cast<int>(walk.entries.size());
    entry_points(p, group, walk.entries.data(), n, room.points);
    find_places(p.field, room.points, n, room.places);
    kernels.gather(p.field, group.image, room.places, n, room.batch.features, d.padded_channels);
    kernels.decode(d, room.batch, n);
    walk.find_intervals(room.batch);
    kernels.opacities(p.samples, walk.values.data(), walk.lengths.data(), static_cast<int>(walk.values.size()), room.alpha, room.keep,
                      room.slope);
    add_intervals(p, group, room, walk);
    walk.keep_last(room.batch);
  }
}

int32_t render(const HrTrigridRenderParams& p) {
  const TrigridKernels& kernels = trigrid_kernels(p.isa);
  const DecoderMemory decoder(p.decoder, p.field.channels);
  const std::vector<RayGroup> groups = group_rays(p.samples, p.field.batch, p.rays_per_image);
  const int64_t count = static_cast<int64_t>(groups.size()), tasks = (count + kGroupsPerTask - 1) / kGroupsPerTask;
  parallel_for(tasks, p.num_threads, [&](int64_t task) {
    for (int64_t g = task * kGroupsPerTask; g < std::min((task + 1) * kGroupsPerTask, count); ++g) {
      render_group(p, decoder.get(), kernels, groups[g]);
    }
  });
  return HR_OK;
}

}  // namespace
}  // namespace hr

int32_t hr_trigrid_render_cpu(const HrTrigridRenderParams* p) {
  if (const int32_t status = hr::check_render(*p)) return status;
  return hr::guarded([&] { return hr::render(*p); });
}
