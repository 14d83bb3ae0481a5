"""Frames by their skin: where the landmarks have put the head, its picture is compared with the person's own skin.

A landmark detector errs by a per cent of the eye distance, anew in every frame and differently for every turn and
expression. Skin can be followed to a fraction of a pixel (Lucas and Kanade 1981; over a face model: Baker and Matthews,
IJCV 2004). Expression, pose and place are moved until the picture under each point is what the template says, up to
light (`dense_residual`), with all that the landmarks say as before, at less weight. The template was made once, from
the keyframes (`dense_template`), and no frame changes it: nothing drifts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.least_squares import SolverOptions, Values
from headrecon.fitting.video.dense_picture import FacePicture, face_picture, shown
from headrecon.fitting.video.dense_points import FacePoints
from headrecon.fitting.video.dense_residual import SkinResidual, light_solvers
from headrecon.fitting.video.frame_fit import FrameFit, FrameFitter, StatePrior


@dataclass(frozen=True)
class DenseOptions:
    """rounds: misplacement that is allowed for in each round of weighing, working pixels; in the last one it is what
    the model cannot follow. steps: of Gauss-Newton in each round. expression_error: misplacement as a share of how far
    the expression moves a point.

    looks: neighbouring points err alike, so each counts as this share of one. landmark_factor: deviation of the
    landmarks (but the irises) beside skin, as a multiple of what it is without. cut: misfit, in deviations, at which
    surroundings lose three quarters of their weight; single_cut: the same for a point by itself.
    """

    rounds: tuple[float, ...] = (1.2, 0.4)
    steps: tuple[int, ...] = (1, 2)
    expression_error: float = 0.1
    looks: float = 0.7
    landmark_factor: float = 3.0
    cut: float = 2.0
    single_cut: float = 3.5


@dataclass(frozen=True)
class Guard:
    """When the landmarks' answer stays: skin that agrees, as a share of what is in view, below `least_trust`; landmarks
    missed by more than `error_share` of what they were missed by before plus `error`; points moved by more than `moved`
    (both shares of the eye distance)."""

    least_trust: float = 0.35
    error_share: float = 1.5
    error: float = 0.012
    moved: float = 0.07


@dataclass(frozen=True)
class SkinTemplate:
    """What each point of a person's skin looks like. values, sigma: log light and colours, and how far they vary beyond
    light; per_m: pixels per metre on the skin at which that is so."""

    values: Float[np.ndarray, "N C"]
    sigma: Float[np.ndarray, "N C"]
    per_m: float


@dataclass(frozen=True)
class DenseFit:
    """fit: the frame's state; accepted: False where it is the landmarks' own. trust: share of the skin in view that is
    as expected. misfit: root mean square of the trusted skin's log lightness against the template."""

    fit: FrameFit
    accepted: bool
    trust: float
    misfit: float


@dataclass(frozen=True)
class Weighed:
    """A frame's points before a solve. weights [N,C]; trust: of the visible share; missed: residuals without light."""

    weights: Float[np.ndarray, "N C"]
    trust: Float[np.ndarray, " N"]
    seen: Float[np.ndarray, " N"]
    missed: Float[np.ndarray, "N C"]


