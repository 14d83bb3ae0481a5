// Compositing for AVX-512, chosen at run time (cpu_info.cpp).
#if defined(HR_WITH_AVX512)
#define HR_STAGE kSplatCompositeStageAvx512
#include "splat_composite_stage.inl"
#endif
