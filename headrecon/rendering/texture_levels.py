"""Smaller versions of a texture, for pictures in which it would shimmer at full size. Torch tensors or numpy arrays."""

from __future__ import annotations

from jaxtyping import Float

from headrecon.arrays import Array, namespace
from headrecon.geometry.cameras import to_homogeneous_image
from headrecon.ops.samples import Raster, ShadeGeometry
from headrecon.structures import Cameras

#: A texture is never averaged below this side: what is left would be mixed across the borders of the UV islands.
_SMALLEST_SIDE = 64


class TextureLevels:
    """A texture and its halved versions, made when first asked for. Level k averages blocks of 2^k x 2^k texels.

    One level serves a whole picture. Heads have even UVs, so this is close to mipmapping at a fraction of its cost.
    """

    def __init__(self, texture: Float[Array, "H W 3"]) -> None:
        self._levels = [texture]

    def for_view(self, geometry: ShadeGeometry, raster: Raster, camera: Cameras) -> Float[Array, "h w 3"]:
        """The level of which a sample of this raster covers one to two texels a side (the median over samples)."""
        wanted = 0
        share = self._texels_per_sample(geometry, raster, camera)
        while share >= 4.0 and self._can_halve(wanted):
            share, wanted = share / 4.0, wanted + 1
        while len(self._levels) <= wanted:
            last = self._levels[-1]
            upper, lower = (last[row::2, 0::2] + last[row::2, 1::2] for row in (0, 1))
            self._levels.append(0.25 * (upper + lower))
        return self._levels[wanted]

    def _can_halve(self, level: int) -> bool:
        height, width = (side >> level for side in self._levels[0].shape[:2])
        # Odd sides would shift the texels against the UVs.
        return min(height, width) >= 2 * _SMALLEST_SIDE and height % 2 == 0 and width % 2 == 0

    def _texels_per_sample(self, geometry: ShadeGeometry, raster: Raster, camera: Cameras) -> float:
        """Median over covered samples of the texels that fall on one sample; 0 when nothing is covered."""
        # A few thousand samples tell the median well enough; an odd step visits all columns.
        seen = raster.face_index.reshape(-1)
        seen = seen[:: max(len(seen) // 8192, 1) | 1]
        faces = seen[seen >= 0]
        if geometry.uvs is None or len(faces) == 0:
            return 0.0
        corners = geometry.corners[faces]
        height, width = self._levels[0].shape[:2]
        points = to_homogeneous_image(geometry.vertices[corners[:, :3]].reshape(-1, 3), camera)[0]
        pixels = (points[:, :2] / points[:, 2:].clip(1e-6)).reshape(-1, 3, 2)
        ratios = width * height * _areas(geometry.uvs[corners[:, 6:]]) / _areas(pixels).clip(1e-6)
        return float(namespace(ratios).median(ratios))


def _areas(triangles: Float[Array, "F 3 2"]) -> Float[Array, " F"]:
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    return 0.5 * abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
