// The per-pixel part of the rasterizer's backward pass, compiled once per instruction set.
#pragma once

#include "rasterize.h"

namespace hr {

// Adds the gradients of pixels begin..end-1 of one image (counted row by row) to `sums` [V,3]; false when a pixel names a
// face that is not there. The corners of the faces have been checked.
using AddRasterGradients = bool (*)(const HrRasterizeGradParams&, int64_t image, int64_t begin, int64_t end, float* sums);

extern const AddRasterGradients kAddRasterGradientsBase;
#if defined(HR_WITH_AVX512)
extern const AddRasterGradients kAddRasterGradientsAvx512;
#endif

}  // namespace hr
