// Entry points to the building blocks of the CUDA ops, for tests/ops/test_cuda_blocks.py alone.
#include "scan.h"
#include "sort.h"

using namespace hr;

namespace {

__global__ void __launch_bounds__(kThreads) warp_figures(const float* values, int64_t count, float* sums, float* largest) {
  const int64_t i = place_of_this_thread().item;
  const float value = i < count ? values[i] : 0.0f;
  const float sum = sum_over_warp(value), most = largest_of_warp(value);
  if (i < count) {
    sums[i] = sum;
    largest[i] = most;
  }
}

}  // namespace

HR_API int64_t test_scan_workspace(int64_t count) {
  Workspace workspace(nullptr);
  lay_out_scan(count, workspace);
  return workspace.used();
}

HR_API int32_t test_scan(const uint32_t* counts, int64_t count, int64_t* offsets, const HrCudaLaunch* launch) {
  Workspace workspace(launch->workspace);
  launch_scan(*launch, lay_out_scan(count, workspace), counts, count, offsets);
  return cudaGetLastError() == cudaSuccess ? HR_OK : HR_ERROR_CUDA;
}

HR_API int64_t test_sort_workspace(int64_t capacity) {
  Workspace workspace(nullptr);
  lay_out_sort(capacity, workspace);
  return workspace.used();
}

// on_device: the number of pairs, or null for `capacity`. The sorted pairs end in keys and values when *swapped is 0, else
// in the first two pieces of the workspace.
HR_API int32_t test_sort(uint32_t* keys, uint32_t* values, int64_t capacity, const int64_t* on_device, int32_t bits,
                         int32_t* swapped, const HrCudaLaunch* launch) {
  Workspace workspace(launch->workspace);
  const Pairs sorted = launch_sort(*launch, lay_out_sort(capacity, workspace), {keys, values}, {capacity, on_device}, bits);
  *swapped = sorted.keys != keys;
  return cudaGetLastError() == cudaSuccess ? HR_OK : HR_ERROR_CUDA;
}

HR_API int32_t test_warps(const float* values, int64_t count, float* sums, float* largest, const HrCudaLaunch* launch) {
  launch_over(*launch, count, 1, warp_figures, values, count, sums, largest);
  return cudaGetLastError() == cudaSuccess ? HR_OK : HR_ERROR_CUDA;
}
