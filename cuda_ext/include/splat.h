/* Gaussian splatting: what the four steps of the op take. Their maths is in splat_maths.h and splat_harmonics.h.
 *
 *   project    3D Gaussians and cameras -> one flat ellipse ("splat") per Gaussian and camera, and how many tiles it touches
 *   harmonics  view-dependent colours from spherical harmonics
 *   tiles      for every tile of every image the splats that touch it, front to back
 *   composite  the pictures
 *
 * Images are numbered b * C + c: B sets of N Gaussians, each seen by C cameras. An image has ceil(H / S) rows of
 * ceil(W / S) tiles of S x S pixels. The centre of the first pixel is (0.5, 0.5). */
#ifndef HR_SPLAT_H
#define HR_SPLAT_H

#include "hr_common.h"

/* A splat: floats in a row of `splats`. With (dx, dy) the way from its centre to a pixel's centre and u = dx + shear * dy,
 * its opacity there is opacity * exp(-(sharp_x * u^2 + sharp_y * dy^2) / 2): the conic of EWA splatting as L D L^T, which
 * is a sum of squares and so does not cancel where the ellipse is a needle. */
enum HrSplatField {
  HR_SPLAT_X = 0,            /* centre, pixels */
  HR_SPLAT_Y = 1,
  HR_SPLAT_SHARP_X = 2,      /* 1 / variance along x where y is given, 1 / pixels^2 */
  HR_SPLAT_SHEAR = 3,        /* how far the ridge runs to -x per pixel down */
  HR_SPLAT_SHARP_Y = 4,      /* 1 / variance of y, 1 / pixels^2 */
  HR_SPLAT_OPACITY = 5,      /* at the centre, antialiasing compensation included */
  HR_SPLAT_DEPTH = 6,        /* z in the camera, metres: what tiles are sorted by */
  HR_SPLAT_LOG2_OPACITY = 7, /* log2 of the opacity; no gradient, which goes through the opacity */
  HR_SPLAT_FIELDS = 8        /* all fields are 0 where the Gaussian is not drawn */
};

#define HR_SPLAT_MAX_SIDE 16384  /* pixels */
#define HR_SPLAT_MAX_TILE 32     /* S is a multiple of 4, at most this */

typedef struct HrSplatProjectParams {
  const float* means;      /* [B,N,3] world, metres */
  const float* quats;      /* [B,N,4] w, x, y, z; any length but 0 */
  const float* scales;     /* [B,N,3] standard deviations along the Gaussian's axes, metres */
  const float* opacities;  /* [B,N] */
  const float* viewmats;   /* [B,C,4,4] world to camera, row by row */
  const float* Ks;         /* [B,C,3,3]; fx, fy, cx, cy are read, a skew is not */
  float* splats;           /* out [B,C,N,8] HrSplatField */
  float* radii;            /* out [B,C,N,2] half width and half height, pixels, of where alpha >= 1/255; 0: not drawn */
  float* normals;          /* out [B,C,N,3] shortest axis in the world, towards the camera; 0 if not drawn; may be null */
  int32_t* tiles;          /* out [B,C,N] how many tiles the splat touches */
  int64_t* totals;         /* out [B,C] their sum */
  int64_t batch;           /* B */
  int64_t cameras;         /* C */
  int64_t num_gaussians;   /* N */
  int32_t height;          /* H */
  int32_t width;           /* W */
  int32_t tile_size;       /* S */
  int32_t antialiased;     /* nonzero: opacity times sqrt(det / blurred det), so that small Gaussians fade, not grow */
  int32_t num_threads;     /* threads to use, at least 1 */
  int32_t isa;             /* HrIsa */
  float near_z;            /* metres; drawn are near_z < z < far_z */
  float far_z;
  float eps2d;             /* variance, pixels^2, added to every splat: at least about a pixel's */
  float radius_clip;       /* splats of at most this radius, pixels, are not drawn */
} HrSplatProjectParams;

