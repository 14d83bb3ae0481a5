"""A mesh and a camera as the renderers' kernels take them; shared by `pictures` (numpy) and `mesh` (torch)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headrecon.arrays import namespace
from headrecon.geometry.mesh import face_normals, vertex_normals
from headrecon.ops.samples import ShadeGeometry
from headrecon.structures import Cameras, Mesh, triangulate


def mesh_geometry(mesh: Mesh, smooth: bool) -> ShadeGeometry:
    """The mesh as float32 and int32 numpy arrays, with all that does not depend on the camera."""
    vertices = np.ascontiguousarray(mesh.vertices, dtype=np.float32)
    triangles = triangulate(mesh.faces)[0].astype(np.int32)
    if smooth:
        normals, normal_triangles = vertex_normals(vertices, triangles), triangles
    else:
        normals = face_normals(vertices, triangles)
        normal_triangles = np.repeat(np.arange(len(triangles), dtype=np.int32)[:, None], 3, axis=1)
    uvs, uv_triangles = None, np.zeros_like(triangles)
    if mesh.uvs is not None and mesh.uv_faces is not None:
        uvs = np.ascontiguousarray(mesh.uvs, dtype=np.float32)
        uv_triangles = triangulate(mesh.uv_faces)[0].astype(np.int32)
    return ShadeGeometry(np.concatenate([triangles, normal_triangles, uv_triangles], axis=1), vertices, normals, uvs)


def finer(cameras: Cameras, factor: int) -> Cameras:
    """The same view with factor times the pixels; exact because pixel centres lie at +0.5."""
    ks = cameras.Ks
    scale = namespace(ks).asarray([factor, factor, 1.0], dtype=ks.dtype, device=ks.device)[:, None]
    return replace(cameras, Ks=ks * scale, width=cameras.width * factor, height=cameras.height * factor)
