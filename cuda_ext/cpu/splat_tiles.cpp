// CPU lists of splats by tile. The tiles of every splat are found, splat by splat; then the splats are sorted by depth, and
// dealt to their tiles in that order, so that every tile's list comes out sorted. All steps work on chunks whose number follows from the sizes alone and keep the
// order of equal keys: the lists do not depend on the number of threads.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "c_api.h"
#include "splat_stages.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr int64_t kMostChunks = 32, kSmallestChunk = 8192;
constexpr int64_t kFetchAhead = 16;
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

// The splats of one image: their tiles, splat by splat, and those that have any, to be sorted.
struct Dealt {
  std::unique_ptr<int32_t[]> cells;            // what list_tiles says of the splats, in the order of their numbers
  std::unique_ptr<uint64_t[]> items, other;    // depth's bits in the high word, where in `cells` it stands in the low one
  int64_t count = 0;                           // of items
  uint32_t nearest = 0, range = 0;             // least depth, and the greatest less the least, as bits
};

// False when p.tiles does not say how many tiles there are. Reads the splats in order, once: sorted they lie scattered.
bool deal(const HrSplatTilesParams& p, const SplatGaussianStage& stage, int64_t image, int threads, Dealt* out) {
  const float* splats = p.splats + image * p.num_gaussians * HR_SPLAT_FIELDS;
  const int32_t* tiles = p.tiles + image * p.num_gaussians;
  const Chunks chunks(p.num_gaussians);
  std::vector<int64_t> cell(chunks.count + 1), item(chunks.count + 1);
  parallel_for(chunks.count, threads, [&](int64_t c) {
    int64_t cells = 0, items = 0;
    for (int64_t n = chunks.first(c); n < chunks.end(c); ++n) {
      cells += tiles[n];
      items += tiles[n] > 0;
    }
    cell[c + 1] = cells;
    item[c + 1] = items;
  });
  for (int64_t c = 0; c < chunks.count; ++c) {
    cell[c + 1] += cell[c];
    item[c + 1] += item[c];
  }
  out->count = item[chunks.count];
  const int64_t numbers = cell[chunks.count] + kSplatHeader * out->count;
  if (numbers > UINT32_MAX) throw std::bad_alloc();  // places have 32 bits; that would be 16 GB
  out->cells = room_for<int32_t>(numbers);
  out->items = room_for<uint64_t>(out->count);
  out->other = room_for<uint64_t>(out->count);
  std::vector<uint32_t> least(chunks.count, UINT32_MAX), most(chunks.count, 0);
  std::atomic<bool> fine{true};
  parallel_for(chunks.count, threads, [&](int64_t c) {
    const int64_t begin = cell[c] + kSplatHeader * item[c];
    const int32_t entry = static_cast<int32_t>(cell[c]);
    if (!stage.list_tiles(p, image, chunks.first(c), chunks.end(c), entry, out->cells.get() + begin)) fine.store(false);
    uint64_t* to = out->items.get() + item[c];
    uint32_t at = static_cast<uint32_t>(begin);
    for (int64_t n = chunks.first(c); n < chunks.end(c); ++n) {
      if (tiles[n] == 0) continue;
      const uint32_t key = depth_key(splats + n * HR_SPLAT_FIELDS);
      least[c] = std::min(least[c], key);
      most[c] = std::max(most[c], key);
      *to++ = static_cast<uint64_t>(key) << 32 | at;
      at += static_cast<uint32_t>(kSplatHeader + tiles[n]);
    }
  });
  if (out->count > 0) {
    out->nearest = *std::min_element(least.begin(), least.end());
    out->range = *std::max_element(most.begin(), most.end()) - out->nearest;
  }
  return fine.load();
}