class DenseFrameFitter:
    """Refines the frames of one person; keep it for the whole video."""

    def __init__(
        self,
        fitter: FrameFitter,
        face: FacePoints,
        template: SkinTemplate,
        options: DenseOptions | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.options, self.guard = options or DenseOptions(), guard or Guard()
        self.fitter, self.face, self.template = fitter, face, template
        noise = fitter.options.noise
        sigma = noise.sigma.copy()
        sigma[: groups.NUM_MESH] *= self.options.landmark_factor  # irises are nobody's skin: the gaze stays theirs
        weaker = replace(noise, sigma=sigma)
        self._joint = [fitter.with_options(replace(fitter.options, noise=weaker, solver=s)) for s in self._solvers()]

    def _solvers(self) -> list[SolverOptions]:
        steps = self.options.steps[-len(self.options.rounds) :]
        return [SolverOptions(max_iterations=n, cost_tolerance=5e-3, cost_floor=0.3) for n in steps]

    def picture(self, image_srgb: UInt8[np.ndarray, "H W 3"], state: Float[np.ndarray, " S"]) -> FacePicture | None:
        """The frame's face at the template's size."""
        return picture_of(self.fitter, self.face, image_srgb, state, self.template.per_m)

    def refine(
        self,
        image_srgb: UInt8[np.ndarray, "H W 3"],
        marks: Float[np.ndarray, "478 D"],
        found: FrameFit,
        prior: StatePrior | None = None,
    ) -> DenseFit:
        """The frame's state by its skin, from that by its landmarks. O(points x parameters^2)."""
        with one_blas_thread():
            picture = self.picture(image_srgb, found.state)
            if picture is None:
                return DenseFit(found, False, 0.0, float("nan"))
            fit, share, misfit = self.solve(picture, marks, found, prior)
            kept = self.objection(found, fit, share) is None
            return DenseFit(fit if kept else found, kept, share, misfit)

    def solve(
        self, picture: FacePicture, marks: Float[np.ndarray, "478 D"], found: FrameFit, prior: StatePrior | None
    ) -> tuple[FrameFit, float, float]:
        """The joint fit, the share of skin that was trusted, and its misfit before the last solve."""
        fit, share, misfit = found, 0.0, float("nan")
        seen = None
        view = self.fitter.head
        for slack, joint in zip(self.options.rounds, self._joint, strict=True):
            values = self.fitter.values(fit.state)
            seen = shown(self.face, view, values, picture) if seen is None else seen
            weighed = self.weigh(picture, values, seen, slack)
            share = float((weighed.trust * seen).sum() / max(seen.sum(), 1e-9))
            used = np.flatnonzero(weighed.weights.sum(1) > 0)
            if len(used) < 50:
                return found, 0.0, misfit
            trusted = weighed.weights[:, 0]
            misfit = float(np.sqrt(np.average(weighed.missed[:, 0] ** 2, weights=trusted)))
            residual = SkinResidual(
                view,
                self.face.model.subset(used),
                picture,
                self.template.values[used],
                light_solvers(self.face.basis[used], self.face.sigma, weighed.weights[used]),
            )
            fit = joint.fit(marks, fit.state, prior, {"skin": residual})
        return fit, share, misfit

    def weigh(self, picture: FacePicture, values: Values, seen: Float[np.ndarray, " N"], slack: float) -> Weighed:
        """Weights of the points where they are: the light is fitted, and what does not look like this skin leaves."""
        face, options, template = self.face, self.options, self.template
        flat = self.fitter.head.flat(values)
        points = face.model.evaluate(flat)
        observed, slopes, inside = picture.sample(self.fitter.head.project(values, points))
        seen = np.where(inside, seen, 0.0)
        working = np.linalg.norm(slopes / picture.scale, axis=2)  # change per working pixel
        moved = self._expression_motion(flat, points) * template.per_m
        misplaced = slack**2 + (options.expression_error * moved) ** 2
        variance = template.sigma**2 + working**2 * misplaced[:, None]
        missed, trust = observed - template.values, np.ones(len(face))
        single = np.ones(len(face))
        rest = missed
        for _ in range(3):
            weights = (seen * trust * single)[:, None] / variance * options.looks
            solvers = light_solvers(face.basis, face.sigma, weights)
            rest = np.stack([r - face.basis @ s.light(r) for r, s in zip(missed.T, solvers, strict=True)], axis=1)
            # What covers skin covers a patch of it: the surroundings are judged, over both channels.
            squares = np.mean(rest**2 / variance, axis=1)
            around = (squares * seen)[face.near].sum(1) / np.maximum(seen[face.near].sum(1), 1e-9)
            trust = _fade(around, options.cut)
            single = _fade(squares, options.single_cut)
        weights = (seen * trust * single)[:, None] / variance * options.looks
        return Weighed(weights, trust, seen, rest)

    def _expression_motion(self, flat: np.ndarray, points: np.ndarray) -> Float[np.ndarray, " N"]:
        """How far, in metres, the expression moves each point."""
        still = flat.copy()
        still[self.face.model.layout.slices["expression"]] = 0.0
        return np.linalg.norm(points - self.face.model.evaluate(still), axis=1)

    def objection(self, found: FrameFit, fit: FrameFit, share: float) -> str | None:
        guard = self.guard
        if not np.isfinite(fit.state).all() or not np.isfinite(fit.error):
            return "no answer"
        if share < guard.least_trust:
            return "too little of the skin is as expected"
        if fit.error > guard.error_share * found.error + guard.error:
            return "it would miss the landmarks"
        scale = self.fitter.person.interocular_m * np.exp(-found.state[self.fitter.slices["placement"]][2])
        before, after = (self._projected(f.state) for f in (found, fit))
        if np.sqrt(np.mean(np.sum((before - after) ** 2, axis=1))) > guard.moved * scale:
            return "it would move the face too far"
        return None

    def _projected(self, state: Float[np.ndarray, " S"]) -> Float[np.ndarray, "N 2"]:
        return projected(self.fitter, self.face, state)


def projected(fitter: FrameFitter, face: FacePoints, state: Float[np.ndarray, " S"]) -> Float[np.ndarray, "N 2"]:
    """Pixels of the points in a frame."""
    values = fitter.values(state)
    return fitter.head.project(values, face.model.evaluate(fitter.head.flat(values)))


def picture_of(
    fitter: FrameFitter,
    face: FacePoints,
    image_srgb: UInt8[np.ndarray, "H W 3"],
    state: Float[np.ndarray, " S"],
    per_m: float,
) -> FacePicture | None:
    """A frame's face with `per_m` pixels per metre on it. None where it is not in the frame."""
    shown_per_m = float(np.exp(-state[fitter.slices["placement"]][2]))
    return face_picture(image_srgb, projected(fitter, face, state), per_m / shown_per_m)


def _fade(misfit: Float[np.ndarray, " N"], cut: float) -> Float[np.ndarray, " N"]:
    """Weights for mean squares in units of what is expected (Geman and McClure 1987)."""
    return (cut**2 / (cut**2 + np.maximum(misfit - 1.0, 0.0))) ** 2


__all__ = ["DenseFit", "DenseFrameFitter", "DenseOptions", "Guard", "SkinTemplate", "picture_of", "projected"]
