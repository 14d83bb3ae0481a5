// The decoder of a grid on three planes as a network of two layers, whose inputs lie in the block's scratch.
#pragma once

#include "network.h"
#include "trigrid_tile.h"

namespace hr {

inline bool sane_decoder(const HrDecoder& d) {
  return d.hidden >= 1 && d.hidden <= HR_DECODER_MAX_HIDDEN && d.features >= 1 && d.features <= HR_DECODER_MAX_FEATURES &&
         d.activation >= HR_FEATURE_NONE && d.activation <= HR_FEATURE_LEAKY;
}

inline int32_t widest_of(const HrDecoder& d) { return d.hidden > d.features + 1 ? d.hidden : d.features + 1; }

// See network.h. Column 0 of the outputs is the density as it is.
struct DecoderNet {
  const HrDecoder& d;
  int32_t channels;
  const float* features;  // [64, C]

  __device__ __forceinline__ int32_t layers() const { return 2; }
  __host__ __device__ __forceinline__ HrMlpLayer layer(int32_t k) const {
    return hr_mlp_layer(channels, d.hidden, d.features + 1, 1, k);
  }
  __device__ __forceinline__ const float* matrix(int32_t k) const { return k == 0 ? d.w1 : d.w2; }
  __device__ __forceinline__ const float* bias(int32_t k) const { return k == 0 ? d.b1 : d.b2; }
  __device__ __forceinline__ float activate(int32_t k, int32_t column, float z, float* slope) const {
    if (k == 0) {
      *slope = hr_volume_sigmoid(z);
      return hr_volume_softplus(z);
    }
    if (column == 0) {
      *slope = 1.0f;
      return z;
    }
    const float value = hr_feature_activate(d.activation, z);
    *slope = hr_feature_slope(d.activation, z, value);
    return value;
  }
  __device__ __forceinline__ int rows() const { return kLayerRows; }
  __device__ __forceinline__ float input(int row, int32_t column) const { return features[row * channels + column]; }
};

// Scratch of launches that decode: rows of features, and for a backward pass what network.h wants.
struct DecodeScratch {
  float* features;  // [blocks, 64, C]
  NetScratch net;
};

inline int64_t tile_blocks(int64_t tiles) { return tiles < kMostTileBlocks ? tiles : kMostTileBlocks; }

inline DecodeScratch lay_out_decoder(const HrTrigrid& f, const HrDecoder& d, int64_t tiles, bool backward, Workspace& workspace) {
  DecodeScratch scratch = {};
  scratch.net.blocks = tile_blocks(tiles);
  scratch.features = workspace.take<float>(scratch.net.blocks * kLayerRows * f.channels);
  if (!backward) return scratch;
  scratch.net.width = widest_of(d);
  scratch.net.weights = static_cast<int64_t>(d.hidden) * (f.channels + d.features + 1);
  scratch.net.biases = d.hidden + d.features + 1;
  scratch.net.sums = workspace.take<float>(scratch.net.blocks * 2 * kLayerRows * scratch.net.width);
  scratch.net.partial = workspace.take<float>(scratch.net.blocks * (scratch.net.weights + scratch.net.biases));
  return scratch;
}

inline void clear_partial(const HrCudaLaunch& launch, const NetScratch& net) {
  fill_bytes(launch, net.partial, 0, net.blocks * (net.weights + net.biases) * static_cast<int64_t>(sizeof(float)));
}

inline void write_decoder_gradients(const HrCudaLaunch& launch, const HrTrigrid& f, const HrDecoder& d, const HrDecoderGrad& grad,
                                    const NetScratch& net) {
  if (!grad.w1) return;
  const DecoderNet shape = {d, f.channels, nullptr};
  launch_add_partial(launch, net, {shape.layer(0), grad.w1, grad.b1});
  launch_add_partial(launch, net, {shape.layer(1), grad.w2, grad.b2});
}

}  // namespace hr
