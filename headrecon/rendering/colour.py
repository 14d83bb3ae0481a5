"""The sRGB transfer curve (IEC 61966-2-1)."""

from __future__ import annotations

from headrecon.ops.reference.shade import linear_to_srgb, srgb_to_linear

__all__ = ["linear_to_srgb", "srgb_to_linear"]
