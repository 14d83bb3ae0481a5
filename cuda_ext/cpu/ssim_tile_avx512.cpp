// Structural similarity for AVX-512, chosen at run time (cpu_info.cpp).
#if defined(HR_WITH_AVX512)
#define HR_LANES 16
#define HR_STAGE kSsimStageAvx512
#include "ssim_tile.inl"
#endif
