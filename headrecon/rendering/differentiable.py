"""Pictures of a mesh through which gradients flow: to its vertices, its cameras, its attributes and its texture.

`view_mesh` says what every pixel sees; the methods of the `MeshView` that it returns make pictures of that. This is for
fitting: `rendering.mesh` makes finished, lit pictures, faster and without gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops.antialias import antialias, face_neighbours
from headrecon.ops.interpolate import interpolate, screen_slopes
from headrecon.ops.rasterize import DEFAULT_NEAR_Z, Raster, to_homogeneous_image
from headrecon.ops.texture import TexturePyramid, Wrap, sample_texture, texture_pyramid
from headrecon.rendering.peers import MeshBackend, rasterize_with
from headrecon.structures import Cameras, Mesh, triangulate


@dataclass(frozen=True)
class MeshTopology:
    """What stays the same while a mesh moves: its triangles, which of them meet at each edge, and its UVs.

    uv_triangles has a row for each of triangles. neighbours is `ops.antialias.face_neighbours(triangles)`.
    """

    triangles: Int[Tensor, "F 3"]
    neighbours: Int[Tensor, "F 3"]
    uvs: Float[Tensor, "T 2"] | None = None
    uv_triangles: Int[Tensor, "F 3"] | None = None

    @staticmethod
    def of(mesh: Mesh) -> MeshTopology:
        """The topology of a mesh; quads become triangles as in `structures.triangulate`."""
        triangles = torch.from_numpy(triangulate(mesh.faces)[0].astype(np.int32))
        uvs = uv_triangles = None
        if mesh.uvs is not None and mesh.uv_faces is not None:
            uvs = torch.from_numpy(np.ascontiguousarray(mesh.uvs, dtype=np.float32))
            uv_triangles = torch.from_numpy(triangulate(mesh.uv_faces)[0].astype(np.int32))
        return MeshTopology(triangles, face_neighbours(triangles), uvs, uv_triangles)


@dataclass(frozen=True)
class MeshView:
    """What C cameras see of a mesh. Its pictures are differentiable in what they show and in what moved the mesh."""

    topology: MeshTopology
    points_hom: Float[Tensor, "C V 3"]
    raster: Raster

    def attributes(self, values: Float[Tensor, "*C V D"]) -> Float[Tensor, "C H W D"]:
        """Per-vertex values [V,D], or [C,V,D] where they differ by camera, over the pixels; 0 without a face."""
        return interpolate(values, self.topology.triangles, self.raster.face_index, self.raster.barycentrics)

    def texture(
        self, texture: Float[Tensor, "*C H W D"] | TexturePyramid, *, wrap: Wrap = "clamp", smallest_side: int = 64
    ) -> Float[Tensor, "C h w D"]:
        """A texture over the UVs, from the level that suits each pixel; 0 where there is no face.

        texture: [H,W,D], or [C,H,W,D] where it differs by camera, row 0 on top, or its pyramid (made once, where the
        texture stays and the mesh moves). smallest_side: how far it may be averaged when the pyramid is made here.
        Raises ShapeError when the topology has no UVs.
        """
        uvs, uv_triangles = self.topology.uvs, self.topology.uv_triangles
        if uvs is None or uv_triangles is None:
            raise ShapeError(
                "MeshView.texture: a texture needs a topology with uvs and uv_triangles; this one has none"
            )
        pyramid = texture if isinstance(texture, TexturePyramid) else texture_pyramid(texture, smallest_side)
        at = interpolate(uvs, uv_triangles, self.raster.face_index, self.raster.barycentrics)
        slopes = None
        if pyramid.levels > 1:
            slopes = screen_slopes(uvs, uv_triangles, self.raster, self.points_hom, self.topology.triangles)
        return sample_texture(pyramid, at, wrap, slopes=slopes, face_index=self.raster.face_index)

    def picture(
        self, colour: Float[Tensor, "C H W D"], background: Float[Tensor, "*C_H_W D"] | None = None
    ) -> Float[Tensor, "C H W D"]:
        """The mesh in colour before a background, with smooth outlines.

        background: any shape that spreads to the picture; 0 by default. The gradient moves the outlines where the mesh
        and what is behind it differ in colour.
        """
        behind = colour.new_zeros(colour.shape[-1]) if background is None else background
        image = torch.where(self.raster.covered[..., None], colour, behind)
        return antialias(image, self.raster, self.points_hom, self.topology.triangles, self.topology.neighbours)

    def coverage(self) -> Float[Tensor, "C H W"]:
        """The share of each pixel that the mesh covers, 0 to 1: its silhouette, which has a gradient."""
        return self.picture(self.raster.covered.to(self.points_hom.dtype)[..., None])[..., 0]


def view_mesh(
    vertices: Float[Tensor, "*C V 3"],
    topology: MeshTopology,
    cameras: Cameras,
    *,
    near_z: float = DEFAULT_NEAR_Z,
    backend: MeshBackend = "headrecon",
) -> MeshView:
    """Look at a mesh with C cameras (viewmats [C,4,4], Ks [C,3,3]).

    vertices: float32 in metres, [V,3] seen by every camera, or [C,V,3], one set for each. Differentiable in vertices
    and cameras. backend: whose rasterizer says what pixels see; others than our own are for comparison and looked for
    when asked for (`rendering.peers`). Raises ShapeError for shapes or indices that do not fit, NativeMissing for a
    backend that is not here.
    """
    cameras = cameras.to(dtype=torch.float32)
    if cameras.viewmats.ndim != 3 or cameras.Ks.ndim != 3:
        raise ShapeError(
            f"view_mesh: cameras must have viewmats [C,4,4] and Ks [C,3,3], found {tuple(cameras.viewmats.shape)} and "
            f"{tuple(cameras.Ks.shape)}"
        )
    points_hom = to_homogeneous_image(vertices, cameras)
    raster = rasterize_with(backend, points_hom, topology.triangles, (cameras.height, cameras.width), near_z)
    return MeshView(topology, points_hom, raster)
