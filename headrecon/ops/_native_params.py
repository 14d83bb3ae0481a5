"""The parameter structs of the native library as ctypes sees them. Only `_native.py` uses them.

They must match cuda_ext/include field by field; raise the ABI version on both sides with every change.
"""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32, c_int64, c_void_p


def layout(pointers: str, int64s: str, int32s: str, floats: str = "") -> list[tuple[str, type]]:
    """Fields of a struct that holds pointers, then 64-bit, then 32-bit integers, then floats."""
    kinds = ((pointers, c_void_p), (int64s, c_int64), (int32s, c_int32), (floats, c_float))
    return [(name, kind) for names, kind in kinds for name in names.split()]


class RasterizeParams(Structure):
    """HrRasterizeParams in rasterize.h, field by field."""

    _fields_ = [
        ("points_hom", c_void_p),
        ("faces", c_void_p),
        ("face_index", c_void_p),
        ("barycentrics", c_void_p),
        ("depth_z", c_void_p),
        ("batch", c_int64),
        ("num_vertices", c_int64),
        ("num_faces", c_int64),
        ("height", c_int32),
        ("width", c_int32),
        ("near_z", c_float),
        ("far_z", c_float),
        ("cull_backfaces", c_int32),
        ("num_threads", c_int32),
        ("isa", c_int32),
    ]


class InterpolateParams(Structure):
    """HrInterpolateParams in interpolate.h, field by field."""

    _fields_ = [
        ("attributes", c_void_p),
        ("faces", c_void_p),
        ("face_index", c_void_p),
        ("barycentrics", c_void_p),
        ("values", c_void_p),
        ("batch", c_int64),
        ("attribute_batch", c_int64),
        ("num_vertices", c_int64),
        ("num_faces", c_int64),
        ("num_pixels", c_int64),
        ("channels", c_int32),
        ("num_threads", c_int32),
    ]


class RasterizeGradParams(Structure):
    """HrRasterizeGradParams in rasterize.h, field by field."""

    _fields_ = layout(
        "points_hom faces face_index grad_barycentrics grad_depth grad_points",
        "batch num_vertices num_faces",
        "height width num_threads isa",
    )


class InterpolateGradParams(Structure):
    """HrInterpolateGradParams in interpolate.h, field by field."""

    _fields_ = layout(
        "attributes faces face_index barycentrics grad_values grad_attributes grad_barycentrics",
        "batch attribute_batch num_vertices num_faces num_pixels",
        "channels num_threads",
    )


class ScreenSlopesParams(Structure):
    """HrScreenSlopesParams in interpolate.h, field by field."""

    _fields_ = layout(
        "points_hom faces attributes attribute_faces face_index slopes",
        "batch num_vertices num_attributes num_faces",
        "height width channels num_threads",
    )


class PyramidParams(Structure):
    """HrPyramidParams in texture.h, field by field."""

    _fields_ = layout("pyramid", "batch", "height width levels channels num_threads")


class TextureParams(Structure):
    """HrTextureParams in texture.h, field by field."""

    _fields_ = layout(
        "pyramid uvs uv_slopes face_index values",
        "batch texture_batch num_pixels",
        "height width levels channels wrap num_threads",
    )


class TextureGradParams(Structure):
    """HrTextureGradParams in texture.h, field by field."""

    _fields_ = layout(
        "pyramid uvs uv_slopes face_index grad_values grad_pyramid grad_uvs",
        "batch texture_batch num_pixels",
        "height width levels channels wrap num_threads",
    )


class AntialiasParams(Structure):
    """HrAntialiasParams in antialias.h, field by field."""

    _fields_ = layout(
        "image face_index depth_z points_hom faces neighbours grad_out out grad_points pixels outline rim",
        "batch num_vertices num_faces",
        "height width channels num_threads",
    )


class ShadeParams(Structure):
    """HrShadeParams in shade.h, field by field."""

    _fields_ = [
        ("face_index", c_void_p),
        ("barycentrics", c_void_p),
        ("corners", c_void_p),
        ("vertices", c_void_p),
        ("normals", c_void_p),
        ("uvs", c_void_p),
        ("colours", c_void_p),
        ("cameras", c_void_p),
        ("ambient", c_void_p),
        ("lights", c_void_p),
        ("surface", c_void_p),
        ("background", c_void_p),
        ("image_srgb", c_void_p),
        ("alpha", c_void_p),
        ("num_vertices", c_int64),
        ("num_normals", c_int64),
        ("num_uvs", c_int64),
        ("num_faces", c_int64),
        ("num_cameras", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("factor", c_int32),
        ("colour_source", c_int32),
        ("texture_height", c_int32),
        ("texture_width", c_int32),
        ("num_lights", c_int32),
        ("num_threads", c_int32),
    ]


#: Every op on meshes: hr_<name>_cpu in the CPU library, hr_<name>_cuda in the CUDA library, and the struct of both.
MESH_OPS: dict[str, type[Structure]] = {
    "rasterize": RasterizeParams,
    "rasterize_backward": RasterizeGradParams,
    "interpolate": InterpolateParams,
    "interpolate_backward": InterpolateGradParams,
    "screen_slopes": ScreenSlopesParams,
    "pyramid": PyramidParams,
    "pyramid_backward": PyramidParams,
    "texture": TextureParams,
    "texture_backward": TextureGradParams,
    "antialias": AntialiasParams,
    "antialias_backward": AntialiasParams,
    "shade": ShadeParams,
}
