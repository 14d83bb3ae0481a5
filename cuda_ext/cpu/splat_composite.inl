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

constexpr int kMostRowChannels = 16;  // of a picture whose rows are put together before they are written

// Writes a row of a tile past the caches where it is whole lines: nobody here reads it again, and fetching lines only to
// overwrite them took a third of the time of compositing.
inline void write_row(float* to, const float* from, int floats) {
#if defined(__AVX2__)
  if (reinterpret_cast<uintptr_t>(to) % 64 == 0 && floats % kLanes == 0) {
    for (int i = 0; i < floats; i += 8) _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
    return;
  }
#endif
  memcpy(to, from, static_cast<size_t>(floats) * sizeof(float));
}

// One row of pixels of a tile from what its blocks hold: channels of 16 lanes, each block's `stride` floats from the last's.
struct RowOfBlocks {
  const float* lanes;  // of the row's first block, at the row's first lane
  int64_t stride;
  int columns;         // pixels
};

template <int kChannels>
inline void write_pixels(const RowOfBlocks& row, int channels, float* out) {
  const int count = kChannels > 0 ? kChannels : channels;
  alignas(64) float pixels[HR_SPLAT_MAX_TILE * kMostRowChannels];
  const bool whole = count <= kMostRowChannels;
  float* to = whole ? pixels : out;
  for (int x0 = 0; x0 < row.columns; x0 += kSplatBlock) {
    const float* lanes = row.lanes + x0 / kSplatBlock * row.stride;
    const int columns = row.columns - x0 < kSplatBlock ? row.columns - x0 : kSplatBlock;
    for (int x = 0; x < columns; ++x) {
      for (int k = 0; k < count; ++k) to[(x0 + x) * count + k] = lanes[k * kLanes + x];
    }
  }
  if (whole) write_row(out, pixels, row.columns * count);
}

__attribute__((noinline)) void store_tile(const HrSplatCompositeParams& p, const ForwardScratch& s, const SplatChannels& channels,
                                          int64_t image, const TilePlace& tile) {
  const int colours = p.channels, count = channels.count();
  const float* background = p.background ? p.background + (p.background_per_image ? image * colours : 0) : nullptr;
  for (int b = 0; b < tile.blocks() && background; ++b) {
    const Floats left = load(s.left + b * kLanes);
    float* sums = s.sums + static_cast<int64_t>(b) * count * kLanes;
    for (int k = 0; k < colours; ++k) store(sums + k * kLanes, hr_fma(left, Floats(background[k]), load(sums + k * kLanes)));
  }
  const int width = p.width - tile.x0 < p.tile_size ? p.width - tile.x0 : p.tile_size;
  const int height = p.height - tile.y0 < p.tile_size ? p.height - tile.y0 : p.tile_size;
  for (int y = 0; y < height; ++y) {
    const int64_t at = (image * p.height + tile.y0 + y) * p.width + tile.x0, b = y / kSplatBlock * tile.blocks_x;
    const int lane = y % kSplatBlock * kSplatBlock;
    const auto row = [&](const float* of, int64_t stride, int64_t first) { return RowOfBlocks{of + b * stride + first + lane, stride, width}; };
    const int64_t stride = static_cast<int64_t>(count) * kLanes;
    if (colours == 3) {
      write_pixels<3>(row(s.sums, stride, 0), 3, p.image + at * 3);
    } else {
      write_pixels<0>(row(s.sums, stride, 0), colours, p.image + at * colours);
    }
    if (channels.depth) write_pixels<1>(row(s.sums, stride, colours * kLanes), 1, p.depth_sum + at);
    if (channels.normal) write_pixels<3>(row(s.sums, stride, (colours + channels.depth) * kLanes), 3, p.normal_sum + 3 * at);
    write_pixels<1>(row(s.left, kLanes, 0), 1, p.transmittance + at);
    write_pixels<1>(row(reinterpret_cast<const float*>(s.last), kLanes, 0), 1, reinterpret_cast<float*>(p.last) + at);
    if (p.median) write_pixels<1>(row(reinterpret_cast<const float*>(s.median), kLanes, 0), 1, reinterpret_cast<float*>(p.median) + at);
  }
#if defined(__AVX2__)
  _mm_sfence();  // before another thread is told that the tile is done
#endif
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
    if (!load_batch(p, image, p.ids + first, splats, end - first, channels, s.batch)) return false;
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
  store_tile(p, s, channels, image, tile);
  return true;
}

}  // namespace
}  // namespace hr
