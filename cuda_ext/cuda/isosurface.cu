// CUDA marching cubes: the passes that isosurface.h describes, and the CPU's mesh number for number.
//
// Bits by ballot: a warp reads the 64 samples of a word. Then a thread has a word, counts what it will make, and prefix sums
// over the device say where that goes. Vertices and faces are written by blocks of 256 words, whose threads share the vertices
// and the cells of all of them evenly, so that one word which the surface follows along its length holds nobody up.
//
// Expected (H100, 256^3, 196k vertices): reading 67 MB once takes 20 us; 2 MB of bits are then read some ten times out of
// the second cache and 10 MB of scratch and mesh written, 10 us; eleven launches, and one wait for the numbers of vertices
// and faces, without which nobody can make room for them. Floor 25 us, foretold 60 us with the wait.
#include "isosurface.h"

#include "scan.h"

namespace hr {
namespace {

__device__ constexpr IsoTable kCases = make_iso_table();

int32_t check(const HrIsosurfaceParams& p) {
  const int64_t most = INT32_MAX;
  for (const int32_t side : {p.size_x, p.size_y, p.size_z}) {
    if (side < 2 || side > HR_ISO_MAX_SIDE) return HR_ERROR_ARGUMENT;
  }
  if (static_cast<int64_t>(p.size_x) * p.size_y > most / p.size_z) return HR_ERROR_ARGUMENT;
  const bool sane = p.num_blocks >= 0 && p.channels >= 0 && (p.blocks != nullptr || p.num_blocks == 0);
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

// Of each word: how many vertices and faces it has, and how many those before it have; [X * Y * W], the sums with one more.
struct CountScratch {
  uint32_t *vertices, *faces;
  int64_t *first_vertex, *first_face;
  ScanScratch scan;
};

CountScratch lay_out_isosurface_count(const HrIsosurfaceParams& p, const HrCudaLaunch&, Workspace& workspace) {
  const int64_t words = iso_grid(p).plane;
  CountScratch scratch;
  scratch.vertices = workspace.take<uint32_t>(words);
  scratch.faces = workspace.take<uint32_t>(words);
  scratch.first_vertex = workspace.take<int64_t>(words + 1);
  scratch.first_face = workspace.take<int64_t>(words + 1);
  scratch.scan = lay_out_scan(words, workspace);
  return scratch;
}

NoScratch lay_out_isosurface_fill(const HrIsosurfaceParams&, const HrCudaLaunch&, Workspace&) { return {}; }

struct WordPlace {
  int x, y;
  int64_t w;  // of the row
};

__device__ __forceinline__ WordPlace place_of_word(const IsoGrid& g, int64_t word) {
  const int64_t row = quotient(word, static_cast<int32_t>(g.words)), x = quotient(row, g.p->size_y);
  return {static_cast<int>(x), static_cast<int>(row - x * g.p->size_y), word - row * g.words};
}

// Whether there is a sample. A block number beyond those there are counts as none, and is reported.
__device__ __forceinline__ bool is_present(const HrIsosurfaceParams& p, int x, int y, int z, int32_t* fault) {
  if (z >= p.size_z) return false;
  if (p.blocks == nullptr) return true;
  const int64_t columns = (p.size_y + HR_ISO_BLOCK - 1) / HR_ISO_BLOCK, layers = (p.size_z + HR_ISO_BLOCK - 1) / HR_ISO_BLOCK;
  const int32_t block = p.blocks[(x / HR_ISO_BLOCK * columns + y / HR_ISO_BLOCK) * layers + z / HR_ISO_BLOCK];
  const bool exists = p.num_blocks == 0 || block < p.num_blocks;
  if (!exists) report_bad_index(fault);
  return block >= 0 && exists;
}

// 1. A warp for each word.
__global__ void __launch_bounds__(kThreads) classify_words(HrIsosurfaceParams p, int32_t* fault) {
  const IsoGrid g = iso_grid(p);
  const int64_t word = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp_of_this_thread();
  if (word >= g.plane) return;  // with its whole warp
  const WordPlace at = place_of_word(g, word);
  uint64_t inside = 0, present = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int z = static_cast<int>(at.w) * HR_ISO_WORD + half * kWarp + lane_of_this_thread();
    const bool there = is_present(p, at.x, at.y, z, fault);
    const float value = there ? p.values[iso_sample(p, at.x, at.y, z)] : 0.0f;
    const bool in = there && (p.inside_below ? value < p.level : value > p.level);
    inside |= static_cast<uint64_t>(__ballot_sync(kWholeWarp, in)) << (half * kWarp);
    present |= static_cast<uint64_t>(__ballot_sync(kWholeWarp, there)) << (half * kWarp);
  }
  if (lane_of_this_thread() != 0) return;
  p.bits[word] = inside;
  if (p.blocks != nullptr) p.present[word] = present;
}

// 2. A thread for each word.
__global__ void __launch_bounds__(kThreads) count_words(HrIsosurfaceParams p, CountScratch scratch) {
  const IsoGrid g = iso_grid(p);
  const int64_t word = place_of_this_thread().item;
  if (word >= g.plane) return;
  const WordPlace at = place_of_word(g, word);
  const IsoRows rows = iso_rows(g, at.x, at.y, at.w);
  const IsoWord found = iso_word(g, rows, at.x, at.y, at.w);
  p.bits[g.plane + word] = found.cells;
  int vertices = 0, faces = 0;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    p.bits[(2 + axis) * g.plane + word] = found.edges[axis];
    vertices += iso_count_bits(found.edges[axis]);
  }
  for (uint64_t cells = found.cells; cells != 0; cells &= cells - 1) {
    faces += kCases.count[iso_case(rows.low, rows.high, iso_lowest_bit(cells))];
  }
  scratch.vertices[word] = static_cast<uint32_t>(vertices);
  scratch.faces[word] = static_cast<uint32_t>(faces);
}

// 3. The sums, as the passes to come read them. More than 2^31 - 1 are for the caller to refuse, who reads the totals.
__global__ void __launch_bounds__(kThreads) number_words(HrIsosurfaceParams p, CountScratch scratch) {
  const IsoGrid g = iso_grid(p);
  const int64_t word = place_of_this_thread().item;
  if (word >= g.plane) return;
  int64_t vertex = scratch.first_vertex[word];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    p.starts[axis * g.plane + word] = static_cast<int32_t>(vertex);
    vertex += iso_count_bits(p.bits[(2 + axis) * g.plane + word]);
  }
  p.starts[3 * g.plane + word] = static_cast<int32_t>(scratch.first_face[word]);
  if (word > 0) return;
  p.totals[0] = scratch.first_vertex[g.plane];
  p.totals[1] = scratch.first_face[g.plane];
}

