"""The sRGB transfer curve (IEC 61966-2-1)."""

from __future__ import annotations

from headrecon.ops.reference.shade import linear_to_srgb as linear_to_srgb
from headrecon.ops.reference.shade import srgb_to_linear as srgb_to_linear
