// Projection of Gaussians and colours from harmonics, forward and backward, sixteen Gaussians at a time. Included once per
// instruction set, with HR_STAGE defined.
#include "lanes16.h"
#include "splat_harmonics.h"
#include "splat_lanes.h"
#include "splat_stages.h"

namespace hr {
namespace {

// Columns of a table with rows of `columns` floats, as lanes; lanes beyond `count` are 0.
template <int kColumns>
inline void load_columns(const float* rows, int count, Floats* out) {
  alignas(64) float lanes[kColumns][kLanes] = {};
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < kColumns; ++k) lanes[k][i] = rows[kColumns * i + k];
  }
  for (int k = 0; k < kColumns; ++k) out[k] = load(lanes[k]);
}

template <int kColumns>
inline void store_columns(const Floats* columns, int count, bool add, float* rows) {
  alignas(64) float lanes[kColumns][kLanes];
  for (int k = 0; k < kColumns; ++k) store(lanes[k], columns[k]);
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < kColumns; ++k) rows[kColumns * i + k] = add ? rows[kColumns * i + k] + lanes[k][i] : lanes[k][i];
  }
}

inline HrSplatGaussian<Floats> load_gaussians(const float* const* tables, int64_t at, int count) {
  HrSplatGaussian<Floats> g;
  load_columns<3>(tables[0] + 3 * at, count, g.mean);
  load_columns<4>(tables[1] + 4 * at, count, g.quat);
  load_columns<3>(tables[2] + 3 * at, count, g.scale);
  load_columns<1>(tables[3] + at, count, &g.opacity);
  return g;
}

inline Mask first_lanes(int count) { return mask_of((1u << count) - 1u); }

// --- projection ---

void project(const HrSplatProjectParams& p, int64_t b, int64_t first, int64_t end) {
  const float* tables[] = {p.means, p.quats, p.scales, p.opacities};
  const HrSplatOptions options = {static_cast<float>(p.width), static_cast<float>(p.height), p.near_z, p.far_z,
                                  p.eps2d, p.radius_clip, p.antialiased != 0};
  for (int64_t c = 0; c < p.cameras; ++c) {
    const int64_t image = b * p.cameras + c;
    const HrSplatCamera camera = hr_splat_camera(p.viewmats + 16 * image, p.Ks + 9 * image, p.width, p.height);
    int64_t total = 0;
    for (int64_t n = first; n < end; n += kLanes) {
      const int count = static_cast<int>(end - n < kLanes ? end - n : kLanes);
      const HrSplatGaussian<Floats> g = load_gaussians(tables, b * p.num_gaussians + n, count);
      const HrSplat<Floats> s = hr_splat_project(g, camera, options);
      const Floats radii[2] = {s.radius_x, s.radius_y}, zero(0.0f);
      const Mask drawn = (s.radius_x > zero) | (s.radius_y > zero);
      const int64_t at = image * p.num_gaussians + n;
      store_columns<8>(s.field, count, false, p.splats + 8 * at);
      store_columns<2>(radii, count, false, p.radii + 2 * at);
      const Floats tiles = any(drawn) ? count_tiles(hr_splat_bounds(s.field), drawn, p.height, p.width, p.tile_size) : zero;
      alignas(64) int32_t number[kLanes];
      store(number, to_ints(tiles));
      for (int i = 0; i < count; ++i) {
        p.tiles[at + i] = number[i];
        total += number[i];
      }
      if (p.normals) {
        Floats normal[3], weight[3];
        HrSplatStages<Floats> stages;
        hr_splat_stages(g, camera, p.eps2d, false, &stages);
        hr_splat_normal(g, camera, stages.rot, normal, weight);
        for (Floats& a : normal) a = zero_unless(drawn, a);
        store_columns<3>(normal, count, false, p.normals + 3 * at);
      }
    }
    __atomic_fetch_add(p.totals + image, total, __ATOMIC_RELAXED);
  }
}

