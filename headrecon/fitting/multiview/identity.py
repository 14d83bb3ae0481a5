"""The model's own parameters from measured distances: what identity, expression and pose can explain is theirs, and
only the rest becomes offsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.landmarks import take
from headrecon.fitting.multiview.surface import Surface
from headrecon.fitting.multiview.sweep import Samples
from headrecon.models.point_model import PointModel
from headrecon.structures import POSE_FIELDS, LandmarkEmbedding

#: At most so many samples decide; more only repeat them.
_SAMPLES = 2500
#: Landmarks that hold the head, and the option that says how firmly: all of iBUG's, and MediaPipe's irises.
_MARKS = (
    ("ibug68", list(range(68)), "mark_m"),
    ("mediapipe478", [groups.RIGHT_IRIS[0], groups.LEFT_IRIS[0]], "iris_m"),
)


@dataclass(frozen=True)
class IdentityOptions:
    """model_m: by which the nearest head of the model still differs from a person, and looks: how many independent
    places that is about. mark_m: by which a landmark may slide; iris_m: and an iris, of which stereo sees nothing, so
    that pupils stay as far apart as all photos' irises have them. expression, jaw_rad: how far these may go from where
    the joint fit has them (deviations). cut: as in `SolveOptions`."""

    model_m: float = 0.0006
    looks: float = 200.0
    mark_m: float = 0.003
    iris_m: float = 0.0006
    expression: float = 0.08
    jaw_rad: float = 0.05
    cut: float = 3.0
    rounds: int = 4


def refit(
    surface: Surface,
    samples: Samples,
    reach: Float[np.ndarray, " N"],
    params: Float[np.ndarray, "C P"],
    start: Float[np.ndarray, "C P"],
    move_head: bool,
    options: IdentityOptions,
) -> Float[np.ndarray, "C P"]:
    """Parameters whose bare head (no offsets) lies `reach` further along the samples' normals than that of `params`.

    start: the joint fit, about which expression and jaw are held. move_head: expression, jaw and pose of the one head
    that all views show move too; else identity alone. One Gauss-Newton step with robust weights.
    """
    layout = surface.joints.layout
    chosen = _spread(len(samples), _SAMPLES)
    jac = _normal_rows(surface, samples.take(chosen), params)
    free = _free(layout, move_head)
    jac, target = jac[:, free], reach[chosen]
    mean, precision = _prior(layout, start[0], options)
    x = params[0]
    sigma = np.hypot(2.0 * samples.sigma[chosen], options.model_m)
    share = options.looks / max(len(chosen), 1) / sigma**2
    hold = np.diag(precision[free])
    pull = precision[free] * (mean - x)[free]
    # Poses found anew took the landmarks along: then they may slide from where they are now.
    for name, ids, slide in _MARKS:
        marks = _mark_rows(surface, x, start[0] if move_head else x, name, ids)
        if marks is not None:
            hold, pull = _with_marks(hold, pull, marks, free, getattr(options, slide))
    step, weight = np.zeros(len(free)), np.ones(len(target))
    for _ in range(options.rounds):
        data = share * weight
        step = np.linalg.solve(hold + (jac * data[:, None]).T @ jac, pull + jac.T @ (data * target))
        weight = (1.0 / (1.0 + ((target - jac @ step) / sigma / options.cut) ** 2)) ** 2
    out = params.copy()
    out[:, free] += step
    if move_head:
        weights = out[:, layout.slices["expression"]]
        # Shapes that a fit left at 0 may not turn inside out; those that it made negative may stay so.
        low = np.minimum(0.0, start[:, layout.slices["expression"]])
        out[:, layout.slices["expression"]] = np.clip(weights, low, 1.0)
    return out


def _spread(count: int, most: int) -> Int[np.ndarray, " M"]:
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(int)


def _free(layout, move_head: bool) -> Int[np.ndarray, " K"]:
    names = ["betas", "expression", "global_orient", "jaw_pose", "transl"] if move_head else ["betas"]
    return np.concatenate([np.arange(layout.size)[layout.slices[n]] for n in names])


def _prior(layout, start: np.ndarray, o: IdentityOptions) -> tuple[np.ndarray, np.ndarray]:
    mean, sigma = start.copy(), np.full(layout.size, 10.0)
    mean[layout.slices["betas"]], sigma[layout.slices["betas"]] = 0.0, 1.0
    sigma[layout.slices["expression"]] = o.expression
    for name in POSE_FIELDS[1:]:
        sigma[layout.slices[name]] = o.jaw_rad
    return mean, 1.0 / sigma**2


def _normal_rows(surface: Surface, samples: Samples, params: Float[np.ndarray, "C P"]) -> Float[np.ndarray, "N P"]:
    corners = surface.triangles[samples.face]
    out = np.empty((len(samples), surface.joints.layout.size))
    for view in np.unique(samples.view):
        own = np.flatnonzero(samples.view == view)
        model = PointModel(surface.assets, LandmarkEmbedding(corners[own], samples.barycentrics[own]))
        _, jac = model.jacobian(params[view])
        out[own] = np.einsum("na,nap->np", samples.normal[own], jac)
    return out


def _mark_rows(
    surface: Surface, x: np.ndarray, start: np.ndarray, name: str, ids: list[int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Where the landmarks are against where the joint fit had them [3L], and how they move [3L,P]."""
    embedding = surface.assets.landmarks.get(name)
    if embedding is None:
        return None
    model = PointModel(surface.assets, take(embedding, ids))
    points, jac = model.jacobian(x)
    return (points - model.evaluate(start)).reshape(-1), jac.reshape(-1, jac.shape[2])


def _with_marks(
    hold: np.ndarray, pull: np.ndarray, marks: tuple[np.ndarray, np.ndarray], free: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    moved, jac = marks[0], marks[1][:, free]
    return hold + jac.T @ jac / sigma**2, pull - jac.T @ moved / sigma**2
