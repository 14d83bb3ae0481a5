/* The whole surface of the native library: plain C, loaded with ctypes by headrecon/ops/_native.py.
 * Pointers are borrowed for the call. Every op returns an HrStatus. Raise HR_ABI_VERSION whenever a struct or a
 * signature changes, here and in _native.py: a library of another version is refused. */
#ifndef HR_C_API_H
#define HR_C_API_H

#include "antialias.h"
#include "hashgrid.h"
#include "interpolate.h"
#include "isosurface.h"
#include "mlp.h"
#include "points.h"
#include "rasterize.h"
#include "ray_samples.h"
#include "shade.h"
#include "splat.h"
#include "ssim.h"
#include "texture.h"
#include "trigrid.h"

#define HR_ABI_VERSION 11

HR_API int32_t hr_abi_version(void);
/* Space-separated instruction sets that were compiled in, e.g. "x86-64-v3 avx512". */
HR_API const char* hr_compiled_isas(void);
/* The one that HR_ISA_AUTO picks on this CPU; "" when this CPU lacks even the baseline (then call no op). */
HR_API const char* hr_isa_in_use(void);

HR_API int32_t hr_rasterize_cpu(const HrRasterizeParams* params);
HR_API int32_t hr_rasterize_backward_cpu(const HrRasterizeGradParams* params);
HR_API int32_t hr_interpolate_cpu(const HrInterpolateParams* params);
HR_API int32_t hr_interpolate_backward_cpu(const HrInterpolateGradParams* params);
HR_API int32_t hr_screen_slopes_cpu(const HrScreenSlopesParams* params);
HR_API int32_t hr_pyramid_cpu(const HrPyramidParams* params);
HR_API int32_t hr_pyramid_backward_cpu(const HrPyramidParams* params);
HR_API int32_t hr_texture_cpu(const HrTextureParams* params);
HR_API int32_t hr_texture_backward_cpu(const HrTextureGradParams* params);
HR_API int32_t hr_antialias_cpu(const HrAntialiasParams* params);
HR_API int32_t hr_antialias_backward_cpu(const HrAntialiasParams* params);
HR_API int32_t hr_shade_cpu(const HrShadeParams* params);
HR_API int32_t hr_trigrid_sample_cpu(const HrTrigridSampleParams* params);
HR_API int32_t hr_trigrid_sample_backward_cpu(const HrTrigridSampleParams* params);
HR_API int32_t hr_trigrid_decode_cpu(const HrTrigridDecodeParams* params);
HR_API int32_t hr_trigrid_decode_backward_cpu(const HrTrigridDecodeParams* params);
HR_API int32_t hr_trigrid_render_cpu(const HrTrigridRenderParams* params);
HR_API int32_t hr_trigrid_render_backward_cpu(const HrTrigridRenderParams* params);
HR_API int32_t hr_composite_cpu(const HrCompositeParams* params);
HR_API int32_t hr_composite_backward_cpu(const HrCompositeParams* params);
HR_API int32_t hr_importance_cpu(const HrImportanceParams* params);
HR_API int32_t hr_march_cpu(const HrMarchParams* params);
HR_API int32_t hr_hashgrid_cpu(const HrHashgridParams* params);
HR_API int32_t hr_hashgrid_backward_cpu(const HrHashgridGradParams* params);
HR_API int32_t hr_mlp_cpu(const HrMlpParams* params);
HR_API int32_t hr_mlp_backward_cpu(const HrMlpGradParams* params);
HR_API int32_t hr_point_index_cpu(const HrPointIndexParams* params);
HR_API int32_t hr_query_points_cpu(const HrQueryPointsParams* params);
HR_API int32_t hr_blend_points_cpu(const HrBlendPointsParams* params);
HR_API int32_t hr_blend_points_backward_cpu(const HrBlendPointsGradParams* params);
HR_API int32_t hr_splat_project_cpu(const HrSplatProjectParams* params);
HR_API int32_t hr_splat_project_backward_cpu(const HrSplatProjectGradParams* params);
HR_API int32_t hr_splat_harmonics_cpu(const HrSplatHarmonicsParams* params);
HR_API int32_t hr_splat_harmonics_backward_cpu(const HrSplatHarmonicsGradParams* params);
HR_API int32_t hr_splat_tiles_cpu(const HrSplatTilesParams* params);
HR_API int32_t hr_splat_composite_cpu(const HrSplatCompositeParams* params);
HR_API int32_t hr_splat_composite_backward_cpu(const HrSplatCompositeGradParams* params);
HR_API int32_t hr_isosurface_count_cpu(const HrIsosurfaceParams* params);
HR_API int32_t hr_isosurface_fill_cpu(const HrIsosurfaceParams* params);
HR_API int32_t hr_ssim_cpu(const HrSsimParams* params);
HR_API int32_t hr_ssim_backward_cpu(const HrSsimGradParams* params);

#endif
