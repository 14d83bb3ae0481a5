// Structural similarity for the baseline of this architecture: AVX2 on x86-64-v3, NEON on arm64.
#if defined(__AVX2__)
#define HR_LANES 8
#else
#define HR_LANES 4
#endif
#define HR_STAGE kSsimStageBase
#include "ssim_tile.inl"
