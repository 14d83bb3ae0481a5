// Small networks for the baseline of this architecture: AVX2 on x86-64-v3, NEON on arm64.
#define HR_MLP_KERNELS kMlpBase
#include "mlp_block.inl"
