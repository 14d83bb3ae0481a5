// CUDA Gaussian splatting: the backward pass of compositing.
//
// Back to front, in two turns for every few splats. First each thread is a pixel: it works out how much of each splat its
// colour holds (weight) and how it answers the splat's opacity (pull), and leaves both in shared memory. Then sixteen threads
// are a splat: they add up its pulls and weights over the pixels. Everything that a splat's five numbers get follows from six
// moments of the pulls. So a splat costs one atomic per number and square of 16 x 16 pixels, and 4 shuffles instead of 40
// (sums over warps, pixel by pixel, cost most of gsplat's backward pass; Taming 3DGS gives each thread a splat instead, and
// needs the forward pass to leave its state behind at every 32nd).
//
// Expected (H100, 512², 200k splats): 60 to 100 us. 40 KB of shared memory: 5 blocks on a multiprocessor.
#include <type_traits>

#include "splat_blocks.h"

#include "sums.h"

namespace hr {
namespace {

constexpr int kLoads = 64;                // splats in shared memory at a time
constexpr int kGroup = 16;                // threads that add up one splat
constexpr int kParts = kThreads / kGroup;
enum Target { kToSplats, kToColours, kToNormals, kToCentres, kToBackground, kTargets };

int32_t check(const HrSplatCompositeGradParams& p) { return sane_picture(p) ? HR_OK : HR_ERROR_ARGUMENT; }

SumSet<kTargets> sums_of(const HrSplatCompositeGradParams& p) {
  const int64_t images = p.batch * p.cameras, rows = images * p.num_gaussians;
  SumSet<kTargets> set = {};
  set.sums[kToSplats] = p.grad_splats;
  set.count[kToSplats] = rows * HR_SPLAT_FIELDS;
  set.sums[kToColours] = p.grad_colours;
  set.count[kToColours] = (p.colours_per_image ? rows : p.batch * p.num_gaussians) * p.channels;
  set.sums[kToNormals] = p.grad_normals;
  set.count[kToNormals] = rows * 3;
  set.sums[kToCentres] = p.grad_centres;
  set.count[kToCentres] = rows * 4;
  set.sums[kToBackground] = p.grad_background;
  set.count[kToBackground] = (p.background_per_image ? images : 1) * p.channels;
  return set;
}

SumSet<kTargets> lay_out_splat_composite_backward(const HrSplatCompositeGradParams& p, const HrCudaLaunch& launch,
                                                  Workspace& workspace) {
  SumSet<kTargets> set = sums_of(p);
  lay_out_sums(set, launch, workspace);
  return set;
}

// Fewer splats in a turn where a pixel's gradient has many channels: both are in shared memory.
template <int kChannels>
struct Turn {
  static constexpr int kSplats = kChannels > 4 ? kParts / 2 : kParts;
};

// kChannels: of the gradient in shared memory and registers; 0: any number, read from memory each time.
template <int kChannels>
struct Shared {
  LoadedSplat splat[kLoads];
  float depth[kLoads];
  float normal[kLoads][3];
  float colour[kLoads][kChannels > 0 ? kChannels : 1];
  float2 answers[Turn<kChannels>::kSplats][kThreads];  // pull and weight of every pixel
  float grad[kChannels > 0 ? kChannels : 1][kThreads];
  uint8_t touched[Turn<kChannels>::kSplats][kWarps];   // whether any pixel of the warp sees the splat
  int32_t deepest[kWarps];
};

// A pixel on its way from the last splat to the first.
struct Way {
  Pixel pixel;
  int32_t last;
  float transmittance;  // behind the splat
  float behind;         // what the loss would get for a unit of light from behind
  float grad_depth, grad_normal[3];
};

template <int kChannels>
__device__ __forceinline__ float grad_of_channel(const HrSplatCompositeGradParams& p, const Shared<kChannels>& shared,
                                                 int64_t pixel, int thread, int32_t d) {
  return kChannels > 0 ? shared.grad[d][thread] : p.grad_image[pixel * p.channels + d];
}

template <int kChannels>
__device__ __forceinline__ Way start(const HrSplatCompositeGradParams& p, const Square& square, Shared<kChannels>& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  Way way = {};
  way.pixel = pixel_of_thread(p, square, thread);
  const bool inside = way.pixel.inside;
  const int64_t at = way.pixel.at;
  way.last = inside ? p.last[at] : 0;
  way.transmittance = inside ? p.transmittance[at] : 1.0f;
  way.behind = inside && p.grad_transmittance ? p.grad_transmittance[at] : 0.0f;
  way.grad_depth = inside && p.grad_depth_sum ? p.grad_depth_sum[at] : 0.0f;
  for (int k = 0; k < 3; ++k) way.grad_normal[k] = inside && p.grad_normal_sum ? p.grad_normal_sum[3 * at + k] : 0.0f;
#pragma unroll
  for (int d = 0; d < kChannels; ++d) {
    shared.grad[d][thread] = inside && p.grad_image && d < p.channels ? p.grad_image[at * p.channels + d] : 0.0f;
  }
  const float* background = background_of(p, square.image);
  for (int32_t d = 0; d < p.channels && background && inside && p.grad_image; ++d) {
    way.behind = fmaf(background[d], grad_of_channel(p, shared, at, thread, d), way.behind);
  }
  return way;
}

template <int kChannels>
__device__ __forceinline__ void load_entry(const HrSplatCompositeGradParams& p, const Square& square, int64_t place, int slot,
                                           Shared<kChannels>& shared, int32_t* fault) {
  const LoadedSplat splat = load_splat(p, square, place, fault);
  shared.splat[slot] = splat;
  if (splat.warps == 0) return;
  const float* colour = colours_of(p, square.image, splat.number);
#pragma unroll
  for (int d = 0; d < kChannels; ++d) shared.colour[slot][d] = d < p.channels ? hr_splat_finite(colour[d]) : 0.0f;
  const int64_t row = square.image * p.num_gaussians + splat.number;
  shared.depth[slot] = p.splats[HR_SPLAT_FIELDS * row + HR_SPLAT_DEPTH];
  for (int k = 0; k < 3; ++k) shared.normal[slot][k] = p.normals ? hr_splat_finite(p.normals[3 * row + k]) : 0.0f;
}

// What a unit of weight of the splat is worth at the pixel.
template <int kChannels>
__device__ __forceinline__ float worth(const HrSplatCompositeGradParams& p, const Square& square, const Shared<kChannels>& shared,
                                       int slot, const Way& way) {
  const int thread = static_cast<int>(threadIdx.x);
  float sum = way.grad_depth * shared.depth[slot];
#pragma unroll
  for (int k = 0; k < 3; ++k) sum = fmaf(way.grad_normal[k], shared.normal[slot][k], sum);
  if (kChannels > 0) {
#pragma unroll
    for (int d = 0; d < kChannels; ++d) sum = fmaf(shared.grad[d][thread], shared.colour[slot][d], sum);
  } else if (p.grad_image) {
    const float* colour = colours_of(p, square.image, shared.splat[slot].number);
    for (int32_t d = 0; d < p.channels; ++d) {
      sum = fmaf(p.grad_image[way.pixel.at * p.channels + d], hr_splat_finite(colour[d]), sum);
    }
  }
  return sum;
}

// First turn: the thread's pixel and one splat, `place` in the tile's list. False where it is not seen.
template <int kChannels>
__device__ __forceinline__ bool look_at(const HrSplatCompositeGradParams& p, const Square& square,
                                        const Shared<kChannels>& shared, int slot, int32_t place, Way& way, float2& answer) {
  answer = make_float2(0.0f, 0.0f);
  float u, dy;
  const float power = hr_splat_power(shared.splat[slot].shape, way.pixel.x, way.pixel.y, &u, &dy);
  if (place >= way.last || !(power >= HR_SPLAT_MIN_POWER)) return false;
  const float alpha = hr_splat_exp2(hr_min(power, HR_SPLAT_MAX_POWER));
  way.transmittance = way.transmittance / (1.0f - alpha);
  const float value = worth(p, square, shared, slot, way);
  const float weight = alpha * way.transmittance;
  const float pull = power <= HR_SPLAT_MAX_POWER ? weight * (value - way.behind) : 0.0f;
  way.behind = fmaf(alpha, value - way.behind, way.behind);
  answer = make_float2(pull, weight);
  return true;
}

// The sum over the threads of a splat, in all of them.
__device__ __forceinline__ float sum_over_group(float value) {
#pragma unroll
  for (int step = kGroup / 2; step > 0; step /= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
  return value;
}

// What one thread adds up of a splat.
struct Moments {
  HrSplatSums<float> sum = {};
  float centre[4] = {};  // d/dx, d/dy and their magnitudes
  float depth = 0.0f, normal[3] = {};
};

// Second turn. All threads of the warp come here; `seen` is false where there is no splat for the thread's group.
template <int kChannels, class Sum>
__device__ __forceinline__ void add_up(const HrSplatCompositeGradParams& p, const Square& square,
                                       const Shared<kChannels>& shared, int slot, int part, bool seen,
                                       const SumArray<Sum, kTargets>& to) {
  const int member = static_cast<int>(threadIdx.x) % kGroup;
  const LoadedSplat& splat = shared.splat[slot];
  const int64_t row = square.image * p.num_gaussians + splat.number;
  const float* field = p.splats + HR_SPLAT_FIELDS * (seen ? row : 0);
  const float sharp_x = field[HR_SPLAT_SHARP_X], shear = field[HR_SPLAT_SHEAR], sharp_y = field[HR_SPLAT_SHARP_Y];
  Moments m;
  for (int step = 0; step < kThreads / kGroup; ++step) {
    const int thread = step * kGroup + member;
    if (!seen || !shared.touched[part][thread / kWarp]) continue;
    const float2 answer = shared.answers[part][thread];
    if (answer.y == 0.0f) continue;
    const Pixel pixel = pixel_of_thread(p, square, thread);
    const float dy = pixel.y - splat.shape.y, u = fmaf(splat.shape.shear, dy, pixel.x - splat.shape.x);
    const float gu = answer.x * u, gy = answer.x * dy;
    m.sum.g += answer.x;
    m.sum.gu += gu;
    m.sum.gy += gy;
    m.sum.guu = fmaf(gu, u, m.sum.guu);
    m.sum.guy = fmaf(gu, dy, m.sum.guy);
    m.sum.gyy = fmaf(gy, dy, m.sum.gyy);
    const float by_x = sharp_x * gu, by_y = fmaf(shear, by_x, sharp_y * gy);
    m.centre[0] += by_x;
    m.centre[1] += by_y;
    m.centre[2] += fabsf(by_x);
    m.centre[3] += fabsf(by_y);
    if (p.grad_depth_sum) m.depth = fmaf(answer.y, p.grad_depth_sum[pixel.at], m.depth);
    for (int k = 0; k < 3 && p.grad_normals && p.grad_normal_sum; ++k) {
      m.normal[k] = fmaf(answer.y, p.grad_normal_sum[3 * pixel.at + k], m.normal[k]);
    }
  }
  m.sum.g = sum_over_group(m.sum.g);
  m.sum.gu = sum_over_group(m.sum.gu);
  m.sum.gy = sum_over_group(m.sum.gy);
  m.sum.guu = sum_over_group(m.sum.guu);
  m.sum.guy = sum_over_group(m.sum.guy);
  m.sum.gyy = sum_over_group(m.sum.gyy);
  m.depth = p.grad_depth_sum ? sum_over_group(m.depth) : 0.0f;
  for (int k = 0; k < 4 && p.grad_centres; ++k) m.centre[k] = sum_over_group(m.centre[k]);
  for (int k = 0; k < 3 && p.grad_normals && p.grad_normal_sum; ++k) m.normal[k] = sum_over_group(m.normal[k]);
  if (!seen || member != 0) return;
  float by[HR_SPLAT_FIELDS];
  hr_splat_sums_to_fields(m.sum, field, by);
  by[HR_SPLAT_DEPTH] = m.depth;
  for (int i = 0; i <= HR_SPLAT_DEPTH; ++i) to.at[kToSplats].add(HR_SPLAT_FIELDS * row + i, by[i]);
  for (int k = 0; k < 4 && p.grad_centres; ++k) to.at[kToCentres].add(4 * row + k, m.centre[k]);
  for (int k = 0; k < 3 && p.grad_normals && p.grad_normal_sum; ++k) {
    if (hr_splat_finite(p.normals[3 * row + k]) == p.normals[3 * row + k]) to.at[kToNormals].add(3 * row + k, m.normal[k]);
  }
}

// The same for the colours, a few channels at a time.
template <int kChannels, class Sum>
__device__ __forceinline__ void add_up_colours(const HrSplatCompositeGradParams& p, const Square& square,
                                               const Shared<kChannels>& shared, int slot, int part, bool seen,
                                               const SumArray<Sum, kTargets>& to) {
  constexpr int kAtOnce = 4;
  const int member = static_cast<int>(threadIdx.x) % kGroup;
  const int32_t number = seen ? shared.splat[slot].number : 0;
  const float* colour = colours_of(p, square.image, number);
  for (int32_t first = 0; first < p.channels; first += kAtOnce) {
    float sum[kAtOnce] = {};
    for (int step = 0; step < kThreads / kGroup; ++step) {
      const int thread = step * kGroup + member;
      if (!seen || !shared.touched[part][thread / kWarp]) continue;
      const float weight = shared.answers[part][thread].y;
      if (weight == 0.0f) continue;
      const int64_t pixel = pixel_of_thread(p, square, thread).at;
#pragma unroll
      for (int d = 0; d < kAtOnce; ++d) {
        if (first + d < p.channels) sum[d] = fmaf(weight, grad_of_channel(p, shared, pixel, thread, first + d), sum[d]);
      }
    }
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d) {
      const float all = sum_over_group(sum[d]);
      const int32_t channel = first + d;
      if (!seen || member != d || channel >= p.channels || hr_splat_finite(colour[channel]) != colour[channel]) continue;
      to.at[kToColours].add(colour - p.colours + channel, all);
    }
  }
}

template <int kChannels, class Sum>
__global__ void __launch_bounds__(kThreads) composite_gradients(HrSplatCompositeGradParams p, SumArray<Sum, kTargets> to,
                                                                int32_t* fault) {
  constexpr int kSplats = Turn<kChannels>::kSplats;
  __shared__ Shared<kChannels> shared;
  const Square square = square_of_this_block(p, fault);
  Way way = start(p, square, shared);
  const int lane = lane_of_this_thread(), warp = warp_of_this_thread();
  const int32_t warp_deepest = largest_of_warp(way.last);
  if (lane == 0) shared.deepest[warp] = warp_deepest;
  __syncthreads();
  int32_t deepest = 0;
  for (int w = 0; w < kWarps; ++w) deepest = shared.deepest[w] > deepest ? shared.deepest[w] : deepest;
  if (deepest > square.end - square.first) {  // `last` belongs to other lists
    if (threadIdx.x == 0) report_bad_index(fault);
    deepest = square.end - square.first;
  }
  for (int32_t end = deepest; end > 0; end -= kLoads) {
    const int32_t begin = end > kLoads ? end - kLoads : 0, count = end - begin;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < count) {
      load_entry(p, square, square.first + begin + threadIdx.x, static_cast<int>(threadIdx.x), shared, fault);
    }
    for (int32_t turn_end = count; turn_end > 0; turn_end -= kSplats) {
      const int32_t turn_begin = turn_end > kSplats ? turn_end - kSplats : 0;
      __syncthreads();
      for (int32_t slot = turn_end - 1; slot >= turn_begin; --slot) {
        bool seen = false;
        if ((shared.splat[slot].warps >> warp) & 1u && begin + slot < warp_deepest) {
          float2 answer;
          seen = look_at(p, square, shared, slot, begin + slot, way, answer);
          shared.answers[slot - turn_begin][threadIdx.x] = answer;
        }
        const bool any = __any_sync(kWholeWarp, seen);
        if (lane == 0) shared.touched[slot - turn_begin][warp] = any;
      }
      __syncthreads();
      const int part = static_cast<int>(threadIdx.x) / kGroup, slot = turn_begin + part;
      const bool there = part < kSplats && slot < turn_end;
      bool seen = false;
      for (int w = 0; w < kWarps; ++w) seen = seen || (there && shared.touched[part][w]);
      if (!__any_sync(kWholeWarp, seen)) continue;
      add_up(p, square, shared, seen ? slot : 0, part, seen, to);
      if (p.grad_colours && p.grad_image) add_up_colours(p, square, shared, seen ? slot : 0, part, seen, to);
    }
  }
}

// One thread per pixel; the warp adds up what shows through.
template <class Sum>
__global__ void __launch_bounds__(kThreads) background_gradients(HrSplatCompositeGradParams p, Sum sum) {
  const Place place = place_of_this_thread();
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  for (int64_t image = place.first_image; image < p.batch * p.cameras; image += place.image_step) {
    const int64_t at = image * pixels + place.item;
    const bool inside = place.item < pixels;
    const float left = inside ? p.transmittance[at] : 0.0f;
    for (int32_t d = 0; d < p.channels; ++d) {
      const float all = sum_over_warp(inside ? left * p.grad_image[at * p.channels + d] : 0.0f);
      if (lane_of_this_thread() == 0) sum.add((p.background_per_image ? image * p.channels : 0) + d, all);
    }
  }
}

void run_splat_composite_backward(const HrSplatCompositeGradParams& p, const HrCudaLaunch& launch, const SumSet<kTargets>& set) {
  const int64_t squares = squares_of(p), pixels = static_cast<int64_t>(p.height) * p.width;
  // A square adds to a splat once; a warp of pixels to the background once. Colours may be common to all images.
  const int64_t warps = p.batch * p.cameras * divide_up(pixels, kWarp);
  sum_terms(launch, set, squares > warps ? squares : warps, [&](auto to) {
    if (squares == 0) return;
    const dim3 blocks(static_cast<unsigned>(squares));
    using Sum = typename std::remove_reference<decltype(to.at[0])>::type;
    if (p.channels <= 4) {
      launch_blocks(launch, blocks, composite_gradients<4, Sum>, p, to, launch.fault);
    } else if (p.channels <= 16) {
      launch_blocks(launch, blocks, composite_gradients<16, Sum>, p, to, launch.fault);
    } else {
      launch_blocks(launch, blocks, composite_gradients<0, Sum>, p, to, launch.fault);
    }
    if (!p.grad_background || !p.grad_image) return;
    launch_over(launch, pixels, p.batch * p.cameras, background_gradients<Sum>, p, to.at[kToBackground]);
  });
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(splat_composite_backward, HrSplatCompositeGradParams)
