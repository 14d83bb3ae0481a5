// Small networks for AVX-512, chosen at run time (cpu_info.cpp).
#if defined(HR_WITH_AVX512)
#define HR_MLP_KERNELS kMlpAvx512
#include "mlp_block.inl"
#endif
