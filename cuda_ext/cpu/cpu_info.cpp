// What was compiled and what this CPU can run. This unit is compiled without any instruction-set flag, so that it can
// be called safely before anything else on a CPU that lacks the baseline.
#include "c_api.h"

#if defined(__x86_64__)
static bool has_baseline() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"); }
#else
static bool has_baseline() { return true; }
#endif

#if defined(HR_WITH_AVX512)
bool hr_cpu_has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
}
#else
bool hr_cpu_has_avx512() { return false; }
#endif

#if defined(__x86_64__)
#define HR_BASE_NAME "x86-64-v3"
#elif defined(__aarch64__)
#define HR_BASE_NAME "arm64"
#else
#define HR_BASE_NAME "generic"
#endif

int32_t hr_abi_version(void) { return HR_ABI_VERSION; }

const char* hr_compiled_isas(void) {
#if defined(HR_WITH_AVX512)
  return HR_BASE_NAME " avx512";
#else
  return HR_BASE_NAME;
#endif
}

const char* hr_isa_in_use(void) {
  if (!has_baseline()) return "";
  return hr_cpu_has_avx512() ? "avx512" : HR_BASE_NAME;
}
