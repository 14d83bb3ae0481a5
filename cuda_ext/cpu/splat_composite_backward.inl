// The backward pass of compositing one tile: its splats back to front, each over the blocks that it reaches, so that the sums
// for a splat stay in registers. Included once per instruction set, by splat_composite_stage.inl.
//
// With T the transmittance before a splat, c.g its colour's product with the pixel's gradient and B the same product for
// what is seen behind it, dL/dalpha = T (c.g - B), and before it B becomes B + alpha (c.g - B).

namespace hr {
namespace {

struct BackwardScratch {
  Batch batch;
  float* left;      // [blocks,16] transmittance behind the splat
  float* behind;    // [blocks,16] B
  int32_t* last;    // [blocks,16]
  float* grad;      // [blocks,channels,16]
  float* sums;      // [channels,16] of one splat
  uint32_t* reach;  // [2,kSplatBatch] which blocks a splat reaches, a bit each
};

inline BackwardScratch backward_scratch(float* at, int channels) {
  BackwardScratch s;
  const auto take = [&](int64_t floats) {
    float* own = at;
    at += floats;
    return own;
  };
  s.batch.shape = take(HR_SPLAT_FIELDS * kSplatBatch);
  s.batch.field = take(HR_SPLAT_FIELDS * kSplatBatch);
  s.left = take(kLanes * kSplatMostBlocks);
  s.behind = take(kLanes * kSplatMostBlocks);
  s.last = reinterpret_cast<int32_t*>(take(kLanes * kSplatMostBlocks));
  s.reach = reinterpret_cast<uint32_t*>(take(2 * kSplatBatch));
  s.grad = take(static_cast<int64_t>(kLanes) * kSplatMostBlocks * channels);
  s.sums = take(static_cast<int64_t>(kLanes) * (channels + kLanes));
  s.batch.values = take(static_cast<int64_t>(kSplatBatch) * channels);
  return s;
}

struct SplatWork {
  int e;             // in the batch
  int32_t number;    // in the tile's list
  uint64_t reach;    // blocks
  int channels;
  float* record;     // out
};

// One lane type's worth of a block's pixels, from lane kFirst on, over all blocks; sums over the blocks, lane by lane. Nine sums
// and what they are made of fit sixteen registers of AVX2 only if a sum is one register: see eight_lanes.h.
template <class Lanes, int kFirst, int kChannels, bool kCentres>
inline void sum_blocks(const BackwardScratch& s, const BlockPlace* blocks, const SplatWork& work, Lanes (&sum)[8],
                       Lanes (&colour)[kChannels > 0 ? kChannels : 1]) {
  const int channels = kChannels > 0 ? kChannels : work.channels;
  constexpr int kKept = kChannels > 0 ? kChannels : 1;
  const Lanes least(HR_SPLAT_MIN_POWER), most(HR_SPLAT_MAX_POWER), one(1.0f), zero(0.0f);
  const float *row = s.batch.shape + HR_SPLAT_FIELDS * work.e, *value = s.batch.values + work.e * channels;
  const HrSplatShape<Lanes> shape = {Lanes(row[0]), Lanes(row[1]), Lanes(row[2]), Lanes(row[3]), Lanes(row[4]),
                                     Lanes(row[HR_SPLAT_LOG2_OPACITY])};
  for (Lanes& a : sum) a = zero;
  for (Lanes& a : colour) a = zero;
  for (uint64_t reach = work.reach; reach; reach &= reach - 1) {
    const int b = __builtin_ctzll(reach);
    float *left = s.left + b * kLanes + kFirst, *hidden = s.behind + b * kLanes + kFirst;
    Lanes px, py, last_left, behind, u, dy;
    read_lanes(reinterpret_cast<const float*>(&blocks[b].px) + kFirst, &px);
    read_lanes(reinterpret_cast<const float*>(&blocks[b].py) + kFirst, &py);
    const Lanes power = hr_splat_power(shape, px, py, &u, &dy);
    const auto meets = (power >= least) & number_below(work.number, s.last + b * kLanes + kFirst, power);
    if (!any(meets)) continue;
    read_lanes(left, &last_left);
    const Lanes alpha = zero_unless(meets, hr_splat_exp2(hr_min(power, most)));
    const Lanes before = last_left / (one - alpha), weight = alpha * before;
    const float* grad = s.grad + static_cast<int64_t>(b) * channels * kLanes + kFirst;
    Lanes product = zero;
    for (int k = 0; k < channels; ++k) {
      Lanes g;
      read_lanes(grad + k * kLanes, &g);
      product = hr_fma(g, Lanes(value[k]), product);
      if (kChannels > 0) {
        colour[k % kKept] = hr_fma(weight, g, colour[k % kKept]);
      } else {
        Lanes so_far;
        read_lanes(s.sums + k * kLanes + kFirst, &so_far);
        store(s.sums + k * kLanes + kFirst, hr_fma(weight, g, so_far));
      }
    }
    read_lanes(hidden, &behind);
    const Lanes step = product - behind;
    store(hidden, hr_fma(alpha, step, behind));
    store(left, before);
    const Lanes g = zero_unless(power < most, weight * step), gu = g * u, gy = g * dy;
    sum[0] = sum[0] + g;
    sum[1] = sum[1] + gu;
    sum[2] = sum[2] + gy;
    sum[3] = hr_fma(gu, u, sum[3]);
    sum[4] = hr_fma(gu, dy, sum[4]);
    sum[5] = hr_fma(gy, dy, sum[5]);
    if (kCentres) {
      const Lanes by_x = shape.sharp_x * gu;
      sum[6] = sum[6] + abs_of(by_x);
      sum[7] = sum[7] + abs_of(hr_fma(shape.shear, by_x, shape.sharp_y * gy));
    }
  }
}

template <int kChannels, bool kCentres>
inline void splat_backward(const BackwardScratch& s, const BlockPlace* blocks, const SplatWork& work) {
  const int channels = kChannels > 0 ? kChannels : work.channels;
  constexpr int kKept = kChannels > 0 ? kChannels : 1;
  const Floats zero(0.0f);
  Floats sum[kLanes];
  for (Floats& a : sum) a = zero;
  if (kChannels == 0) memset(s.sums, 0, sizeof(float) * kLanes * (channels + kLanes));
#if defined(__AVX2__) && !defined(__AVX512F__)
  Eight half[2][8], part[2][kKept];
  sum_blocks<Eight, 0, kChannels, kCentres>(s, blocks, work, half[0], part[0]);
  sum_blocks<Eight, 8, kChannels, kCentres>(s, blocks, work, half[1], part[1]);
  for (int k = 0; k < 8; ++k) sum[k] = both_halves(half[0][k], half[1][k]);
  for (int k = 0; k < 8 && k < kChannels; ++k) sum[8 + k] = both_halves(part[0][k % kKept], part[1][k % kKept]);
#else
  Floats all[8], colour[kKept];
  sum_blocks<Floats, 0, kChannels, kCentres>(s, blocks, work, all, colour);
  for (int k = 0; k < 8; ++k) sum[k] = all[k];
  for (int k = 0; k < 8 && k < kChannels; ++k) sum[8 + k] = colour[k % kKept];
#endif
  for (int k = 0; k < 8 && k < channels && kChannels == 0; ++k) sum[8 + k] = load(s.sums + k * kLanes);
  store_sums(work.record, sum);
  for (int k = 8; k < channels; k += kLanes) {
    Floats more[kLanes];
    for (int j = 0; j < kLanes; ++j) more[j] = k + j < channels ? load(s.sums + (k + j) * kLanes) : zero;
    store_sums(work.record + kSplatSums + k, more);
  }
}

typedef void (*SplatBackward)(const BackwardScratch&, const BlockPlace*, const SplatWork&);

inline SplatBackward splat_backward_for(int channels, bool centres) {
  switch (channels) {
    case 1: return centres ? splat_backward<1, true> : splat_backward<1, false>;
    case 3: return centres ? splat_backward<3, true> : splat_backward<3, false>;
    case 4: return centres ? splat_backward<4, true> : splat_backward<4, false>;
    case 7: return centres ? splat_backward<7, true> : splat_backward<7, false>;
    default: return centres ? splat_backward<0, true> : splat_backward<0, false>;
  }
}

// Gradients of the pixels of a block, what they say of the background, and its part of the background's own gradient.
void load_block(const HrSplatCompositeGradParams& p, const BackwardScratch& s, const SplatChannels& channels, int64_t image,
                const BlockPlace& block, int b, float* background_sums) {
  const float* background = p.background ? p.background + (p.background_per_image ? image * p.channels : 0) : nullptr;
  const int64_t first = image * p.height * p.width;
  float* grad = s.grad + static_cast<int64_t>(b) * channels.count() * kLanes;
  memset(grad, 0, sizeof(float) * kLanes * channels.count());
  store(s.left + b * kLanes, Floats(1.0f));
  store(s.behind + b * kLanes, Floats(0.0f));
  store(s.last + b * kLanes, Ints(0));
  over_pixels(block, p.width, [&](int lane, int64_t pixel) {
    const int64_t at = first + pixel;
    const float left = p.transmittance[at];
    float behind = p.grad_transmittance ? p.grad_transmittance[at] : 0.0f;
    for (int k = 0; k < p.channels && p.grad_image; ++k) {
      const float g = p.grad_image[at * p.channels + k];
      grad[k * kLanes + lane] = g;
      if (background) behind = hr_fma(g, background[k], behind);
      if (background_sums) background_sums[k] = hr_fma(left, g, background_sums[k]);
    }
    float* next = grad + p.channels * kLanes + lane;
    if (channels.depth) *next = p.grad_depth_sum[at];
    if (channels.depth) next += kLanes;
    for (int k = 0; k < channels.normal; ++k) next[k * kLanes] = p.grad_normal_sum[3 * at + k];
    s.left[b * kLanes + lane] = left;
    s.behind[b * kLanes + lane] = behind;
    s.last[b * kLanes + lane] = p.last[at];
  });
}

inline void find_reached_blocks(const BackwardScratch& s, int count, const TilePlace& tile) {
  const Ints none(0);
  Ints low = none, high = none;
  over_reached_blocks(s.batch, count, tile, [&](int e, int b, Mask reached) {
    const Ints bit(static_cast<int32_t>(1u << (b % 32)));
    if (b < 32) {
      low = low | hr_select(reached, bit, none);
    } else {
      high = high | hr_select(reached, bit, none);
    }
    if (b + 1 < tile.blocks()) return;
    store(reinterpret_cast<int32_t*>(s.reach) + e, low);
    store(reinterpret_cast<int32_t*>(s.reach) + kSplatBatch + e, high);
    low = high = none;
  });
}

bool composite_tile_backward(const HrSplatCompositeGradParams& p, const SplatTileSums& sums, int64_t image, int64_t t,
                             float* scratch) {
  const SplatChannels channels = {p.channels, p.grad_depth_sum ? 1 : 0, p.grad_normal_sum ? 3 : 0};
  const int64_t tiles = static_cast<int64_t>((p.width + p.tile_size - 1) / p.tile_size) * ((p.height + p.tile_size - 1) / p.tile_size);
  const int32_t begin = p.offsets[image * tiles + t], end = p.offsets[image * tiles + t + 1];
  if (begin < 0 || end < begin || end > p.num_ids) return false;
  const TilePlace tile = place_of_tile(p, t);
  const BackwardScratch s = backward_scratch(scratch, channels.count());
  const int64_t width = splat_record_floats(channels);
  float* background_sums = sums.backgrounds ? sums.backgrounds + (image * tiles + t) * p.channels : nullptr;
  for (int k = 0; k < p.channels && background_sums; ++k) background_sums[k] = 0.0f;
  BlockPlace blocks[kSplatMostBlocks];
  int32_t used = 0;
  for (int b = 0; b < tile.blocks(); ++b) {
    blocks[b] = place_of_block(p, tile, b);
    load_block(p, s, channels, image, blocks[b], b, background_sums);
    for (int i = 0; i < kLanes; ++i) used = s.last[b * kLanes + i] > used ? s.last[b * kLanes + i] : used;
  }
  if (used > end - begin) return false;
  memset(sums.records + (begin + used) * width, 0, sizeof(float) * width * (end - begin - used));
  const SplatBackward run = splat_backward_for(channels.count(), sums.centres);
  for (int32_t first = used > 0 ? (used - 1) / kSplatBatch * kSplatBatch : -1; first >= 0; first -= kSplatBatch) {
    const int count = used - first < kSplatBatch ? used - first : kSplatBatch;
    if (!load_batch(p, image, p.ids + begin + first, count, count, channels, s.batch)) return false;
    find_reached_blocks(s, count, tile);
    for (int e = count - 1; e >= 0; --e) {
      const uint64_t reach = s.reach[e] | static_cast<uint64_t>(s.reach[kSplatBatch + e]) << 32;
      run(s, blocks, {e, first + e, reach, channels.count(), sums.records + (begin + first + e) * width});
    }
  }
  return true;
}

}  // namespace
}  // namespace hr
