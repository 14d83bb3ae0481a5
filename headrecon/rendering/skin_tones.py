"""The colours that human skin has, and how to tell a skin's own colour from the light on it.

A photo shows the product of both. Two things make the split possible at all: skins lie on a narrow curve of colours,
from little to much melanin, and photographers expose for faces in light that their camera balances to white.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

#: Middle of the range of facial skin in CIELAB (D65): lightness, redness, yellowness. Rounded from spectrophotometry:
#: Xiao et al., "Characterising the variations in ethnic skin colours", Skin Research and Technology 2017 (L* 55..68, a*
#: near 11 in all groups, b* 14..20), and the darker half from de Rigal et al., Skin Research and Technology 2010, and
#: from what measurements of all tones agree on: chroma is highest in the middle and falls towards both ends.
_SKIN_LAB: tuple[tuple[float, float, float], ...] = (
    (72.0, 8.5, 13.0), (66.0, 10.5, 15.0), (60.0, 12.0, 17.5), (53.0, 13.0, 19.5),
    (46.0, 13.0, 18.5), (39.0, 12.0, 15.5), (32.0, 10.0, 12.0), (26.0, 7.5, 8.5),
)  # fmt: skip
#: Adults of the world: mean and deviation of lightness; people of one lightness differ by this much in a* and b*.
_LIGHTNESS, _LIGHTNESS_SIGMA, _HUE_SIGMA = 54.0, 11.0, 3.5
#: Light on the faces of photos, as a share of what makes white show as white: its usual value and spread (natural
#: logarithm), and how far its colour is from white after the camera's white balance.
_EXPOSURE, _EXPOSURE_SIGMA, _TINT_SIGMA = 0.1, 0.4, 0.05
#: Eye white in light like the face's: reflectance, and spread with its wetness, veins and the shade of the lids.
_SCLERA, _SCLERA_SIGMA = 0.42, 0.35
_WHITE_XYZ = (0.95047, 1.0, 1.08883)
_RGB_FROM_XYZ = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.969266, 1.8760108, 0.041556),
    (0.0556434, -0.2040259, 1.0572252),
)
LUMINANCE = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class ToneSplit:
    """A skin's reflectance (linear) and the light that falls on it, their product being what was seen."""

    albedo: Float[Tensor, "3"]
    light: Float[Tensor, "3"]


def skin_albedo(lightness: Float[Tensor, "*N"]) -> Float[Tensor, "*N 3"]:
    """Linear reflectance of typical skin of a CIELAB lightness in 26..72."""
    return lab_to_linear(_lab(lightness))


def split_tone(seen: Float[Tensor, "3"], eye_white: Float[Tensor, "3"] | None = None) -> ToneSplit:
    """Most probable skin colour and light for skin that shows as `seen` (linear, mean over the face).

    eye_white: the brighter part of the sclera as the photo shows it, a weak cue for light and its colour.
    """
    lightness = torch.linspace(26, 72, 47)
    offsets = torch.linspace(-2, 2, 5) * _HUE_SIGMA
    grid = torch.cartesian_prod(lightness, offsets, offsets)
    lab = _lab(grid[:, 0])
    albedo = lab_to_linear(torch.cat([lab[:, :1], lab[:, 1:] + grid[:, 1:]], 1)).clamp(min=0.005)
    light = torch.log(seen.clamp(min=1e-3)) - torch.log(albedo)
    level = light @ light.new_tensor(LUMINANCE)
    tint = light - level[:, None]
    energy = ((grid[:, 0] - _LIGHTNESS) / _LIGHTNESS_SIGMA).square() + (grid[:, 1:] / _HUE_SIGMA).square().sum(1)
    energy = energy + ((level - _EXPOSURE) / _EXPOSURE_SIGMA).square() + (tint / _TINT_SIGMA).square().sum(1)
    if eye_white is not None:
        white = torch.log(eye_white.clamp(min=1e-3) / _SCLERA) - light
        luma = white @ light.new_tensor(LUMINANCE)
        energy = energy + (luma / _SCLERA_SIGMA).square()
        energy = energy + ((white - luma[:, None]) / (4 * _TINT_SIGMA)).square().sum(1)
    weight = torch.softmax(-0.5 * energy, 0)
    chosen = torch.exp((weight[:, None] * torch.log(albedo)).sum(0))
    return ToneSplit(chosen, seen.clamp(min=1e-3) / chosen)


def lab_to_linear(lab: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
    """CIELAB (D65) to linear sRGB."""
    fy = (lab[..., 0] + 16) / 116
    f = torch.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1)
    xyz = torch.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * lab.new_tensor(_WHITE_XYZ)
    return xyz @ lab.new_tensor(_RGB_FROM_XYZ).T


def _lab(lightness: Float[Tensor, "*N"]) -> Float[Tensor, "*N 3"]:
    """The middle of skin's colours at a lightness, linear between the rows of the table."""
    table = lightness.new_tensor(_SKIN_LAB).flip(0)
    place = torch.searchsorted(table[:, 0].contiguous(), lightness.contiguous()).clamp(1, len(table) - 1)
    low, high = table[place - 1], table[place]
    t = ((lightness - low[..., 0]) / (high[..., 0] - low[..., 0])).clamp(0, 1)
    return torch.cat([lightness[..., None], torch.lerp(low[..., 1:], high[..., 1:], t[..., None])], -1)
