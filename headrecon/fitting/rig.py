"""Photos whose cameras are known: the head stands in the cameras' world, and its size is what they see of it.

All views of a head that keeps still share the blocks of its pose, `transl` included; a camera adds nothing to the
unknowns, and all together one, where their unit is unknown. Inside, the world is that of the first photo's camera (axes
as in `parameters`), so that turns stay small whatever the user's world calls up; `HeadView.world_flat` leads back. With
`refine` each camera may move a little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError, ShapeError
from headrecon.fitting.least_squares import Block, Values
from headrecon.fitting.parameters import CAMERA_AXES, HeadView, ViewGeometry
from headrecon.geometry import so3
from headrecon.geometry.alignment import Similarity, umeyama
from headrecon.geometry.cameras import invert_rigid
from headrecon.models.point_model import ParamLayout, PointModel
from headrecon.structures import POSE_FIELDS

#: What photos of a still head share beside identity.
STILL = ("expression", *POSE_FIELDS, "transl")
#: With `refine`: how far a camera may be off, each 1 deviation: radians, metres, log of the focal length.
TURN_SIGMA, SHIFT_SIGMA_M, FOCAL_SIGMA = np.radians(0.5), 0.005, 0.005
#: Heads are no smaller or larger than the mean one by more than these factors.
SIZES = (0.7, 1.45)
#: Cameras are not those of the photos when a point is seen this far (median, in sizes of the face in the picture) from
#: where all of them together put it (of detected points: below 0.03), or when these points make no face (metres, rms).
_WRONG_CAMERAS, _NO_FACE_M = 0.06, 0.02


@dataclass(frozen=True)
class Rig:
    """Known cameras of B photos: T_cam_world in metres and intrinsics in pixels, both OpenCV.

    moving: the head moved or changed its face between the photos, so that each has a pose and an expression of its own
    (then the cameras' places say nothing about the head's size). refine: cameras may be corrected a little. metric:
    their places are in metres; else in a unit that is found with the head, whose size is then what irises and the
    population say.
    """

    viewmats: Float[np.ndarray, "B 4 4"]
    Ks: Float[np.ndarray, "B 3 3"]
    moving: bool = False
    refine: bool = False
    metric: bool = True

    def __post_init__(self) -> None:
        if len(self.viewmats) != len(self.Ks):
            raise ShapeError(f"a rig needs as many viewmats as Ks, found {len(self.viewmats)} and {len(self.Ks)}")
        if self.moving and not self.metric:
            raise InputError("the unit of cameras can be found only where the head keeps still: leave --moving out")

    @property
    def still(self) -> bool:
        """Whether the photos share one pose; a single camera tells no size."""
        return not self.moving and len(self.viewmats) > 1

    def geometry(self, index: int, anchor: Float[np.ndarray, "3"], root: Float[np.ndarray, "3"]) -> ViewGeometry:
        """The fixed facts of a view. The mean of both focal lengths is the one that is held."""
        k = self.Ks[index].astype(np.float64)
        focal = self.focal_px(index)
        # Inside, everything stands in the first camera's world while the head keeps still.
        base = self.viewmats[0] if self.still else self.viewmats[index]
        return ViewGeometry(anchor, root, k[:2, 2], (k[0, 0] / focal, k[1, 1] / focal), base.astype(np.float64))

    def focal_px(self, index: int) -> float:
        """The geometric mean of the focal lengths along x and y."""
        return float(np.sqrt(self.Ks[index, 0, 0] * self.Ks[index, 1, 1]))

    def place(self, index: int) -> Float[np.ndarray, "4 4"]:
        """From the first camera's own world (y up) to that of another camera."""
        flip = np.diag([*CAMERA_AXES, 1.0])
        viewmats = self.viewmats.astype(np.float64)
        return flip @ viewmats[index] @ invert_rigid(viewmats[0]) @ flip


