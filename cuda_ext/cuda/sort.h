// Stable radix sort of 32-bit keys with 32-bit values, whose number may be known on the device only.
//
// Eight bits a pass, least significant first (Satish et al. 2009, section 4; ranks within a warp by matching digits, Ashkiani
// et al. 2016, "GPU multisplit"). A pass is three launches: each block counts the digits of its share of the pairs; the counts
// of each digit are summed over the blocks before; each block walks through its share once more and sends every pair to its
// place. 20 bytes a pair and pass. Nothing depends on how blocks are scheduled, and the order of equal keys is kept, so
// the result is the same on every run. CUB's one-sweep sort reads the keys once per pass, but wants to know their number when
// it is launched.
//
// Expected: bound by latency below a million pairs (a pass about 10 us), by scattered writes above.
#pragma once

#include "block.h"

namespace hr {

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kSortItems = 8;                              // of a thread
constexpr int64_t kSortTile = kSortItems * kThreads;       // pairs that a block ranks at a time
constexpr int64_t kMostSortBlocks = 512;
static_assert(kDigits == kThreads, "one thread per digit");

struct Pairs {
  uint32_t *keys, *values;
};

// How many pairs there are: at most `capacity`, and `*on_device` when that is not null.
struct PairCount {
  int64_t capacity;
  const int64_t* on_device;
};

struct SortScratch {
  Pairs other;        // room for as many pairs
  uint32_t* counts;   // [kDigits, blocks]
  uint32_t* totals;   // [kDigits]
};

inline int64_t sort_blocks(int64_t capacity) {
  const int64_t tiles = divide_up(capacity, kSortTile);
  return tiles < kMostSortBlocks ? tiles : kMostSortBlocks;
}

inline SortScratch lay_out_sort(int64_t capacity, Workspace& workspace) {
  SortScratch scratch;
  scratch.other.keys = workspace.take<uint32_t>(capacity);
  scratch.other.values = workspace.take<uint32_t>(capacity);
  scratch.counts = workspace.take<uint32_t>(kDigits * sort_blocks(capacity));
  scratch.totals = workspace.take<uint32_t>(kDigits);
  return scratch;
}

namespace {

__device__ __forceinline__ int64_t number_of(const PairCount& count) {
  if (!count.on_device) return count.capacity;
  const int64_t n = *count.on_device;
  return n < count.capacity ? n : count.capacity;
}

// Which pairs a block has: whole tiles, in order.
struct Share {
  int64_t first, end;
};

__device__ __forceinline__ Share share_of_this_block(int64_t n) {
  const int64_t size = divide_up(divide_up(n, kSortTile), gridDim.x) * kSortTile;
  const int64_t first = blockIdx.x * size, end = first + size;
  return {first < n ? first : n, end < n ? end : n};
}

__device__ __forceinline__ int32_t digit_of(uint32_t key, int shift) {
  return static_cast<int32_t>((key >> shift) & (kDigits - 1));
}

__global__ void __launch_bounds__(kThreads) count_digits(const uint32_t* keys, PairCount count, int shift, uint32_t* counts) {
  __shared__ uint32_t found[kDigits];
  found[threadIdx.x] = 0;
  __syncthreads();
  const Share share = share_of_this_block(number_of(count));
  for (int64_t tile = share.first; tile < share.end; tile += kThreads) {
    const int64_t i = tile + threadIdx.x;
    const int32_t digit = i < share.end ? digit_of(keys[i], shift) : -1;
    // High digits are the same nearly everywhere: one atomic for all lanes that agree.
    const unsigned peers = __match_any_sync(kWholeWarp, digit);
    if (digit >= 0 && __ffs(peers) - 1 == lane_of_this_thread()) {
      atomicAdd(&found[digit], static_cast<uint32_t>(__popc(peers)));
    }
  }
  __syncthreads();
  counts[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = found[threadIdx.x];
}

// One block per digit: each count becomes the sum of those of the blocks before.
__global__ void __launch_bounds__(kThreads) scan_digit_counts(uint32_t* counts, int32_t blocks, uint32_t* totals) {
  __shared__ uint32_t warp_sums[kThreads / kWarp];
  uint32_t* row = counts + static_cast<int64_t>(blockIdx.x) * blocks;
  uint32_t before = 0;
  for (int32_t first = 0; first < blocks; first += kThreads) {
    const int32_t i = first + static_cast<int32_t>(threadIdx.x);
    uint32_t sum;
    const uint32_t offset = scan_block(i < blocks ? row[i] : 0u, warp_sums, &sum);
    if (i < blocks) row[i] = before + offset;
    before += sum;
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = before;
}

__global__ void __launch_bounds__(kThreads) move_pairs(Pairs from, Pairs to, PairCount count, int shift,
                                                       const uint32_t* counts, const uint32_t* totals) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ uint32_t scan_space[kWarps];
  __shared__ uint32_t next[kDigits];            // where this block's next pair with that digit goes
  __shared__ uint32_t places[kWarps][kDigits];  // of each warp's pairs: first how many, then where to
  const int lane = lane_of_this_thread(), warp = warp_of_this_thread();
  const int own = static_cast<int>(threadIdx.x);  // digit
  uint32_t all;
  const uint32_t smaller = scan_block(totals[own], scan_space, &all);
  next[own] = smaller + counts[static_cast<int64_t>(own) * gridDim.x + blockIdx.x];
  const Share share = share_of_this_block(number_of(count));
  for (int64_t tile = share.first; tile < share.end; tile += kSortTile) {
    for (int w = 0; w < kWarps; ++w) places[w][own] = 0;
    __syncthreads();
    uint32_t key[kSortItems], rank[kSortItems];
    const int64_t first = tile + warp * (kWarp * kSortItems) + lane;
#pragma unroll
    for (int k = 0; k < kSortItems; ++k) {
      const int64_t i = first + k * kWarp;
      const bool there = i < share.end;
      key[k] = there ? from.keys[i] : 0u;
      const int32_t digit = there ? digit_of(key[k], shift) : -1;
      const unsigned peers = __match_any_sync(kWholeWarp, digit);
      const unsigned before = peers & ((1u << lane) - 1u);
      rank[k] = there ? places[warp][digit] + static_cast<uint32_t>(__popc(before)) : 0u;
      __syncwarp();
      if (there && before == 0) places[warp][digit] += static_cast<uint32_t>(__popc(peers));
      __syncwarp();
    }
    __syncthreads();
    uint32_t place = next[own];
    for (int w = 0; w < kWarps; ++w) {
      const uint32_t pairs = places[w][own];
      places[w][own] = place;
      place += pairs;
    }
    next[own] = place;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kSortItems; ++k) {
      const int64_t i = first + k * kWarp;
      if (i >= share.end) continue;
      const uint32_t at = places[warp][digit_of(key[k], shift)] + rank[k];
      to.keys[at] = key[k];
      to.values[at] = from.values[i];
    }
    __syncthreads();
  }
}

// Sorts by the lowest `bits` bits of the keys. Returns where the sorted pairs are: `pairs`, or the scratch's.
inline Pairs launch_sort(const HrCudaLaunch& launch, const SortScratch& scratch, Pairs pairs, PairCount count, int bits) {
  const int64_t blocks = sort_blocks(count.capacity);
  Pairs from = pairs, to = scratch.other;
  for (int shift = 0; shift < bits; shift += kDigitBits) {
    if (blocks > 0) {
      const dim3 grid(static_cast<unsigned>(blocks));
      launch_blocks(launch, grid, count_digits, static_cast<const uint32_t*>(from.keys), count, shift, scratch.counts);
      launch_blocks(launch, dim3(kDigits), scan_digit_counts, scratch.counts, static_cast<int32_t>(blocks), scratch.totals);
      launch_blocks(launch, grid, move_pairs, from, to, count, shift, static_cast<const uint32_t*>(scratch.counts),
                    static_cast<const uint32_t*>(scratch.totals));
    }
    const Pairs swapped = from;
    from = to;
    to = swapped;
  }
  return from;
}

}  // namespace
}  // namespace hr
