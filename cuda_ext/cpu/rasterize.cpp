// CPU rasterizer: set up and bin triangles by horizontal band, then draw and resolve each band while it is in cache.
// Both stages are spread over threads; within a band triangles keep the order of their faces, so the result does not
// depend on the number of threads.
#include <algorithm>
#include <mutex>
#include <vector>

#include "c_api.h"
#include "raster_setup.h"
#include "thread_pool.h"

bool hr_cpu_has_avx512();

namespace hr {
namespace {

constexpr int64_t kFacesPerChunk = 2048;
constexpr int64_t kPointsPerTask = 16384;
constexpr int kBandRows = 16;
constexpr int64_t kFacesPerGroup = 1 << 20;       // images are drawn in groups of about this many faces, to bound memory
constexpr size_t kKeptBytes = size_t{128} << 20;  // scratch kept between calls: page faults cost more than the set-up

// The triangles of one run of faces, and which of them touch each band.
struct Chunk {
  std::vector<Triangle> triangles;
  std::vector<LargeTriangle> large;
  std::vector<uint32_t> order, band_begin;
  bool bad_index = false;

  size_t bytes() const {
    return triangles.capacity() * sizeof(Triangle) + large.capacity() * sizeof(LargeTriangle) + order.capacity() * 4;
  }
};

struct Scratch {
  std::mutex mutex;
  std::vector<Chunk> chunks;
  std::vector<SnappedPoint> points;  // of every image of a group
};

Scratch& scratch() {
  static Scratch* kept = new Scratch();  // leaked: must outlive every thread at exit
  return *kept;
}

// Add one projected triangle to the chunk unless it covers no pixel centre.
void add_triangle(const HrRasterizeParams& p, const SnappedPoint& a, const SnappedPoint& b, const SnappedPoint& c,
                  int32_t face, Chunk& chunk) {
  TriangleBox box;
  LargeTriangle g;
  if (!set_up_triangle(p, a, b, c, box, g)) return;
  Triangle& t = chunk.triangles.emplace_back();  // in place: copying what was just written stalls
  if (box.small) {
    for (int i = 0; i < 3; ++i) t.edge[i] = static_cast<int32_t>(g.edge[i]);
    for (int i = 0; i < 2; ++i) t.step_x[i] = static_cast<int32_t>(g.step_x[i]);
    for (int i = 0; i < 2; ++i) t.step_y[i] = static_cast<int32_t>(g.step_y[i]);
  }
  t.inv_z = static_cast<float>(g.inv_z);
  t.inv_z_dx = static_cast<float>(g.inv_z_dx);
  t.inv_z_dy = static_cast<float>(g.inv_z_dy);
  t.inv_z_min = box.inv_z_min;
  t.inv_z_max = box.inv_z_max;
  t.x0 = static_cast<int16_t>(box.x0);
  t.x1 = static_cast<int16_t>(box.x1);
  t.y0 = static_cast<int16_t>(box.y0);
  t.y1 = static_cast<int16_t>(box.y1);
  t.face = face;
  t.large = box.small ? -1 : static_cast<int32_t>(chunk.large.size());
  if (!box.small) chunk.large.push_back(g);
}

// A face that leaves the view: cut it, then add what is left as a fan.
void add_clipped(const HrRasterizeParams& p, const float* points, const int32_t* corner, int32_t face, Chunk& chunk) {
  HomPoint triangle[3], polygon[kMaxClipped];
  for (int k = 0; k < 3; ++k) {
    const float* h = points + 3 * static_cast<int64_t>(corner[k]);
    triangle[k] = {h[0], h[1], h[2]};
  }
  const int count = clip_triangle(triangle, p.near_z, p.far_z, polygon);
  SnappedPoint fan[kMaxClipped];
  for (int i = 0; i < count; ++i) fan[i] = project(polygon[i]);
  for (int i = 2; i < count; ++i) add_triangle(p, fan[0], fan[i - 1], fan[i], face, chunk);
}

// Counting sort of the chunk's triangles by band; one that crosses several is listed in each.
void bin_chunk(Chunk& chunk, int bands) {
  chunk.band_begin.assign(bands + 1, 0);
  for (const Triangle& t : chunk.triangles) {
    for (int b = t.y0 / kBandRows; b <= (t.y1 - 1) / kBandRows; ++b) ++chunk.band_begin[b + 1];
  }
  for (int b = 0; b < bands; ++b) chunk.band_begin[b + 1] += chunk.band_begin[b];
  chunk.order.resize(chunk.band_begin[bands]);
  std::vector<uint32_t> cursor(chunk.band_begin.begin(), chunk.band_begin.end() - 1);
  for (size_t i = 0; i < chunk.triangles.size(); ++i) {
    const Triangle& t = chunk.triangles[i];
    for (int b = t.y0 / kBandRows; b <= (t.y1 - 1) / kBandRows; ++b) chunk.order[cursor[b]++] = static_cast<uint32_t>(i);
  }
}

void project_points(const HrRasterizeParams& p, int64_t image, int64_t first, SnappedPoint* out) {
  const float* points = p.points_hom + image * p.num_vertices * 3;
  const int64_t end = std::min(first + kPointsPerTask, p.num_vertices);
  for (int64_t v = first; v < end; ++v) {
    const HomPoint h = {points[3 * v], points[3 * v + 1], points[3 * v + 2]};
    out[v] = outside_view(h, p.near_z, p.far_z) ? SnappedPoint{} : project(h);
  }
}

void set_up_chunk(const HrRasterizeParams& p, int64_t image, int64_t first_face, int bands, const SnappedPoint* snapped,
                  Chunk& chunk) {
  chunk.triangles.clear();
  chunk.large.clear();
  chunk.bad_index = false;
  const float* points = p.points_hom + image * p.num_vertices * 3;
  const int64_t end = std::min(first_face + kFacesPerChunk, p.num_faces);
  for (int64_t f = first_face; f < end; ++f) {
    const int32_t* corner = p.faces + f * 3;
    for (int k = 0; k < 3; ++k) {
      if (corner[k] < 0 || corner[k] >= p.num_vertices) {
        chunk.bad_index = true;
        return;
      }
    }
    const SnappedPoint &a = snapped[corner[0]], &b = snapped[corner[1]], &c = snapped[corner[2]];
    if (a.in_view && b.in_view && c.in_view) {
      add_triangle(p, a, b, c, static_cast<int32_t>(f), chunk);
    } else {
      add_clipped(p, points, corner, static_cast<int32_t>(f), chunk);
    }
  }
  bin_chunk(chunk, bands);
}

// The first element at a multiple of a vector's bytes.
template <class T>
T* aligned(T* data) {
  constexpr uintptr_t bytes = kMaxLanes * sizeof(T);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(data) + bytes - 1) / bytes * bytes);
}

