/* Samples along rays and what they add up to: compositing, drawing samples from weights, marching through occupied cells. */
#ifndef HR_RAY_SAMPLES_H
#define HR_RAY_SAMPLES_H

#include "trigrid.h"

enum HrRule {
  HR_RULE_INTERVALS = 0,  /* a sample stands for its interval, at whose middle it was taken (nerfacc) */
  HR_RULE_NEIGHBOURS = 1  /* samples at distances; between two neighbours lies their mean (EG3D): n samples, n - 1 intervals */
};

enum HrDensity {
  HR_DENSITY_PLAIN = 0,    /* per metre; what is below 0 counts as 0 */
  HR_DENSITY_SOFTPLUS = 1, /* density is softplus(value + shift) */
  HR_DENSITY_ALPHA = 2     /* values are opacities in 0..1, whatever the length of the interval */
};

/* Where samples lie. Distances are in units of the ray's direction. Three kinds: dense (offsets null: every ray has
 * per_ray samples), packed (offsets), uniform (starts null: per_ray equal intervals between near and far). */
typedef struct HrRaySamples {
  const float* starts;     /* [N] begin of each interval, or distance of each sample (HR_RULE_NEIGHBOURS); null: uniform */
  const float* ends;       /* [N] end of each interval; null with HR_RULE_NEIGHBOURS or uniform */
  const int64_t* offsets;  /* [R+1] first sample of each ray, from 0 to N, never falling; null: dense */
  const float* near_far;   /* [R,2] when uniform */
  const float* shifts;     /* [R] or null: moves the inner borders of uniform intervals by -0.5..0.5 of their length */
  const float* surface;    /* [R] or null: opaque from here on. Intervals behind it are left out, that around it is cut;
                            * NaN or infinity: no surface */
  int64_t num_rays;        /* R */
  int64_t num_samples;     /* N; R times per_ray unless packed */
  int32_t per_ray;         /* samples of each ray unless packed */
  int32_t rule;            /* HrRule */
  int32_t density;         /* HrDensity */
  float shift;             /* of HR_DENSITY_SOFTPLUS */
  float stop;              /* a ray ends when less than this share of light gets through; 0: never */
} HrRaySamples;

/* Forward: values and features to the sums. Backward reads those too, and the gradients of the sums. */
typedef struct HrCompositeParams {
  HrRaySamples samples;
  const float* values;              /* [N] densities or opacities */
  const float* features;            /* [N,D]; null when D is 0 */
  float* sums;                      /* out [R,D]: weight times feature; forward only */
  float* distances;                 /* out [R]: weight times distance; forward only */
  float* opacities;                 /* out [R]: sum of the weights; what is left of 1 gets through; forward only */
  float* weights;                   /* out [N], 0 for samples that do not count; forward only; may be null */
  const float* grad_sums;           /* [R,D]; backward only */
  const float* grad_distances;      /* [R] */
  const float* grad_opacities;      /* [R] */
  const float* grad_weights;        /* [N]; may be null */
  float* grad_values;               /* out [N] */
  float* grad_features;             /* out [N,D]; may be null */
  float* grad_starts;               /* out [N]; may be null */
  float* grad_ends;                 /* out [N]; null with HR_RULE_NEIGHBOURS or where grad_starts is */
  int32_t channels;                 /* D */
  int32_t num_threads;
  int32_t isa;                      /* HrIsa */
} HrCompositeParams;

/* Sample, decode and composite in one go: nothing per sample is kept but, if wanted, its weight. */
typedef struct HrTrigridRenderParams {
  HrTrigrid field;
  HrDecoder decoder;
  HrRaySamples samples;             /* rays: all those of image 0, then those of image 1, ...; R = B rays_per_image */
  const float* origins;             /* [R,3] world */
  const float* directions;          /* [R,3] */
  float* sums;                      /* out [R,F]; forward only */
  float* distances;                 /* out [R] */
  float* opacities;                 /* out [R] */
  float* weights;                   /* out [N]; may be null */
  const float* grad_sums;           /* [R,F]; backward only */
  const float* grad_distances;      /* [R] */
  const float* grad_opacities;      /* [R] */
  HrDecoderGrad grad_decoder;       /* out; may be null */
  float* grad_grid;                 /* out, as field.grid; may be null */
  float* grad_origins;              /* out [R,3]; null where grad_directions is */
  float* grad_directions;           /* out [R,3] */
  int64_t rays_per_image;
  int32_t num_threads;
  int32_t isa;
} HrTrigridRenderParams;