/* Backward of project. Gradients that are not wanted have a null pointer. */
typedef struct HrSplatProjectGradParams {
  const float* means;      /* as in the forward call */
  const float* quats;
  const float* scales;
  const float* opacities;
  const float* viewmats;
  const float* Ks;
  const float* radii;         /* [B,C,N,2] what the forward call gave: says what was drawn */
  const float* grad_splats;   /* [B,C,N,8]; the last field is not read */
  const float* grad_normals;  /* [B,C,N,3], or null */
  float* grad_means;          /* out [B,N,3], summed over cameras; may be null */
  float* grad_quats;          /* out [B,N,4]; may be null */
  float* grad_scales;         /* out [B,N,3]; may be null */
  float* grad_opacities;      /* out [B,N]; may be null */
  float* grad_viewmats;       /* out [B,C,4,4], last row 0; may be null */
  int64_t batch;              /* B */
  int64_t cameras;            /* C */
  int64_t num_gaussians;      /* N */
  int32_t height;             /* H */
  int32_t width;              /* W */
  int32_t antialiased;        /* as in the forward call */
  int32_t num_threads;        /* threads to use, at least 1 */
  int32_t isa;                /* HrIsa */
  float eps2d;                /* as in the forward call */
} HrSplatProjectGradParams;

/* Colours max(0, 1/2 + sum of coefficients times harmonics of the direction from the camera), 0 where radii are 0. */
typedef struct HrSplatHarmonicsParams {
  const float* means;         /* [B,N,3] */
  const float* coefficients;  /* [B,N,K,3] in the order of geometry/harmonics.py; one that is not finite counts as 0 */
  const float* centers;       /* [B,C,3] cameras in the world */
  const float* radii;         /* [B,C,N,2] */
  float* colours;             /* out [B,C,N,3]; read by the backward pass: 0 says that a channel was clamped */
  int64_t batch;              /* B */
  int64_t cameras;            /* C */
  int64_t num_gaussians;      /* N */
  int32_t num_coefficients;   /* K: at least (degree + 1)^2 */
  int32_t degree;             /* 0 to 3 */
  int32_t num_threads;        /* threads to use, at least 1 */
  int32_t isa;                /* HrIsa */
} HrSplatHarmonicsParams;

typedef struct HrSplatHarmonicsGradParams {
  const float* means;         /* as in the forward call */
  const float* coefficients;
  const float* centers;
  const float* radii;
  const float* colours;       /* what the forward call gave */
  const float* grad_colours;  /* [B,C,N,3] */
  float* grad_means;          /* out [B,N,3]; may be null */
  float* grad_coefficients;   /* out [B,N,K,3], 0 beyond the degree; may be null */
  float* grad_centers;        /* out [B,C,3]; may be null */
  int64_t batch;              /* B */
  int64_t cameras;            /* C */
  int64_t num_gaussians;      /* N */
  int32_t num_coefficients;   /* K */
  int32_t degree;             /* 0 to 3 */
  int32_t num_threads;        /* threads to use, at least 1 */
  int32_t isa;                /* HrIsa */
} HrSplatHarmonicsGradParams;

/* Splats by tile, each tile's by depth, equal depths by number. Which tiles a splat touches says hr_splat_tile_span. */
typedef struct HrSplatTilesParams {
  const float* splats;     /* [I,N,8] */
  const float* radii;      /* [I,N,2] */
  const int32_t* tiles;    /* [I,N] from project */
  int32_t* offsets;        /* out [I*T + 1]: the splats of tile t of image i are ids[offsets[i*T + t] .. offsets[i*T + t + 1]) */
  int32_t* ids;            /* out [M] numbers of splats, 0..N-1 */
  int32_t* entries;        /* out [M] the other way round: where in ids each splat stands, tiles[0] places of the first splat
                            * of the first image, then those of the next; for a backward pass that gathers; may be null */
  int64_t images;          /* I = B * C */
  int64_t num_gaussians;   /* N */
  int64_t num_ids;         /* M: the sum of project's totals; below 2^31 */
  int32_t height;          /* H */
  int32_t width;           /* W */
  int32_t tile_size;       /* S */
  int32_t num_threads;     /* threads to use, at least 1 */
} HrSplatTilesParams;

