// What the CUDA ops share: launching, scratch memory, errors, and sums that many threads add to.
//
// The same sources compile with a C++ compiler and -DHR_EMULATE: host_emulation.h then stands in for CUDA, and the tests
// run every kernel thread by thread on the CPU.
#pragma once

#include <stdint.h>

#include "c_api_cuda.h"

#if defined(HR_EMULATE)
#include "host_emulation.h"
#else
#include <cuda_runtime.h>
#endif

// Rows of blocks in a grid: images beyond them are worked through in turns. Tests make it small.
#if !defined(HR_MAX_GRID_ROWS)
#define HR_MAX_GRID_ROWS 65535
#endif

namespace hr {

constexpr int kThreads = 256;      // per block
constexpr int kWarp = 32;
constexpr uint32_t kWholeWarp = 0xffffffffu;
constexpr int64_t kMaxBlocks = INT32_MAX;
constexpr int64_t kMaxGridRows = HR_MAX_GRID_ROWS;

HR_HD int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Makes the launch's device the current one of this thread. It stays so: the caller, whose tensors lie there, has made it
// current in its own CUDA runtime too, and knows what to go back to.
bool enter_device(const HrCudaLaunch& launch);

// HR_OK, or HR_ERROR_CUDA when a launch since `enter_device` failed.
int32_t launch_status();

// Blocks that keep the current device busy when each works through many items.
int resident_blocks();

// Hands out pieces of the workspace. Without a base it only counts, so that size and use come from one function.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    char* at = base_ ? base_ + used_ : nullptr;
    used_ += divide_up(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
    return reinterpret_cast<T*>(at);
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

inline cudaStream_t stream_of(const HrCudaLaunch& launch) { return static_cast<cudaStream_t>(launch.stream); }

inline void fill_bytes(const HrCudaLaunch& launch, void* data, int value, int64_t bytes) {
  if (bytes > 0) cudaMemsetAsync(data, value, static_cast<size_t>(bytes), stream_of(launch));
}

#if !defined(HR_EMULATE)
// shared_bytes: of dynamic_shared(), at most 48 KiB together with what the kernel declares.
template <class... Parameters, class... Arguments>
void launch_sized(const HrCudaLaunch& launch, dim3 blocks, unsigned threads, size_t shared_bytes,
                  void (*kernel)(Parameters...), Arguments... arguments) {
  kernel<<<blocks, threads, shared_bytes, stream_of(launch)>>>(arguments...);
}

// Shared memory whose size the launch chose.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char hr_dynamic_shared[];
  return hr_dynamic_shared;
}
#endif

template <class... Parameters, class... Arguments>
void launch_blocks(const HrCudaLaunch& launch, dim3 blocks, void (*kernel)(Parameters...), Arguments... arguments) {
  launch_sized(launch, blocks, kThreads, 0, kernel, arguments...);
}

// One thread per item of every image: see `items_of_this_thread`. Launches nothing when there is nothing to do.
template <class... Parameters, class... Arguments>
void launch_over(const HrCudaLaunch& launch, int64_t items, int64_t images, void (*kernel)(Parameters...),
                 Arguments... arguments) {
  if (items <= 0 || images <= 0) return;
  const int64_t across = divide_up(items, kThreads);
  const int64_t down = images < kMaxGridRows ? images : kMaxGridRows;
  launch_blocks(launch, dim3(static_cast<unsigned>(across), static_cast<unsigned>(down)), kernel, arguments...);
}

// Whether launch_over can address so many items.
inline bool fits_grid(int64_t items) { return items >= 0 && items <= kMaxBlocks * kThreads; }

// Within a kernel of launch_over: which item this thread has (of every image; may lie beyond the last one), and the images
// that its block works through.
struct Place {
  int64_t item, first_image, image_step;
};

__device__ __forceinline__ Place place_of_this_thread() {
  return {static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, static_cast<int64_t>(blockIdx.y),
          static_cast<int64_t>(gridDim.y)};
}

// a / b for a >= 0, b > 0. In 64 bits that takes ten times as long as in 32, which nearly always do.
__device__ __forceinline__ int64_t quotient(int64_t a, int32_t b) {
  return a <= UINT32_MAX ? static_cast<int64_t>(static_cast<unsigned>(a) / static_cast<unsigned>(b)) : a / b;
}

struct NoScratch {};

__device__ __forceinline__ void report_bad_index(int32_t* fault) { *static_cast<volatile int32_t*>(fault) = HR_ERROR_INDEX; }

}  // namespace hr

// The two entry points of an op, from its `check` (sizes only), `lay_out` (scratch) and `run`.
#define HR_DEFINE_CUDA_OP(name, Params)                                                          \
  int64_t hr_##name##_cuda_workspace(const Params* params, const HrCudaLaunch* launch) {         \
    hr::Workspace workspace(nullptr);                                                            \
    if (hr::check(*params) == HR_OK) hr::lay_out_##name(*params, *launch, workspace);            \
    return workspace.used();                                                                     \
  }                                                                                              \
  int32_t hr_##name##_cuda(const Params* params, const HrCudaLaunch* launch) {                   \
    const int32_t checked = hr::check(*params);                                                  \
    if (checked != HR_OK) return checked;                                                        \
    hr::Workspace workspace(launch->workspace);                                                  \
    const auto scratch = hr::lay_out_##name(*params, *launch, workspace);                        \
    if (workspace.used() > launch->workspace_bytes) return HR_ERROR_MEMORY;                      \
    if (!hr::enter_device(*launch)) return HR_ERROR_CUDA;                                        \
    hr::run_##name(*params, *launch, scratch);                                                   \
    return hr::launch_status();                                                                  \
  }
