// CUDA structural similarity and its backward pass, with the CPU's order of every sum: the same bits.
//
// A block makes 32 x 32 pixels, one channel after another: the 42 x 42 pixels around go to shared memory, averages along rows
// from there to shared memory again, averages down columns (four pixels to a thread, which shares what their windows have in
// common) into registers, and all that follows from them there. Channels of a pixel lie side by side, so reading one channel
// uses a third of each sector; the other channels find theirs in the first cache.
//
// Expected (H100, three channels): some 190 operations a number, none fused, is 5 us at 512^2 (786k numbers) and 20 at
// 1024^2; 9 MB read and written once (22 with the partial derivatives) 3 to 7 us; reads of shared memory 6 us. Foretold 12 and
// 40 us, backward the same. 35 KB of shared memory: six blocks at a time.
#include "ssim.h"

#include "block.h"

namespace hr {
namespace {

constexpr int kTile = 32, kSide = kTile + 2 * HR_SSIM_RADIUS;  // pixels, without and with what their windows reach
constexpr int kColumn = kTile * kTile / kThreads;              // pixels of a thread, one below the other
static_assert(kTile == kWarp, "the lanes of a warp are columns");

// Where a block works. The result is of `height` x `width` pixels, the source may be bigger or smaller all around.
struct Job {
  int64_t image;
  int32_t row, column;       // first pixel of the result
  int32_t height, width;     // of the result
  int32_t source_row, source_column;  // what its window reaches first
  int32_t source_height, source_width;
};

// Where results are `bigger` than the source on each side (negative: smaller), images of so many blocks.
__device__ __forceinline__ Job job_of_this_block(int32_t source_height, int32_t source_width, int32_t bigger) {
  Job job;
  job.source_height = source_height;
  job.source_width = source_width;
  job.height = source_height + 2 * bigger;
  job.width = source_width + 2 * bigger;
  const int32_t down = (job.height + kTile - 1) / kTile, across = (job.width + kTile - 1) / kTile;
  const int32_t block = static_cast<int32_t>(blockIdx.x);
  job.image = block / (down * across);
  const int32_t tile = block - static_cast<int32_t>(job.image) * (down * across);
  job.row = tile / across * kTile;
  job.column = tile % across * kTile;
  job.source_row = job.row - bigger - HR_SSIM_RADIUS;
  job.source_column = job.column - bigger - HR_SSIM_RADIUS;
  return job;
}

typedef float Square[kSide][kSide];
typedef float Rows[kSide][kTile];

// Fills a square with number(place), places counting the source's pixels of all images; 0 outside.
template <class Number>
__device__ __forceinline__ void load(const Job& job, Square& to, const Number& number) {
  for (int i = static_cast<int>(threadIdx.x); i < kSide * kSide; i += kThreads) {
    const int r = i / kSide, c = i - r * kSide;
    const int32_t y = job.source_row + r, x = job.source_column + c;
    const bool inside = y >= 0 && x >= 0 && y < job.source_height && x < job.source_width;
    to[r][c] = inside ? number((job.image * job.source_height + y) * job.source_width + x) : 0.0f;
  }
}

// The window along the row at column c, over number(k): k from 0 to 10.
template <class Number>
__device__ __forceinline__ float average(const Number& number) {
  float pairs[HR_SSIM_RADIUS];
#pragma unroll
  for (int k = 1; k <= HR_SSIM_RADIUS; ++k) pairs[k - 1] = number(HR_SSIM_RADIUS - k) + number(HR_SSIM_RADIUS + k);
  return ssim_average<float>(number(HR_SSIM_RADIUS), pairs);
}

// The windows down this thread's column, of its kColumn pixels.
__device__ __forceinline__ void average_down(const Rows& rows, float (&out)[kColumn]) {
  const int c = lane_of_this_thread(), first = warp_of_this_thread() * kColumn;
  float from[kColumn + 2 * HR_SSIM_RADIUS];
#pragma unroll
  for (int k = 0; k < kColumn + 2 * HR_SSIM_RADIUS; ++k) from[k] = rows[first + k][c];
#pragma unroll
  for (int j = 0; j < kColumn; ++j) out[j] = average([&](int k) { return from[j + k]; });
}

// Calls write(j, place) for this thread's pixels that are in the picture; places count the result's pixels.
template <class Write>
__device__ __forceinline__ void for_own_pixels(const Job& job, const Write& write) {
  const int32_t x = job.column + lane_of_this_thread(), first = job.row + warp_of_this_thread() * kColumn;
#pragma unroll
  for (int j = 0; j < kColumn; ++j) {
    if (x < job.width && first + j < job.height) write(j, (job.image * job.height + first + j) * job.width + x);
  }
}

__global__ void __launch_bounds__(kThreads) compare_pictures(HrSsimParams p) {
  __shared__ Square first, second;
  __shared__ Rows rows[4];
  const Job job = job_of_this_block(p.height, p.width, p.valid ? -HR_SSIM_RADIUS : 0);
  const int64_t plane = p.batch * job.height * job.width * p.channels;
  for (int32_t d = 0; d < p.channels; ++d) {
    load(job, first, [&](int64_t place) { return p.image[place * p.channels + d]; });
    load(job, second, [&](int64_t place) { return p.reference[place * p.channels + d]; });
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kSide * kTile; i += kThreads) {
      const int r = i / kTile, c = i - r * kTile;
      float x[HR_SSIM_RADIUS * 2 + 1], y[HR_SSIM_RADIUS * 2 + 1];
#pragma unroll
      for (int k = 0; k <= 2 * HR_SSIM_RADIUS; ++k) x[k] = first[r][c + k], y[k] = second[r][c + k];
      rows[0][r][c] = average([&](int k) { return x[k]; });
      rows[1][r][c] = average([&](int k) { return y[k]; });
      rows[2][r][c] = average([&](int k) { return x[k] * x[k] + y[k] * y[k]; });
      rows[3][r][c] = average([&](int k) { return x[k] * y[k]; });
    }
    __syncthreads();
    float mean[4][kColumn];
#pragma unroll
    for (int q = 0; q < 4; ++q) average_down(rows[q], mean[q]);
    for_own_pixels(job, [&](int j, int64_t place) {
      const SsimTerms<float> t = ssim_terms<float>(mean[0][j], mean[1][j], mean[2][j], mean[3][j], p.c1, p.c2);
      const int64_t at = place * p.channels + d;
      p.map[at] = t.value;
      if (p.partials == nullptr) return;
#pragma unroll
      for (int q = 0; q < 4; ++q) p.partials[q * plane + at] = t.partial[q];
    });
    // The barrier after the next channel's pictures keeps its rows from overtaking this one's.
  }
}

// Averages of the gradient times one of the partial derivatives.
__device__ __forceinline__ void average_partial(const HrSsimGradParams& p, const Job& job, int q, int32_t d, Square& square,
                                                Rows& rows, float (&out)[kColumn]) {
  const float* partial = p.partials + q * (p.batch * job.source_height * job.source_width * p.channels);
  load(job, square, [&](int64_t place) { return p.grad_map[place * p.channels + d] * partial[place * p.channels + d]; });
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kSide * kTile; i += kThreads) {
    const int r = i / kTile, c = i - r * kTile;
    rows[r][c] = average([&](int k) { return square[r][c + k]; });
  }
  __syncthreads();
  average_down(rows, out);
}

