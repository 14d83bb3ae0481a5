// Compositing for AVX-512, chosen at run time (cpu_info.cpp).
#if defined(HR_WITH_AVX512)
#define HR_COMPOSITE_KERNELS kCompositeAvx512
#include "composite_rays.inl"
#endif
