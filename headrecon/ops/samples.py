"""What the rasterizer hands to whoever looks at its samples, and what the shader wants to know of them.

Torch tensors or numpy arrays; torch is not imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from jaxtyping import Bool, Float, Int

from headrecon.arrays import Array

#: Half a centimetre before the camera: nearer surfaces are cut away. Heads are filmed from 20 cm and more.
DEFAULT_NEAR_Z = 0.005


class ColourSource(IntEnum):
    """Where the shader takes a surface's colour from: HrColourSource in shade.h."""

    UNIFORM = 0
    VERTEX = 1
    TEXTURE = 2


@dataclass(frozen=True)
class Raster:
    """What each pixel sees. face_index is -1, and the rest 0, where there is no face.

    barycentrics are perspective-correct (linear on the face in 3D), >= 0 and sum to 1; depth_z is in metres.
    """

    face_index: Int[Array, "C H W"]
    barycentrics: Float[Array, "C H W 3"]
    depth_z: Float[Array, "C H W"]

    @property
    def covered(self) -> Bool[Array, "C H W"]:
        """Whether the pixel sees a face."""
        return self.face_index >= 0


@dataclass(frozen=True)
class ShadeGeometry:
    """The rasterized triangles. corners: per face the indices of 3 vertices, 3 normals and 3 UVs (0 without UVs)."""

    corners: Int[Array, "F 9"]
    vertices: Float[Array, "V 3"]
    normals: Float[Array, "N 3"]
    uvs: Float[Array, "T 2"] | None = None


@dataclass(frozen=True)
class ShadeColours:
    """sRGB surface colour: the first of texture [Th,Tw,3] (row 0 on top), per-vertex [V,3], uniform [3] that is set."""

    texture: Float[Array, "Th Tw 3"] | None = None
    vertex: Float[Array, "V 3"] | None = None
    uniform: Float[Array, "3"] | None = None


@dataclass(frozen=True)
class ShadeLights:
    """Light and how the surface answers it.

    rotations: world to the axes of the lights, one per camera. ambient: light on a matt surface in harmonics of its
    normal (basis of geometry.harmonics). lights: unit direction to each light, then its intensity. surface: specular
    reflectance, roughness, and how far light wraps round in red, green, blue.
    """

    rotations: Float[Array, "C 3 3"]
    ambient: Float[Array, "9 3"]
    lights: Float[Array, "L 6"]
    surface: Float[Array, "5"]
