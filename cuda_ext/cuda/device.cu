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

bool enter_device(const HrCudaLaunch& launch) {
  // An error that nobody fetched is not this call's; one from which there is no recovery comes back below.
  cudaGetLastError();
  return !failed(cudaSetDevice(launch.device), "selecting the device");
}

int32_t launch_status() { return failed(cudaGetLastError(), "launching") ? HR_ERROR_CUDA : HR_OK; }

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
