"""Parameter struct of marching cubes. See `_native_params`."""

from __future__ import annotations

from ctypes import Structure, c_float

from headrecon.ops._native_params import layout


class IsosurfaceParams(Structure):
    """HrIsosurfaceParams in isosurface.h, field by field."""

    _fields_ = [
        *layout(
            "values colours blocks bits present starts totals vertices vertex_colours vertex_edges faces",
            "num_blocks",
            "size_x size_y size_z channels inside_below num_threads",
            "level",
        ),
        ("origin", c_float * 3),
        ("spacing", c_float * 3),
    ]


ISOSURFACE_OPS: dict[str, type[Structure]] = {
    "isosurface_count": IsosurfaceParams,
    "isosurface_fill": IsosurfaceParams,
}
