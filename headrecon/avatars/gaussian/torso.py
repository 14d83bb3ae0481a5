"""Shoulders and chest: a sheet of anchors that carries Gaussians and sways with the head's pose, linearly.

The idea of sparse anchors that carry a torso is that of Wu et al., "Gaussian Head & Shoulders", ICLR 2025, whose coarse
warp and fine texture are networks of the pose; here both are linear in it (`SheetMotion` and the corrections of the
Gaussians on the sheet), so that nothing has to be evaluated but a small matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Anchors across and down.
GRID = (13, 9)
#: How far shoulders fall back from the chest, in shares of their half width; how far the chest is before the middle of
#: the neck, metres.
_FALL, _CHEST_M = 0.35, 0.07


@dataclass(frozen=True)
class Sheet:
    """Anchors at rest in the world [A,3] and their triangles [S,3], facing the viewer (+z)."""

    anchors: Float[np.ndarray, "A 3"]
    triangles: Int[np.ndarray, "S 3"]

    @staticmethod
    def empty() -> Sheet:
        return Sheet(np.zeros((0, 3)), np.zeros((0, 3), np.int64))


def shoulder_sheet(
    neck: Float[np.ndarray, " 3"], top_y: float, bottom_y: float, half_width_m: float, grid: tuple[int, int] = GRID
) -> Sheet:
    """A sheet through the neck from the ears' height to bottom_y, bent back towards the sides.

    It carries what the head's mesh lacks: shoulders, chest, and long hair beside the neck. neck: its middle, in the
    world, metres.
    """
    across, down = grid
    uu, vv = np.meshgrid(np.linspace(-1, 1, across), np.linspace(0, 1, down))
    x = neck[0] + half_width_m * uu
    y = top_y + (bottom_y - top_y) * vv
    # Below the neck the chest comes forward of it.
    below = np.clip((neck[1] - y) / _CHEST_M, 0, 1)
    z = neck[2] + _CHEST_M * below**2 * (1 - uu**2) - _FALL * half_width_m * uu**2
    anchors = np.stack([x, y, z], -1).reshape(-1, 3)
    first = (np.arange(down - 1)[:, None] * across + np.arange(across - 1)).ravel()
    # Rows go down and columns right as the viewer sees a person who faces +z from +z: counter-clockwise from there.
    lower = np.stack([first, first + across, first + across + 1], 1)
    upper = np.stack([first, first + across + 1, first + 1], 1)
    return Sheet(anchors, np.concatenate([lower, upper]).astype(np.int64))


@dataclass(frozen=True)
class SheetMotion:
    """Where anchors go: rest + motion @ pose features. motion: [A, 3, 6], metres per unit feature."""

    rest: Float[Tensor, "A 3"]
    motion: Float[Tensor, "A 3 P"]

    def __call__(self, pose_features: Float[Tensor, " P"]) -> Float[Tensor, "A 3"]:
        return self.rest + self.motion @ pose_features


def following(sheet: Sheet, spreads: Float[Tensor, " 3"]) -> Float[Tensor, "A 3 6"]:
    """The motion to begin with: the body goes where the head goes, and does not turn. spreads: metres per feature of
    place."""
    motion = torch.zeros(len(sheet.anchors), 3, 6)
    motion[:, :, 3:] = torch.diag(spreads)
    return motion


def swayed(anchors: Float[Tensor, "A 3"], body: Float[Tensor, " 6"]) -> Float[Tensor, "A 3"]:
    """Anchors turned about their middle (axis-angle, rad; small, to first order) and shifted (0.1 rad counts as 1 cm).

    body: turn (3), then shift (3) in units of 0.1 m, so that both are learned at one rate.
    """
    if not len(anchors):
        return anchors
    middle = anchors.detach().mean(0)
    turn = body[:3].expand_as(anchors)
    return anchors + torch.linalg.cross(turn, anchors - middle) + 0.1 * body[3:]
