"""Videos of high dynamic range as pictures of the usual one: PQ and HLG to sRGB (ITU-R BT.2100, BT.2408, BT.2087).

Phones film in HLG unless told otherwise. Shown as if it were sRGB, skin comes out grey and dull.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

#: Transfer characteristics (ITU-T H.273): SMPTE ST 2084 and ARIB STD-B67.
PQ, HLG = 16, 18
#: Light of a white sheet, in cd/m² (BT.2408), and of the brightest that HLG shows there.
_WHITE, _HLG_PEAK = 203.0, 1000.0
_HLG_GAMMA = 1.2
#: Up to this share of white light stays as it is; what is brighter is pressed into the rest.
_KNEE = 0.8
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)


def high_range(frame: Any) -> int | None:
    """`PQ` or `HLG` where a decoded frame (PyAV) is one of them."""
    kind = int(getattr(frame, "color_trc", 0) or 0)
    return kind if kind in (PQ, HLG) else None


def to_srgb(image: UInt8[np.ndarray, "H W 3"], kind: int) -> UInt8[np.ndarray, "H W 3"]:
    """A picture with values of BT.2100 as sRGB. O(H W)."""
    light = _light(kind)[image]
    if kind == HLG:  # the display's gamma acts on brightness, so that colours keep their hue
        bright = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light *= (np.maximum(bright, 1e-6) ** np.float32(_HLG_GAMMA - 1) * np.float32(_HLG_PEAK / _WHITE))[..., None]
    linear = np.maximum(light @ _TO_709.T, 0.0)
    over = np.maximum(linear - _KNEE, 0.0)
    linear = np.minimum(linear, _KNEE) + (1 - _KNEE) * over / (over + (1 - _KNEE))
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    return (255 * encoded + 0.5).astype(np.uint8)


@lru_cache(maxsize=2)
def _light(kind: int) -> Float[np.ndarray, "256"]:
    """Light per 8-bit value: shares of white (PQ), or of the scene's brightest (HLG)."""
    v = np.arange(256) / 255.0
    if kind == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        p = v ** (1 / m2)
        return (10_000 / _WHITE * (np.maximum(p - c1, 0) / (c2 - c3 * p)) ** (1 / m1)).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(v <= 0.5, v**2 / 3, (np.exp((v - c) / a) + b) / 12).astype(np.float32)