__global__ void __launch_bounds__(kThreads) ssim_gradients(HrSsimGradParams p) {
  __shared__ Square square;
  __shared__ Rows rows;
  const int32_t cut = p.valid ? HR_SSIM_RADIUS : 0;
  const Job job = job_of_this_block(p.height - 2 * cut, p.width - 2 * cut, cut);
  for (int32_t d = 0; d < p.channels; ++d) {
    float squares[kColumn], product[kColumn], mean[kColumn];
    average_partial(p, job, 2, d, square, rows, squares);
    average_partial(p, job, 3, d, square, rows, product);
    if (p.grad_image != nullptr) {
      average_partial(p, job, 0, d, square, rows, mean);
      for_own_pixels(job, [&](int j, int64_t place) {
        const int64_t at = place * p.channels + d;
        p.grad_image[at] = ssim_gradient<float>(mean[j], squares[j], product[j], p.image[at], p.reference[at]);
      });
    }
    if (p.grad_reference != nullptr) {
      average_partial(p, job, 1, d, square, rows, mean);
      for_own_pixels(job, [&](int j, int64_t place) {
        const int64_t at = place * p.channels + d;
        p.grad_reference[at] = ssim_gradient<float>(mean[j], squares[j], product[j], p.reference[at], p.image[at]);
      });
    }
  }
}

int64_t blocks_for(int64_t batch, int32_t height, int32_t width) {
  return batch * divide_up(height, kTile) * divide_up(width, kTile);
}

template <class Params>
int32_t check_pictures(const Params& p) {
  const int least = p.valid ? 2 * HR_SSIM_RADIUS + 1 : 1;
  const bool sane = p.batch >= 1 && p.batch <= kMaxBlocks && p.height >= least && p.width >= least && p.channels >= 1 &&
                    p.height <= HR_MAX_IMAGE_SIDE && p.width <= HR_MAX_IMAGE_SIDE;
  return sane && blocks_for(p.batch, p.height, p.width) <= kMaxBlocks ? HR_OK : HR_ERROR_ARGUMENT;
}

int32_t check(const HrSsimParams& p) { return check_pictures(p); }
int32_t check(const HrSsimGradParams& p) { return check_pictures(p); }
NoScratch lay_out_ssim(const HrSsimParams&, const HrCudaLaunch&, Workspace&) { return {}; }
NoScratch lay_out_ssim_backward(const HrSsimGradParams&, const HrCudaLaunch&, Workspace&) { return {}; }

void run_ssim(const HrSsimParams& p, const HrCudaLaunch& launch, NoScratch) {
  const int32_t cut = p.valid ? 2 * HR_SSIM_RADIUS : 0;
  const int64_t blocks = blocks_for(p.batch, p.height - cut, p.width - cut);
  launch_blocks(launch, dim3(static_cast<unsigned>(blocks)), compare_pictures, p);
}

void run_ssim_backward(const HrSsimGradParams& p, const HrCudaLaunch& launch, NoScratch) {
  if (p.grad_image == nullptr && p.grad_reference == nullptr) return;
  launch_blocks(launch, dim3(static_cast<unsigned>(blocks_for(p.batch, p.height, p.width))), ssim_gradients, p);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(ssim, HrSsimParams)
HR_DEFINE_CUDA_OP(ssim_backward, HrSsimGradParams)
