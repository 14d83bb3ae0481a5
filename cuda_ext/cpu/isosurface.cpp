// CPU marching cubes: the passes that isosurface.h describes, each spread over slices of equal x. Rows along z become bits
// first, so that a grid is read once and what follows works on 64 samples at a time and skips what the surface does not meet.
#include <algorithm>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "c_api.h"
#include "thread_pool.h"

namespace hr {
namespace {

constexpr IsoTable kTable = make_iso_table();
constexpr int kWordBits = 64;
constexpr uint64_t kAll = ~uint64_t{0};

// Where things lie in the scratch.
struct Grid {
  const HrIsosurfaceParams& p;
  int64_t words;       // W
  int64_t plane;       // X * Y * W
  int64_t block_rows, block_columns;  // blocks along y and z

  explicit Grid(const HrIsosurfaceParams& params)
      : p(params),
        words((params.size_z + kWordBits - 1) / kWordBits),
        plane(static_cast<int64_t>(params.size_x) * params.size_y * words),
        block_rows((params.size_y + HR_ISO_BLOCK - 1) / HR_ISO_BLOCK),
        block_columns((params.size_z + HR_ISO_BLOCK - 1) / HR_ISO_BLOCK) {}

  int64_t row(int x, int y) const { return (static_cast<int64_t>(x) * p.size_y + y) * words; }
  uint64_t* inside(int64_t word) const { return p.bits + word; }
  uint64_t* cells(int64_t word) const { return p.bits + plane + word; }
  uint64_t* edges(int axis, int64_t word) const { return p.bits + (2 + axis) * plane + word; }
  int32_t* start(int kind, int64_t word) const { return p.starts + kind * plane + word; }
  // How many samples a word of a row has.
  int samples(int64_t word_of_row) const {
    return static_cast<int>(std::min<int64_t>(kWordBits, p.size_z - word_of_row * kWordBits));
  }
};

uint64_t lowest(int count) { return count >= kWordBits ? kAll : (uint64_t{1} << count) - 1; }

// --- 1. which samples are inside -------------------------------------------------------------------------------------

uint64_t inside_bits(const float* values, int count, float level, bool below) {
  uint64_t bits = 0;
  int i = 0;
#if defined(__AVX2__)
  const __m256 at = _mm256_set1_ps(level);
  for (; i + 8 <= count; i += 8) {
    const __m256 v = _mm256_loadu_ps(values + i);
    const __m256 in = below ? _mm256_cmp_ps(v, at, _CMP_LT_OQ) : _mm256_cmp_ps(v, at, _CMP_GT_OQ);
    bits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(in))) << i;
  }
#endif
  for (; i < count; ++i) bits |= static_cast<uint64_t>(below ? values[i] < level : values[i] > level) << i;
  return bits;
}

// Of a grid with absent blocks: eight samples at a time.
void classify_blocks(const Grid& g, int x, int y, int64_t w, uint64_t& inside, uint64_t& present) {
  const HrIsosurfaceParams& p = g.p;
  const int32_t* blocks = p.blocks + (x / HR_ISO_BLOCK * g.block_rows + y / HR_ISO_BLOCK) * g.block_columns;
  for (int i = 0; i < g.samples(w); i += HR_ISO_BLOCK) {
    const int z = static_cast<int>(w) * kWordBits + i, count = std::min(HR_ISO_BLOCK, g.samples(w) - i);
    if (blocks[z / HR_ISO_BLOCK] < 0) continue;
    present |= lowest(count) << i;
    inside |= inside_bits(p.values + iso_sample(p, x, y, z), count, p.level, p.inside_below != 0) << i;
  }
}

