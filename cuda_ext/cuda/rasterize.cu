// CUDA rasterizer. The nearest face of each pixel is kept in a 64-bit word, 1/z above the face's number, that threads
// lower with an atomic minimum: which face wins does not depend on the order in which they arrive.
//
// Three sizes of work. A thread sets up a face and, when its box has few pixels, as those of a fine mesh have, draws it at
// once. Other faces, and those that have to be clipped, go to a queue and are drawn by a warp each. What is too big for a
// warp is recorded and drawn by all warps together, tile by tile. Both later kernels read from device memory how much there
// is to do, so nothing waits for the CPU. (Laine and Karras, "High-Performance
// Software Rasterization on GPUs", HPG 2011, bin everything by tile; faces of a head are nearly all small.)
#include "device.h"
#include "raster_triangle.h"

namespace hr {
namespace {

typedef unsigned long long Key;  // CUDA's own spelling of 64 bits, which its atomics insist on

constexpr int kThreadPixels = 96;      // boxes up to this many pixels are drawn by one thread
constexpr int kWarpPixels = 64 * 64;   // and up to this many by one warp
constexpr int kTile = 64;              // side of the tiles into which bigger ones are cut
constexpr int kStampWidth = 8, kStampHeight = 4;  // pixels that a warp looks at together
constexpr unsigned kMaxRecords = 4096; // when there are more big triangles, warps draw the rest alone

struct BigTriangle {
  TrianglePlanes planes;
  TriangleBox box;
  int64_t image;
  int32_t face;
};

struct Counters {
  Key queued;
  unsigned recorded;
};

struct RasterScratch {
  Key* nearest;          // [B,H,W]
  int64_t* queue;        // [B,F] image * F + face
  BigTriangle* records;  // [kMaxRecords]
  Counters* counters;
};

struct Canvas {
  Key* nearest;  // of one image
  int32_t width;
};

int32_t check(const HrRasterizeParams& p) {
  const bool sane = p.height >= 0 && p.width >= 0 && p.height <= HR_MAX_IMAGE_SIDE && p.width <= HR_MAX_IMAGE_SIDE &&
                    p.near_z > 0.0f && p.far_z > p.near_z && p.batch >= 0 && p.num_faces >= 0 && p.num_faces <= INT32_MAX &&
                    p.num_vertices >= 0;
  return sane ? HR_OK : HR_ERROR_ARGUMENT;
}

RasterScratch lay_out_rasterize(const HrRasterizeParams& p, const HrCudaLaunch&, Workspace& workspace) {
  RasterScratch scratch;
  scratch.nearest = workspace.take<Key>(p.batch * p.height * p.width);
  scratch.queue = workspace.take<int64_t>(p.batch * p.num_faces);
  scratch.records = workspace.take<BigTriangle>(kMaxRecords);
  scratch.counters = workspace.take<Counters>(1);
  return scratch;
}

// Nearer is smaller, and of equal depths the lower face. 1/z is positive, so its bits are ordered as it is.
__device__ __forceinline__ Key key_of(float inv_z, int32_t face) {
  return (static_cast<Key>(~__float_as_uint(inv_z)) << 32) | static_cast<uint32_t>(face);
}

__device__ __forceinline__ void draw_pixel(const Canvas& canvas, const TrianglePlanes& g, const TriangleBox& box, int32_t face,
                                           int32_t x, int32_t y) {
  const float inv_z = inv_z_at(g, box, x, y);
  if (!(inv_z > 0.0f)) return;
  Key* at = canvas.nearest + static_cast<int64_t>(y) * canvas.width + x;
  const Key key = key_of(inv_z, face);
  // Words only ever get smaller, so an old value can do no harm: at worst the atomic is taken in vain.
  if (key < *at) atomicMin(at, key);
}

// All pixels of a small box, by one thread, in 32-bit integers.
__device__ __forceinline__ void draw_alone(const Canvas& canvas, const TrianglePlanes& g, const TriangleBox& box,
                                           int32_t face) {
  int32_t row0 = static_cast<int32_t>(g.edge[0]), row1 = static_cast<int32_t>(g.edge[1]),
          row2 = static_cast<int32_t>(g.edge[2]);
  const int32_t right0 = static_cast<int32_t>(g.step_x[0]), right1 = static_cast<int32_t>(g.step_x[1]),
                right2 = static_cast<int32_t>(g.step_x[2]);
  for (int32_t y = box.y0; y < box.y1; ++y) {
    int32_t e0 = row0, e1 = row1, e2 = row2;
    for (int32_t x = box.x0; x < box.x1; ++x) {
      if ((e0 | e1 | e2) >= 0) draw_pixel(canvas, g, box, face, x, y);
      e0 += right0;
      e1 += right1;
      e2 += right2;
    }
    row0 += static_cast<int32_t>(g.step_y[0]);
    row1 += static_cast<int32_t>(g.step_y[1]);
    row2 += static_cast<int32_t>(g.step_y[2]);
  }
}

// Whether some edge has all of a rectangle of pixels on its outer side.
__device__ __forceinline__ bool misses(const TrianglePlanes& g, const TriangleBox& box, int32_t x0, int32_t y0, int32_t x1,
                                       int32_t y1) {
  for (int i = 0; i < 3; ++i) {
    const int64_t across = (g.step_x[i] > 0 ? x1 - 1 : x0) - box.x0, down = (g.step_y[i] > 0 ? y1 - 1 : y0) - box.y0;
    if (g.edge[i] + across * g.step_x[i] + down * g.step_y[i] < 0) return true;
  }
  return false;
}

// The pixels x0 <= x < x1, y0 <= y < y1 of a box, by one warp.
__device__ __forceinline__ void draw_together(const Canvas& canvas, const TrianglePlanes& g, const TriangleBox& box,
                                              int32_t face, int32_t x0, int32_t y0, int32_t x1, int32_t y1, int lane) {
  const int32_t lane_x = lane % kStampWidth, lane_y = lane / kStampWidth;
  for (int32_t top = y0; top < y1; top += kStampHeight) {
    for (int32_t left = x0; left < x1; left += kStampWidth) {
      if (misses(g, box, left, top, left + kStampWidth, top + kStampHeight)) continue;
      const int32_t x = left + lane_x, y = top + lane_y;
      if (x < x1 && y < y1 && covers(g, box, x, y)) draw_pixel(canvas, g, box, face, x, y);
    }
  }
}

__device__ __forceinline__ int64_t pixels_of(const TriangleBox& box) {
  return static_cast<int64_t>(box.x1 - box.x0) * (box.y1 - box.y0);
}

__device__ __forceinline__ void load_corners(const HrRasterizeParams& p, int64_t image, int64_t face, HomPoint* corner) {
  for (int k = 0; k < 3; ++k) {
    const float* h = p.points_hom + 3 * (image * p.num_vertices + p.faces[3 * face + k]);
    corner[k] = {h[0], h[1], h[2]};
  }
}

// Whether clipping would leave nothing: the same tests, of all corners against one plane.
__device__ __forceinline__ bool wholly_outside(const HomPoint* c, float near_z, float far_z) {
  for (int k = 0; k < 3; ++k) {
    if (!(isfinite(c[k].x) && isfinite(c[k].y) && isfinite(c[k].z))) return true;
  }
  const int planes = isfinite(far_z) ? 6 : 5;
  for (int plane = 0; plane < planes; ++plane) {
    if (clip_distance(plane, c[0], near_z, far_z) < 0.0f && clip_distance(plane, c[1], near_z, far_z) < 0.0f &&
        clip_distance(plane, c[2], near_z, far_z) < 0.0f) {
      return true;
    }
  }
  return false;
}

__device__ __forceinline__ bool in_view(const HrRasterizeParams& p, const HomPoint* corner) {
  return !outside_view(corner[0], p.near_z, p.far_z) && !outside_view(corner[1], p.near_z, p.far_z) &&
         !outside_view(corner[2], p.near_z, p.far_z);
}

// One thread per face: draw it, queue it, or drop it.
__global__ void __launch_bounds__(kThreads) set_up_faces(HrRasterizeParams p, RasterScratch scratch, int32_t* fault) {
  const Place place = place_of_this_thread();
  const int64_t face = place.item;
  if (face >= p.num_faces) return;
  for (int k = 0; k < 3; ++k) {
    const int32_t v = p.faces[3 * face + k];
    if (v < 0 || v >= p.num_vertices) {
      report_bad_index(fault);
      return;
    }
  }
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    HomPoint corner[3];
    load_corners(p, image, face, corner);
    if (in_view(p, corner)) {
      TriangleBox box;
      TrianglePlanes g;
      if (!set_up_triangle(p, project(corner[0]), project(corner[1]), project(corner[2]), box, g)) continue;
      if (box.small && pixels_of(box) <= kThreadPixels) {
        const Canvas canvas = {scratch.nearest + image * p.height * p.width, p.width};
        draw_alone(canvas, g, box, static_cast<int32_t>(face));
        continue;
      }
    } else if (wholly_outside(corner, p.near_z, p.far_z)) {
      continue;
    }
    scratch.queue[atomicAdd(&scratch.counters->queued, Key{1})] = image * p.num_faces + face;
  }
}

// One triangle of the queue, by one warp, all of whose lanes are here.
__device__ __forceinline__ void draw_queued_triangle(const HrRasterizeParams& p, const RasterScratch& scratch, int64_t image, int32_t face,
                                     const SnappedPoint& a, const SnappedPoint& b, const SnappedPoint& c, int lane) {
  TriangleBox box;
  TrianglePlanes g;
  if (!set_up_triangle(p, a, b, c, box, g)) return;
  if (pixels_of(box) > kWarpPixels) {
    unsigned slot = 0;
    if (lane == 0) slot = atomicAdd(&scratch.counters->recorded, 1u);
    slot = __shfl_sync(kWholeWarp, slot, 0);
    if (slot < kMaxRecords) {
      if (lane == 0) scratch.records[slot] = {g, box, image, face};
      return;
    }
  }
  const Canvas canvas = {scratch.nearest + image * p.height * p.width, p.width};
  draw_together(canvas, g, box, face, box.x0, box.y0, box.x1, box.y1, lane);
}

// One warp per queued face.
__global__ void __launch_bounds__(kThreads) draw_queued(HrRasterizeParams p, RasterScratch scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const int64_t queued = static_cast<int64_t>(scratch.counters->queued);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp; i < queued; i += warps) {
    const int64_t image = scratch.queue[i] / p.num_faces, face = scratch.queue[i] % p.num_faces;
    HomPoint corner[3], polygon[kMaxClipped];
    load_corners(p, image, face, corner);
    int count = 3;
    if (in_view(p, corner)) {
      for (int k = 0; k < 3; ++k) polygon[k] = corner[k];
    } else {
      count = clip_triangle(corner, p.near_z, p.far_z, polygon);
    }
    for (int k = 2; k < count; ++k) {
      draw_queued_triangle(p, scratch, image, static_cast<int32_t>(face), project(polygon[0]), project(polygon[k - 1]),
                           project(polygon[k]), lane);
    }
  }
}

