// Compositing and its backward pass for one instruction set, with HR_STAGE defined.
#include "splat_tile.inl"

#include "splat_composite.inl"
#include "splat_composite_backward.inl"

namespace hr {

const SplatCompositeStage HR_STAGE = {composite_tile, composite_tile_backward};

}  // namespace hr