// What one group of Gaussians gives in one camera.
inline void store_gaussian_grads(const HrSplatProjectGradParams& p, const HrSplatGaussianGrad<Floats>& by, int64_t at,
                                 int count, bool add) {
  if (p.grad_means) store_columns<3>(by.mean, count, add, p.grad_means + 3 * at);
  if (p.grad_quats) store_columns<4>(by.quat, count, add, p.grad_quats + 4 * at);
  if (p.grad_scales) store_columns<3>(by.scale, count, add, p.grad_scales + 3 * at);
  if (p.grad_opacities) store_columns<1>(&by.opacity, count, add, p.grad_opacities + at);
}

inline void keep_drawn(Mask drawn, HrSplatGaussianGrad<Floats>& by) {
  for (Floats& a : by.mean) a = zero_unless(drawn, a);
  for (Floats& a : by.quat) a = zero_unless(drawn, a);
  for (Floats& a : by.scale) a = zero_unless(drawn, a);
  by.opacity = zero_unless(drawn, by.opacity);
  for (Floats& a : by.r) a = zero_unless(drawn, a);
  for (Floats& a : by.t) a = zero_unless(drawn, a);
}

void project_backward(const HrSplatProjectGradParams& p, int64_t b, int64_t first, int64_t end, float* camera_sums) {
  const float* tables[] = {p.means, p.quats, p.scales, p.opacities};
  for (int64_t c = 0; c < p.cameras; ++c) {
    const int64_t image = b * p.cameras + c;
    const HrSplatCamera camera = hr_splat_camera(p.viewmats + 16 * image, p.Ks + 9 * image, p.width, p.height);
    Floats sums[kLanes];
    for (Floats& a : sums) a = Floats(0.0f);
    for (int64_t n = first; n < end; n += kLanes) {
      const int count = static_cast<int>(end - n < kLanes ? end - n : kLanes);
      const int64_t at = image * p.num_gaussians + n;
      Floats radii[2], fields[8], normals[3];
      load_columns<2>(p.radii + 2 * at, count, radii);
      const Mask drawn = (radii[0] > Floats(0.0f)) | (radii[1] > Floats(0.0f));
      HrSplatGaussianGrad<Floats> by{};
      if (any(drawn)) {
        const HrSplatGaussian<Floats> g = load_gaussians(tables, b * p.num_gaussians + n, count);
        load_columns<8>(p.grad_splats + 8 * at, count, fields);
        if (p.grad_normals) load_columns<3>(p.grad_normals + 3 * at, count, normals);
        by = hr_splat_project_backward(g, camera, p.eps2d, p.antialiased != 0, fields, p.grad_normals ? normals : nullptr);
        keep_drawn(drawn, by);
        for (int i = 0; i < 9; ++i) sums[i] = sums[i] + by.r[i];
        for (int i = 0; i < 3; ++i) sums[9 + i] = sums[9 + i] + by.t[i];
      } else if (c > 0) {
        continue;
      }
      store_gaussian_grads(p, by, b * p.num_gaussians + n, count, c > 0);
    }
    float total[kLanes];
    store_sums(total, sums);
    memcpy(camera_sums + 12 * c, total, 12 * sizeof(float));
  }
}

// --- tiles ---

constexpr int kRowsAtOnce = 4;

// Tiles of one splat whose rows do not fit the table below, row by row.
inline int64_t list_row_by_row(const HrSplatTilesParams& p, const float* splat, int64_t most, int32_t* out) {
  const HrSplatBounds<float> b = hr_splat_bounds(splat);
  const HrSplatRange rows = hr_splat_tile_rows(b, p.height, p.tile_size);
  const int32_t columns = (p.width + p.tile_size - 1) / p.tile_size;
  int64_t found = 0;
  for (int32_t row = rows.first; row < rows.end; ++row) {
    const HrSplatRange span = hr_splat_tile_span(b, row, p.height, p.width, p.tile_size);
    if (found + span.end - span.first > most) return -1;
    for (int32_t x = span.first; x < span.end; ++x) out[found++] = row * columns + x;
  }
  return found;
}

