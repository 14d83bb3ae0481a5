// The tri-grid kernels for AVX-512, chosen at run time (cpu_info.cpp).
#if defined(HR_WITH_AVX512)
#define HR_TILE_ROWS 4
#define HR_TILE_VECTORS 4
#include "trigrid_lookup.inl"
#include "trigrid_decoder.inl"
namespace hr {
const TrigridKernels kTrigridAvx512 = {gather, place_gradients, find_bins, scatter, decode, decode_backward, opacities};
}
#endif