/* Draws distances from a piecewise constant density. Has no gradient. */
typedef struct HrImportanceParams {
  const float* edges;    /* [R,S+1] never falling along a ray */
  const float* weights;  /* [R,S]; what is not above 0 counts as 0; when all are 0 the draw is uniform */
  const float* uniforms; /* [R,M] in 0..1, what NaN is counts as 0 */
  float* distances;      /* out [R,M], never falling where uniforms do not */
  int64_t num_rays;      /* R */
  int32_t intervals;     /* S, at least 1 */
  int32_t draws;         /* M */
  int32_t num_threads;
} HrImportanceParams;

/* Marches rays through a box of cells and keeps the steps whose middle lies in an occupied cell. Called twice: with offsets
 * null it counts, then it fills in. */
typedef struct HrMarchParams {
  const uint8_t* occupied;  /* [Nz,Ny,Nx]: nonzero where something is */
  const float* origins;     /* [R,3] */
  const float* directions;  /* [R,3] */
  const float* near_far;    /* [R,2] */
  const float* shifts;      /* [R] or null: where the first step begins, in steps after near */
  const int64_t* offsets;   /* [R+1], sums of the counts; null while counting */
  int64_t* counts;          /* out [R] while counting */
  float* starts;            /* out [N] */
  float* ends;              /* out [N] */
  int64_t* ray_indices;     /* out [N] */
  int64_t num_rays;         /* R */
  int32_t size[3];          /* Nx, Ny, Nz */
  int32_t num_threads;
  float lower[3], upper[3]; /* corners of the box */
  float step;               /* length of a step, above 0 */
} HrMarchParams;

/* The most steps of one ray; a march that would take more ends there. */
#define HR_MARCH_MAX_STEPS (1 << 20)

HR_HD void hr_ray_range(const HrRaySamples* s, int64_t ray, int64_t* first, int64_t* count) {
  *first = s->offsets ? s->offsets[ray] : ray * s->per_ray;
  *count = s->offsets ? s->offsets[ray + 1] - *first : s->per_ray;
}

/* How many intervals that many samples make. */
HR_HD int64_t hr_intervals(const HrRaySamples* s, int64_t count) {
  return s->rule == HR_RULE_NEIGHBOURS ? (count > 0 ? count - 1 : 0) : count;
}

/* Interval i of a ray whose samples begin at `first`. */
HR_HD void hr_interval(const HrRaySamples* s, int64_t ray, int64_t first, int64_t i, float* start, float* end) {
  if (s->starts) {
    *start = s->starts[first + i];
    *end = s->rule == HR_RULE_NEIGHBOURS ? s->starts[first + i + 1] : s->ends[first + i];
    return;
  }
  const float near = s->near_far[2 * ray], length = s->near_far[2 * ray + 1] - near;
  const float shift = s->shifts ? s->shifts[ray] : 0.0f, step = length / (float)s->per_ray;
  *start = i == 0 ? near : near + ((float)i + shift) * step;
  *end = i + 1 == s->per_ray ? near + length : near + ((float)(i + 1) + shift) * step;
}

/* Cuts an interval at a surface; false when it lies behind. */
HR_HD int hr_cut(const HrRaySamples* s, int64_t ray, float start, float* end) {
  if (!s->surface) return 1;
  const float at = s->surface[ray];
  if (start >= at) return 0;
  if (*end > at) *end = at;
  return 1;
}