bool list_tiles(const HrSplatTilesParams& p, int64_t image, int64_t begin, int64_t finish, int32_t entry, int32_t* out) {
  const float* splats = p.splats + image * p.num_gaussians * HR_SPLAT_FIELDS;
  const int32_t* tiles = p.tiles + image * p.num_gaussians;
  const int32_t columns = (p.width + p.tile_size - 1) / p.tile_size;
  alignas(64) int32_t row0[kLanes], row1[kLanes], first[kRowsAtOnce][kLanes], end[kRowsAtOnce][kLanes];
  for (int64_t at = begin; at < finish; at += kLanes) {
    const int here = static_cast<int>(finish - at < kLanes ? finish - at : kLanes);
    int32_t together = 0;
    for (int i = 0; i < here; ++i) together |= tiles[at + i];
    if (together == 0) continue;
    Floats field[HR_SPLAT_FIELDS];
    load_columns<HR_SPLAT_FIELDS>(splats + at * HR_SPLAT_FIELDS, here, field);
    const HrSplatBounds<Floats> b = hr_splat_bounds(field);
    const CellSpan rows = tile_rows(b, p.height, p.tile_size);
    store(row0, to_ints(rows.first));
    store(row1, to_ints(rows.end));
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const Floats row = rows.first + Floats(static_cast<float>(r));
      if (!any(first_lanes(here) & (row < rows.end))) break;
      const CellSpan span = tile_span(b, row, p.height, p.width, p.tile_size);
      store(first[r], to_ints(span.first));
      store(end[r], to_ints(span.end));
    }
    for (int i = 0; i < here; ++i) {
      if (tiles[at + i] == 0) continue;  // not drawn: its numbers mean nothing
      int64_t found = 0;
      const int32_t header[kSplatHeader] = {static_cast<int32_t>(at + i), tiles[at + i], entry};
      memcpy(out, header, sizeof(header));
      out += kSplatHeader;
      if (row1[i] - row0[i] > kRowsAtOnce) {
        found = list_row_by_row(p, splats + (at + i) * HR_SPLAT_FIELDS, tiles[at + i], out);
      } else {
        for (int r = 0; r < row1[i] - row0[i]; ++r) {
          if (found + end[r][i] - first[r][i] > tiles[at + i]) return false;
          for (int32_t x = first[r][i]; x < end[r][i]; ++x) out[found++] = (row0[i] + r) * columns + x;
        }
      }
      if (found != tiles[at + i]) return false;
      out += found;
      entry += tiles[at + i];
    }
  }
  return true;
}

// --- harmonics ---

struct Directions {
  Floats d[3], inv_length;
  Mask drawn;
};

inline Directions directions(const float* means, const float* center, const float* radii, int count) {
  Directions out;
  Floats radius[2];
  load_columns<3>(means, count, out.d);
  load_columns<2>(radii, count, radius);
  out.drawn = (radius[0] > Floats(0.0f)) | (radius[1] > Floats(0.0f));
  for (int i = 0; i < 3; ++i) out.d[i] = out.d[i] - Floats(center[i]);
  out.inv_length = Floats(1.0f) / hr_max(hr_sqrt(hr_dot3(out.d, out.d)), Floats(1e-30f));
  for (Floats& a : out.d) a = a * out.inv_length;
  return out;
}

