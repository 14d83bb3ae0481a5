// CPU lookup of points in grids on three planes, alone and with the decoder; forward and backward.
#include <algorithm>

#include "c_api.h"
#include "huge_pages.h"
#include "thread_pool.h"
#include "trigrid_common.h"
#include "trigrid_scatter.h"

namespace hr {
namespace {

constexpr int kPointsPerTask = 512;
constexpr int64_t kSlotsAtOnce = 1 << 16;  // points whose gradients wait to be added to the grid
constexpr int64_t kTasksPerTable = 4;

// Calls work(image, first point of all, count) for runs of at most kPointsPerTask points.
template <class Work>
void over_points(int64_t batch, int64_t points, int num_threads, const Work& work) {
  const int64_t runs = (points + kPointsPerTask - 1) / kPointsPerTask;
  parallel_for(batch * runs, num_threads, [&](int64_t task) {
    const int64_t image = task / runs, begin = task % runs * kPointsPerTask;
    work(image, image * points + begin, static_cast<int>(std::min<int64_t>(kPointsPerTask, points - begin)));
  });
}

// Places of the points of this thread's run.
Place* places_of(const HrTrigrid& field, const float* points, int n, Scratch& scratch) {
  Place* places = reinterpret_cast<Place*>(scratch.take(4 * int64_t{n} * field.charts));
  find_places(field, points, n, places);
  return places;
}

int32_t sample(const HrTrigridSampleParams& p) {
  expect_writes(p.values, p.field.batch * p.num_points * p.field.channels * 4);
  const TrigridKernels& kernels = trigrid_kernels(p.isa);
  over_points(p.field.batch, p.num_points, p.num_threads, [&](int64_t image, int64_t first, int n) {
    Scratch scratch(thread_memory(), 4 * int64_t{kPointsPerTask} * p.field.charts);
    const Place* places = places_of(p.field, p.points + 3 * first, n, scratch);
    kernels.gather(p.field, image, places, n, p.values + first * p.field.channels, p.field.channels);
  });
  return HR_OK;
}

// Gradients of points whose values' gradients are known.
void points_backward(const TrigridKernels& kernels, const HrTrigrid& field, int64_t image, const float* points, const Place* places, int n,
                     const float* grad, float* grad_points, Scratch& scratch) {
  Place* grad_places = reinterpret_cast<Place*>(scratch.take(4 * int64_t{n} * field.charts));
  kernels.place_gradients(field, image, places, n, grad, field.channels, grad_places);
  point_gradients(field, points, n, grad_places, grad_points);
}

int32_t sample_backward(const HrTrigridSampleParams& p) {
  const TrigridKernels& kernels = trigrid_kernels(p.isa);
  const HrTrigrid& field = p.field;
  if (p.grad_points) {
    over_points(field.batch, p.num_points, p.num_threads, [&](int64_t image, int64_t first, int n) {
      Scratch scratch(thread_memory(), 8 * int64_t{kPointsPerTask} * field.charts);
      const Place* places = places_of(field, p.points + 3 * first, n, scratch);
      points_backward(kernels, field, image, p.points + 3 * first, places, n, p.grad_values + first * field.channels,
                      p.grad_points + 3 * first, scratch);
    });
  }
  if (!p.grad_grid) return HR_OK;
  GridScatter grid(field, p.grad_grid, p.num_threads, kernels);
  std::vector<Place> places(std::min(kSlotsAtOnce, p.num_points) * field.charts);
  for (int64_t image = 0; image < field.batch; ++image) {
    for (int64_t begin = 0; begin < p.num_points; begin += kSlotsAtOnce) {
      const int64_t slots = std::min(kSlotsAtOnce, p.num_points - begin), first = image * p.num_points + begin;
      over_points(1, slots, p.num_threads, [&](int64_t, int64_t at, int n) {
        find_places(field, p.points + 3 * (first + at), n, places.data() + at * field.charts);
      });
      grid.add(image, places.data(), p.grad_values + first * field.channels, slots);
    }
  }
  return HR_OK;
}

// Room for a run of points on their way through the decoder.
int64_t batch_floats(const PreparedDecoder& d) {
  return int64_t{kPointsPerTask} * (d.padded_channels + 2 * d.padded_hidden + 2 * d.padded_features + d.channels + 1);
}

Batch make_batch(const PreparedDecoder& d, Scratch& scratch, bool slopes) {
  Batch b;
  b.features = scratch.take(int64_t{kPointsPerTask} * d.padded_channels);
  b.hidden = scratch.take(int64_t{kPointsPerTask} * d.padded_hidden);
  b.slopes = slopes ? scratch.take(int64_t{kPointsPerTask} * d.padded_hidden) : nullptr;
  b.out = scratch.take(int64_t{kPointsPerTask} * d.padded_features);
  b.out_stride = d.padded_features;
  b.density = scratch.take(kPointsPerTask);
  return b;
}

int32_t decode(const HrTrigridDecodeParams& p) {
  const TrigridKernels& kernels = trigrid_kernels(p.isa);
  const DecoderMemory decoder(p.decoder, p.field.channels);
  const PreparedDecoder& d = decoder.get();
  expect_writes(p.features, p.field.batch * p.num_points * d.features * 4);
  over_points(p.field.batch, p.num_points, p.num_threads, [&](int64_t image, int64_t first, int n) {
    Scratch scratch(thread_memory(), 4 * int64_t{kPointsPerTask} * p.field.charts + batch_floats(d));
    const Place* places = places_of(p.field, p.points + 3 * first, n, scratch);
    Batch b = make_batch(d, scratch, false);
    b.density = p.densities + first;
    b.out = p.features + first * d.features;
    b.out_stride = d.features;
    kernels.gather(p.field, image, places, n, b.features, d.padded_channels);
    kernels.decode(d, b, n);
  });
  return HR_OK;
}

// Decodes a run again and goes back through it: gradients of its features into `grad`, of the decoder into `sums`.
void decode_run_backward(const HrTrigridDecodeParams& p, const PreparedDecoder& d, int64_t image, int64_t first, int n, Place* places,
                         float* grad, const DecoderSums& sums) {
  const TrigridKernels& kernels = trigrid_kernels(p.isa);
  Scratch scratch(thread_memory(), 4 * int64_t{kPointsPerTask} * p.field.charts + batch_floats(d));
  find_places(p.field, p.points + 3 * first, n, places);
  const Batch b = make_batch(d, scratch, true);
  kernels.gather(p.field, image, places, n, b.features, d.padded_channels);
  kernels.decode(d, b, n);
  float* grad_out = scratch.take(int64_t{kPointsPerTask} * d.padded_features);
  for (int i = 0; i < n; ++i) {
    const float* from = p.grad_features + (first + i) * d.features;
    float* to = grad_out + int64_t{i} * d.padded_features;
    std::fill(std::copy(from, from + d.features, to), to + d.padded_features, 0.0f);
  }
  const bool features = p.grad_grid || p.grad_points;
  kernels.decode_backward(d, b, n, grad_out, p.grad_densities + first, features ? grad : nullptr, d.channels, sums);
  if (!p.grad_points) return;
  points_backward(kernels, p.field, image, p.points + 3 * first, places, n, grad, p.grad_points + 3 * first, scratch);
}

int32_t decode_backward(const HrTrigridDecodeParams& p) {
  const TrigridKernels& kernels = trigrid_kernels(p.isa);
  const DecoderMemory decoder(p.decoder, p.field.channels);
  const PreparedDecoder& d = decoder.get();
  DecoderTables tables(d, p.grad_decoder.w1 != nullptr);
  std::vector<GridScatter> grid;
  if (p.grad_grid) grid.emplace_back(p.field, p.grad_grid, p.num_threads, kernels);
  const int64_t most = std::min(kSlotsAtOnce, p.num_points), charts = p.field.charts;
  std::vector<Place> places(most * charts);
  std::vector<float> grad(most * d.channels);
  for (int64_t image = 0; image < p.field.batch; ++image) {
    for (int64_t begin = 0; begin < p.num_points; begin += kSlotsAtOnce) {
      const int64_t slots = std::min(kSlotsAtOnce, p.num_points - begin), first = image * p.num_points + begin;
      const int64_t runs = (slots + kPointsPerTask - 1) / kPointsPerTask, tasks = (runs + kTasksPerTable - 1) / kTasksPerTable;
      tables.clear(tasks);
      parallel_for(tasks, p.num_threads, [&](int64_t task) {
        for (int64_t run = task * kTasksPerTable; run < std::min((task + 1) * kTasksPerTable, runs); ++run) {
          const int64_t at = run * kPointsPerTask;
          decode_run_backward(p, d, image, first + at, static_cast<int>(std::min<int64_t>(kPointsPerTask, slots - at)),
                              places.data() + at * charts, grad.data() + at * d.channels, tables.table(task));
        }
      });
      tables.add_up();
      if (p.grad_grid) grid[0].add(image, places.data(), grad.data(), slots);
    }
  }
  tables.write(p.grad_decoder);
  return HR_OK;
}

template <class Params>
bool is_fine(const Params& p) {
  return p.num_points >= 0 && p.num_threads >= 1;
}

}  // namespace
}  // namespace hr

int32_t hr_trigrid_sample_cpu(const HrTrigridSampleParams* p) {
  if (!hr::is_sane(p->field) || !hr::is_fine(*p)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::sample(*p); });
}

int32_t hr_trigrid_sample_backward_cpu(const HrTrigridSampleParams* p) {
  if (!hr::is_sane(p->field) || !hr::is_fine(*p)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::sample_backward(*p); });
}

int32_t hr_trigrid_decode_cpu(const HrTrigridDecodeParams* p) {
  if (!hr::is_sane(p->field, p->decoder) || !hr::is_fine(*p)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::decode(*p); });
}

int32_t hr_trigrid_decode_backward_cpu(const HrTrigridDecodeParams* p) {
  if (!hr::is_sane(p->field, p->decoder) || !hr::is_fine(*p)) return HR_ERROR_ARGUMENT;
  return hr::guarded([&] { return hr::decode_backward(*p); });
}