/* What an interval lets through and keeps, and the density that did it. Nothing but a length and a density above 0 absorbs;
 * an optical thickness of 80 absorbs everything, one of 1e-30 nothing, and of light 1e-30 is none: float's denormals, which
 * are a hundred times slower on a CPU, stay away. */
#define HR_OPAQUE 80.0f
#define HR_FAINTEST 1e-30f
typedef struct HrOpacity {
  float alpha;   /* share absorbed */
  float keep;    /* 1 - alpha */
  float density; /* after its activation */
} HrOpacity;

HR_HD HrOpacity hr_opacity(int32_t kind, float value, float length, float shift) {
  HrOpacity o;
  if (kind == HR_DENSITY_ALPHA) {
    o.alpha = value > 0.0f ? (value < 1.0f ? value : 1.0f) : 0.0f;
    o.keep = 1.0f - o.alpha;
    o.density = 0.0f;
    return o;
  }
  o.density = kind == HR_DENSITY_SOFTPLUS ? hr_volume_softplus(value + shift) : value;
  const float thickness = o.density * length;
  o.alpha = thickness > HR_FAINTEST ? (thickness < HR_OPAQUE ? -expm1f(-thickness) : 1.0f) : 0.0f;
  o.keep = thickness > HR_FAINTEST ? (thickness < HR_OPAQUE ? expf(-thickness) : 0.0f) : 1.0f;
  return o;
}

/* Gradients of the value and the length, given that of alpha. Cut-offs at 0 (and 1) pass a gradient on at the very border,
 * as torch's clamp does. */
HR_HD void hr_opacity_grad(int32_t kind, float value, float length, float shift, HrOpacity o, float grad_alpha,
                           float* grad_value, float* grad_length) {
  *grad_value = *grad_length = 0.0f;
  if (kind == HR_DENSITY_ALPHA) {
    if (value >= 0.0f && value <= 1.0f) *grad_value = grad_alpha;
    return;
  }
  const float grad = grad_alpha * o.keep;
  if (!(o.keep > 0.0f && o.density >= 0.0f && o.density < 3e38f && length >= 0.0f)) return; /* opaque, NaN, cut off */
  *grad_value = grad * length * (kind == HR_DENSITY_SOFTPLUS ? hr_volume_sigmoid(value + shift) : 1.0f);
  *grad_length = grad * o.density;
}

/* A weight as it counts for drawing. */
HR_HD float hr_drawing_weight(float w) { return w > 0.0f && w < 3.0e38f ? w : 0.0f; }

/* Where a march through occupied cells looks: step i of a ray, and whether its middle is occupied. When it is not, *skip
 * tells how many steps may be left out because they are in the same cell. */
HR_HD int hr_march_step(const HrMarchParams* p, const float* origin, const float* direction, float middle, int64_t* skip) {
  int32_t cell[3];
  float leave = 3.0e38f; /* distance at which the ray leaves this cell */
  *skip = 1;
  for (int k = 0; k < 3; ++k) {
    const float side = (p->upper[k] - p->lower[k]) / (float)p->size[k];
    const float at = (origin[k] + middle * direction[k] - p->lower[k]) / side;
    if (!(at >= 0.0f && at < (float)p->size[k])) return 0;
    cell[k] = (int32_t)at;
    const float wall = p->lower[k] + side * (float)(direction[k] > 0.0f ? cell[k] + 1 : cell[k]);
    const float reach = direction[k] != 0.0f ? (wall - origin[k]) / direction[k] : 3.0e38f;
    if (reach < leave) leave = reach;
  }
  const int64_t index = ((int64_t)cell[2] * p->size[1] + cell[1]) * p->size[0] + cell[0];
  if (p->occupied[index]) return 1;
  /* One step short of the wall: rounding must not jump over a step that the cell behind it would keep. */
  const float steps = (leave - middle) / p->step - 1.0f;
  if (steps > 1.0f) *skip = steps < 1.0e6f ? (int64_t)steps : 1000000;
  return 0;
}

#endif