// Radix sort, least significant digit first, which keeps the order of equal depths: that of their numbers.
void sort_by_depth(Dealt& s, int threads) {
  const Chunks chunks(s.count);
  std::vector<uint32_t> place(chunks.count * kDigits);
  const uint64_t least = static_cast<uint64_t>(s.nearest) << 32;
  for (int shift = 32; shift < 64 && (s.range >> (shift - 32)) > 0; shift += kDigitBits) {
    parallel_for(chunks.count, threads, [&](int64_t c) {
      uint32_t* count = place.data() + c * kDigits;
      std::fill(count, count + kDigits, 0u);
      for (int64_t i = chunks.first(c); i < chunks.end(c); ++i) ++count[(s.items[i] - least) >> shift & (kDigits - 1)];
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
      for (int64_t i = chunks.first(c); i < chunks.end(c); ++i) {
        s.other[to[(s.items[i] - least) >> shift & (kDigits - 1)]++] = s.items[i];
      }
    });
    std::swap(s.items, s.other);
  }
}

// The lists of one image, whose first entry is ids[begin].
bool list_image(const HrSplatTilesParams& p, const SplatGaussianStage& stage, int64_t image, int64_t begin, int threads) {
  const int64_t columns = (p.width + p.tile_size - 1) / p.tile_size, rows = (p.height + p.tile_size - 1) / p.tile_size;
  const int64_t cells = columns * rows;
  Dealt dealt;
  if (!deal(p, stage, image, threads, &dealt)) return false;
  sort_by_depth(dealt, threads);
  const Chunks chunks(dealt.count);
  auto to = room_for<int32_t>(chunks.count * cells);
  // visit(tiles of a splat, its header) in the order of depth. Both stand together: sorted the splats lie scattered.
  const auto over_splats = [&](int64_t c, const auto& visit) {
    const int32_t* cells = dealt.cells.get();
    const uint64_t* items = dealt.items.get();
    const int64_t end = chunks.end(c);
    for (int64_t i = chunks.first(c); i < end; ++i) {
      __builtin_prefetch(cells + static_cast<uint32_t>(items[std::min(i + kFetchAhead, end - 1)]));
      const int32_t* header = cells + static_cast<uint32_t>(items[i]);
      visit(header + kSplatHeader, header);
    }
  };
  parallel_for(chunks.count, threads, [&](int64_t c) {
    int32_t* count = to.get() + c * cells;
    std::fill(count, count + cells, 0);
    over_splats(c, [&](const int32_t* cell, const int32_t* header) {
      for (int32_t k = 0; k < header[1]; ++k) ++count[cell[k]];
    });
  });
  int64_t next = begin;
  for (int64_t t = 0; t < cells; ++t) {
    p.offsets[image * cells + t] = static_cast<int32_t>(next);
    for (int64_t c = 0; c < chunks.count; ++c) {
      const int32_t count = to[c * cells + t];
      to[c * cells + t] = static_cast<int32_t>(next);
      next += count;
    }
  }
  parallel_for(chunks.count, threads, [&](int64_t c) {
    int32_t* at = to.get() + c * cells;
    int32_t* ids = p.ids;
    over_splats(c, [&](const int32_t* cell, const int32_t* header) {
      const int32_t n = header[0], own = header[1];
      int32_t* entry = p.entries ? p.entries + begin + header[2] : nullptr;
      for (int32_t k = 0; k < own; ++k) {
        const int32_t place = at[cell[k]]++;
        ids[place] = n;
        if (entry) entry[k] = place;
      }
    });
  });
  return true;
}

int32_t list_all(const HrSplatTilesParams& p) {
  const SplatGaussianStage& stage = splat_gaussian_stage(HR_ISA_AUTO);
  std::vector<int64_t> begin(p.images + 1);
  parallel_for(p.images, p.num_threads, [&](int64_t image) {
    int64_t sum = 0;
    int32_t together = 0;
    for (int64_t n = 0; n < p.num_gaussians; ++n) {
      sum += p.tiles[image * p.num_gaussians + n];
      together |= p.tiles[image * p.num_gaussians + n];
    }
    begin[image + 1] = together < 0 ? INT32_MAX : sum;  // a negative number makes the total wrong, which is seen below
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
