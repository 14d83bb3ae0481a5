"""Plain-torch twin of texture lookup: bilinear, or trilinear in a pyramid of halved pictures; any float type.

Williams, "Pyramidal Parametrics", SIGGRAPH 1983; the level by the longer axis of the pixel's footprint after Heckbert,
"Fundamentals of Texture Mapping and Image Warping", 1989, section 3.5. Autograd gives its gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pyramid_reference(texture: Tensor, levels: int) -> Tensor:
    """[T,N,D]: the levels of texture [T,H,W,D] one after the other, each the mean of 2 x 2 texels of the last."""
    flat, level = [texture.flatten(1, 2)], texture
    for _ in range(levels - 1):
        count, height, width, channels = level.shape
        level = level.reshape(count, height // 2, 2, width // 2, 2, channels).mean(dim=(2, 4))
        flat.append(level.flatten(1, 2))
    return torch.cat(flat, 1)


def texture_level(slopes: Tensor, size: tuple[int, int], levels: int) -> Tensor:
    """Level [...] (0 the finest, fractions between) of pixels whose UVs have slopes [...,2,2] (u and v by x and y)."""
    texels = slopes.detach() * slopes.new_tensor([size[1], size[0]])[:, None]
    # The singular values of the map from pixels to texels are the half axes of the ellipse that a pixel becomes.
    broken = ~torch.isfinite(texels).flatten(-2).all(-1)
    longest = torch.linalg.svdvals(torch.where(broken[..., None, None], 0.0, texels))[..., 0]
    level = torch.log2(longest.clamp(min=1.0)).clamp(max=levels - 1)
    infinite = torch.isinf(texels).flatten(-2).any(-1) & ~torch.isnan(texels).flatten(-2).any(-1)
    return torch.where(infinite, float(levels - 1), level)


def texture_reference(
    texels: Tensor,
    lookups: tuple[Tensor, Tensor | None, Tensor | None],
    size: tuple[int, int],
    levels: int,
    wrap: str,
) -> Tensor:
    """Values [B,P,D] of texels [T,N,D]. lookups: uvs [B,P,2], slopes [B,P,4] or None, face_index [B,P] or None."""
    uvs, slopes, face_index = lookups
    batch, pixels = uvs.shape[:2]
    image = torch.arange(batch)[:, None].expand(batch, pixels)
    image = torch.zeros_like(image) if len(texels) == 1 else image
    if slopes is None:
        level = torch.zeros(batch, pixels, dtype=uvs.dtype)
    else:
        level = texture_level(slopes.reshape(batch, pixels, 2, 2), size, levels)
    values = torch.zeros(batch, pixels, texels.shape[2], dtype=texels.dtype)
    begin = 0
    for k in range(levels):
        height, width = size[0] >> k, size[1] >> k
        weight = (1.0 - (level - k).abs()).clamp(min=0.0)  # of this level, between its two neighbours
        picture = texels[:, begin : begin + height * width]
        found = _bilinear(picture, image, uvs, (height, width), wrap)
        values = values + torch.where(weight[..., None] > 0, weight[..., None] * found, 0.0)
        begin += height * width
    return values if face_index is None else torch.where(face_index[..., None] >= 0, values, 0.0)


def _bilinear(picture: Tensor, image: Tensor, uvs: Tensor, size: tuple[int, int], wrap: str) -> Tensor:
    columns, across = _axis(uvs[..., 0], size[1], wrap)
    rows, down = _axis(1.0 - uvs[..., 1], size[0], wrap)
    corner = [[picture[image, row * size[1] + column] for column in columns] for row in rows]
    upper, lower = (torch.lerp(pair[0], pair[1], across[..., None]) for pair in corner)
    return torch.lerp(upper, lower, down[..., None])


def _axis(t: Tensor, size: int, wrap: str) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The two texels around coordinate t (0..1 along this axis), and the weight of the second. NaN reads texel 0."""
    if wrap == "repeat":
        turn = t - t.detach().floor()
        x = torch.where(torch.isfinite(turn), turn * size - 0.5, 0.0)
        first = x.detach().floor()
        index = first.long()
        return (index.remainder(size), (index + 1).remainder(size)), x - first
    x = torch.where(torch.isnan(t), 0.0, t * size - 0.5).clamp(0.0, size - 1.0)
    first = x.detach().floor()
    index = first.long()
    return (index, (index + 1).clamp(max=size - 1)), x - first
