// The rasterizer's backward pass for AVX-512, chosen at run time (cpu_info.cpp).
#if defined(HR_WITH_AVX512)
#define HR_LANES 16
#define HR_GRADIENTS kAddRasterGradientsAvx512
#include "raster_grad_rows.inl"
#endif
