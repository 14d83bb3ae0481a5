/* Marching cubes: parameters, the table of cases, and the maths of one edge and one cell.
 *
 * W. Lorensen and H. Cline, "Marching Cubes", SIGGRAPH 1987; the passes over bits of rows after W. Schroeder et al., "Flying
 * Edges", LDAV 2015. A sample is inside when it is greater than the level. Where the four samples of a cell's side are in and
 * out by turns, each inside corner is cut off by itself: the same decision in both cells that share the side, so the surface
 * is closed wherever it does not meet the grid's border. scikit-image's method "lorensen" decides the same way.
 *
 * Samples lie on a grid [X,Y,Z]. A word holds one bit for each of 64 samples along z. There are five passes, each of which
 * needs the one before to be complete; whoever runs them over words in any order gets the same mesh:
 *   1. inside and present bits of each word;  2. crossed edges, used cells, how many vertices and faces each word has;
 *   3. running sums of those. Here hr_isosurface_count ends, and the caller makes room for the mesh;
 *   hr_isosurface_fill: 4. vertices;  5. faces. Vertices and faces are numbered word by word; in a word, edges along x come
 *   first, then y, then z, each from the lowest z on. */
#ifndef HR_ISOSURFACE_H
#define HR_ISOSURFACE_H

#include <math.h>

#include "hr_common.h"

#define HR_ISO_BLOCK 8 /* samples along each side of a block of a sparse grid */
#define HR_ISO_MAX_SIDE 4096

typedef struct HrIsosurfaceParams {
  const float* values;          /* [X,Y,Z]; or [N,8,8,8], the blocks of a sparse grid */
  const float* colours;         /* as values, with D channels last; or null */
  const int32_t* blocks;        /* [ceil(X/8),ceil(Y/8),ceil(Z/8)], or null when everything is there: -1 where samples are
                                   absent, else any other number, or in a sparse grid the block's place in values. Cells
                                   with an absent corner are left out. */
  uint64_t* bits;               /* scratch [5,X,Y,W]: inside, used cells, crossed edges along x, y, z. W = ceil(Z/64) */
  uint64_t* present;            /* scratch [X,Y,W]; may be null when blocks is */
  int32_t* starts;              /* scratch [4,X,Y,W]: the first vertex on edges along x, y, z of each word; the first face */
  int64_t* totals;              /* out [2]: how many vertices and faces (hr_isosurface_count) */
  float* vertices;              /* out [V,3] metres */
  float* vertex_colours;        /* out [V,D]; null when colours is */
  int32_t* vertex_edges;        /* out [V,2]: sample x * Y * Z + y * Z + z at the edge's lower end, and its axis; or null */
  int32_t* faces;               /* out [F,3] */
  int64_t num_blocks;           /* N in a sparse grid, else 0 */
  int32_t size_x, size_y, size_z; /* X, Y, Z: at most HR_ISO_MAX_SIDE, and X * Y * Z < 2^31 */
  int32_t channels;             /* D, 0 without colours */
  int32_t inside_below;         /* nonzero: inside is less than the level (signed distances), as if all were negated */
  int32_t num_threads;          /* threads to use, at least 1 */
  float level;
  float origin[3];              /* of sample (0, 0, 0), metres */
  float spacing[3];             /* from sample to sample, metres */
} HrIsosurfaceParams;

