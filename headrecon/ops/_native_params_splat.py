"""The parameter structs of Gaussian splatting as ctypes sees them: cuda_ext/include/splat.h, field by field."""

from __future__ import annotations

from ctypes import Structure

from headrecon.ops._native_params import layout


class SplatProjectParams(Structure):
    """HrSplatProjectParams."""

    _fields_ = layout(
        "means quats scales opacities viewmats Ks splats radii normals tiles totals",
        "batch cameras num_gaussians",
        "height width tile_size antialiased num_threads isa",
        "near_z far_z eps2d radius_clip",
    )


class SplatProjectGradParams(Structure):
    """HrSplatProjectGradParams."""

    _fields_ = layout(
        "means quats scales opacities viewmats Ks radii grad_splats grad_normals "
        "grad_means grad_quats grad_scales grad_opacities grad_viewmats",
        "batch cameras num_gaussians",
        "height width antialiased num_threads isa",
        "eps2d",
    )


class SplatHarmonicsParams(Structure):
    """HrSplatHarmonicsParams."""

    _fields_ = layout(
        "means coefficients centers radii colours",
        "batch cameras num_gaussians",
        "num_coefficients degree num_threads isa",
    )


class SplatHarmonicsGradParams(Structure):
    """HrSplatHarmonicsGradParams."""

    _fields_ = layout(
        "means coefficients centers radii colours grad_colours grad_means grad_coefficients grad_centers",
        "batch cameras num_gaussians",
        "num_coefficients degree num_threads isa",
    )


class SplatTilesParams(Structure):
    """HrSplatTilesParams."""

    _fields_ = layout(
        "splats radii tiles offsets ids entries", "images num_gaussians num_ids", "height width tile_size num_threads"
    )


class SplatCompositeParams(Structure):
    """HrSplatCompositeParams."""

    _fields_ = layout(
        "splats colours normals background offsets ids image depth_sum normal_sum transmittance last median",
        "batch cameras num_gaussians num_ids",
        "height width tile_size channels colours_per_image background_per_image num_threads isa",
    )


class SplatCompositeGradParams(Structure):
    """HrSplatCompositeGradParams."""

    _fields_ = layout(
        "splats colours normals background offsets ids tiles entries transmittance last "
        "grad_image grad_depth_sum grad_normal_sum grad_transmittance "
        "grad_splats grad_colours grad_normals grad_background grad_centres",
        "batch cameras num_gaussians num_ids",
        "height width tile_size channels colours_per_image background_per_image num_threads isa",
    )


#: Every op of Gaussian splatting: hr_<name>_cpu in the CPU library, hr_<name>_cuda in the CUDA library.
SPLAT_OPS: dict[str, type[Structure]] = {
    "splat_project": SplatProjectParams,
    "splat_project_backward": SplatProjectGradParams,
    "splat_harmonics": SplatHarmonicsParams,
    "splat_harmonics_backward": SplatHarmonicsGradParams,
    "splat_tiles": SplatTilesParams,
    "splat_composite": SplatCompositeParams,
    "splat_composite_backward": SplatCompositeGradParams,
}
