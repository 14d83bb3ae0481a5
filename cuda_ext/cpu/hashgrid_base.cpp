// The hash grid for the baseline of this architecture: AVX2 on x86-64-v3, NEON on arm64.
#define HR_HASHGRID_KERNELS kHashgridBase
#include "hashgrid_level.inl"
