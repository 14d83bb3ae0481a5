"""How one photo sees a head: from solver blocks to `PointModel` parameters, camera points and pixels.

The camera stands at the world's origin and looks along -z with +y up (viewmat diag(1, -1, -1, 1)), so a frontal face
has `global_orient` near zero and `transl` is the head's place before the lens.

Focal length and distance are nearly exchangeable in a portrait. The solver therefore moves `placement` = (u, v, s):
the pixel of the face's anchor relative to the principal point, and s = log(depth / focal), the metres that a pixel
spans there. Given these, `log_focal` changes perspective alone: the valley of the cost lies along one axis instead of
across three, and Gauss-Newton walks it in a few steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.fitting.least_squares import Values
from headrecon.geometry import so3
from headrecon.geometry.cameras import invert_rigid, project_with_jacobian
from headrecon.models.point_model import ParamLayout, PointModel
from headrecon.structures import POSE_FIELDS

#: World (OpenGL-like) to OpenCV camera axes, for a camera at the origin looking along -z.
CAMERA_AXES = np.array([1.0, -1.0, -1.0])
#: What a view is made of, in the order of the columns of its residuals.
ROLES: tuple[str, ...] = ("betas", "expression", *POSE_FIELDS, "placement", "log_focal")


def view_block_names(view: int, shared: tuple[str, ...] = ("betas",)) -> dict[str, str]:
    """Block name of each role in a view: shared roles keep their name, the others get the view's number."""
    return {role: role if role in shared else f"{role}/{view}" for role in ROLES}


@dataclass(frozen=True)
class ViewGeometry:
    """Fixed facts of one view: where the face's anchor lies on the template and the camera's principal point."""

    anchor: Float[np.ndarray, "3"]  # metres, head space, template
    root: Float[np.ndarray, "3"]  # the root joint of the template, about which global_orient turns
    principal: Float[np.ndarray, "2"]  # pixels
    #: focal length along x and along y as shares of the one that `log_focal` stands for: pixels need not be square
    aspect: tuple[float, float] = (1.0, 1.0)
    #: T_cam_world of the camera in the user's world (OpenCV axes), where that is known
    viewmat: Float[np.ndarray, "4 4"] | None = None