class RigView(HeadView):
    """A photo by a camera of a rig, of a head that keeps still."""

    roles = ("betas", "expression", *POSE_FIELDS, "transl", "rig_scale", "camera", "log_focal")

    def __init__(
        self,
        layout: ParamLayout,
        geometry: ViewGeometry,
        names: Mapping[str, str],
        place: Float[np.ndarray, "4 4"],
        index: int = 0,
    ) -> None:
        super().__init__(layout, geometry, names, index)
        self.place = place

    def _place_roles(self) -> list[str]:
        return ["transl"] * 3 + ["rig_scale"] + ["camera"] * 6 + ["log_focal"]

    def flat(self, values: Values) -> Float[np.ndarray, " P"]:
        x = np.empty(self.layout.size)
        for name, where in self.layout.slices.items():
            x[where] = values[self.names[name]]
        return x

    def _motion(self, values: Values) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and shift from the rig's inner world to this camera's, corrections included."""
        correction = values[self.names["camera"]]
        turn = so3.exp(correction[:3])
        return turn @ self.place[:3, :3], turn @ (self._unit(values) * self.place[:3, 3]) + correction[3:]

    def _unit(self, values: Values) -> float:
        """Metres per unit of the cameras' places."""
        return float(np.exp(values[self.names["rig_scale"]][0]))

    def to_camera(self, values: Values, points: Float[np.ndarray, "L 3"]) -> Float[np.ndarray, "L 3"]:
        turn, shift = self._motion(values)
        return points @ turn.T + shift

    def orient(self, values: Values) -> Float[np.ndarray, "3 3"]:
        return self._motion(values)[0] @ super().orient(values)

    def linearize(
        self, model: PointModel, values: Values
    ) -> tuple[Float[np.ndarray, "L 3"], Float[np.ndarray, "L 3 K"]]:
        points, jac = model.jacobian(self.flat(values))
        turn, shift = self._motion(values)
        points = points @ turn.T + shift
        out = np.zeros((len(points), 3, self.num_columns))
        start = self._pose_end
        out[:, :, :start] = turn @ jac[:, :, :start]
        out[:, :, start : start + 3] = turn
        correction = values[self.names["camera"]]
        out[:, :, start + 3] = shift - correction[3:]
        out[:, :, start + 4 : start + 7] = so3.rotate_points_jacobian(correction[:3], points - correction[3:])
        out[:, :, start + 7 : start + 10] = np.eye(3)
        return points, out

    def base(self, values: Values) -> Float[np.ndarray, "4 4"]:
        assert self.geometry.viewmat is not None
        out = self.geometry.viewmat.copy()
        out[:3, 3] *= self._unit(values)
        return out

    def viewmat(self, values: Values) -> Float[np.ndarray, "4 4"]:
        turn, shift = self._motion(values)
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = turn, shift
        flip = np.diag([*CAMERA_AXES, 1.0])
        return flip @ motion @ flip @ self.base(values)


def rig_view_names(index: int) -> dict[str, str]:
    """Block names of a `RigView`: what belongs to the head is shared, what belongs to the camera has its number."""
    return {role: role if role in ("betas", "rig_scale", *STILL) else f"{role}/{index}" for role in RigView.roles}


def place_blocks(view: RigView, focal_px: float, rig: Rig) -> list[Block]:
    """Where the head is, and what may be corrected of the camera (nothing, unless `refine`) and of the rig's unit."""
    sigma = np.array([TURN_SIGMA] * 3 + [SHIFT_SIGMA_M] * 3)
    return [
        Block.make(view.names["transl"], 3),
        Block.make(view.names["rig_scale"], 1, free=not rig.metric),
        Block.make(view.names["camera"], 6, sigma=sigma, free=rig.refine),
        Block.make(view.names["log_focal"], 1, mean=np.log(focal_px), sigma=FOCAL_SIGMA, free=rig.refine),
    ]