/* Front to back, a splat with alpha >= 1/255 at a pixel whose transmittance T is above 1e-4 contributes with weight
 * alpha * T and leaves T (1 - alpha). Colours and normals that are not finite count as 0. */
typedef struct HrSplatCompositeParams {
  const float* splats;         /* [I,N,8] */
  const float* colours;        /* [B,N,D], or [I,N,D] when colours_per_image */
  const float* normals;        /* [I,N,3]; read if normal_sum is not null */
  const float* background;     /* [D], or [I,D] when background_per_image; null: black */
  const int32_t* offsets;      /* [I*T + 1] */
  const int32_t* ids;          /* [M] */
  float* image;                /* out [I,H,W,D] with the background */
  float* depth_sum;            /* out [I,H,W] sum of weight times depth; may be null */
  float* normal_sum;           /* out [I,H,W,3] sum of weight times normal; null: no picture of normals */
  float* transmittance;        /* out [I,H,W] what is left of the background */
  int32_t* last;               /* out [I,H,W] how many splats of the tile's list it took until the last that contributed */
  int32_t* median;             /* out [I,H,W] number of the splat at which T falls to 1/2 or below, -1: none; may be null */
  int64_t batch;               /* B */
  int64_t cameras;             /* C */
  int64_t num_gaussians;       /* N */
  int64_t num_ids;             /* M */
  int32_t height;              /* H */
  int32_t width;               /* W */
  int32_t tile_size;           /* S */
  int32_t channels;            /* D, at least 1 */
  int32_t colours_per_image;   /* nonzero: one set of colours per image, not per set of Gaussians */
  int32_t background_per_image;
  int32_t num_threads;         /* threads to use, at least 1 */
  int32_t isa;                 /* HrIsa */
} HrSplatCompositeParams;

/* Backward of composite. Gradients that are not given or not wanted have a null pointer. */
typedef struct HrSplatCompositeGradParams {
  const float* splats;              /* as in the forward call */
  const float* colours;
  const float* normals;
  const float* background;
  const int32_t* offsets;
  const int32_t* ids;
  const int32_t* tiles;             /* [I,N] from project */
  const int32_t* entries;           /* [M] from tiles; a back end that scatters its sums may take null */
  const float* transmittance;       /* what the forward call gave */
  const int32_t* last;
  const float* grad_image;          /* [I,H,W,D]; may be null */
  const float* grad_depth_sum;      /* [I,H,W]; may be null */
  const float* grad_normal_sum;     /* [I,H,W,3]; may be null */
  const float* grad_transmittance;  /* [I,H,W]; may be null */
  float* grad_splats;               /* out [I,N,8]; the last field is 0 */
  float* grad_colours;              /* out, shaped as colours; may be null */
  float* grad_normals;              /* out [I,N,3]; may be null */
  float* grad_background;           /* out, shaped as background; may be null */
  float* grad_centres;              /* out [I,N,4] sums over pixels of d/dx, d/dy, |d/dx|, |d/dy| by the centre; may be null */
  int64_t batch;                    /* B */
  int64_t cameras;                  /* C */
  int64_t num_gaussians;            /* N */
  int64_t num_ids;                  /* M */
  int32_t height;                   /* H */
  int32_t width;                    /* W */
  int32_t tile_size;                /* S */
  int32_t channels;                 /* D */
  int32_t colours_per_image;
  int32_t background_per_image;
  int32_t num_threads;              /* threads to use, at least 1 */
  int32_t isa;                      /* HrIsa */
} HrSplatCompositeGradParams;

#endif