class HeadView:
    """One photo's mapping from solver blocks to points and pixels, with derivatives.

    Points are handed out in the camera's own world (see above); `rig.RigView` is the view of a camera whose place is
    known. index: which of the photos this is, for names of residuals.
    """

    roles = ROLES

    def __init__(self, layout: ParamLayout, geometry: ViewGeometry, names: Mapping[str, str], index: int = 0) -> None:
        self.layout, self.geometry, self.names, self.index = layout, geometry, dict(names), index
        self.blocks = tuple(self.names[role] for role in self.roles)
        linear = layout.num_betas + layout.num_expressions
        self._orient = slice(linear, linear + 3)
        self._pose_end = linear + 3 * len(POSE_FIELDS)
        self.num_columns = self._pose_end + len(self._place_roles())

    def _place_roles(self) -> list[str]:
        """A role for each column after the poses."""
        return ["placement"] * 3 + ["log_focal"]

    @property
    def tag(self) -> str:
        """What the names of this view's residuals end with."""
        return f"photo {self.index}"

    def focal(self, values: Values) -> float:
        """Focal length in pixels."""
        return float(np.exp(values[self.names["log_focal"]][0]))

    def evaluate(self, model: PointModel, values: Values) -> Float[np.ndarray, "L 3"]:
        """Points before the camera."""
        return self.to_camera(values, model.evaluate(self.flat(values)))

    def linearize(
        self, model: PointModel, values: Values
    ) -> tuple[Float[np.ndarray, "L 3"], Float[np.ndarray, "L 3 K"]]:
        """Points before the camera, and their derivatives by this view's blocks."""
        points, jac = model.jacobian(self.flat(values))
        return points, self._columns(values, jac)

    def to_camera(self, values: Values, points: Float[np.ndarray, "L 3"]) -> Float[np.ndarray, "L 3"]:
        """Points of the head that `flat` describes, in the camera's own world."""
        return points

    def orient(self, values: Values) -> Float[np.ndarray, "3 3"]:
        """How the head is turned before the camera."""
        return so3.exp(values[self.names["global_orient"]])

    def flat(self, values: Values) -> Float[np.ndarray, " P"]:
        """The flat parameter vector of `PointModel`."""
        x = np.empty(self.layout.size)
        for name in ("betas", "expression", *POSE_FIELDS):
            x[self.layout.slices[name]] = values[self.names[name]]
        orient = values[self.names["global_orient"]]
        x[self.layout.slices["transl"]] = self._anchor_place(values) - self._turned_anchor(orient)
        return x

    def placement_of(
        self, transl: Float[np.ndarray, "3"], global_orient: Float[np.ndarray, "3"], focal_px: float
    ) -> Float[np.ndarray, "3"]:
        """The placement (u, v, s) that stands for a translation: the inverse of what `flat` does."""
        place = transl + self._turned_anchor(global_orient)
        scale = -place[2] / focal_px
        return np.array([place[0] / scale, -place[1] / scale, np.log(scale)])

    def base(self, values: Values) -> Float[np.ndarray, "4 4"]:
        """What leads from the user's world to the one that `flat` is in, but for the camera's axes."""
        known = self.geometry.viewmat
        return np.diag([*CAMERA_AXES, 1.0]) if known is None else known

    def viewmat(self, values: Values) -> Float[np.ndarray, "4 4"]:
        """T_cam_world of the camera, OpenCV axes: at the origin, looking along -z, unless its place is known."""
        return self.base(values)

    def world_flat(self, values: Values, root: Float[np.ndarray, "3"]) -> Float[np.ndarray, " P"]:
        """`flat` in the world of `viewmat`. root: the root joint of this person at rest (`PointModel.joints`)."""
        x = self.flat(values)
        if self.geometry.viewmat is None:
            return x
        # p = R (x - root) + root + t in the camera's own world, which the user's turns and shifts.
        to_user = invert_rigid(self.base(values)) @ np.diag([*CAMERA_AXES, 1.0])
        orient, transl = self.layout.slices["global_orient"], self.layout.slices["transl"]
        x[transl] = to_user[:3, :3] @ (root + x[transl]) + to_user[:3, 3] - root
        x[orient] = so3.log(to_user[:3, :3] @ so3.exp(x[orient]))
        return x

    def _turned_anchor(self, orient: np.ndarray) -> np.ndarray:
        g = self.geometry
        return so3.exp(orient) @ (g.anchor - g.root) + g.root

    def _anchor_place(self, values: Values) -> np.ndarray:
        u, v, s = values[self.names["placement"]]
        return np.exp(s) * np.array([u, -v, -self.focal(values)])

    def _columns(self, values: Values, jac: Float[np.ndarray, "L 3 P"]) -> Float[np.ndarray, "L 3 K"]:
        """Derivatives of the points before the camera by this view's blocks, from those of `PointModel`."""
        out = np.empty((len(jac), 3, self.num_columns))
        out[:, :, : self._pose_end] = jac[:, :, : self._pose_end]
        arm = self._turned_anchor(values[self.names["global_orient"]]) - self.geometry.root
        out[:, :, self._orient] -= so3.rotate_points_jacobian(values[self.names["global_orient"]], arm)
        out[:, :, self._pose_end :] = self._place_columns(values)
        return out

    def pulled_back(
        self, model: PointModel, values: Values, weights: Float[np.ndarray, "L D 3"]
    ) -> Float[np.ndarray, "L D K"]:
        """`weights` times the derivatives that `linearize` gives, without forming these; the focal length's by the
        points' places alone."""
        jac = model.pulled_back(self.flat(values), weights)
        out = np.empty((*weights.shape[:2], self.num_columns))
        out[:, :, : self._pose_end] = jac[:, :, : self._pose_end]
        orient = values[self.names["global_orient"]]
        arm = self._turned_anchor(orient) - self.geometry.root
        out[:, :, self._orient] -= weights @ so3.rotate_points_jacobian(orient, arm)
        out[:, :, self._pose_end :] = weights @ self._place_columns(values)
        return out

    def _place_columns(self, values: Values) -> Float[np.ndarray, "3 4"]:
        """d transl / d (placement, log_focal)."""
        place = self._anchor_place(values)
        metres_per_px = np.exp(values[self.names["placement"]][2])
        out = np.zeros((3, 4))
        out[0, 0], out[1, 1] = metres_per_px, -metres_per_px
        out[:, 2] = place
        out[2, 3] = place[2]
        return out

    def project(self, values: Values, points: Float[np.ndarray, "L 3"]) -> Float[np.ndarray, "L 2"]:
        """Pixels of points before the camera."""
        camera = points * CAMERA_AXES
        return self.focals(values) * camera[:, :2] / camera[:, 2:] + self.geometry.principal

    def focals(self, values: Values) -> Float[np.ndarray, "2"]:
        """Focal lengths in pixels along x and y."""
        return self.focal(values) * np.array(self.geometry.aspect)

    def project_linear(
        self, values: Values, points: Float[np.ndarray, "L 3"], columns: Float[np.ndarray, "L 3 K"], weights: Any
    ) -> tuple[Float[np.ndarray, "L 2"], Float[np.ndarray, "L D K"]]:
        """Pixels, and derivatives of `weights` [L,D,2] times them by this view's blocks; columns: from `linearize`."""
        pixels, d_point, d_log_focal = project_with_jacobian(
            points * CAMERA_AXES, self.focals(values), self.geometry.principal
        )
        gather = weights @ (d_point * CAMERA_AXES)  # [L,D,3]
        out = gather @ columns
        out[:, :, -1] += (weights @ d_log_focal[..., None])[..., 0]
        return pixels, out
