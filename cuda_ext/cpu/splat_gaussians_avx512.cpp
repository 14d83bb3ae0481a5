// Projection and harmonics for AVX-512, chosen at run time (cpu_info.cpp).
#if defined(HR_WITH_AVX512)
#define HR_STAGE kSplatGaussianStageAvx512
#include "splat_gaussians.inl"
#endif
