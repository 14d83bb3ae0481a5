// What the library is and how it fails.
#include "device.h"

#include <stdio.h>

namespace hr {
namespace {

thread_local char last_error[512] = "";

bool failed(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return false;
  snprintf(last_error, sizeof(last_error), "%s (%s) while %s", cudaGetErrorString(error), cudaGetErrorName(error), doing);
  return true;
}

}  // namespace

DeviceScope::DeviceScope(const HrCudaLaunch& launch) {
  // An earlier error that nobody fetched is not this call's; one that cannot be recovered from comes back below.
  cudaGetLastError();
  if (failed(cudaGetDevice(&before_), "asking for the current device")) return;
  if (launch.device != before_ && failed(cudaSetDevice(launch.device), "selecting the device")) return;
  entered_ = true;
}

DeviceScope::~DeviceScope() {
  int now = before_;
  if (entered_ && cudaGetDevice(&now) == cudaSuccess && now != before_) cudaSetDevice(before_);
}

int32_t DeviceScope::status() {
  if (!entered_) return HR_ERROR_CUDA;
  return failed(cudaGetLastError(), "launching") ? HR_ERROR_CUDA : HR_OK;
}

int resident_blocks() {
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  return processors > 0 ? processors * 4 : 4;
}

}  // namespace hr

#if !defined(HR_CUDA_ARCHS)
#define HR_CUDA_ARCHS ""
#endif

int32_t hr_cuda_abi_version(void) { return HR_ABI_VERSION; }
const char* hr_cuda_archs(void) { return HR_CUDA_ARCHS; }
const char* hr_cuda_last_error(void) { return hr::last_error; }
