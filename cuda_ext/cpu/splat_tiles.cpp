// CPU lists of splats by tile. All splats of an image are sorted by depth once, then dealt to their tiles in that order, so
// that every tile's list comes out sorted. Both steps work on chunks whose number follows from the sizes alone and keep the
// order of equal keys: the lists do not depend on the number of threads.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "c_api.h"
#include "splat_stages.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kMostChunks = 32, kSmallestChunk = 8192;
constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;

template <class T>
std::unique_ptr<T[]> room_for(int64_t count) {
  return std::unique_ptr<T[]>(new T[count]);  // not set to 0, unlike a vector's
}

struct Chunks {
  int64_t count, size, total;

  explicit Chunks(int64_t items) : total(items) {
    size = std::max(kSmallestChunk, (items + kMostChunks - 1) / kMostChunks);
    count = (items + size - 1) / size;
  }
  int64_t first(int64_t chunk) const { return chunk * size; }
  int64_t end(int64_t chunk) const { return std::min(total, (chunk + 1) * size); }
};

uint32_t depth_key(const float* splat) {
  uint32_t key;
  std::memcpy(&key, splat + HR_SPLAT_DEPTH, sizeof(key));
  return key;  // depths are positive: their bits are in the order of the numbers
}

// The splats with tiles: depth (less the least one) in the high word, number in the low word.
struct Sorted {
  std::unique_ptr<uint64_t[]> items, other;
  int64_t count = 0;
  uint32_t range = 0;
};

Sorted visible_splats(const HrSplatTilesParams& p, int64_t image, int threads) {
  const float* splats = p.splats + image * p.num_gaussians * HR_SPLAT_FIELDS;
  const int32_t* tiles = p.tiles + image * p.num_gaussians;
  const Chunks chunks(p.num_gaussians);
  std::vector<int64_t> place(chunks.count + 1);
  std::vector<uint32_t> least(chunks.count, UINT32_MAX), most(chunks.count, 0);
  parallel_for(chunks.count, threads, [&](int64_t c) {
    int64_t found = 0;
    for (int64_t n = chunks.first(c); n < chunks.end(c); ++n) {
      if (tiles[n] <= 0) continue;
      const uint32_t key = depth_key(splats + n * HR_SPLAT_FIELDS);
      least[c] = std::min(least[c], key);
      most[c] = std::max(most[c], key);
      ++found;
    }
    place[c + 1] = found;
  });
  for (int64_t c = 0; c < chunks.count; ++c) place[c + 1] += place[c];
  Sorted out;
  out.count = place[chunks.count];
  out.items = room_for<uint64_t>(out.count);
  out.other = room_for<uint64_t>(out.count);
  if (out.count == 0) return out;
  const uint32_t nearest = *std::min_element(least.begin(), least.end());
  out.range = *std::max_element(most.begin(), most.end()) - nearest;
  parallel_for(chunks.count, threads, [&](int64_t c) {
    uint64_t* to = out.items.get() + place[c];
    for (int64_t n = chunks.first(c); n < chunks.end(c); ++n) {
      if (tiles[n] > 0) *to++ = static_cast<uint64_t>(depth_key(splats + n * HR_SPLAT_FIELDS) - nearest) << 32 | static_cast<uint64_t>(n);
    }
  });
  return out;
}

// Radix sort, least significant digit first, which keeps the order of equal depths: that of their numbers.
void sort_by_depth(Sorted& s, int threads) {
  const Chunks chunks(s.count);
  std::vector<uint32_t> place(chunks.count * kDigits);
  for (int shift = 32; shift < 64 && (s.range >> (shift - 32)) > 0; shift += kDigitBits) {
    parallel_for(chunks.count, threads, [&](int64_t c) {
      uint32_t* count = place.data() + c * kDigits;
      std::fill(count, count + kDigits, 0u);
      for (int64_t i = chunks.first(c); i < chunks.end(c); ++i) ++count[s.items[i] >> shift & (kDigits - 1)];
    });
    uint32_t next = 0;
    for (int d = 0; d < kDigits; ++d) {
      for (int64_t c = 0; c < chunks.count; ++c) {
        const uint32_t count = place[c * kDigits + d];
        place[c * kDigits + d] = next;
        next += count;
      }
    }
    parallel_for(chunks.count, threads, [&](int64_t c) {
      uint32_t* to = place.data() + c * kDigits;
      for (int64_t i = chunks.first(c); i < chunks.end(c); ++i) s.other[to[s.items[i] >> shift & (kDigits - 1)]++] = s.items[i];
    });
    std::swap(s.items, s.other);
  }
}

// Where the entries of each splat of the image start, in entries.
std::unique_ptr<int32_t[]> entry_places(const int32_t* tiles, int64_t count, int64_t first) {
  auto place = room_for<int32_t>(count);
  for (int64_t n = 0; n < count; ++n) {
    place[n] = static_cast<int32_t>(first);
    first += tiles[n];
  }
  return place;
}

