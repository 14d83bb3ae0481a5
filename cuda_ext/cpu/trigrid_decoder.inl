// The small network behind the lookups, and opacities, in vectors. Included once per instruction set, after
// trigrid_lookup.inl, with HR_TILE_ROWS and HR_TILE_VECTORS: what fits into the registers.

#include "opacity_lanes.h"

namespace hr {
namespace {

constexpr int kRowsAtOnce = 64;  // points whose way through the network stays in the first cache

// out[p, :] = start[:] + sum over k of in[p, k] w[k, :], for kRows rows and kVectors vectors.
template <int kRows, int kVectors>
HR_LANES_FN void multiply_tile(const float* in, int in_stride, int terms, const float* w, int w_stride, const float* start,
                               float* out, int out_stride) {
  F16 total[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const F16 first = start ? load(start + v * kWidth) : zeros();
    for (int p = 0; p < kRows; ++p) total[p][v] = first;
  }
  for (int k = 0; k < terms; ++k) {
    F16 weight[kVectors];
    for (int v = 0; v < kVectors; ++v) weight[v] = load(w + k * w_stride + v * kWidth);
    for (int p = 0; p < kRows; ++p) {
      const F16 x = all(in[p * in_stride + k]);
      for (int v = 0; v < kVectors; ++v) total[p][v] = fused(x, weight[v], total[p][v]);
    }
  }
  for (int p = 0; p < kRows; ++p) {
    for (int v = 0; v < kVectors; ++v) store(out + p * out_stride + v * kWidth, total[p][v]);
  }
}

struct Matrix {
  const float* data;
  int stride;
};

template <int kVectors>
HR_LANES_FN void multiply_columns(Matrix in, int rows, int terms, Matrix w, const float* start, float* out, int out_stride) {
  constexpr int kRows = HR_TILE_ROWS * (kVectors < HR_TILE_VECTORS ? 2 : 1);
  int p = 0;
  for (; p + kRows <= rows; p += kRows) {
    multiply_tile<kRows, kVectors>(in.data + p * in.stride, in.stride, terms, w.data, w.stride, start, out + p * out_stride, out_stride);
  }
  for (; p < rows; ++p) {
    multiply_tile<1, kVectors>(in.data + p * in.stride, in.stride, terms, w.data, w.stride, start, out + p * out_stride, out_stride);
  }
}

// columns: a multiple of 16. out may not overlap in.
void multiply(Matrix in, int rows, int terms, Matrix w, int columns, const float* start, float* out, int out_stride) {
  int v = 0;
  const auto at = [&](int i) { return Matrix{w.data + i * kWidth, w.stride}; };
  const auto from = [&](int i) { return start ? start + i * kWidth : nullptr; };
  for (; v + HR_TILE_VECTORS <= columns / kWidth; v += HR_TILE_VECTORS) {
    multiply_columns<HR_TILE_VECTORS>(in, rows, terms, at(v), from(v), out + v * kWidth, out_stride);
  }
  if (HR_TILE_VECTORS > 2 && v + 2 <= columns / kWidth) {
    multiply_columns<2>(in, rows, terms, at(v), from(v), out + v * kWidth, out_stride);
    v += 2;
  }
  for (; v < columns / kWidth; ++v) multiply_columns<1>(in, rows, terms, at(v), from(v), out + v * kWidth, out_stride);
}

// sums[k, :] += sum over the rows p of a[p, k] b[p, :].
template <int kTerms, int kVectors>
HR_LANES_FN void add_products_tile(Matrix a, Matrix b, int rows, float* sums, int stride) {
  F16 total[kTerms][kVectors];
  for (int k = 0; k < kTerms; ++k) {
    for (int v = 0; v < kVectors; ++v) total[k][v] = load(sums + k * stride + v * kWidth);
  }
  for (int p = 0; p < rows; ++p) {
    F16 row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = load(b.data + p * b.stride + v * kWidth);
    for (int k = 0; k < kTerms; ++k) {
      const F16 x = all(a.data[p * a.stride + k]);
      for (int v = 0; v < kVectors; ++v) total[k][v] = fused(x, row[v], total[k][v]);
    }
  }
  for (int k = 0; k < kTerms; ++k) {
    for (int v = 0; v < kVectors; ++v) store(sums + k * stride + v * kWidth, total[k][v]);
  }
}

template <int kVectors>
HR_LANES_FN void add_products_columns(Matrix a, int terms, Matrix b, int rows, float* sums, int stride) {
  int k = 0;
  for (; k + HR_TILE_ROWS <= terms; k += HR_TILE_ROWS) {
    add_products_tile<HR_TILE_ROWS, kVectors>({a.data + k, a.stride}, b, rows, sums + k * stride, stride);
  }
  for (; k < terms; ++k) add_products_tile<1, kVectors>({a.data + k, a.stride}, b, rows, sums + k * stride, stride);
}

void add_products(Matrix a, int terms, Matrix b, int columns, int rows, float* sums) {
  int v = 0;
  for (; v + HR_TILE_VECTORS <= columns / kWidth; v += HR_TILE_VECTORS) {
    add_products_columns<HR_TILE_VECTORS>(a, terms, {b.data + v * kWidth, b.stride}, rows, sums + v * kWidth, columns);
  }
  for (; v < columns / kWidth; ++v) add_products_columns<1>(a, terms, {b.data + v * kWidth, b.stride}, rows, sums + v * kWidth, columns);
}

HR_LANES_FN F16 activate(int activation, F16 x) {
  if (activation == HR_FEATURE_SIGMOID) return fused(all(1.002f), sigmoid(x), all(-0.001f));
  if (activation == HR_FEATURE_LEAKY) return if_above(x, zeros(), all(1.41421356f) * x, all(0.282842712f) * x);
  return x;
}

// Derivative of the activation where its value is y.
HR_LANES_FN F16 activation_slope(int activation, F16 y) {
  if (activation == HR_FEATURE_SIGMOID) {
    const F16 s = (y + all(0.001f)) * all(1.0f / 1.002f);
    return all(1.002f) * s * (all(1.0f) - s);
  }
  return if_above(y, zeros(), all(1.41421356f), all(0.282842712f));
}

// Rows of at most kRowsAtOnce points, from features to the rest.
void decode_rows(const PreparedDecoder& d, const Batch& b, int first, int rows) {
  const Matrix features = {b.features + static_cast<int64_t>(first) * d.padded_channels, d.padded_channels};
  float* hidden = b.hidden + static_cast<int64_t>(first) * d.padded_hidden;
  multiply(features, rows, d.channels, {d.w1t, d.padded_hidden}, d.padded_hidden, d.b1, hidden, d.padded_hidden);
  float* slopes = b.slopes ? b.slopes + static_cast<int64_t>(first) * d.padded_hidden : nullptr;
  for (int p = 0; p < rows; ++p) {
    F16 density = zeros();
    for (int k = p * d.padded_hidden, j = 0; j < d.padded_hidden; k += kWidth, j += kWidth) {
      const F16 x = load(hidden + k), t = decay(x), h = softplus_of(x, t);
      if (slopes) store(slopes + k, sigmoid_of(x, t));
      store(hidden + k, h);
      density = fused(h, load(d.density + j), density);
    }
    b.density[first + p] = sum(density) + d.density_bias;
  }
  float room[kRowsAtOnce * 128];
  const bool direct = b.out_stride >= d.padded_features;
  float* out = direct ? b.out + static_cast<int64_t>(first) * b.out_stride : room;
  const int stride = direct ? b.out_stride : d.padded_features;
  multiply({hidden, d.padded_hidden}, rows, d.hidden, {d.w2t, d.padded_features}, d.padded_features, d.b2, out, stride);
  for (int p = 0; p < rows && d.activation != HR_FEATURE_NONE; ++p) {
    for (int k = 0; k < d.padded_features; k += kWidth) {
      store(out + p * stride + k, activate(d.activation, load(out + p * stride + k)));
    }
  }
  for (int p = 0; p < rows && !direct; ++p) {
    std::memcpy(b.out + static_cast<int64_t>(first + p) * b.out_stride, out + p * stride, sizeof(float) * d.features);
  }
}

void decode(const PreparedDecoder& d, const Batch& b, int n) {
  for (int first = 0; first < n; first += kRowsAtOnce) decode_rows(d, b, first, n - first < kRowsAtOnce ? n - first : kRowsAtOnce);
}

HR_LANES_FN void add_rows(const float* rows, int count, int columns, float* sums) {
  for (int k = 0; k < columns; k += kWidth) {
    F16 total = load(sums + k);
    for (int p = 0; p < count; ++p) total = total + load(rows + p * columns + k);
    store(sums + k, total);
  }
}

void decode_rows_backward(const PreparedDecoder& d, const Batch& b, int first, int rows, float* grad_out, const float* grad_density,
                          float* grad_features, int stride, const DecoderSums& sums) {
  const float* hidden = b.hidden + static_cast<int64_t>(first) * d.padded_hidden;
  const float* slopes = b.slopes + static_cast<int64_t>(first) * d.padded_hidden;
  const int width = d.padded_features, across = d.padded_hidden;
  for (int p = 0; p < rows && d.activation != HR_FEATURE_NONE; ++p) {
    const float* out = b.out + static_cast<int64_t>(first + p) * b.out_stride;
    for (int k = 0; k < width; k += kWidth) {
      store(grad_out + p * width + k, load(grad_out + p * width + k) * activation_slope(d.activation, load(out + k)));
    }
  }
  if (sums.w1t) {
    add_products({hidden, across}, d.hidden, {grad_out, width}, width, rows, sums.w2t);
    add_rows(grad_out, rows, width, sums.b2);
    add_products({grad_density, 1}, 1, {hidden, across}, across, rows, sums.density);
    for (int p = 0; p < rows; ++p) *sums.density_bias += grad_density[p];
  }
  float grad[kRowsAtOnce * HR_DECODER_MAX_HIDDEN], room[kRowsAtOnce * HR_TRIGRID_MAX_CHANNELS];
  multiply({grad_out, width}, rows, d.features, {d.w2, across}, across, nullptr, grad, across);
  for (int p = 0; p < rows; ++p) {
    for (int k = 0; k < across; k += kWidth) {
      const F16 total = fused(all(grad_density[p]), load(d.density + k), load(grad + p * across + k));
      store(grad + p * across + k, total * load(slopes + p * across + k));
    }
  }
  if (sums.w1t) {
    const Matrix features = {b.features + static_cast<int64_t>(first) * d.padded_channels, d.padded_channels};
    add_products(features, d.channels, {grad, across}, across, rows, sums.w1t);
    add_rows(grad, rows, across, sums.b1);
  }
  if (!grad_features) return;
  multiply({grad, across}, rows, d.hidden, {d.w1, d.padded_channels}, d.padded_channels, nullptr, room, d.padded_channels);
  for (int p = 0; p < rows; ++p) {
    std::memcpy(grad_features + static_cast<int64_t>(p) * stride, room + p * d.padded_channels, sizeof(float) * d.channels);
  }
}

void decode_backward(const PreparedDecoder& d, const Batch& b, int n, float* grad_out, const float* grad_density, float* grad_features,
                     int stride, const DecoderSums& sums) {
  for (int first = 0; first < n; first += kRowsAtOnce) {
    const int rows = n - first < kRowsAtOnce ? n - first : kRowsAtOnce;
    float* to = grad_features ? grad_features + static_cast<int64_t>(first) * stride : nullptr;
    decode_rows_backward(d, b, first, rows, grad_out + static_cast<int64_t>(first) * d.padded_features, grad_density + first, to, stride,
                         sums);
  }
}

// What samples keep, let through, and how the first grows with the value.
void opacities(const HrRaySamples& s, const float* values, const float* lengths, int n, float* alpha, float* keep, float* slope) {
  for (int i = 0; i < n; i += kWidth) {
    const int some = n - i < kWidth ? n - i : kWidth;
    const Opacities o = opacities_of(s, load_some(values + i, some), load_some(lengths + i, some));
    store_some(alpha + i, o.alpha, some);
    store_some(keep + i, o.keep, some);
    store_some(slope + i, o.by_value, some);
  }
}

}  // namespace
}  // namespace hr
