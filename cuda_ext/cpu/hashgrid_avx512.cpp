// The hash grid for AVX-512, chosen at run time (cpu_info.cpp).
#if defined(HR_WITH_AVX512)
#define HR_HASHGRID_KERNELS kHashgridAvx512
#include "hashgrid_level.inl"
#endif