// Tiles of the recorded triangles, dealt out to all warps; where the dealing starts changes from one to the next.
__global__ void __launch_bounds__(kThreads) draw_recorded(HrRasterizeParams p, RasterScratch scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const unsigned recorded = scratch.counters->recorded < kMaxRecords ? scratch.counters->recorded : kMaxRecords;
  int64_t dealt = 0;
  for (unsigned r = 0; r < recorded; ++r) {
    const BigTriangle& big = scratch.records[r];
    const TriangleBox box = big.box;
    const int64_t columns = divide_up(box.x1 - box.x0, kTile), rows = divide_up(box.y1 - box.y0, kTile);
    const int64_t tiles = columns * rows;
    int64_t tile = (warp - dealt) % warps;
    if (tile < 0) tile += warps;
    dealt = (dealt + tiles) % warps;
    if (tile >= tiles) continue;
    const TrianglePlanes planes = big.planes;
    const Canvas canvas = {scratch.nearest + big.image * p.height * p.width, p.width};
    for (; tile < tiles; tile += warps) {
      const int32_t x0 = box.x0 + static_cast<int32_t>(tile % columns) * kTile;
      const int32_t y0 = box.y0 + static_cast<int32_t>(tile / columns) * kTile;
      const int32_t x1 = x0 + kTile < box.x1 ? x0 + kTile : box.x1, y1 = y0 + kTile < box.y1 ? y0 + kTile : box.y1;
      if (!misses(planes, box, x0, y0, x1, y1)) draw_together(canvas, planes, box, big.face, x0, y0, x1, y1, lane);
    }
  }
}

