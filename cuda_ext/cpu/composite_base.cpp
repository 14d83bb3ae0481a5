// Compositing for the baseline of this architecture: AVX2 on x86-64-v3, NEON on arm64.
#define HR_COMPOSITE_KERNELS kCompositeBase
#include "composite_rays.inl"