#ifdef __cplusplus
namespace hr {

constexpr int kIsoMaxFaces = 5;

/* Corner 4 dx + 2 dy + dz of a cell; edge 4 axis + 2 o1 + o2, where o1 and o2 are the offsets of its lower end along the two
 * other axes, in their order. faces: edges, three for each face, seen counter-clockwise from outside (lower values). */
struct IsoTable {
  uint8_t count[256];
  uint8_t faces[256][3 * kIsoMaxFaces];
};

/* Which samples an edge joins: corners of the cell. */
HR_HD constexpr int iso_edge_corner(int edge, int end) {
  const int axis = edge / 4, first = (edge >> 1) & 1, second = edge & 1;
  const int at[3][3] = {{end, first, second}, {first, end, second}, {first, second, end}};
  return 4 * at[axis][0] + 2 * at[axis][1] + at[axis][2];
}

HR_HD constexpr int iso_edge_between(int corner, int other) {
  for (int e = 0; e < 12; ++e) {
    const int a = iso_edge_corner(e, 0), b = iso_edge_corner(e, 1);
    if ((a == corner && b == other) || (a == other && b == corner)) return e;
  }
  return -1;
}

/* The corners of one of six sides, counter-clockwise seen from outside the cell. */
HR_HD constexpr int iso_side_corner(int side, int k) {
  const int axis = side / 2, upper = side % 2, u = (axis + 1) % 3, v = (axis + 2) % 3;
  const int place = upper ? k : 3 - k, at_u = place == 1 || place == 2, at_v = place >= 2;
  return (4 >> axis) * upper + (4 >> u) * at_u + (4 >> v) * at_v;
}

HR_HD constexpr bool iso_on_one_side(int edge, int other) {
  for (int axis = 0; axis < 3; ++axis) {
    const int bit = 4 >> axis, side = iso_edge_corner(edge, 0) & bit;
    const bool first = (iso_edge_corner(edge, 1) & bit) == side;
    if (first && (iso_edge_corner(other, 0) & bit) == side && (iso_edge_corner(other, 1) & bit) == side) return true;
  }
  return false;
}

/* Which edge follows each edge on the outlines of the surface in a cell, -1 where it is not crossed. */
HR_HD constexpr void iso_outlines(int inside, int (&next)[12]) {
  for (int e = 0; e < 12; ++e) next[e] = -1;
  for (int side = 0; side < 6; ++side) {
    for (int k = 0; k < 4; ++k) {
      const int before = iso_side_corner(side, (k + 3) % 4);
      if (!(inside >> iso_side_corner(side, k) & 1) || (inside >> before & 1)) continue;
      int last = k; /* corners k..last are inside: cut off by one line */
      while (inside >> iso_side_corner(side, (last + 1) % 4) & 1) ++last;
      const int enter = iso_edge_between(before, iso_side_corner(side, k));
      const int leave = iso_edge_between(iso_side_corner(side, last % 4), iso_side_corner(side, (last + 1) % 4));
      next[enter] = leave;
    }
  }
}

/* Outlines start at their lowest edge and become fans, from the first corner whose diagonals lie on no side of the cell: there
 * they might meet a diagonal of the neighbour, and an edge would have four faces. Such a corner exists in every case. */
HR_HD constexpr IsoTable make_iso_table() {
  IsoTable table = {};
  for (int inside = 1; inside < 255; ++inside) {
    int next[12] = {}, count = 0;
    iso_outlines(inside, next);
    for (int first = 0; first < 12; ++first) {
      int outline[12] = {}, length = 0;
      for (int e = first; next[e] >= 0;) {
        outline[length++] = e;
        const int following = next[e];
        next[e] = -1;
        e = following;
      }
      int start = 0;
      for (bool fine = false; !fine && length > 3; start += !fine) {
        fine = true;
        for (int k = 2; k < length - 1; ++k) fine = fine && !iso_on_one_side(outline[start], outline[(start + k) % length]);
      }
      for (int k = 1; k + 1 < length; ++k) {
        table.faces[inside][3 * count] = static_cast<uint8_t>(outline[start]);
        table.faces[inside][3 * count + 1] = static_cast<uint8_t>(outline[(start + k) % length]);
        table.faces[inside][3 * count + 2] = static_cast<uint8_t>(outline[(start + k + 1) % length]);
        ++count;
      }
    }
    table.count[inside] = static_cast<uint8_t>(count);
  }
  return table;
}

/* How far from its lower end an edge is cut. Where a sample is not finite (NaN is outside) the middle has to do. */
HR_HD float iso_cut(float lower, float upper, float level) {
  const float t = (level - lower) / (upper - lower);
  return t >= 0.0f && t <= 1.0f ? t : 0.5f;
}

/* The samples of rows (x,y), (x,y+1), (x+1,y), (x+1,y+1) at z and z + 1 as a case: corner 4 dx + 2 dy + dz. */
HR_HD int iso_case(const uint64_t* low, const uint64_t* high, int z) {
  int inside = 0;
  for (int row = 0; row < 4; ++row) inside |= (low[row] >> z & 1) << (2 * row) | (high[row] >> z & 1) << (2 * row + 1);
  return inside;
}

/* A word and the first bit of the next one, moved down by one sample. */
HR_HD uint64_t iso_shift(uint64_t word, uint64_t next) { return word >> 1 | next << 63; }

/* Where a sample lies in values. block: the entry of `blocks`, in a sparse grid. */
HR_HD int64_t iso_sample(const HrIsosurfaceParams& p, int x, int y, int z) {
  if (p.num_blocks == 0) return (static_cast<int64_t>(x) * p.size_y + y) * p.size_z + z;
  const int64_t columns = (p.size_y + HR_ISO_BLOCK - 1) / HR_ISO_BLOCK, layers = (p.size_z + HR_ISO_BLOCK - 1) / HR_ISO_BLOCK;
  const int64_t block = p.blocks[(x / HR_ISO_BLOCK * columns + y / HR_ISO_BLOCK) * layers + z / HR_ISO_BLOCK];
  const int within = (x % HR_ISO_BLOCK * HR_ISO_BLOCK + y % HR_ISO_BLOCK) * HR_ISO_BLOCK + z % HR_ISO_BLOCK;
  return block * HR_ISO_BLOCK * HR_ISO_BLOCK * HR_ISO_BLOCK + within;
}

/* Bits of words, on both kinds of processor. */
#define HR_ISO_WORD 64 /* samples */

HR_HD int iso_count_bits(uint64_t word) {
#if defined(__CUDA_ARCH__)
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

/* Place of the lowest bit of a word that is not 0. */
HR_HD int iso_lowest_bit(uint64_t word) {
#if defined(__CUDA_ARCH__)
  return __ffsll(static_cast<long long>(word)) - 1;
#else
  return __builtin_ctzll(word);
#endif
}

HR_HD uint64_t iso_lowest(int count) { return count >= HR_ISO_WORD ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

/* Where things lie in the scratch. */
struct IsoGrid {
  const HrIsosurfaceParams* p;
  int64_t words; /* of a row: W */
  int64_t plane; /* X * Y * W */
};

HR_HD IsoGrid iso_grid(const HrIsosurfaceParams& p) {
  const int64_t words = (p.size_z + HR_ISO_WORD - 1) / HR_ISO_WORD;
  return {&p, words, static_cast<int64_t>(p.size_x) * p.size_y * words};
}

HR_HD int64_t iso_row(const IsoGrid& g, int x, int y) { return (static_cast<int64_t>(x) * g.p->size_y + y) * g.words; }

/* How many samples word w of a row has. */
HR_HD int iso_samples(const IsoGrid& g, int64_t w) {
  const int64_t left = g.p->size_z - w * HR_ISO_WORD;
  return static_cast<int>(left < HR_ISO_WORD ? left : HR_ISO_WORD);
}

/* Bits of the row's cells that may be used: those whose corners are all there. */
HR_HD uint64_t iso_allowed_cells(const IsoGrid& g, int x, int y, int64_t w) {
  const HrIsosurfaceParams& p = *g.p;
  if (x < 0 || y < 0 || x + 1 >= p.size_x || y + 1 >= p.size_y || w < 0) return 0;
  const int64_t left = p.size_z - 1 - w * HR_ISO_WORD;
  uint64_t all = iso_lowest(static_cast<int>(left < HR_ISO_WORD ? left : HR_ISO_WORD));
  for (int i = 0; i < 4 && p.blocks != nullptr; ++i) {
    const uint64_t* present = p.present + iso_row(g, x + i / 2, y + i % 2) + w;
    all &= present[0] & iso_shift(present[0], w + 1 < g.words ? present[1] : 0);
  }
  return all;
}

/* A word of inside bits, and the samples one further up. Beyond the end of a row nothing is crossed: the last sample goes on. */
struct IsoPair {
  uint64_t low, high;
};

HR_HD IsoPair iso_pair(const IsoGrid& g, int x, int y, int64_t w) {
  const uint64_t* inside = g.p->bits + iso_row(g, x, y) + w;
  const bool last = w + 1 == g.words;
  IsoPair pair = {inside[0], iso_shift(inside[0], last ? 0 : inside[1])};
  if (last) {
    const uint64_t top = uint64_t{1} << (iso_samples(g, w) - 1);
    pair.high = (pair.high & ~top) | (pair.low & top);
  }
  return pair;
}

/* The pairs of the four rows around a row of cells. Rows beyond the grid repeat its last one. */
struct IsoRows {
  uint64_t low[4], high[4];
};

HR_HD IsoRows iso_rows(const IsoGrid& g, int x, int y, int64_t w) {
  IsoRows rows;
  for (int i = 0; i < 4; ++i) {
    const int x1 = x + i / 2 < g.p->size_x ? x + i / 2 : x, y1 = y + i % 2 < g.p->size_y ? y + i % 2 : y;
    const IsoPair pair = iso_pair(g, x1, y1, w);
    rows.low[i] = pair.low;
    rows.high[i] = pair.high;
  }
  return rows;
}

/* The second pass's findings about a word: cells with faces, crossed edges along each axis. */
struct IsoWord {
  uint64_t cells, edges[3];
};

HR_HD IsoWord iso_word(const IsoGrid& g, const IsoRows& rows, int x, int y, int64_t w) {
  uint64_t any = 0, every = ~uint64_t{0};
  for (int i = 0; i < 4; ++i) {
    any |= rows.low[i] | rows.high[i];
    every &= rows.low[i] & rows.high[i];
  }
  IsoWord found = {0, {0, 0, 0}};
  const uint64_t there = iso_lowest(iso_samples(g, w));
  if ((any & there) == 0 || (every & there) == there) return found;
  const uint64_t here = iso_allowed_cells(g, x, y, w), left = iso_allowed_cells(g, x - 1, y, w);
  const uint64_t above = iso_allowed_cells(g, x, y - 1, w), corner = iso_allowed_cells(g, x - 1, y - 1, w);
  /* The cells around an edge across z are those on both sides of its sample. */
  const uint64_t before = iso_allowed_cells(g, x, y, w - 1);
  const uint64_t carry_x = (before | iso_allowed_cells(g, x, y - 1, w - 1)) >> 63;
  const uint64_t carry_y = (before | iso_allowed_cells(g, x - 1, y, w - 1)) >> 63;
  const uint64_t around_x = here | above, around_y = here | left;
  found.cells = here & any & ~every;
  found.edges[0] = (rows.low[0] ^ rows.low[2]) & (around_x | around_x << 1 | carry_x);
  found.edges[1] = (rows.low[0] ^ rows.low[1]) & (around_y | around_y << 1 | carry_y);
  found.edges[2] = (rows.low[0] ^ rows.high[0]) & (here | left | above | corner);
  return found;
}

/* Writes the vertex on the edge along `axis` from the sample at (x, y, z). */
HR_HD void iso_write_vertex(const HrIsosurfaceParams& p, int axis, int x, int y, int z, int64_t vertex) {
  const int at[3] = {x, y, z};
  const int64_t lower = iso_sample(p, x, y, z);
  const int64_t upper = iso_sample(p, x + (axis == 0), y + (axis == 1), z + (axis == 2));
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
    p.vertex_edges[2 * vertex] = (x * p.size_y + y) * p.size_z + z;
    p.vertex_edges[2 * vertex + 1] = axis;
  }
}

/* The number of the vertex on an edge of the cell at (x, y, z). */
HR_HD int32_t iso_vertex_on(const IsoGrid& g, int edge, int x, int y, int z) {
  const int corner = iso_edge_corner(edge, 0), axis = edge / 4, at = z + (corner & 1);
  const int64_t word = iso_row(g, x + (corner >> 2), y + (corner >> 1 & 1)) + at / HR_ISO_WORD;
  const uint64_t before = g.p->bits[(2 + axis) * g.plane + word] & iso_lowest(at % HR_ISO_WORD);
  return g.p->starts[axis * g.plane + word] + iso_count_bits(before);
}

}  // namespace hr
#endif

#endif
