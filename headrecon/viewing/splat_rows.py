"""Gaussians as a browser's renderer takes them: 32 bytes each, as viser's splat nodes hold them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt32

from headrecon.geometry.rotations import quat_to_matrix
from headrecon.structures import Gaussians

#: Covariances travel as half floats, whose smallest full-precision value is 6e-5: of square metres, that is a splat of
#: 8 mm. In centimetres it is one of 0.08 mm, and splats of 2 m still fit.
UNITS_PER_METRE = 100.0
_TRIANGLE = (0, 1, 2, 4, 5, 8)


def splat_rows(gaussians: Gaussians) -> UInt32[np.ndarray, "N 8"]:
    """Position as 3 floats, a word for the renderer, 6 entries of the covariance as half floats, RGBA in bytes.

    In centimetres: the node's scale has to be 1 / UNITS_PER_METRE. Raises ValueError for spherical harmonics.
    """
    if gaussians.colours is None:
        raise ValueError("splat_rows: needs colours that look the same from everywhere")
    count = len(gaussians)
    turned = quat_to_matrix(torch.nn.functional.normalize(gaussians.quats_wxyz.float(), dim=-1))
    half = turned * (UNITS_PER_METRE * gaussians.scales.float())[:, None, :]
    covariance = (half @ half.mT).reshape(count, 9)[:, _TRIANGLE]
    colour = torch.cat([gaussians.colours.float(), gaussians.opacities.float()[:, None]], dim=1)
    out = np.zeros((count, 8), np.uint32)
    out[:, :3] = (UNITS_PER_METRE * gaussians.means.float()).cpu().contiguous().numpy().view(np.uint32)
    out[:, 4:7] = covariance.half().cpu().contiguous().numpy().view(np.uint32)
    out[:, 7:] = (colour.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().contiguous().numpy().view(np.uint32)
    return out