// The last of kThreads prefix sums that is not above `i`: the word to which item i of the block belongs.
__device__ __forceinline__ int owner_of(const uint32_t* before, uint32_t i) {
  int at = 0;
#pragma unroll
  for (int step = kThreads / 2; step > 0; step /= 2) {
    if (before[at + step] <= i) at += step;
  }
  return at;
}

// Place of the set bit that has `rank` set bits below it.
__device__ __forceinline__ int bit_of_rank(uint64_t word, int rank) {
  int at = 0;
#pragma unroll
  for (int step = HR_ISO_WORD / 2; step > 0; step /= 2) {
    const int below = iso_count_bits(word >> at & iso_lowest(step));
    if (below > rank) continue;
    rank -= below;
    at += step;
  }
  return at;
}

// 4. A block writes the vertices of kThreads words, thread by thread in the order of their numbers.
__global__ void __launch_bounds__(kThreads) write_vertices(HrIsosurfaceParams p) {
  __shared__ uint32_t scan_space[kThreads / kWarp];
  __shared__ uint32_t before[kThreads];
  __shared__ uint64_t edges[3][kThreads];
  const IsoGrid g = iso_grid(p);
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kThreads, word = tile + threadIdx.x;
  uint32_t own = 0, total;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    const uint64_t bits = word < g.plane ? p.bits[(2 + axis) * g.plane + word] : 0;
    edges[axis][threadIdx.x] = bits;
    own += static_cast<uint32_t>(iso_count_bits(bits));
  }
  before[threadIdx.x] = scan_block(own, scan_space, &total);
  __syncthreads();
  const int64_t first = p.starts[tile];
  for (uint32_t i = threadIdx.x; i < total; i += kThreads) {
    const int slot = owner_of(before, i);
    int rank = static_cast<int>(i - before[slot]), axis = 0;
    for (; axis < 2; ++axis) {
      const int along = iso_count_bits(edges[axis][slot]);
      if (rank < along) break;
      rank -= along;
    }
    const WordPlace at = place_of_word(g, tile + slot);
    const int z = static_cast<int>(at.w) * HR_ISO_WORD + bit_of_rank(edges[axis][slot], rank);
    iso_write_vertex(p, axis, at.x, at.y, z, first + i);
  }
}

