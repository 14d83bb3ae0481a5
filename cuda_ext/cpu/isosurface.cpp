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
void classify_blocks(const IsoGrid& g, int x, int y, int64_t w, uint64_t& inside, uint64_t& present) {
  const HrIsosurfaceParams& p = *g.p;
  const int64_t rows = (p.size_y + HR_ISO_BLOCK - 1) / HR_ISO_BLOCK, columns = (p.size_z + HR_ISO_BLOCK - 1) / HR_ISO_BLOCK;
  const int32_t* blocks = p.blocks + (x / HR_ISO_BLOCK * rows + y / HR_ISO_BLOCK) * columns;
  for (int i = 0; i < iso_samples(g, w); i += HR_ISO_BLOCK) {
    const int z = static_cast<int>(w) * HR_ISO_WORD + i, count = std::min(HR_ISO_BLOCK, iso_samples(g, w) - i);
    if (blocks[z / HR_ISO_BLOCK] < 0) continue;
    present |= iso_lowest(count) << i;
    inside |= inside_bits(p.values + iso_sample(p, x, y, z), count, p.level, p.inside_below != 0) << i;
  }
}

void classify_slice(const IsoGrid& g, int x) {
  const HrIsosurfaceParams& p = *g.p;
  for (int y = 0; y < p.size_y; ++y) {
    for (int64_t w = 0; w < g.words; ++w) {
      const int64_t word = iso_row(g, x, y) + w;
      if (p.blocks == nullptr) {
        const float* values = p.values + iso_sample(p, x, y, static_cast<int>(w) * HR_ISO_WORD);
        p.bits[word] = inside_bits(values, iso_samples(g, w), p.level, p.inside_below != 0);
        continue;
      }
      uint64_t inside = 0, present = 0;
      classify_blocks(g, x, y, w, inside, present);
      p.bits[word] = inside;
      p.present[word] = present;
    }
  }
}

// --- 2. which edges are crossed, which cells have faces, and how many -------------------------------------------------

int count_faces(const IsoRows& rows, uint64_t cells) {
  int count = 0;
  for (; cells != 0; cells &= cells - 1) count += kTable.count[iso_case(rows.low, rows.high, iso_lowest_bit(cells))];
  return count;
}

void count_word(const IsoGrid& g, int x, int y, int64_t w) {
  const HrIsosurfaceParams& p = *g.p;
  const int64_t word = iso_row(g, x, y) + w;
  const IsoRows rows = iso_rows(g, x, y, w);
  const IsoWord found = iso_word(g, rows, x, y, w);
  p.bits[g.plane + word] = found.cells;
  for (int axis = 0; axis < 3; ++axis) {
    p.bits[(2 + axis) * g.plane + word] = found.edges[axis];
    p.starts[axis * g.plane + word] = iso_count_bits(found.edges[axis]);
  }
  p.starts[3 * g.plane + word] = found.cells == 0 ? 0 : count_faces(rows, found.cells);
}

// --- 3. running sums --------------------------------------------------------------------------------------------------

struct Totals {
  int64_t vertices = 0, faces = 0;
};

Totals sum_slice(const IsoGrid& g, int x) {
  Totals sum;
  for (int64_t word = iso_row(g, x, 0); word < iso_row(g, x + 1, 0); ++word) {
    for (int axis = 0; axis < 3; ++axis) sum.vertices += g.p->starts[axis * g.plane + word];
    sum.faces += g.p->starts[3 * g.plane + word];
  }
  return sum;
}

void number_slice(const IsoGrid& g, int x, Totals at) {
  for (int64_t word = iso_row(g, x, 0); word < iso_row(g, x + 1, 0); ++word) {
    for (int kind = 0; kind < 4; ++kind) {
      int32_t& start = g.p->starts[kind * g.plane + word];
      int64_t& running = kind < 3 ? at.vertices : at.faces;
      const int32_t count = start;
      start = static_cast<int32_t>(running);
      running += count;
    }
  }
}

int32_t count(const HrIsosurfaceParams& p) {
  const IsoGrid g = iso_grid(p);
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

// --- 4. and 5. vertices and faces -------------------------------------------------------------------------------------

void write_faces(const IsoGrid& g, int x, int y, int64_t w) {
  const int64_t word = iso_row(g, x, y) + w;
  const IsoRows rows = iso_rows(g, x, y, w);
  int32_t* face = g.p->faces + 3 * static_cast<int64_t>(g.p->starts[3 * g.plane + word]);
  for (uint64_t cells = g.p->bits[g.plane + word]; cells != 0; cells &= cells - 1) {
    const int bit = iso_lowest_bit(cells), inside = iso_case(rows.low, rows.high, bit);
    const uint8_t* edges = kTable.faces[inside];
    for (int i = 0; i < kTable.count[inside]; ++i, edges += 3, face += 3) {
      for (int k = 0; k < 3; ++k) face[k] = iso_vertex_on(g, edges[k], x, y, static_cast<int>(w) * HR_ISO_WORD + bit);
    }
  }
}

void fill_slice(const IsoGrid& g, int x) {
  const HrIsosurfaceParams& p = *g.p;
  for (int y = 0; y < p.size_y; ++y) {
    for (int64_t w = 0; w < g.words; ++w) {
      const int64_t word = iso_row(g, x, y) + w;
      for (int axis = 0; axis < 3; ++axis) {
        int64_t vertex = p.starts[axis * g.plane + word];
        for (uint64_t bits = p.bits[(2 + axis) * g.plane + word]; bits != 0; bits &= bits - 1, ++vertex) {
          iso_write_vertex(p, axis, x, y, static_cast<int>(w) * HR_ISO_WORD + iso_lowest_bit(bits), vertex);
        }
      }
      if (p.bits[g.plane + word] != 0) write_faces(g, x, y, w);
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
  const hr::IsoGrid g = hr::iso_grid(p);
  return hr::guarded([&] {
    hr::parallel_for(p.size_x, p.num_threads, [&](int64_t x) { hr::fill_slice(g, static_cast<int>(x)); });
    return static_cast<int32_t>(HR_OK);
  });
}
