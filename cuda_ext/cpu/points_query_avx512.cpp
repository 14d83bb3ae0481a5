// The search for neighbours for AVX-512, chosen at run time (cpu_info.cpp).
#if defined(HR_WITH_AVX512)
#define HR_QUERY_POINTS kQueryPointsAvx512
#include "points_query.inl"
#endif
