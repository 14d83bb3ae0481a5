// The tri-grid kernels for the baseline instruction set.
#define HR_TILE_ROWS 2
#define HR_TILE_VECTORS 2
#include "trigrid_lookup.inl"
#include "trigrid_decoder.inl"
namespace hr {
const TrigridKernels kTrigridBase = {gather, place_gradients, find_bins, scatter, decode, decode_backward, opacities};
}