// 5. The same with cells; where each one's faces go follows from a prefix sum over the kThreads that are at work.
__global__ void __launch_bounds__(kThreads) write_faces(HrIsosurfaceParams p) {
  __shared__ uint32_t scan_space[kThreads / kWarp];
  __shared__ uint32_t before[kThreads];
  __shared__ uint64_t cells[kThreads];
  const IsoGrid g = iso_grid(p);
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kThreads, word = tile + threadIdx.x;
  const uint64_t bits = word < g.plane ? p.bits[g.plane + word] : 0;
  uint32_t total;
  cells[threadIdx.x] = bits;
  before[threadIdx.x] = scan_block(static_cast<uint32_t>(iso_count_bits(bits)), scan_space, &total);
  __syncthreads();
  int64_t next = p.starts[3 * g.plane + tile];
  for (uint32_t turn = 0; turn < total; turn += kThreads) {
    const uint32_t i = turn + threadIdx.x;
    int x = 0, y = 0, z = 0, inside = 0;
    if (i < total) {
      const int slot = owner_of(before, i), bit = bit_of_rank(cells[slot], static_cast<int>(i - before[slot]));
      const WordPlace at = place_of_word(g, tile + slot);
      const IsoRows rows = iso_rows(g, at.x, at.y, at.w);
      inside = iso_case(rows.low, rows.high, bit);
      x = at.x, y = at.y, z = static_cast<int>(at.w) * HR_ISO_WORD + bit;
    }
    const uint32_t count = kCases.count[inside];  // none for case 0
    uint32_t sum;
    int32_t* face = p.faces + 3 * (next + scan_block(count, scan_space, &sum));
    for (uint32_t k = 0; k < 3 * count; ++k) face[k] = iso_vertex_on(g, kCases.faces[inside][k], x, y, z);
    next += sum;
  }
}

void run_isosurface_count(const HrIsosurfaceParams& p, const HrCudaLaunch& launch, const CountScratch& scratch) {
  const int64_t words = iso_grid(p).plane;  // at most 2^30: a row has two samples or more
  const dim3 blocks(static_cast<unsigned>(divide_up(words, kThreads / kWarp)));
  launch_blocks(launch, blocks, classify_words, p, launch.fault);
  launch_over(launch, words, 1, count_words, p, scratch);
  launch_scan(launch, scratch.scan, scratch.vertices, words, scratch.first_vertex);
  launch_scan(launch, scratch.scan, scratch.faces, words, scratch.first_face);
  launch_over(launch, words, 1, number_words, p, scratch);
}

void run_isosurface_fill(const HrIsosurfaceParams& p, const HrCudaLaunch& launch, NoScratch) {
  const int64_t words = iso_grid(p).plane;
  launch_over(launch, words, 1, write_vertices, p);
  launch_over(launch, words, 1, write_faces, p);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(isosurface_count, HrIsosurfaceParams)
HR_DEFINE_CUDA_OP(isosurface_fill, HrIsosurfaceParams)
