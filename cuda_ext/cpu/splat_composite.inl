// Compositing one tile. A block of 4 x 4 pixels is one vector, whose transmittance and colours stay in registers while the
// splats that reach it pass by, front to back. Included once per instruction set, by splat_composite_stage.inl.

namespace hr {
namespace {

struct ForwardScratch {
  Batch batch;
  float* left;      // [blocks,16] transmittance
  int32_t* last;    // [blocks,16]
  int32_t* median;  // [blocks,16]
  float* sums;      // [blocks,channels,16]
  int32_t* list;    // [blocks,kSplatBatch + 16] splats of the batch that reach a block
};

inline ForwardScratch forward_scratch(float* at, int channels) {
  ForwardScratch s;
  const auto take = [&](int64_t floats) {
    float* own = at;
    at += floats;
    return own;
  };
  s.batch.shape = take(HR_SPLAT_FIELDS * kSplatBatch);
  s.batch.field = take(HR_SPLAT_FIELDS * kSplatBatch);
  s.left = take(kLanes * kSplatMostBlocks);
  s.last = reinterpret_cast<int32_t*>(take(kLanes * kSplatMostBlocks));
  s.median = reinterpret_cast<int32_t*>(take(kLanes * kSplatMostBlocks));
  s.list = reinterpret_cast<int32_t*>(take((kSplatBatch + kLanes) * kSplatMostBlocks));
  s.sums = take(static_cast<int64_t>(kLanes) * kSplatMostBlocks * channels);
  s.batch.values = take(static_cast<int64_t>(kSplatBatch) * channels);
  return s;
}

struct BlockWork {
  const int32_t* list;  // splats of the batch, front to back
  int count;
  int32_t first;        // number of the batch's first splat in the tile's list
  const int32_t* ids;   // of the batch
  int channels;
};

// kChannels > 0 keeps that many sums in registers; 0 keeps p.channels in memory. False when no pixel of the block lets
// anything through any more.
template <int kChannels, bool kMedian>
inline bool composite_block(const ForwardScratch& s, const BlockWork& work, int b, Floats px, Floats py) {
  const int channels = kChannels > 0 ? kChannels : work.channels;
  const Floats least(HR_SPLAT_MIN_POWER), most(HR_SPLAT_MAX_POWER), end(HR_SPLAT_END_TRANSMITTANCE), half(0.5f);
  float* sums = s.sums + static_cast<int64_t>(b) * channels * kLanes;
  Floats left = load(s.left + b * kLanes), sum[kChannels > 0 ? kChannels : 1];
  Ints last = load(s.last + b * kLanes), median;
  if (kMedian) median = load(s.median + b * kLanes);
  for (int k = 0; k < kChannels; ++k) sum[k] = load(sums + k * kLanes);
  Mask open = left > end;
  for (int i = 0; i < work.count; ++i) {
    const int32_t e = work.list[i];
    Floats u, dy;
    const Floats power = hr_splat_power(shape_lanes(s.batch.shape + HR_SPLAT_FIELDS * e), px, py, &u, &dy);
    const Mask meets = (power >= least) & open;
    const Floats alpha = zero_unless(meets, hr_splat_exp2(hr_min(power, most)));
    const Floats weight = alpha * left, after = hr_fma(-alpha, left, left);
    const float* value = s.batch.values + e * channels;
    if (kChannels > 0) {
      for (int k = 0; k < kChannels; ++k) sum[k] = hr_fma(weight, Floats(value[k]), sum[k]);
    } else {
      for (int k = 0; k < channels; ++k) store(sums + k * kLanes, hr_fma(weight, Floats(value[k]), load(sums + k * kLanes)));
    }
    last = hr_select(meets, Ints(work.first + e + 1), last);
    if (kMedian) median = hr_select(meets & (left > half) & (after <= half), Ints(work.ids[e]), median);
    left = after;
    open = left > end;
    if (!any(open)) break;
  }
  store(s.left + b * kLanes, left);
  store(s.last + b * kLanes, last);
  if (kMedian) store(s.median + b * kLanes, median);
  for (int k = 0; k < kChannels; ++k) store(sums + k * kLanes, sum[k]);
  return any(open);
}

typedef bool (*CompositeBlock)(const ForwardScratch&, const BlockWork&, int, Floats, Floats);

inline CompositeBlock composite_block_for(int channels, bool median) {
  switch (channels) {
    case 1: return median ? composite_block<1, true> : composite_block<1, false>;
    case 3: return median ? composite_block<3, true> : composite_block<3, false>;
    case 4: return median ? composite_block<4, true> : composite_block<4, false>;
    case 7: return median ? composite_block<7, true> : composite_block<7, false>;
    default: return median ? composite_block<0, true> : composite_block<0, false>;
  }
}

__attribute__((noinline)) void store_block(const HrSplatCompositeParams& p, const ForwardScratch& s, const SplatChannels& channels, int64_t image,
                 const BlockPlace& block, int b) {
  const float* background = p.background ? p.background + (p.background_per_image ? image * p.channels : 0) : nullptr;
  const float* sums = s.sums + static_cast<int64_t>(b) * channels.count() * kLanes;
  const int64_t first = image * p.height * p.width;
  over_pixels(block, p.width, [&](int lane, int64_t pixel) {
    const float left = s.left[b * kLanes + lane];
    const int64_t at = first + pixel;
    float* out = p.image + at * p.channels;
    for (int k = 0; k < p.channels; ++k) out[k] = hr_fma(left, background ? background[k] : 0.0f, sums[k * kLanes + lane]);
    const float* next = sums + p.channels * kLanes + lane;
    if (channels.depth) p.depth_sum[at] = *next;
    if (channels.depth) next += kLanes;
    for (int k = 0; k < channels.normal; ++k) p.normal_sum[3 * at + k] = next[k * kLanes];
    p.transmittance[at] = left;
    p.last[at] = s.last[b * kLanes + lane];
    if (p.median) p.median[at] = s.median[b * kLanes + lane];
  });
}

__attribute__((noinline)) void list_reached(const ForwardScratch& s, int splats, const TilePlace& tile, int* count) {
  over_reached_blocks(s.batch, splats, tile, [&](int e, int b, Mask reached) {
    count[b] += append_numbers(s.list + b * (kSplatBatch + kLanes) + count[b], reached, e);
  });
}

bool composite_tile(const HrSplatCompositeParams& p, int64_t image, int64_t t, float* scratch) {
  const SplatChannels channels = {p.channels, p.depth_sum ? 1 : 0, p.normal_sum ? 3 : 0};
  const int64_t tiles = static_cast<int64_t>((p.width + p.tile_size - 1) / p.tile_size) * ((p.height + p.tile_size - 1) / p.tile_size);
  const int32_t begin = p.offsets[image * tiles + t], end = p.offsets[image * tiles + t + 1];
  if (begin < 0 || end < begin || end > p.num_ids) return false;
  const TilePlace tile = place_of_tile(p, t);
  const ForwardScratch s = forward_scratch(scratch, channels.count());
  const CompositeBlock run = composite_block_for(channels.count(), p.median != nullptr);
  bool open[kSplatMostBlocks];
  int count[kSplatMostBlocks], still_open = tile.blocks();
  const Floats zero(0.0f), one(1.0f);
  for (int b = 0; b < tile.blocks(); ++b) {
    const BlockPlace block = place_of_block(p, tile, b);
    const Mask inside = (block.px < Floats(static_cast<float>(p.width))) & (block.py < Floats(static_cast<float>(p.height)));
    store(s.left + b * kLanes, zero_unless(inside, one));  // outside nothing is let through: nobody waits for those pixels
    store(s.last + b * kLanes, Ints(0));
    store(s.median + b * kLanes, Ints(-1));
    for (int k = 0; k < channels.count(); ++k) store(s.sums + (b * channels.count() + k) * kLanes, zero);
    open[b] = true;
  }
  for (int32_t first = begin; first < end && still_open > 0; first += kSplatBatch) {
    const int splats = end - first < kSplatBatch ? end - first : kSplatBatch;
    if (!load_batch(p, image, p.ids + first, splats, channels, s.batch)) return false;
    for (int b = 0; b < tile.blocks(); ++b) count[b] = 0;
    list_reached(s, splats, tile, count);
    for (int b = 0; b < tile.blocks(); ++b) {
      if (!open[b] || count[b] == 0) continue;
      const BlockPlace block = place_of_block(p, tile, b);
      const BlockWork work = {s.list + b * (kSplatBatch + kLanes), count[b], first - begin, p.ids + first, channels.count()};
      open[b] = run(s, work, b, block.px, block.py);
      still_open -= open[b] ? 0 : 1;
    }
  }
  for (int b = 0; b < tile.blocks(); ++b) store_block(p, s, channels, image, place_of_block(p, tile, b), b);
  return true;
}

}  // namespace
}  // namespace hr
