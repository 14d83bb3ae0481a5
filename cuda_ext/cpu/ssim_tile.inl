// Structural similarity of one tile: windowed averages, first along rows, then down columns over the last eleven of those.
// Included once per instruction set, with HR_LANES and HR_STAGE defined; everything has internal linkage.

#include <string.h>

#include "ssim_tile.h"

namespace hr {
namespace {

typedef float VecF __attribute__((vector_size(HR_LANES * 4)));
typedef float MemF __attribute__((vector_size(HR_LANES * 4), aligned(4), may_alias));  // the same, anywhere in memory

inline MemF& lanes(float* at) { return *reinterpret_cast<MemF*>(at); }
inline const MemF& lanes(const float* at) { return *reinterpret_cast<const MemF*>(at); }

// Buffers of a tile, and where its numbers lie. Rows and columns are the picture's own; D numbers make a pixel.
struct Averager {
  int64_t row_length;     // numbers in a row of the tile, a multiple of the lanes
  int64_t margin;         // 5 D
  float* quantities[4];   // one row with margins
  float* averaged[4];     // [11][row_length]: averages along the last eleven rows
  float* results;         // [5][row_length]
  const int* used;        // which quantities
  int num_used;
};

inline Averager make_averager(const SsimTile& tile, int channels, const int* used, int num_used) {
  Averager a;
  a.row_length = ssim_padded(tile.count);
  a.margin = static_cast<int64_t>(HR_SSIM_RADIUS) * channels;
  float* at = tile.scratch;
  for (int q = 0; q < 4; ++q, at += a.row_length + 2 * a.margin) a.quantities[q] = at;
  for (int q = 0; q < 4; ++q, at += kSsimWindow * a.row_length) a.averaged[q] = at;
  a.results = at;
  a.used = used;
  a.num_used = num_used;
  return a;
}

// Averages along the row that stands in `quantities`, into its place among the eleven.
inline void average_along(const Averager& a, int channels, int slot) {
  for (int u = 0; u < a.num_used; ++u) {
    const float* from = a.quantities[a.used[u]] + a.margin;
    float* to = a.averaged[a.used[u]] + slot * a.row_length;
    for (int64_t i = 0; i < a.row_length; i += HR_LANES) {
      VecF pairs[HR_SSIM_RADIUS];
      for (int k = 1; k <= HR_SSIM_RADIUS; ++k) pairs[k - 1] = lanes(from + i - k * channels) + lanes(from + i + k * channels);
      lanes(to + i) = ssim_average<VecF>(lanes(from + i), pairs);
    }
  }
}

// The average down the column at number i, around the row whose place is `middle`.
inline VecF average_down(const Averager& a, int quantity, int middle, int64_t i) {
  const float* from = a.averaged[quantity] + i;
  VecF pairs[HR_SSIM_RADIUS];
  for (int k = 1; k <= HR_SSIM_RADIUS; ++k) {
    const int up = middle >= k ? middle - k : middle - k + kSsimWindow;
    const int down = middle + k < kSsimWindow ? middle + k : middle + k - kSsimWindow;
    pairs[k - 1] = lanes(from + up * a.row_length) + lanes(from + down * a.row_length);
  }
  return ssim_average<VecF>(lanes(from + middle * a.row_length), pairs);
}

// Runs over the rows of a tile. Load: fills the quantities with the numbers [begin, end) of row y of the picture, the first of
// them at the given place. Finish: gets the row of the result and the place of the window's middle. The source has `height`
// rows of `width` numbers, and `result_offset` is the picture's row and pixel that the result's first one belongs to.
struct Frame {
  int source_first, source_end;              // rows of the picture that the source has
  int64_t source_begin_number, source_end_number;  // and numbers of each row
  int result_offset;
  int channels;
};

template <class Load, class Finish>
inline void run_tile(const Averager& a, const SsimTile& tile, const Frame& frame, const Load& load, const Finish& finish) {
  const int64_t begin = tile.first + static_cast<int64_t>(frame.result_offset) * frame.channels - a.margin;
  const int64_t total = a.row_length + 2 * a.margin;
  const int64_t low = begin > frame.source_begin_number ? begin : frame.source_begin_number;
  const int64_t high = begin + total < frame.source_end_number ? begin + total : frame.source_end_number;
  const int first = tile.first_row + frame.result_offset - HR_SSIM_RADIUS;
  const int end = tile.end_row + frame.result_offset + HR_SSIM_RADIUS;
  for (int q = 0; q < 4; ++q) memset(a.quantities[q], 0, total * sizeof(float));
  for (int y = first; y < end; ++y) {
    const int slot = (y - first) % kSsimWindow;
    if (y < frame.source_first || y >= frame.source_end || low >= high) {
      for (int u = 0; u < a.num_used; ++u) memset(a.averaged[a.used[u]] + slot * a.row_length, 0, a.row_length * sizeof(float));
    } else {
      load(y, low, high, low - begin);
      average_along(a, frame.channels, slot);
    }
    if (y - first < kSsimWindow - 1) continue;
    finish(y - HR_SSIM_RADIUS - frame.result_offset, (y - HR_SSIM_RADIUS - first) % kSsimWindow);
  }
}

void forward(const HrSsimParams& p, const SsimTile& tile) {
  static const int all[4] = {0, 1, 2, 3};
  const Averager a = make_averager(tile, p.channels, all, 4);
  const int cut = p.valid ? HR_SSIM_RADIUS : 0, height = p.height - 2 * cut;
  const int64_t width = static_cast<int64_t>(p.width) * p.channels, out_width = width - 2ll * cut * p.channels;
  const Frame frame = {0, p.height, 0, width, cut, p.channels};
  const int64_t plane = p.batch * height * out_width;
  const auto load = [&](int y, int64_t low, int64_t high, int64_t at) {
    const float *x = p.image + (tile.image * p.height + y) * width, *r = p.reference + (tile.image * p.height + y) * width;
    float *q0 = a.quantities[0] + at - low, *q1 = a.quantities[1] + at - low;
    float *q2 = a.quantities[2] + at - low, *q3 = a.quantities[3] + at - low;
    int64_t i = low;
    for (; i + HR_LANES <= high; i += HR_LANES) {
      const VecF first = lanes(x + i), second = lanes(r + i);
      lanes(q0 + i) = first;
      lanes(q1 + i) = second;
      lanes(q2 + i) = first * first + second * second;
      lanes(q3 + i) = first * second;
    }
    for (; i < high; ++i) {
      q0[i] = x[i];
      q1[i] = r[i];
      q2[i] = x[i] * x[i] + r[i] * r[i];
      q3[i] = x[i] * r[i];
    }
  };
  const auto finish = [&](int row, int middle) {
    for (int64_t i = 0; i < a.row_length; i += HR_LANES) {
      const SsimTerms<VecF> t = ssim_terms<VecF>(average_down(a, 0, middle, i), average_down(a, 1, middle, i),
                                                 average_down(a, 2, middle, i), average_down(a, 3, middle, i), p.c1, p.c2);
      lanes(a.results + i) = t.value;
      if (p.partials == nullptr) continue;
      for (int q = 0; q < 4; ++q) lanes(a.results + (1 + q) * a.row_length + i) = t.partial[q];
    }
    const int64_t to = (tile.image * height + row) * out_width + tile.first;
    memcpy(p.map + to, a.results, tile.count * sizeof(float));
    if (p.partials == nullptr) return;
    for (int q = 0; q < 4; ++q) {
      memcpy(p.partials + q * plane + to, a.results + (1 + q) * a.row_length, tile.count * sizeof(float));
    }
  };
  run_tile(a, tile, frame, load, finish);
}

void backward(const HrSsimGradParams& p, const SsimTile& tile) {
  int used[4], num_used = 0;
  if (p.grad_image != nullptr) used[num_used++] = 0;
  if (p.grad_reference != nullptr) used[num_used++] = 1;
  used[num_used++] = 2;
  used[num_used++] = 3;
  const Averager a = make_averager(tile, p.channels, used, num_used);
  const int cut = p.valid ? HR_SSIM_RADIUS : 0, height = p.height - 2 * cut;
  const int64_t width = static_cast<int64_t>(p.width) * p.channels, out_width = width - 2ll * cut * p.channels;
  const int64_t shift = static_cast<int64_t>(cut) * p.channels, plane = p.batch * height * out_width;
  const Frame frame = {cut, cut + height, shift, shift + out_width, 0, p.channels};
  const auto load = [&](int y, int64_t low, int64_t high, int64_t at) {
    const int64_t row = (tile.image * height + y - cut) * out_width - shift;
    const float* grad = p.grad_map + row;
    for (int u = 0; u < num_used; ++u) {
      const float* partial = p.partials + used[u] * plane + row;
      float* to = a.quantities[used[u]] + at - low;
      int64_t i = low;
      for (; i + HR_LANES <= high; i += HR_LANES) lanes(to + i) = lanes(grad + i) * lanes(partial + i);
      for (; i < high; ++i) to[i] = grad[i] * partial[i];
    }
  };
  const auto finish = [&](int row, int middle) {
    const int64_t from = (tile.image * p.height + row) * width + tile.first;
    float *x = a.results, *r = a.results + a.row_length, *to_x = r + a.row_length, *to_r = to_x + a.row_length;
    memcpy(x, p.image + from, tile.count * sizeof(float));
    memcpy(r, p.reference + from, tile.count * sizeof(float));
    for (int64_t i = 0; i < a.row_length; i += HR_LANES) {
      const VecF squares = average_down(a, 2, middle, i), product = average_down(a, 3, middle, i);
      if (p.grad_image != nullptr) {
        lanes(to_x + i) = ssim_gradient<VecF>(average_down(a, 0, middle, i), squares, product, lanes(x + i), lanes(r + i));
      }
      if (p.grad_reference != nullptr) {
        lanes(to_r + i) = ssim_gradient<VecF>(average_down(a, 1, middle, i), squares, product, lanes(r + i), lanes(x + i));
      }
    }
    if (p.grad_image != nullptr) memcpy(p.grad_image + from, to_x, tile.count * sizeof(float));
    if (p.grad_reference != nullptr) memcpy(p.grad_reference + from, to_r, tile.count * sizeof(float));
  };
  run_tile(a, tile, frame, load, finish);
}

}  // namespace

const SsimStage HR_STAGE = {forward, backward};

}  // namespace hr
