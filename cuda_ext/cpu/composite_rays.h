// Compositing along rays: compiled once per instruction set, so plain structs only.
#pragma once

#include "ray_samples.h"

namespace hr {

// Rays begin .. end - 1, forward or backward.
struct CompositeKernels {
  void (*forward)(const HrCompositeParams&, int64_t begin, int64_t end);
  void (*backward)(const HrCompositeParams&, int64_t begin, int64_t end);
};

extern const CompositeKernels kCompositeBase;
#if defined(HR_WITH_AVX512)
extern const CompositeKernels kCompositeAvx512;
#endif

}  // namespace hr