void classify_slice(const Grid& g, int x) {
  const HrIsosurfaceParams& p = g.p;
  for (int y = 0; y < p.size_y; ++y) {
    for (int64_t w = 0; w < g.words; ++w) {
      const int64_t word = g.row(x, y) + w;
      if (p.blocks == nullptr) {
        const float* values = p.values + iso_sample(p, x, y, static_cast<int>(w) * kWordBits);
        *g.inside(word) = inside_bits(values, g.samples(w), p.level, p.inside_below != 0);
        continue;
      }
      uint64_t inside = 0, present = 0;
      classify_blocks(g, x, y, w, inside, present);
      *g.inside(word) = inside;
      p.present[word] = present;
    }
  }
}

// --- 2. which edges are crossed, which cells have faces, and how many -------------------------------------------------

// Bits of the row's cells that may be used: those whose corners are all there.
uint64_t allowed_cells(const Grid& g, int x, int y, int64_t w) {
  const HrIsosurfaceParams& p = g.p;
  if (x < 0 || y < 0 || x + 1 >= p.size_x || y + 1 >= p.size_y || w < 0) return 0;
  const int64_t rows[4] = {g.row(x, y), g.row(x, y + 1), g.row(x + 1, y), g.row(x + 1, y + 1)};
  uint64_t all = lowest(static_cast<int>(std::min<int64_t>(kWordBits, p.size_z - 1 - w * kWordBits)));
  for (int i = 0; i < 4 && p.blocks != nullptr; ++i) {
    const uint64_t* present = p.present + rows[i] + w;
    all &= present[0] & iso_shift(present[0], w + 1 < g.words ? present[1] : 0);
  }
  return all;
}

// A word, and the samples one further up. Beyond the end of a row nothing is crossed: the last sample goes on.
struct Pair {
  uint64_t low, high;
};

Pair inside_pair(const Grid& g, int x, int y, int64_t w) {
  const uint64_t low = *g.inside(g.row(x, y) + w);
  const bool last = w + 1 == g.words;
  const uint64_t next = last ? 0 : *g.inside(g.row(x, y) + w + 1);
  uint64_t high = iso_shift(low, next);
  if (last) {
    const uint64_t top = uint64_t{1} << (g.samples(w) - 1);
    high = (high & ~top) | (low & top);
  }
  return {low, high};
}

int count_faces(const Pair* rows, uint64_t cells) {
  const uint64_t low[4] = {rows[0].low, rows[1].low, rows[2].low, rows[3].low};
  const uint64_t high[4] = {rows[0].high, rows[1].high, rows[2].high, rows[3].high};
  int count = 0;
  for (; cells != 0; cells &= cells - 1) count += kTable.count[iso_case(low, high, __builtin_ctzll(cells))];
  return count;
}

void count_word(const Grid& g, int x, int y, int64_t w) {
  const int64_t word = g.row(x, y) + w;
  const int x1 = std::min(x + 1, g.p.size_x - 1), y1 = std::min(y + 1, g.p.size_y - 1);
  const Pair rows[4] = {inside_pair(g, x, y, w), inside_pair(g, x, y1, w), inside_pair(g, x1, y, w), inside_pair(g, x1, y1, w)};
  uint64_t any = 0, every = kAll;
  for (const Pair& r : rows) {
    any |= r.low | r.high;
    every &= r.low & r.high;
  }
  uint64_t cells = 0, edges[3] = {};
  const uint64_t there = lowest(g.samples(w));
  if ((any & there) != 0 && (every & there) != there) {
    const uint64_t here = allowed_cells(g, x, y, w), left = allowed_cells(g, x - 1, y, w);
    const uint64_t above = allowed_cells(g, x, y - 1, w), corner = allowed_cells(g, x - 1, y - 1, w);
    // The cells around an edge across z are those on both sides of its sample.
    const uint64_t carry_x = (allowed_cells(g, x, y, w - 1) | allowed_cells(g, x, y - 1, w - 1)) >> 63;
    const uint64_t carry_y = (allowed_cells(g, x, y, w - 1) | allowed_cells(g, x - 1, y, w - 1)) >> 63;
    const uint64_t around_x = here | above, around_y = here | left;
    cells = here & any & ~every;
    edges[0] = (rows[0].low ^ rows[2].low) & (around_x | around_x << 1 | carry_x);
    edges[1] = (rows[0].low ^ rows[1].low) & (around_y | around_y << 1 | carry_y);
    edges[2] = (rows[0].low ^ rows[0].high) & (here | left | above | corner);
  }
  *g.cells(word) = cells;
  for (int axis = 0; axis < 3; ++axis) {
    *g.edges(axis, word) = edges[axis];
    *g.start(axis, word) = __builtin_popcountll(edges[axis]);
  }
  *g.start(3, word) = cells == 0 ? 0 : count_faces(rows, cells);
}

