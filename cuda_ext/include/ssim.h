/* Structural similarity with an 11 x 11 Gaussian window (sigma 1.5): parameters, and the maths of one pixel.
 *
 * Z. Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004, section III-B:
 * with the window's means m1, m2, variances v1, v2 and covariance v12 of two pictures,
 *     ssim = (2 m1 m2 + c1) (2 v12 + c2) / ((m1^2 + m2^2 + c1) (v1 + v2 + c2)).
 * v1 and v2 appear as a sum only, so four averages suffice: of x, y, x^2 + y^2 and x y. The window is separable, symmetric and
 * the same for all four; outside the picture everything is 0 ("same"), or only pixels whose window fits are computed
 * ("valid"). The backward pass averages with the same window: it is its own transpose. */
#ifndef HR_SSIM_H
#define HR_SSIM_H

#include "hr_common.h"

#define HR_SSIM_RADIUS 5

typedef struct HrSsimParams {
  const float* image;      /* [B,H,W,D] */
  const float* reference;  /* [B,H,W,D] */
  float* map;              /* out [B,H',W',D]; H' = H, or H - 10 when valid is set; W' likewise */
  float* partials;         /* out [4,B,H',W',D]: HrSsimTerms::partial of every pixel; or null */
  int64_t batch;           /* B */
  int32_t height;          /* H */
  int32_t width;           /* W */
  int32_t channels;        /* D */
  int32_t valid;           /* nonzero: only pixels whose window lies inside; H and W must then be at least 11 */
  int32_t num_threads;     /* threads to use, at least 1 */
  int32_t isa;             /* HrIsa */
  float c1;                /* (0.01 L)^2 for pictures of range L */
  float c2;                /* (0.03 L)^2 */
} HrSsimParams;

typedef struct HrSsimGradParams {
  const float* image;      /* [B,H,W,D] as in the forward call */
  const float* reference;  /* [B,H,W,D] */
  const float* partials;   /* [4,B,H',W',D] from the forward call */
  const float* grad_map;   /* [B,H',W',D] */
  float* grad_image;       /* out [B,H,W,D], or null */
  float* grad_reference;   /* out [B,H,W,D], or null */
  int64_t batch;           /* B */
  int32_t height;          /* H */
  int32_t width;           /* W */
  int32_t channels;        /* D */
  int32_t valid;           /* as in the forward call */
  int32_t num_threads;     /* threads to use, at least 1 */
  int32_t isa;             /* HrIsa */
} HrSsimGradParams;

#ifdef __cplusplus
namespace hr {

/* exp(-k^2 / 4.5) at distance k from the middle, divided by the sum over all eleven. */
HR_HD float ssim_weight(int distance) {
  switch (distance < 0 ? -distance : distance) {
    case 0: return 0.266011725f;
    case 1: return 0.213005538f;
    case 2: return 0.10936069f;
    case 3: return 0.0360007721f;
    case 4: return 0.00759875814f;
    default: return 0.00102838008f;
  }
}

/* The window along one axis: far is of the two pixels at distance k added up. One order of summation everywhere: from the
 * middle outwards. T: float, or a vector of them. */
template <class T>
HR_HD T ssim_average(T middle, const T (&pairs)[HR_SSIM_RADIUS]) {
  T sum = middle * ssim_weight(0);
  for (int k = 1; k <= HR_SSIM_RADIUS; ++k) sum = sum + pairs[k - 1] * ssim_weight(k);
  return sum;
}

template <class T>
struct SsimTerms {
  T value;
  T partial[4]; /* of value with respect to the averages of x, y, x^2 + y^2 and x y */
};

/* What the four averages make. T: float, or a vector of them. */
template <class T>
HR_HD SsimTerms<T> ssim_terms(T mean_x, T mean_y, T squares, T product, float c1, float c2) {
  const T both_means = mean_x * mean_x + mean_y * mean_y, xy = mean_x * mean_y; /* x and y may change places */
  const T light = xy * 2.0f + c1, light_norm = both_means + c1;
  const T structure = (product - xy) * 2.0f + c2, structure_norm = squares - both_means + c2;
  const T scale = 1.0f / (light_norm * structure_norm);
  SsimTerms<T> t;
  t.value = light * structure * scale;
  /* The logarithm's derivatives: of the products above and of the two that they are divided by. */
  t.partial[3] = light * scale * 2.0f;
  t.partial[2] = -(t.value * light_norm * scale);
  const T both = (structure - light) * scale * 2.0f;
  const T norms = t.value * scale * (structure_norm - light_norm) * 2.0f;
  t.partial[0] = mean_y * both - mean_x * norms;
  t.partial[1] = mean_x * both - mean_y * norms;
  return t;
}

/* Gradient of x at one pixel, from the windowed averages of grad * partial: of the mean, the squares and the product. */
template <class T>
HR_HD T ssim_gradient(T mean, T squares, T product, T x, T y) {
  return mean + x * squares * 2.0f + y * product;
}

}  // namespace hr
#endif

#endif
