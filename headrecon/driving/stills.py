"""Still pictures of a head or an avatar with a given face, from a given side."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from headrecon.driving.figures import Figure, Look, as_figure
from headrecon.driving.options import check_size
from headrecon.errors import InputError
from headrecon.geometry.euler import axis_angle
from headrecon.models.named_weights import read_weights
from headrecon.rendering.cameras_orbit import orbit_views

#: What can be turned, and the parameters that do it.
TURNS: Mapping[str, tuple[str, ...]] = {
    "head": ("global_orient",),
    "neck": ("neck_pose",),
    "gaze": ("leye_pose", "reye_pose"),
}


@dataclass(frozen=True)
class Still:
    """expression: as `models.named_weights` reads it. yaw, pitch: degrees of the camera round the head; yaw 0 is in
    front and 90 at its left, positive pitch looks down from above. turns: degrees (yaw, pitch, roll) by `TURNS`.
    size: pixels, (width, height)."""

    expression: str = ""
    yaw: float = 0.0
    pitch: float = 0.0
    turns: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    size: tuple[int, int] = (1024, 1024)
    look: Look = field(default_factory=Look)


def draw_still(head: str | os.PathLike[str] | Figure, still: Still | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """One picture. head: as `driving.clip.drive` takes it. Raises InputError or AssetError."""
    still = still or Still()
    check_size(still.size, even=False)
    if not -80 <= still.pitch <= 80:
        raise InputError(f"the camera's pitch must be from -80 to 80 degrees, found {still.pitch:g}")
    figure = as_figure(head)
    row, slices = figure.rest(), figure.joints.layout.slices
    calm = figure.reach(row)
    row[slices["expression"]] = read_weights(still.expression, figure.assets.expression_names)
    for title, degrees in still.turns.items():
        for name in TURNS[title]:
            row[slices[name]] = axis_angle(*degrees)
    # Framed as the calm face is, so that pictures of several expressions lie on each other.
    views = orbit_views(calm, [still.yaw], still.size, pitch_degrees=still.pitch)
    return figure.picture(row, views, still.look)
