/* The CUDA half of the native library: plain C, loaded with ctypes by headrecon/ops/_native_cuda.py.
 *
 * For every op, hr_<op>_cuda takes the parameters of hr_<op>_cpu with device pointers, and where to run. It checks sizes,
 * launches on the given stream and returns at once; it neither allocates nor waits, so that it can be captured in a CUDA
 * graph. hr_<op>_cuda_workspace says how many bytes of device memory it needs for scratch. The same parameters and the same
 * HrCudaLaunch (whose pointers it ignores) must be given to both. */
#ifndef HR_C_API_CUDA_H
#define HR_C_API_CUDA_H

#include "c_api.h"
#include "splat.h"

typedef struct HrCudaLaunch {
  void* stream;             /* cudaStream_t; null is the default stream */
  void* workspace;          /* device memory, aligned to 256 bytes */
  int32_t* fault;           /* set to HR_ERROR_INDEX by a kernel that meets an index out of range; memory that the device
                             * can write (pinned host memory will do) */
  int64_t workspace_bytes;  /* at least what hr_<op>_cuda_workspace says */
  int32_t device;           /* CUDA device number; it becomes and stays the calling thread's current device */
  int32_t deterministic;    /* nonzero: sums over pixels come out the same, bit for bit, on every run; slower */
} HrCudaLaunch;

HR_API int32_t hr_cuda_abi_version(void); /* HR_ABI_VERSION */
/* Space-separated compute capabilities whose machine code is in the library, e.g. "7.5 8.0 9.0". */
HR_API const char* hr_cuda_archs(void);
/* What CUDA said about the last call on this thread that returned HR_ERROR_CUDA. */
HR_API const char* hr_cuda_last_error(void);

#define HR_DECLARE_CUDA_OP(name, Params)                                        \
  HR_API int32_t hr_##name##_cuda(const Params* params, const HrCudaLaunch* launch); \
  HR_API int64_t hr_##name##_cuda_workspace(const Params* params, const HrCudaLaunch* launch)

HR_DECLARE_CUDA_OP(rasterize, HrRasterizeParams);
HR_DECLARE_CUDA_OP(rasterize_backward, HrRasterizeGradParams);
HR_DECLARE_CUDA_OP(interpolate, HrInterpolateParams);
HR_DECLARE_CUDA_OP(interpolate_backward, HrInterpolateGradParams);
HR_DECLARE_CUDA_OP(screen_slopes, HrScreenSlopesParams);
HR_DECLARE_CUDA_OP(pyramid, HrPyramidParams);
HR_DECLARE_CUDA_OP(pyramid_backward, HrPyramidParams);
HR_DECLARE_CUDA_OP(texture, HrTextureParams);
HR_DECLARE_CUDA_OP(texture_backward, HrTextureGradParams);
HR_DECLARE_CUDA_OP(antialias, HrAntialiasParams);
HR_DECLARE_CUDA_OP(antialias_backward, HrAntialiasParams);
HR_DECLARE_CUDA_OP(shade, HrShadeParams);
HR_DECLARE_CUDA_OP(splat_project, HrSplatProjectParams);
HR_DECLARE_CUDA_OP(splat_project_backward, HrSplatProjectGradParams);
HR_DECLARE_CUDA_OP(splat_harmonics, HrSplatHarmonicsParams);
HR_DECLARE_CUDA_OP(splat_harmonics_backward, HrSplatHarmonicsGradParams);
HR_DECLARE_CUDA_OP(splat_tiles, HrSplatTilesParams);
HR_DECLARE_CUDA_OP(splat_composite, HrSplatCompositeParams);
HR_DECLARE_CUDA_OP(splat_composite_backward, HrSplatCompositeGradParams);
HR_DECLARE_CUDA_OP(trigrid_sample, HrTrigridSampleParams);
HR_DECLARE_CUDA_OP(trigrid_sample_backward, HrTrigridSampleParams);
HR_DECLARE_CUDA_OP(trigrid_decode, HrTrigridDecodeParams);
HR_DECLARE_CUDA_OP(trigrid_decode_backward, HrTrigridDecodeParams);
HR_DECLARE_CUDA_OP(trigrid_render, HrTrigridRenderParams);
HR_DECLARE_CUDA_OP(trigrid_render_backward, HrTrigridRenderParams);
HR_DECLARE_CUDA_OP(composite, HrCompositeParams);
HR_DECLARE_CUDA_OP(composite_backward, HrCompositeParams);
HR_DECLARE_CUDA_OP(importance, HrImportanceParams);
HR_DECLARE_CUDA_OP(march, HrMarchParams);
HR_DECLARE_CUDA_OP(mlp, HrMlpParams);
HR_DECLARE_CUDA_OP(mlp_backward, HrMlpGradParams);
HR_DECLARE_CUDA_OP(hashgrid, HrHashgridParams);
HR_DECLARE_CUDA_OP(hashgrid_backward, HrHashgridGradParams);
HR_DECLARE_CUDA_OP(point_index, HrPointIndexParams);
HR_DECLARE_CUDA_OP(query_points, HrQueryPointsParams);
HR_DECLARE_CUDA_OP(blend_points, HrBlendPointsParams);
HR_DECLARE_CUDA_OP(blend_points_backward, HrBlendPointsGradParams);
HR_DECLARE_CUDA_OP(isosurface_count, HrIsosurfaceParams);
HR_DECLARE_CUDA_OP(isosurface_fill, HrIsosurfaceParams);
HR_DECLARE_CUDA_OP(ssim, HrSsimParams);
HR_DECLARE_CUDA_OP(ssim_backward, HrSsimGradParams);

#endif