void harmonics(const HrSplatHarmonicsParams& p, int64_t b, int64_t first, int64_t end) {
  const int used = (p.degree + 1) * (p.degree + 1);
  alignas(64) float value[HR_SH_MAX][kLanes];
  for (int64_t c = 0; c < p.cameras; ++c) {
    const int64_t image = b * p.cameras + c;
    for (int64_t n = first; n < end; n += kLanes) {
      const int count = static_cast<int>(end - n < kLanes ? end - n : kLanes);
      const int64_t at = image * p.num_gaussians + n, own = b * p.num_gaussians + n;
      const Directions way = directions(p.means + 3 * own, p.centers + 3 * image, p.radii + 2 * at, count);
      const uint32_t drawn = bits_of(way.drawn);
      if (drawn) {
        Floats basis[HR_SH_MAX];
        hr_harmonics(way.d[0], way.d[1], way.d[2], p.degree, basis);
        for (int k = 0; k < used; ++k) store(value[k], basis[k]);
      }
      for (int i = 0; i < count; ++i) {
        const float* row = p.coefficients + (own + i) * 3 * p.num_coefficients;
        float sum[3] = {0.5f, 0.5f, 0.5f};
        for (int k = 0; k < used && (drawn >> i & 1); ++k) {
          for (int d = 0; d < 3; ++d) sum[d] = hr_fma(value[k][i], hr_splat_finite(row[3 * k + d]), sum[d]);
        }
        for (int d = 0; d < 3; ++d) p.colours[3 * (at + i) + d] = (drawn >> i & 1) ? hr_max(sum[d], 0.0f) : 0.0f;
      }
    }
  }
}

void harmonics_backward(const HrSplatHarmonicsGradParams& p, int64_t b, int64_t first, int64_t end, float* camera_sums) {
  const int used = (p.degree + 1) * (p.degree + 1), width = 3 * p.num_coefficients;
  alignas(64) float value[HR_SH_MAX][kLanes], pull[HR_SH_MAX][kLanes];
  for (int64_t c = 0; c < p.cameras; ++c) {
    const int64_t image = b * p.cameras + c;
    Floats sums[kLanes];
    for (Floats& a : sums) a = Floats(0.0f);
    for (int64_t n = first; n < end; n += kLanes) {
      const int count = static_cast<int>(end - n < kLanes ? end - n : kLanes);
      const int64_t at = image * p.num_gaussians + n, own = b * p.num_gaussians + n;
      if (c == 0 && p.grad_coefficients) memset(p.grad_coefficients + own * width, 0, count * width * sizeof(float));
      const Directions way = directions(p.means + 3 * own, p.centers + 3 * image, p.radii + 2 * at, count);
      const uint32_t drawn = bits_of(way.drawn);
      Floats basis[HR_SH_MAX], by_basis[HR_SH_MAX], by_way[3], by_mean[3];
      hr_harmonics(way.d[0], way.d[1], way.d[2], p.degree, basis);
      for (int k = 0; k < used; ++k) store(value[k], basis[k]);
      memset(pull, 0, sizeof(pull));
      for (int i = 0; i < count; ++i) {
        if (!(drawn >> i & 1)) continue;
        const float* row = p.coefficients + (own + i) * width;
        float* grad_row = p.grad_coefficients ? p.grad_coefficients + (own + i) * width : nullptr;
        for (int d = 0; d < 3; ++d) {
          const float g = p.colours[3 * (at + i) + d] > 0.0f ? p.grad_colours[3 * (at + i) + d] : 0.0f;
          for (int k = 0; k < used; ++k) {
            const float coefficient = row[3 * k + d];
            const bool finite = coefficient - coefficient == 0.0f;
            pull[k][i] = hr_fma(g, finite ? coefficient : 0.0f, pull[k][i]);
            if (grad_row && finite) grad_row[3 * k + d] = hr_fma(g, value[k][i], grad_row[3 * k + d]);
          }
        }
      }
      for (int k = 0; k < used; ++k) by_basis[k] = load(pull[k]);
      hr_harmonics_backward(way.d[0], way.d[1], way.d[2], p.degree, by_basis, by_way);
      const Floats along = hr_dot3(by_way, way.d);
      for (int i = 0; i < 3; ++i) {
        by_mean[i] = zero_unless(way.drawn, (by_way[i] - along * way.d[i]) * way.inv_length);
        sums[i] = sums[i] - by_mean[i];
      }
      if (p.grad_means) store_columns<3>(by_mean, count, c > 0, p.grad_means + 3 * own);
    }
    float total[kLanes];
    store_sums(total, sums);
    memcpy(camera_sums + 3 * c, total, 3 * sizeof(float));
  }
}

}  // namespace

const SplatGaussianStage HR_STAGE = {project, project_backward, harmonics, list_tiles, harmonics_backward};

}  // namespace hr
