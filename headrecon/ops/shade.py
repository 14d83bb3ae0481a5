"""Shading of a rasterized mesh to a finished picture: colour lookup, light, averaging of samples, background, sRGB.

One fused op, because previews and turntables shade millions of samples and step-by-step torch is bound by memory. It is
not differentiable; `ops/reference/shade.py` holds the same maths in torch, which is.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native
from headrecon.ops._register import register_op
from headrecon.ops.reference.shade import shade_reference
from headrecon.ops.samples import ColourSource, Raster, ShadeColours, ShadeGeometry, ShadeLights

__all__ = ["ShadeColours", "ShadeGeometry", "ShadeLights", "shade"]


def shade(
    raster: Raster,
    geometry: ShadeGeometry,
    colours: ShadeColours,
    centers: Float[Tensor, "C 3"],
    lighting: ShadeLights | None,
    *,
    factor: int = 1,
    background: Float[Tensor, "3"] | None = None,
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """(image_srgb, alpha) of a raster with factor x factor samples per pixel.

    centers: camera positions in the world. lighting None shows plain colours. background: sRGB; without one the image
    holds straight colours (not multiplied by alpha), 0 where alpha is 0.
    Raises ShapeError for sizes or indices that do not fit; NativeMissing on a device without a built back end.
    """
    count, height, width = raster.face_index.shape
    if factor < 1 or height % factor or width % factor:
        raise ShapeError(f"shade: a raster of {height} x {width} samples cannot be averaged by factor {factor}")
    none = geometry.vertices.new_zeros(0, dtype=torch.float32)
    values, source = _colour_values(colours, geometry)
    rotations = torch.eye(3, device=centers.device).expand(count, 3, 3) if lighting is None else lighting.rotations
    cameras = torch.cat([centers.float(), rotations.reshape(count, 9).float()], dim=1)
    return _shade(
        raster.face_index,
        raster.barycentrics,
        geometry.corners.to(torch.int32),
        geometry.vertices.float(),
        geometry.normals.float(),
        none.reshape(0, 2) if geometry.uvs is None else geometry.uvs.float(),
        values,
        source,
        cameras,
        none if lighting is None else lighting.ambient.float(),
        none.reshape(0, 6) if lighting is None else lighting.lights.float(),
        none if lighting is None else lighting.surface.float(),
        factor,
        none if background is None else background.float(),
    )


def _colour_values(colours: ShadeColours, geometry: ShadeGeometry) -> tuple[Tensor, int]:
    """Colours as [A,B,3] float32 and where they come from."""
    if colours.texture is not None:
        if colours.texture.ndim != 3 or colours.texture.shape[2] != 3 or geometry.uvs is None:
            raise ShapeError(
                f"shade: a texture must be [H,W,3] on a mesh with uvs, found {tuple(colours.texture.shape)}"
                + (" and no uvs" if geometry.uvs is None else "")
            )
        return colours.texture.float(), ColourSource.TEXTURE
    if colours.vertex is not None:
        if colours.vertex.shape != geometry.vertices.shape:
            wanted, found = tuple(geometry.vertices.shape), tuple(colours.vertex.shape)
            raise ShapeError(f"shade: vertex colours must be {wanted}, found {found}")
        return colours.vertex.float()[None], ColourSource.VERTEX
    if colours.uniform is None:
        raise ShapeError("shade: needs a texture, vertex colours or one uniform colour, found none")
    return colours.uniform.float().reshape(1, 1, 3), ColourSource.UNIFORM


#: Spelled out, because torch cannot infer it from a function that the tests' run-time shape checks have wrapped.
_SCHEMA = (
    "(Tensor face_index, Tensor barycentrics, Tensor corners, Tensor vertices, Tensor normals, Tensor uvs, "
    "Tensor values, SymInt source, Tensor cameras, Tensor ambient, Tensor lights, Tensor surface, SymInt factor, "
    "Tensor background) -> (Tensor, Tensor)"
)


def _shade_cpu(  # noqa: PLR0913 - an operator's schema is flat; callers pass the dataclasses above
    face_index: Tensor,
    barycentrics: Tensor,
    corners: Tensor,
    vertices: Tensor,
    normals: Tensor,
    uvs: Tensor,
    values: Tensor,
    source: int,
    cameras: Tensor,
    ambient: Tensor,
    lights: Tensor,
    surface: Tensor,
    factor: int,
    background: Tensor,
) -> tuple[Tensor, Tensor]:
    samples = (face_index.contiguous(), barycentrics.contiguous())
    geometry = (corners.contiguous(), vertices.contiguous(), normals.contiguous(), uvs.contiguous())
    lit = (cameras.contiguous(), ambient.contiguous(), lights.contiguous(), surface.contiguous())
    run = shade_reference if _native.use_reference(vertices) else _native.shade
    return run(samples, geometry, (values.contiguous(), source), lit, factor, background.contiguous())


def _shade_fake(face_index: Tensor, barycentrics: Tensor, *args: object) -> tuple[Tensor, Tensor]:
    factor = args[-2]
    assert isinstance(factor, int)
    count, height, width = face_index.shape
    shape = (count, height // factor, width // factor)
    return barycentrics.new_empty((*shape, 3)), barycentrics.new_empty(shape)


_shade = register_op("shade", _SCHEMA, _shade_cpu, _shade_fake)