void draw_band(const HrRasterizeParams& p, const RowStage& stage, int64_t image, int band_index, const Chunk* chunks,
               int64_t num_chunks) {
  thread_local std::vector<float> inv_z;
  thread_local std::vector<int32_t> face;
  Band band;
  band.y0 = band_index * kBandRows;
  band.y1 = std::min(band.y0 + kBandRows, p.height);
  band.stride = (p.width + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
  const size_t size = static_cast<size_t>(band.y1 - band.y0) * band.stride;
  inv_z.assign(size + kMaxLanes, 0.0f);
  face.assign(size + 2 * kMaxLanes, -1);
  band.inv_z = aligned(inv_z.data());
  band.face = aligned(face.data() + 1);  // the pixel before the first can be read
  for (int64_t c = 0; c < num_chunks; ++c) {
    const Chunk& chunk = chunks[c];
    const uint32_t begin = chunk.band_begin[band_index], end = chunk.band_begin[band_index + 1];
    stage.draw(band, chunk.triangles.data(), chunk.large.data(), chunk.order.data() + begin, end - begin);
  }
  stage.resolve(band, p, image);
}

const RowStage& row_stage(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa != HR_ISA_BASE && hr_cpu_has_avx512()) return kRowStageAvx512;
#else
  (void)isa;
#endif
  return kRowStageBase;
}

int32_t rasterize(const HrRasterizeParams& p) {
  const RowStage& stage = row_stage(p.isa);
  const int bands = (p.height + kBandRows - 1) / kBandRows;
  const int64_t chunks_each = (p.num_faces + kFacesPerChunk - 1) / kFacesPerChunk;
  const int64_t runs_each = (p.num_vertices + kPointsPerTask - 1) / kPointsPerTask;
  const int64_t group = std::max<int64_t>(1, kFacesPerGroup / std::max<int64_t>(p.num_faces, 1));
  Scratch& shared = scratch();
  std::lock_guard<std::mutex> lock(shared.mutex);
  std::vector<Chunk>& chunks = shared.chunks;
  for (int64_t first = 0; first < p.batch; first += group) {
    const int64_t images = std::min(group, p.batch - first);
    if (chunks.size() < static_cast<size_t>(images * chunks_each)) chunks.resize(images * chunks_each);
    shared.points.resize(images * p.num_vertices);
    SnappedPoint* points = shared.points.data();
    parallel_for(images * runs_each, p.num_threads, [&](int64_t task) {
      const int64_t image = task / runs_each;
      project_points(p, first + image, task % runs_each * kPointsPerTask, points + image * p.num_vertices);
    });
    parallel_for(images * chunks_each, p.num_threads, [&](int64_t task) {
      const int64_t image = task / chunks_each;
      set_up_chunk(p, first + image, task % chunks_each * kFacesPerChunk, bands, points + image * p.num_vertices,
                   chunks[task]);
    });
    for (int64_t c = 0; c < images * chunks_each; ++c) {
      if (chunks[c].bad_index) return HR_ERROR_INDEX;
    }
    parallel_for(images * bands, p.num_threads, [&](int64_t task) {
      const int64_t image = task / bands;
      draw_band(p, stage, first + image, static_cast<int>(task % bands), chunks.data() + image * chunks_each, chunks_each);
    });
  }
  size_t kept = shared.points.capacity() * sizeof(SnappedPoint);
  for (const Chunk& chunk : chunks) kept += chunk.bytes();
  if (kept > kKeptBytes) {
    std::vector<Chunk>().swap(chunks);
    std::vector<SnappedPoint>().swap(shared.points);
  }
  return HR_OK;
}

}  // namespace
}  // namespace hr

int32_t hr_rasterize_cpu(const HrRasterizeParams* params) {
  const HrRasterizeParams& p = *params;
  const bool sane = p.height >= 0 && p.width >= 0 && p.height <= HR_MAX_IMAGE_SIDE && p.width <= HR_MAX_IMAGE_SIDE &&
                    p.near_z > 0.0f && p.far_z > p.near_z && p.num_threads >= 1 && p.batch >= 0 && p.num_faces >= 0 &&
                    p.num_faces <= INT32_MAX;
  if (!sane) return HR_ERROR_ARGUMENT;
  if (p.height == 0 || p.width == 0 || p.batch == 0) return HR_OK;
  return hr::guarded([&] { return hr::rasterize(p); });
}
