"""The ops that pictures are made with, for numpy arrays: no gradients, no GPU, and, but for smooth outlines, no torch.

Where the native library is not built, torch's reference ops do the work, slowly, as they do for tensors.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from headrecon.arrays import Array
from headrecon.ops import _native
from headrecon.ops.samples import DEFAULT_NEAR_Z, ColourSource, Raster, ShadeColours, ShadeGeometry, ShadeLights

_NONE = np.zeros(0, dtype=np.float32)


def rasterize(
    points_hom: Float[np.ndarray, "B V 3"],
    faces: Int[np.ndarray, "F 3"],
    height: int,
    width: int,
    *,
    near_z: float = DEFAULT_NEAR_Z,
    cull_backfaces: bool = False,
) -> Raster:
    """As `ops.rasterize.rasterize`, whose rules and errors it shares."""
    points_hom, faces = _floats(points_hom), np.ascontiguousarray(faces, dtype=np.int32)
    if _native.available():
        clip = (near_z, float("inf"), cull_backfaces)
        return Raster(*_native.rasterize(points_hom, faces, (height, width), clip))
    import torch

    from headrecon.ops import rasterize as tensors

    found = tensors.rasterize(
        torch.from_numpy(points_hom), torch.from_numpy(faces), height, width, near_z=near_z,
        cull_backfaces=cull_backfaces,
    )  # fmt: skip
    return Raster(found.face_index.numpy(), found.barycentrics.numpy(), found.depth_z.numpy())


def interpolate(
    attributes: Float[np.ndarray, "V D"],
    faces: Int[np.ndarray, "F 3"],
    face_index: Int[np.ndarray, " P"],
    barycentrics: Float[np.ndarray, "P 3"],
) -> Float[np.ndarray, "P D"]:
    """Values of vertices at places on faces; 0 where face_index is -1."""
    values, faces = _floats(attributes), np.ascontiguousarray(faces, dtype=np.int32)
    face_index, barycentrics = np.ascontiguousarray(face_index, dtype=np.int32), _floats(barycentrics)
    if _native.available():
        return _native.interpolate(values[None], faces, face_index[None], barycentrics[None])[0]
    import torch

    from headrecon.ops import interpolate as tensors

    return tensors.interpolate(*(torch.from_numpy(a) for a in (values, faces, face_index, barycentrics))).numpy()


def shade(
    raster: Raster,
    geometry: ShadeGeometry,
    colours: ShadeColours,
    centers: Float[np.ndarray, "C 3"],
    lighting: ShadeLights | None,
    *,
    factor: int = 1,
    background: Float[np.ndarray, "3"] | None = None,
) -> tuple[Float[np.ndarray, "C H W 3"], Float[np.ndarray, "C H W"]]:
    """As `ops.shade.shade`, whose arguments it shares. The caller answers for sizes that fit."""
    if not _native.available():
        return _shade_with_torch(raster, geometry, colours, centers, lighting, factor, background)
    count = len(centers)
    rotations = np.tile(np.eye(3, dtype=np.float32), (count, 1, 1)) if lighting is None else lighting.rotations
    cameras = np.concatenate([centers, rotations.reshape(count, 9)], axis=1)
    lit = (_NONE, _NONE.reshape(0, 6), _NONE)
    if lighting is not None:
        lit = (lighting.ambient, lighting.lights, lighting.surface)
    corners = np.ascontiguousarray(geometry.corners, dtype=np.int32)
    uvs = _NONE.reshape(0, 2) if geometry.uvs is None else _floats(geometry.uvs)
    return _native.shade(
        (raster.face_index, raster.barycentrics),
        (corners, _floats(geometry.vertices), _floats(geometry.normals), uvs),
        _colour_values(colours),
        (_floats(cameras), _floats(lit[0]), _floats(lit[1]), _floats(lit[2])),
        factor,
        _NONE if background is None else _floats(background),
    )


def antialias(
    image: Float[np.ndarray, "B H W D"],
    raster: Raster,
    points_hom: Float[np.ndarray, "B V 3"],
    faces: Int[np.ndarray, "F 3"],
    neighbours: Int[np.ndarray, "F 3"],
) -> Float[np.ndarray, "B H W D"]:
    """As `ops.antialias.antialias`; the one op of this module that imports torch."""
    import torch

    from headrecon.ops.antialias import antialias as smooth

    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in (image, points_hom, faces, neighbours)]
    seen = Raster(*(torch.from_numpy(a) for a in (raster.face_index, raster.barycentrics, raster.depth_z)))
    return smooth(tensors[0], seen, *tensors[1:]).numpy()


def face_neighbours(faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "F 3"]:
    """As `ops.antialias.face_neighbours`."""
    import torch

    from headrecon.ops.antialias import face_neighbours as find

    return find(torch.from_numpy(np.ascontiguousarray(faces))).numpy()


def _colour_values(colours: ShadeColours) -> tuple[Float[np.ndarray, "A B 3"], ColourSource]:
    if colours.texture is not None:
        return _floats(colours.texture), ColourSource.TEXTURE
    if colours.vertex is not None:
        return _floats(colours.vertex)[None], ColourSource.VERTEX
    return _floats(colours.uniform).reshape(1, 1, 3), ColourSource.UNIFORM


def _shade_with_torch(raster: Raster, *arguments: object) -> tuple[np.ndarray, np.ndarray]:
    from dataclasses import fields, is_dataclass

    import torch

    from headrecon.ops.shade import shade as shade_tensors

    def tensors(value: object) -> object:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(value))
        if is_dataclass(value) and not isinstance(value, type):
            return type(value)(**{f.name: tensors(getattr(value, f.name)) for f in fields(value)})
        return value

    *given, factor, background = (tensors(a) for a in (raster, *arguments))
    image, alpha = shade_tensors(*given, factor=factor, background=background)  # pyright: ignore[reportArgumentType]
    return image.numpy(), alpha.numpy()


def _floats(values: Array) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32)