// What the winners look like at each pixel.
__global__ void __launch_bounds__(kThreads) resolve_pixels(HrRasterizeParams p, RasterScratch scratch) {
  const Place place = place_of_this_thread();
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  if (place.item >= pixels) return;
  const unsigned pixel = static_cast<unsigned>(place.item), width = static_cast<unsigned>(p.width);
  const float px = static_cast<float>(pixel % width) + 0.5f, py = static_cast<float>(pixel / width) + 0.5f;
  for (int64_t image = place.first_image; image < p.batch; image += place.image_step) {
    const int64_t at = image * pixels + place.item;
    const Key key = scratch.nearest[at];
    const bool empty = key == ~Key{0};
    const int32_t face = empty ? -1 : static_cast<int32_t>(key & 0xffffffffu);
    float lambda[3] = {0.0f, 0.0f, 0.0f}, depth = 0.0f;
    if (!empty) {
      HomPoint c[3];
      load_corners(p, image, face, c);
      depth = hr_barycentrics_at(c[0].x, c[0].y, c[0].z, c[1].x, c[1].y, c[1].z, c[2].x, c[2].y, c[2].z, px, py, &lambda[0],
                                 &lambda[1], &lambda[2]);
    }
    p.face_index[at] = face;
    p.depth_z[at] = depth;
    for (int k = 0; k < 3; ++k) p.barycentrics[3 * at + k] = lambda[k];
  }
}

void run_rasterize(const HrRasterizeParams& p, const HrCudaLaunch& launch, const RasterScratch& scratch) {
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  if (p.batch * pixels == 0) return;
  fill_bytes(launch, scratch.nearest, 0xff, p.batch * pixels * static_cast<int64_t>(sizeof(Key)));
  if (p.num_faces > 0) {
    fill_bytes(launch, scratch.counters, 0, sizeof(Counters));
    launch_over(launch, p.num_faces, p.batch, set_up_faces, p, scratch, launch.fault);
    const dim3 resident(static_cast<unsigned>(resident_blocks()));
    launch_blocks(launch, resident, draw_queued, p, scratch);
    launch_blocks(launch, resident, draw_recorded, p, scratch);
  }
  launch_over(launch, pixels, p.batch, resolve_pixels, p, scratch);
}

}  // namespace
}  // namespace hr

HR_DEFINE_CUDA_OP(rasterize, HrRasterizeParams)
