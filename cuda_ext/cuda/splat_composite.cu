// CUDA Gaussian splatting, last step: the pictures, front to back.
//
// Expected (H100, 512², 200k splats, 7M contributing pairs of splat and pixel): a warp looks at a splat in about 12
// instructions and takes it in with 20 more; with half of the lanes of a visit contributing, 7M / 16 visits, 14M warp
// instructions: 528 schedulers issue that in 15 us, and the longest tile decides: 30 to 50 us. Shared memory 12 KB, at most
// 64 registers: 4 blocks on a multiprocessor.
#include "splat_blocks.h"

namespace hr {
namespace {

int32_t check(const HrSplatCompositeParams& p) { return sane_picture(p) ? HR_OK : HR_ERROR_ARGUMENT; }
NoScratch lay_out_splat_composite(const HrSplatCompositeParams&, const HrCudaLaunch&, Workspace&) { return {}; }

// What a block holds of its list at a time.
template <int kChannels>
struct Loaded {
  LoadedSplat splat[kThreads];
  float colour[kThreads][kChannels];
  float depth[kThreads];
  float normal[kThreads][3];
};

// What a pixel has seen so far.
template <int kChannels>
struct Seen {
  float transmittance = 1.0f;
  float colour[kChannels] = {};
  float depth = 0.0f, normal[3] = {};
  int32_t last = 0, median = -1;
};

template <int kChannels>
__device__ __forceinline__ void load_entry(const HrSplatCompositeParams& p, const Square& square, int64_t place,
                                           int32_t first_channel, Loaded<kChannels>& loaded, int32_t* fault) {
  const int slot = static_cast<int>(threadIdx.x);
  const LoadedSplat splat = load_splat(p, square, place, fault);
  loaded.splat[slot] = splat;
  if (splat.warps == 0) return;
  const float* colour = colours_of(p, square.image, splat.number) + first_channel;
#pragma unroll
  for (int d = 0; d < kChannels; ++d) {
    loaded.colour[slot][d] = first_channel + d < p.channels ? hr_splat_finite(colour[d]) : 0.0f;
  }
  const int64_t row = square.image * p.num_gaussians + splat.number;
  loaded.depth[slot] = p.splats[HR_SPLAT_FIELDS * row + HR_SPLAT_DEPTH];
  for (int k = 0; k < 3; ++k) loaded.normal[slot][k] = p.normals ? hr_splat_finite(p.normals[3 * row + k]) : 0.0f;
}

template <int kChannels>
__device__ __forceinline__ void take_in(const Loaded<kChannels>& loaded, int slot, const Pixel& pixel, int32_t place,
                                        Seen<kChannels>& seen) {
  float u, dy;
  const float power = hr_splat_power(loaded.splat[slot].shape, pixel.x, pixel.y, &u, &dy);
  if (!(power >= HR_SPLAT_MIN_POWER) || !(seen.transmittance > HR_SPLAT_END_TRANSMITTANCE)) return;
  const float alpha = hr_splat_exp2(hr_min(power, HR_SPLAT_MAX_POWER));
  const float weight = alpha * seen.transmittance;
#pragma unroll
  for (int d = 0; d < kChannels; ++d) seen.colour[d] = fmaf(weight, loaded.colour[slot][d], seen.colour[d]);
  seen.depth = fmaf(weight, loaded.depth[slot], seen.depth);
#pragma unroll
  for (int k = 0; k < 3; ++k) seen.normal[k] = fmaf(weight, loaded.normal[slot][k], seen.normal[k]);
  seen.transmittance *= 1.0f - alpha;
  seen.last = place + 1;
  if (seen.median < 0 && seen.transmittance <= 0.5f) seen.median = loaded.splat[slot].number;
}

template <int kChannels>
__device__ __forceinline__ void write_pixel(const HrSplatCompositeParams& p, int64_t image, const Pixel& pixel,
                                            int32_t first_channel, const Seen<kChannels>& seen) {
  const float* background = background_of(p, image);
  float* out = p.image + pixel.at * p.channels + first_channel;
#pragma unroll
  for (int d = 0; d < kChannels; ++d) {
    if (first_channel + d >= p.channels) continue;
    out[d] = background ? fmaf(seen.transmittance, background[first_channel + d], seen.colour[d]) : seen.colour[d];
  }
  if (first_channel > 0) return;
  p.transmittance[pixel.at] = seen.transmittance;
  p.last[pixel.at] = seen.last;
  if (p.depth_sum) p.depth_sum[pixel.at] = seen.depth;
  if (p.median) p.median[pixel.at] = seen.median;
  for (int k = 0; k < 3 && p.normal_sum; ++k) p.normal_sum[3 * pixel.at + k] = seen.normal[k];
}

// Channels first_channel .. first_channel + kChannels - 1; what does not depend on the channel is written with the first.
template <int kChannels>
__global__ void __launch_bounds__(kThreads) composite(HrSplatCompositeParams p, int32_t first_channel, int32_t* fault) {
  __shared__ Loaded<kChannels> loaded;
  const Square square = square_of_this_block(p, fault);
  const Pixel pixel = pixel_of_thread(p, square, static_cast<int>(threadIdx.x));
  const int lane = lane_of_this_thread(), warp = warp_of_this_thread();
  Seen<kChannels> seen;
  for (int32_t begin = square.first; begin < square.end; begin += kThreads) {
    const bool finished = !pixel.inside || !(seen.transmittance > HR_SPLAT_END_TRANSMITTANCE);
    if (__syncthreads_and(finished)) break;  // also: nobody reads the splats before any more
    const int32_t count = square.end - begin < kThreads ? square.end - begin : kThreads;
    if (static_cast<int>(threadIdx.x) < count) load_entry(p, square, begin + threadIdx.x, first_channel, loaded, fault);
    __syncthreads();
    if (__all_sync(kWholeWarp, finished)) continue;
    for (int32_t group = 0; group < count; group += kWarp) {
      const bool reaches = group + lane < count && ((loaded.splat[group + lane].warps >> warp) & 1u);
      for (unsigned left = __ballot_sync(kWholeWarp, reaches); left; left &= left - 1) {
        const int slot = group + __ffs(static_cast<int>(left)) - 1;
        take_in(loaded, slot, pixel, begin - square.first + slot, seen);
      }
      const bool open = pixel.inside && seen.transmittance > HR_SPLAT_END_TRANSMITTANCE;
      if (!__any_sync(kWholeWarp, open)) break;
    }
  }
  if (pixel.inside) write_pixel(p, square.image, pixel, first_channel, seen);
}

// More channels than a block holds take further runs over the lists.
template <int kChannels>
void composite_in_turns(const HrSplatCompositeParams& p, const HrCudaLaunch& launch) {
  const dim3 blocks(static_cast<unsigned>(squares_of(p)));
  for (int32_t first = 0; first < p.channels; first += kChannels) {
    launch_blocks(launch, blocks, composite<kChannels>, p, first, launch.fault);
  }
}

void run_splat_composite(const HrSplatCompositeParams& p, const HrCudaLaunch& launch, NoScratch) {
  if (squares_of(p) == 0) return;
  if (p.channels <= 4) {
    composite_in_turns<4>(p, launch);
  } else if (p.channels <= 8) {
    composite_in_turns<8>(p, launch);
  } else {
    composite_in_turns<16>(p, launch);
  }
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(splat_composite, HrSplatCompositeParams)
