// CPU volume rendering of a grid on three planes, backward: looks up and decodes again, so nothing per sample is kept
// between the two directions. Gradients of cells wait for their turn in strips of rays (trigrid_scatter.h).
#include <algorithm>
#include <cmath>
#include <limits>

#include "c_api.h"
#include "thread_pool.h"
#include "trigrid_rays.h"
#include "trigrid_scatter.h"

namespace hr {
namespace {

constexpr int64_t kSamplesPerStrip = 1 << 16;
constexpr int64_t kGroupsPerTable = 4;

// What all groups share.
struct Backward {
  const HrTrigridRenderParams& p;
  const PreparedDecoder& d;
  const TrigridKernels& kernels;
  // The present strip: its first sample, and for each of its samples the gradient of the feature and the place.
  int64_t strip_first = 0;
  std::vector<float> gradients;
  std::vector<Place> places;
};

// Room for a list of samples on their way there and back, in this thread's memory.
struct Room {
  Batch batch;
  float *points, *grad_points, *grad_out, *grad_density, *grad_features, *alpha, *keep, *slope;
  Place *places, *grad_places;

  Room(const PreparedDecoder& d, int charts) {
    const int64_t n = kMostEntries;
    Scratch scratch(thread_memory(), n * (d.padded_channels + 2 * d.padded_hidden + 2 * d.padded_features + d.channels + 11 + 8 * charts));
    batch.features = scratch.take(n * d.padded_channels);
    batch.hidden = scratch.take(n * d.padded_hidden);
    batch.slopes = scratch.take(n * d.padded_hidden);
    batch.out = scratch.take(n * d.padded_features);
    batch.out_stride = d.padded_features;
    batch.density = scratch.take(n);
    points = scratch.take(3 * n);
    grad_points = scratch.take(3 * n);
    grad_out = scratch.take(n * d.padded_features);
    grad_density = scratch.take(n);
    grad_features = scratch.take(n * d.channels);
    alpha = scratch.take(n);
    keep = scratch.take(n);
    slope = scratch.take(n);
    places = reinterpret_cast<Place*>(scratch.take(4 * n * charts));
    grad_places = reinterpret_cast<Place*>(scratch.take(4 * n * charts));
  }
};

// An interval that light reaches, as the way back needs it.
struct Passed {
  int32_t ray;
  int64_t first, last;                // entries of the whole group
  float alpha, keep, slope, before;   // slope: of alpha by the raw density
  float gain;                         // what a unit of its weight adds to the loss
};

// Everything that a group's way there leaves behind; kept by the thread.
struct Trace {
  std::vector<Entry> entries;
  std::vector<int64_t> lists;         // where each list begins
  std::vector<Passed> passed;
  std::vector<int64_t> last_entry;    // of each ray
  std::vector<float> weights, grad_densities;
};

void decode_list(const Backward& b, const RayGroup& group, const Entry* entries, int n, Room& room) {
  entry_points(b.p, group, entries, n, room.points);
  find_places(b.p.field, room.points, n, room.places);
  b.kernels.gather(b.p.field, group.image, room.places, n, room.batch.features, b.d.padded_channels);
  b.kernels.decode(b.d, room.batch, n);
}

// What a unit of an interval's weight adds: gradients of the sums times its feature,
// of the distance times its own, and of the opacity.
float gain_of(const Backward& b, const RayGroup& group, const RayWalk& walk, const Interval& at, const Room& room) {
  const float* grad = b.p.grad_sums + (group.begin + at.ray) * b.d.features;
  const float* last = room.batch.out + int64_t{at.last} * room.batch.out_stride;
  const float* first = at.first >= 0 ? room.batch.out + int64_t{at.first} * room.batch.out_stride
                                     : walk.last_features.data() + int64_t{at.ray} * walk.last_stride;
  float lanes[16] = {};
  int k = 0;
  for (; k + 16 <= b.d.features; k += 16) {
    for (int i = 0; i < 16; ++i) lanes[i] += grad[k + i] * (first[k + i] + last[k + i]);
  }
  for (int i = 0; k < b.d.features; ++k, ++i) lanes[i] += grad[k] * (first[k] + last[k]);
  float total = 0.0f;
  for (float lane : lanes) total += lane;
  return 0.5f * total + b.p.grad_distances[group.begin + at.ray] * at.middle + b.p.grad_opacities[group.begin + at.ray];
}

// The way there: fills the trace. The last list stays decoded in the room.
void trace_group(const Backward& b, const RayGroup& group, Room& room, Trace& trace) {
  trace.entries.clear();
  trace.lists.assign(1, 0);
  trace.passed.clear();
  trace.last_entry.assign(group.end - group.begin, -1);
  RayWalk walk(b.p, group);
  while (walk.next()) {
    const int64_t base = static_cast<int64_t>(trace.entries.size());
    trace.entries.insert(trace.entries.end(), walk.entries.begin(), walk.entries.end());
    trace.lists.push_back(static_cast<int64_t>(trace.entries.size()));
    decode_list(b, group, walk.entries.data(), static_cast<int>(walk.entries.size()), room);
    walk.find_intervals(room.batch);
    b.kernels.opacities(b.p.samples, walk.values.data(), walk.lengths.data(), static_cast<int>(walk.values.size()), room.alpha,
                        room.keep, room.slope);
    for (size_t k = 0; k < walk.intervals.size(); ++k) {
      const Interval& at = walk.intervals[k];
      float& through = walk.through[at.ray];
      if (through < b.p.samples.stop) continue;
      const int64_t first = at.first >= 0 ? base + at.first : trace.last_entry[at.ray];
      trace.passed.push_back({at.ray, first, base + at.last, room.alpha[k], room.keep[k], room.slope[k], through,
                              gain_of(b, group, walk, at, room)});
      through *= room.keep[k];
      if (through < HR_FAINTEST) through = 0.0f;
    }
    for (size_t e = 0; e < walk.entries.size(); ++e) trace.last_entry[walk.entries[e].ray] = base + static_cast<int64_t>(e);
    walk.keep_last(room.batch);
  }
}

// Back to front: what is seen behind each interval per unit of light; weights and gradients of the raw densities.
void turn_around(const Backward& b, const RayGroup& group, Trace& trace) {
  trace.weights.assign(trace.entries.size(), 0.0f);
  trace.grad_densities.assign(trace.entries.size(), 0.0f);
  std::vector<float> behind(group.end - group.begin, 0.0f);
  for (auto it = trace.passed.rbegin(); it != trace.passed.rend(); ++it) {
    const float grad = it->slope * (it->before * (it->gain - behind[it->ray])), weight = it->before * it->alpha;
    behind[it->ray] = it->alpha * it->gain + it->keep * behind[it->ray];
    const float share = it->first == it->last ? 1.0f : 0.5f;
    trace.weights[it->last] += share * weight;
    trace.grad_densities[it->last] += share * grad;
    if (it->first == it->last) continue;
    trace.weights[it->first] += share * weight;
    trace.grad_densities[it->first] += share * grad;
  }
}

// Hands the gradients of a list's features and their places to the strip.
void leave_to_strip(Backward& b, const Entry* entries, int n, const Room& room) {
  const int charts = b.p.field.charts, channels = b.d.channels;
  for (int e = 0; e < n; ++e) {
    const int64_t slot = entries[e].sample - b.strip_first;
    std::copy(room.grad_features + int64_t{e} * channels, room.grad_features + int64_t{e + 1} * channels,
              b.gradients.data() + slot * channels);
    std::copy(room.places + int64_t{e} * charts, room.places + int64_t{e + 1} * charts, b.places.data() + slot * charts);
  }
}

void add_ray_gradients(const Backward& b, const RayGroup& group, const Entry* entries, int n, Room& room) {
  b.kernels.place_gradients(b.p.field, group.image, room.places, n, room.grad_features, b.d.channels, room.grad_places);
  point_gradients(b.p.field, room.points, n, room.grad_places, room.grad_points);
  for (int e = 0; e < n; ++e) {
    const int64_t ray = 3 * (group.begin + entries[e].ray);
    for (int k = 0; k < 3; ++k) {
      b.p.grad_origins[ray + k] += room.grad_points[3 * e + k];
      b.p.grad_directions[ray + k] += entries[e].distance * room.grad_points[3 * e + k];
    }
  }
}

void render_group_backward(Backward& b, const RayGroup& group, const DecoderSums& sums) {
  static thread_local Trace trace;
  Room room(b.d, b.p.field.charts);
  if (b.p.grad_origins) {
    std::fill(b.p.grad_origins + 3 * group.begin, b.p.grad_origins + 3 * group.end, 0.0f);
    std::fill(b.p.grad_directions + 3 * group.begin, b.p.grad_directions + 3 * group.end, 0.0f);
  }
  trace_group(b, group, room, trace);
  turn_around(b, group, trace);
  const int64_t last_list = static_cast<int64_t>(trace.lists.size()) - 2;
  const bool features = b.p.grad_grid || b.p.grad_origins;
  for (int64_t list = last_list; list >= 0; --list) {
    const Entry* entries = trace.entries.data() + trace.lists[list];
    const int n = static_cast<int>(trace.lists[list + 1] - trace.lists[list]);
    if (list != last_list) decode_list(b, group, entries, n, room);
    for (int e = 0; e < n; ++e) {
      const float weight = trace.weights[trace.lists[list] + e];
      const float* grad = b.p.grad_sums + (group.begin + entries[e].ray) * b.d.features;
      float* out = room.grad_out + int64_t{e} * b.d.padded_features;
      for (int k = 0; k < b.d.features; ++k) out[k] = weight * grad[k];
      for (int k = b.d.features; k < b.d.padded_features; ++k) out[k] = 0.0f;
    }
    b.kernels.decode_backward(b.d, room.batch, n, room.grad_out, trace.grad_densities.data() + trace.lists[list],
                              features ? room.grad_features : nullptr, b.d.channels, sums);
    if (b.p.grad_grid) leave_to_strip(b, entries, n, room);
    if (b.p.grad_origins) add_ray_gradients(b, group, entries, n, room);
  }
}

int32_t render_backward(const HrTrigridRenderParams& p) {
  const TrigridKernels& kernels = trigrid_kernels(p.isa);
  const DecoderMemory decoder(p.decoder, p.field.channels);
  const std::vector<RayGroup> groups = group_rays(p.samples, p.field.batch, p.rays_per_image);
  DecoderTables tables(decoder.get(), p.grad_decoder.w1 != nullptr);
  std::vector<GridScatter> grid;
  if (p.grad_grid) grid.emplace_back(p.field, p.grad_grid, p.num_threads, kernels);
  Backward b = {p, decoder.get(), kernels, 0, {}, {}};
  constexpr float kNowhere = std::numeric_limits<float>::quiet_NaN();
  for (size_t begin = 0, end = 0; begin < groups.size(); begin = end) {
    int64_t samples = 0;
    for (; end < groups.size() && groups[end].image == groups[begin].image && (end == begin || samples < kSamplesPerStrip); ++end) {
      samples += groups[end].samples;
    }
    b.strip_first = groups[begin].first_sample;
    if (p.grad_grid) {
      b.gradients.resize(samples * p.field.channels);
      b.places.assign(samples * p.field.charts, Place{{kNowhere, kNowhere, kNowhere}, 0.0f});
    }
    const int64_t count = static_cast<int64_t>(end - begin), tasks = (count + kGroupsPerTable - 1) / kGroupsPerTable;
    tables.clear(tasks);
    parallel_for(tasks, p.num_threads, [&](int64_t task) {
      for (int64_t g = task * kGroupsPerTable; g < std::min((task + 1) * kGroupsPerTable, count); ++g) {
        render_group_backward(b, groups[begin + g], tables.table(task));
      }
    });
    tables.add_up();
    if (p.grad_grid) grid[0].add(groups[begin].image, b.places.data(), b.gradients.data(), samples);
  }
  tables.write(p.grad_decoder);
  return HR_OK;
}

}  // namespace
}  // namespace hr

int32_t hr_trigrid_render_backward_cpu(const HrTrigridRenderParams* p) {
  if (const int32_t status = hr::check_render(*p)) return status;
  return hr::guarded([&] { return hr::render_backward(*p); });
}
