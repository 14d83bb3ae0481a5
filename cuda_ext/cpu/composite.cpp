// CPU compositing along rays, shared out among threads. A ray belongs to one thread, so nothing depends on their number.
#include <algorithm>

#include "c_api.h"
#include "composite_rays.h"
#include "huge_pages.h"
#include "ray_checks.h"
#include "thread_pool.h"

bool hr_cpu_has_avx512();

namespace hr {
namespace {

constexpr int64_t kRaysPerTask = 64;

const CompositeKernels& kernels_for(int32_t isa) {
#if defined(HR_WITH_AVX512)
  if (isa != HR_ISA_BASE && hr_cpu_has_avx512()) return kCompositeAvx512;
#else
  (void)isa;
#endif
  return kCompositeBase;
}

int32_t over_rays(const HrCompositeParams& p, void (*run)(const HrCompositeParams&, int64_t begin, int64_t end)) {
  const int64_t rays = p.samples.num_rays;
  parallel_for((rays + kRaysPerTask - 1) / kRaysPerTask, p.num_threads, [&](int64_t task) {
    run(p, task * kRaysPerTask, std::min((task + 1) * kRaysPerTask, rays));
  });
  return HR_OK;
}

int32_t check(const HrCompositeParams& p) {
  if (p.channels < 0 || p.num_threads < 1) return HR_ERROR_ARGUMENT;
  return check_samples(p.samples);
}

}  // namespace
}  // namespace hr

int32_t hr_composite_cpu(const HrCompositeParams* params) {
  const HrCompositeParams& p = *params;
  if (const int32_t status = hr::check(p)) return status;
  return hr::guarded([&] { return hr::over_rays(p, hr::kernels_for(p.isa).forward); });
}

int32_t hr_composite_backward_cpu(const HrCompositeParams* params) {
  const HrCompositeParams& p = *params;
  if (const int32_t status = hr::check(p)) return status;
  hr::expect_writes(p.grad_features, p.samples.num_samples * p.channels * 4);
  return hr::guarded([&] { return hr::over_rays(p, hr::kernels_for(p.isa).backward); });
}