// --- 3. running sums --------------------------------------------------------------------------------------------------

struct Totals {
  int64_t vertices = 0, faces = 0;
};

Totals sum_slice(const Grid& g, int x) {
  Totals sum;
  for (int64_t word = g.row(x, 0); word < g.row(x + 1, 0); ++word) {
    for (int axis = 0; axis < 3; ++axis) sum.vertices += *g.start(axis, word);
    sum.faces += *g.start(3, word);
  }
  return sum;
}

void number_slice(const Grid& g, int x, Totals at) {
  for (int64_t word = g.row(x, 0); word < g.row(x + 1, 0); ++word) {
    for (int kind = 0; kind < 4; ++kind) {
      int32_t& start = *g.start(kind, word);
      int64_t& running = kind < 3 ? at.vertices : at.faces;
      const int32_t count = start;
      start = static_cast<int32_t>(running);
      running += count;
    }
  }
}

int32_t count(const HrIsosurfaceParams& p) {
  const Grid g(p);
  std::vector<Totals> slices(p.size_x);
  parallel_for(p.size_x, p.num_threads, [&](int64_t x) { classify_slice(g, static_cast<int>(x)); });
  parallel_for(p.size_x, p.num_threads, [&](int64_t x) {
    for (int y = 0; y < p.size_y; ++y) {
      for (int64_t w = 0; w < g.words; ++w) count_word(g, static_cast<int>(x), y, w);
    }
    slices[x] = sum_slice(g, static_cast<int>(x));
  });
  Totals total;
  for (Totals& slice : slices) {
    const Totals before = total;
    total.vertices += slice.vertices;
    total.faces += slice.faces;
    slice = before;
  }
  p.totals[0] = total.vertices;
  p.totals[1] = total.faces;
  if (total.vertices > INT32_MAX || total.faces > INT32_MAX) return HR_ERROR_ARGUMENT;
  parallel_for(p.size_x, p.num_threads, [&](int64_t x) { number_slice(g, static_cast<int>(x), slices[x]); });
  return HR_OK;
}

// --- 4. vertices ------------------------------------------------------------------------------------------------------

void write_vertex(const HrIsosurfaceParams& p, int axis, const int (&at)[3], int64_t vertex) {
  const int to[3] = {at[0] + (axis == 0), at[1] + (axis == 1), at[2] + (axis == 2)};
  const int64_t lower = iso_sample(p, at[0], at[1], at[2]), upper = iso_sample(p, to[0], to[1], to[2]);
  const float cut = iso_cut(p.values[lower], p.values[upper], p.level);
  for (int k = 0; k < 3; ++k) {
    const float index = static_cast<float>(at[k]) + (k == axis ? cut : 0.0f);
    p.vertices[3 * vertex + k] = p.origin[k] + index * p.spacing[k];
  }
  for (int d = 0; d < p.channels; ++d) {
    const float from = p.colours[lower * p.channels + d], change = p.colours[upper * p.channels + d] - from;
    p.vertex_colours[vertex * p.channels + d] = from + cut * change;
  }
  if (p.vertex_edges != nullptr) {
    p.vertex_edges[2 * vertex] = (at[0] * p.size_y + at[1]) * p.size_z + at[2];
    p.vertex_edges[2 * vertex + 1] = axis;
  }
}

// --- 5. faces ---------------------------------------------------------------------------------------------------------