// The lists of one image, whose first entry is ids[begin].
bool list_image(const HrSplatTilesParams& p, const SplatGaussianStage& stage, int64_t image, int64_t begin, int threads) {
  const int32_t* tiles = p.tiles + image * p.num_gaussians;
  const int64_t columns = (p.width + p.tile_size - 1) / p.tile_size, rows = (p.height + p.tile_size - 1) / p.tile_size;
  const int64_t cells = columns * rows;
  Sorted sorted = visible_splats(p, image, threads);
  sort_by_depth(sorted, threads);
  const uint64_t* order = sorted.items.get();
  const Chunks chunks(sorted.count);
  std::vector<int64_t> part(chunks.count + 1);
  parallel_for(chunks.count, threads, [&](int64_t c) {
    int64_t sum = 0;
    for (int64_t i = chunks.first(c); i < chunks.end(c); ++i) sum += tiles[static_cast<uint32_t>(order[i])];
    part[c + 1] = sum;
  });
  for (int64_t c = 0; c < chunks.count; ++c) part[c + 1] += part[c];
  auto cell_of = room_for<int32_t>(part[chunks.count]);
  auto place = room_for<int32_t>(chunks.count * cells);
  std::atomic<bool> fine{true};
  parallel_for(chunks.count, threads, [&](int64_t c) {
    int32_t* count = place.get() + c * cells;
    std::fill(count, count + cells, 0);
    if (!stage.list_tiles(p, image, order + chunks.first(c), chunks.end(c) - chunks.first(c), cell_of.get() + part[c])) {
      fine.store(false);
      return;
    }
    for (int64_t k = part[c]; k < part[c + 1]; ++k) ++count[cell_of[k]];
  });
  if (!fine.load()) return false;
  int64_t next = begin;
  for (int64_t t = 0; t < cells; ++t) {
    p.offsets[image * cells + t] = static_cast<int32_t>(next);
    for (int64_t c = 0; c < chunks.count; ++c) {
      const int32_t count = place[c * cells + t];
      place[c * cells + t] = static_cast<int32_t>(next);
      next += count;
    }
  }
  std::unique_ptr<int32_t[]> entry;
  if (p.entries) entry = entry_places(tiles, p.num_gaussians, begin);
  parallel_for(chunks.count, threads, [&](int64_t c) {
    int32_t* to = place.get() + c * cells;
    const int32_t* cell = cell_of.get() + part[c];
    for (int64_t i = chunks.first(c); i < chunks.end(c); ++i) {
      const uint32_t n = static_cast<uint32_t>(order[i]);
      int32_t* own = p.entries ? p.entries + entry[n] : nullptr;
      for (int32_t k = 0; k < tiles[n]; ++k) {
        const int32_t at = to[*cell++]++;
        p.ids[at] = static_cast<int32_t>(n);
        if (own) own[k] = at;
      }
    }
  });
  return true;
}

int32_t list_all(const HrSplatTilesParams& p) {
  const SplatGaussianStage& stage = splat_gaussian_stage(HR_ISA_AUTO);
  std::vector<int64_t> begin(p.images + 1);
  parallel_for(p.images, p.num_threads, [&](int64_t image) {
    int64_t sum = 0;
    for (int64_t n = 0; n < p.num_gaussians; ++n) {
      const int32_t tiles = p.tiles[image * p.num_gaussians + n];
      sum += tiles < 0 ? INT32_MAX : tiles;  // a negative number makes the total wrong, which is seen below
    }
    begin[image + 1] = sum;
  });
  for (int64_t image = 0; image < p.images; ++image) begin[image + 1] += begin[image];
  if (begin[p.images] != p.num_ids) return HR_ERROR_INDEX;
  // Several images keep the threads busy one each; a single one is shared out.
  const bool apart = p.images >= 2 * p.num_threads;
  std::atomic<bool> fine{true};
  parallel_for(p.images, apart ? p.num_threads : 1, [&](int64_t image) {
    if (!list_image(p, stage, image, begin[image], apart ? 1 : p.num_threads)) fine.store(false);
  });
  const int64_t columns = (p.width + p.tile_size - 1) / p.tile_size, rows = (p.height + p.tile_size - 1) / p.tile_size;
  p.offsets[p.images * columns * rows] = static_cast<int32_t>(p.num_ids);
  return fine.load() ? HR_OK : HR_ERROR_INDEX;
}

}  // namespace
}  // namespace hr

int32_t hr_splat_tiles_cpu(const HrSplatTilesParams* params) {
  const HrSplatTilesParams& p = *params;
  const bool sized = p.height >= 1 && p.width >= 1 && p.height <= HR_SPLAT_MAX_SIDE && p.width <= HR_SPLAT_MAX_SIDE &&
                     p.tile_size >= 4 && p.tile_size <= HR_SPLAT_MAX_TILE && p.tile_size % 4 == 0;
  if (!sized || p.images < 0 || p.num_gaussians < 0 || p.num_gaussians > INT32_MAX || p.num_ids < 0 ||
      p.num_ids > INT32_MAX || p.num_threads < 1) {
    return HR_ERROR_ARGUMENT;
  }
  return hr::guarded([&] { return hr::list_all(p); });
}