def rig_start(
    rig: Rig,
    observed: Sequence[Float[np.ndarray, "L 2"]],
    template: Float[np.ndarray, "L 3"],
    root: Float[np.ndarray, "3"],
    names: Sequence[str],
) -> dict[str, np.ndarray]:
    """First pose of a still head: points triangulated from all photos, against the mean head's.

    observed: the same L points in pixels, per photo. Raises InputError when the cameras do not agree about where the
    points are, or see a head of impossible size.
    """
    points = _triangulated(rig, observed)
    found = umeyama(template, points)
    _check_agreement(rig, points, observed, names)
    if rig.metric:
        _check_size(found)
    off = np.sqrt(np.sum((found.apply(template) - points) ** 2, axis=1).mean()) / found.scale
    if off > _NO_FACE_M:
        raise InputError(
            f"what the cameras see makes no face: its points lie {1e3 * off:.0f} mm from where a face has them; are "
            "photos and cameras mixed up?"
        )
    turned = found.rotation @ root
    # Where the unit is unknown, it is the one that makes the head the mean one's size.
    unit = 1.0 if rig.metric else 1 / found.scale
    # global_orient turns about the root joint, a similarity about the origin.
    return {
        "global_orient": so3.log(found.rotation),
        "transl": unit * (found.translation + found.scale * turned) - root,
        "rig_scale": np.array([np.log(unit)]),
    }


def _triangulated(rig: Rig, observed: Sequence[np.ndarray]) -> Float[np.ndarray, "L 3"]:
    """Points in the rig's inner world where the rays of all cameras come nearest (linear least squares on rays)."""
    count = len(observed[0])
    normal, right = np.zeros((count, 3, 3)), np.zeros((count, 3))
    for index, pixels in enumerate(observed):
        place, k = rig.place(index), rig.Ks[index].astype(np.float64)
        rays = (np.concatenate([pixels, np.ones((count, 1))], 1) @ np.linalg.inv(k).T) * CAMERA_AXES
        rays = rays @ place[:3, :3]
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
        normal += across
        right += across @ (-place[:3, :3].T @ place[:3, 3])
    if np.linalg.cond(normal).min() > 1e8:
        raise InputError("the cameras stand at one place, so that they tell no distance; if they do not: check them")
    return np.linalg.solve(normal, right[..., None])[..., 0]


def _check_agreement(
    rig: Rig, points: Float[np.ndarray, "L 3"], observed: Sequence[np.ndarray], names: Sequence[str]
) -> None:
    misses = []
    for index, pixels in enumerate(observed):
        place = rig.place(index)
        camera = (points @ place[:3, :3].T + place[:3, 3]) * CAMERA_AXES
        if (camera[:, 2] <= 0).any():
            raise InputError(
                f"{names[index]}: by its camera the face would lie behind it; the cameras do not belong to these "
                "photos or are in another convention than their file says"
            )
        at = camera @ rig.Ks[index].astype(np.float64).T
        spread = float(np.linalg.norm(np.ptp(pixels, axis=0)))
        misses.append(float(np.median(np.linalg.norm(at[:, :2] / at[:, 2:] - pixels, axis=1))) / max(spread, 1e-9))
    worst = int(np.argmax(misses))
    if misses[worst] > _WRONG_CAMERAS:
        raise InputError(
            f"{names[worst]}: the cameras disagree about where the face is, by {100 * misses[worst]:.0f} % of its "
            "size; expected cameras of these very photos, taken at one moment (if the head moved: --moving)"
        )


def _check_size(found: Similarity) -> None:
    if SIZES[0] <= found.scale <= SIZES[1]:
        return
    hint = ""
    for factor, unit in ((1000.0, "mm"), (100.0, "cm"), (0.001, "m")):
        if SIZES[0] <= found.scale / factor <= SIZES[1]:
            hint = f"; it would fit if their unit were {unit} (--camera-unit)"
    raise InputError(
        f"by the given cameras the head is {found.scale:.3g} times as large as an average one{hint}; "
        "expected camera positions in a known unit, or --camera-unit any where it is arbitrary, as COLMAP's own is"
    )