// The number of the vertex on an edge of the cell at (x, y, z).
int32_t vertex_on(const Grid& g, int edge, int x, int y, int z) {
  const int corner = iso_edge_corner(edge, 0), axis = edge / 4, at = z + (corner & 1);
  const int64_t word = g.row(x + (corner >> 2), y + (corner >> 1 & 1)) + at / kWordBits;
  const uint64_t before = *g.edges(axis, word) & lowest(at % kWordBits);
  return *g.start(axis, word) + __builtin_popcountll(before);
}

void write_faces(const Grid& g, int x, int y, int64_t w) {
  const int64_t word = g.row(x, y) + w;
  uint64_t low[4], high[4];
  for (int row = 0; row < 4; ++row) {
    const Pair pair = inside_pair(g, x + row / 2, y + row % 2, w);
    low[row] = pair.low;
    high[row] = pair.high;
  }
  int32_t* face = g.p.faces + 3 * static_cast<int64_t>(*g.start(3, word));
  for (uint64_t cells = *g.cells(word); cells != 0; cells &= cells - 1) {
    const int bit = __builtin_ctzll(cells), inside = iso_case(low, high, bit);
    const uint8_t* edges = kTable.faces[inside];
    for (int i = 0; i < kTable.count[inside]; ++i, edges += 3, face += 3) {
      for (int k = 0; k < 3; ++k) face[k] = vertex_on(g, edges[k], x, y, static_cast<int>(w) * kWordBits + bit);
    }
  }
}

void fill_slice(const Grid& g, int x) {
  for (int y = 0; y < g.p.size_y; ++y) {
    for (int64_t w = 0; w < g.words; ++w) {
      const int64_t word = g.row(x, y) + w;
      for (int axis = 0; axis < 3; ++axis) {
        int64_t vertex = *g.start(axis, word);
        for (uint64_t bits = *g.edges(axis, word); bits != 0; bits &= bits - 1, ++vertex) {
          write_vertex(g.p, axis, {x, y, static_cast<int>(w) * kWordBits + __builtin_ctzll(bits)}, vertex);
        }
      }
      if (*g.cells(word) != 0) write_faces(g, x, y, w);
    }
  }
}

bool sane(const HrIsosurfaceParams& p) {
  const int64_t most = INT32_MAX;
  for (const int32_t side : {p.size_x, p.size_y, p.size_z}) {
    if (side < 2 || side > HR_ISO_MAX_SIDE) return false;
  }
  if (static_cast<int64_t>(p.size_x) * p.size_y > most / p.size_z) return false;
  return p.num_threads >= 1 && p.num_blocks >= 0 && p.channels >= 0 && (p.blocks != nullptr || p.num_blocks == 0);
}

bool blocks_exist(const HrIsosurfaceParams& p) {
  if (p.num_blocks == 0) return true;
  const auto along = [](int32_t side) { return static_cast<int64_t>((side + HR_ISO_BLOCK - 1) / HR_ISO_BLOCK); };
  const int64_t count = along(p.size_x) * along(p.size_y) * along(p.size_z);
  return std::all_of(p.blocks, p.blocks + count, [&](int32_t block) { return block < p.num_blocks; });
}

}  // namespace
}  // namespace hr

int32_t hr_isosurface_count_cpu(const HrIsosurfaceParams* params) {
  if (!hr::sane(*params)) return HR_ERROR_ARGUMENT;
  if (!hr::blocks_exist(*params)) return HR_ERROR_INDEX;
  return hr::guarded([&] { return hr::count(*params); });
}

int32_t hr_isosurface_fill_cpu(const HrIsosurfaceParams* params) {
  const HrIsosurfaceParams& p = *params;
  if (!hr::sane(p)) return HR_ERROR_ARGUMENT;
  const hr::Grid g(p);
  return hr::guarded([&] {
    hr::parallel_for(p.size_x, p.num_threads, [&](int64_t x) { hr::fill_slice(g, static_cast<int>(x)); });
    return static_cast<int32_t>(HR_OK);
  });
}
