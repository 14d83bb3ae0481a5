/* What every header of the native library shares: linkage and host/device marks. No torch, no C++ library types. */
#ifndef HR_COMMON_H
#define HR_COMMON_H

#include <stdint.h>

#if defined(_WIN32)
#define HR_API extern "C" __declspec(dllexport)
#else
#define HR_API extern "C" __attribute__((visibility("default")))
#endif

/* Per-element maths shared by CPU and GPU code. `static` on purpose: the same header is compiled into units with
 * different instruction sets, and a function with external linkage could be merged by the linker into the AVX-512
 * version, which then faults on CPUs without it. */
#if defined(__CUDACC__)
#define HR_HD static __host__ __device__ __forceinline__
#else
#define HR_HD static inline __attribute__((always_inline, unused))
#endif

/* Status codes returned by every hr_* op. */
enum HrStatus {
  HR_OK = 0,
  HR_ERROR_INDEX = 1,    /* an index array points outside the array it indexes */
  HR_ERROR_ARGUMENT = 2, /* a size or parameter is outside the supported range */
  HR_ERROR_MEMORY = 3,   /* scratch memory could not be allocated, or is smaller than needed */
  HR_ERROR_CUDA = 4      /* CUDA refused; hr_cuda_last_error has its words */
};

/* Instruction set to run with; HR_ISA_AUTO takes the best that the CPU has. */
enum HrIsa { HR_ISA_AUTO = 0, HR_ISA_BASE = 1, HR_ISA_AVX512 = 2 };

#endif
