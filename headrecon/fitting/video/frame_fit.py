"""One frame of a video: expression, pose, gaze and place of a known head, from its landmarks and the frame before.

Gauss-Newton on the landmarks' distances (robust), the outline, the heights of lids and lips, and a prior that ties the
frame to where the last one was going. Openings get residuals of their own: a point a millimetre too low hardly matters
on a cheek, but it keeps lips apart that touch, and an eye open that is shut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from headrecon.fitting import contour, head_priors
from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.head_priors import HeadPrior
from headrecon.fitting.landmarks import DetectorNoise, LandmarkResidual, visibility_of, whitening
from headrecon.fitting.least_squares import Block, Problem, Residual, SolverOptions, Values, solve
from headrecon.fitting.parameters import HeadView, ViewGeometry, view_block_names
from headrecon.fitting.robust import Huber
from headrecon.fitting.video.openings import OpeningResidual, Openings, opening_heights, opening_residual
from headrecon.fitting.video.personal import PersonalHead, PointError
from headrecon.fitting.view_residuals import POINT_IDS
from headrecon.geometry.mesh import vertex_normals
from headrecon.models.posed_mesh import embed, posed_vertices
from headrecon.perception.eye_frame import EyeFrame
from headrecon.structures import POSE_FIELDS

#: What a frame's state holds, in this order.
ROLES: tuple[str, ...] = ("expression", *POSE_FIELDS, "placement")
#: How far a shut eye may have turned since the frame before, as a share of what an open one may have.
_HELD_GAZE = 0.02
#: What lids' points lose of their weight where their heights are known to be read wrongly.
_LIDS_MUTED = 0.95
_RARE = (*head_priors.SIDEWAYS, "jawForward", "cheekPuff")


@dataclass(frozen=True)
class FrameOptions:
    """How frames are fitted. noise: the detector's error from frame to frame, beside what is personal."""

    noise: DetectorNoise = field(default_factory=lambda: DetectorNoise.isotropic(0.018))
    prior: HeadPrior = field(default_factory=lambda: HeadPrior(expression_sigma=0.2))
    #: deviation of left minus right weights, and of blinks
    symmetry: float = 0.1
    wink: float = 0.5
    #: slope of the cost per unit of each weight (an exponential prior of mean 1/slope beside the normal one): most
    #: shapes are at rest in most frames, and without it they explain each other's noise (docs/accuracy.md)
    sparsity: float = 10.0
    #: the same for shapes that hardly anybody makes in talking, and that other shapes' misfit calls up
    rare_sparsity: float = 30.0
    huber: float = 3.0
    #: deviation of a point as a share of how far its expression moves it: blendshapes only resemble a face's motion
    expression_error: float = 0.2
    #: deviation across the outline and on the forehead, as multiples of the detector's
    contour_factor: float = 2.0
    forehead_factor: float = 2.5
    solver: SolverOptions = field(
        default_factory=lambda: SolverOptions(max_iterations=5, cost_tolerance=1e-3, cost_floor=0.05)
    )


@dataclass(frozen=True)
class StatePrior:
    """Where the state is expected before the frame is looked at: mean and deviation per entry (inf: nothing known)."""

    mean: Float[np.ndarray, " S"]
    sigma: Float[np.ndarray, " S"]


@dataclass(frozen=True)
class FrameFit:
    """state: in the order of `ROLES`; sigma: its deviations from this frame alone; error: root mean square distance of
    the visible points, share of the eye distance; seen: share of the points that face the camera."""

    state: Float[np.ndarray, " S"]
    sigma: Float[np.ndarray, " S"]
    error: float
    seen: float


class FrameFitter:
    """Fits the frames of one person and one camera; keep it for the whole video."""

    def __init__(
        self,
        person: PersonalHead,
        focal_px: float,
        image_size: tuple[int, int],
        openings: Openings,
        options: FrameOptions | None = None,
    ) -> None:
        self.person, self.image_size = person, image_size
        self.focal_px, self.openings = focal_px, openings
        self.options = options or FrameOptions()
        principal = np.array(image_size, float) / 2
        geometry = ViewGeometry(person.anchor, person.root, principal)
        self.head = HeadView(person.points.layout, geometry, view_block_names(0, ROLES + ("betas", "log_focal")))
        self.blocks = self._state_blocks()
        sizes = [b.size for b in self.blocks]
        ends = np.cumsum(sizes)
        self.slices = {b.name: slice(int(e) - b.size, int(e)) for b, e in zip(self.blocks, ends, strict=True)}
        self.size = int(ends[-1])

    def _state_blocks(self) -> list[Block]:
        """Expression, poses and placement with what is believed of them without any frame."""
        surface, prior, names = self.person.surface, self.options.prior, self.head.names
        expression = head_priors.expression_block(surface, prior, None, names["expression"])
        odd = np.isin(surface.expression_names, _RARE)
        slope = np.where(odd, self.options.rare_sparsity, self.options.sparsity)
        blocks = [replace(expression, tilt=np.where(head_priors.is_arkit(surface), slope, 0.0))]
        blocks += head_priors.pose_blocks(surface, prior, names)
        blocks.append(Block.make(names["placement"], 3))
        return blocks

    @cached_property
    def free(self) -> Bool[np.ndarray, " S"]:
        """Which entries of the state move at all."""
        parts = [np.ones(b.size, bool) if b.free is None else b.free for b in self.blocks]
        return np.concatenate(parts)

    @cached_property
    def _symmetry(self) -> Residual:
        options, name = self.options, self.head.names["expression"]
        return head_priors.symmetry_residual(self.person.surface, options.symmetry, options.wink, name)

    def values(self, state: Float[np.ndarray, " S"]) -> dict[str, np.ndarray]:
        """The state as the solver's blocks, with the fixed ones."""
        out = {name: state[s] for name, s in self.slices.items()}
        return out | {"betas": np.zeros(0), "log_focal": np.array([np.log(self.focal_px)])}

    def start(self, marks: Float[np.ndarray, "478 D"]) -> Float[np.ndarray, " S"]:
        """A state for a face of which nothing is known but its points."""
        from headrecon.fitting.initial_pose import weak_perspective_pose

        layout = self.person.points.layout
        template = self.person.points.evaluate(layout.zeros())[: groups.NUM_MESH]
        geometry = self.head.geometry
        pose = weak_perspective_pose(template, marks, geometry.anchor, geometry.principal)
        state = np.zeros(self.size)
        state[self.slices["global_orient"]] = pose.global_orient
        state[self.slices["placement"]] = pose.placement
        return state

    def fit(
        self,
        marks: Float[np.ndarray, "478 D"],
        start: Float[np.ndarray, " S"],
        prior: StatePrior | None = None,
        further: Mapping[str, Residual] | None = None,
    ) -> FrameFit:
        """The state that explains the points best. marks: pixels of the upright frame; further: residuals to add."""
        with one_blas_thread():
            marks = self.options.noise.unbiased(groups.check_landmarks(marks))
            frame = EyeFrame.of(marks)
            values = self.values(start)
            shown = self.openings.irises_shown(opening_heights(marks))
            residuals, share = self._residuals(marks, frame, values, shown)
            residuals += list((further or {}).values())
            prior = prior and self._gaze_held(prior, shown)
            blocks = [self._tied(b, prior) for b in self.blocks]
            fixed = [Block.make("betas", 0), Block.make("log_focal", 1, free=False)]
            problem = Problem([*blocks, *fixed], residuals)
            solution = solve(problem, values, self.options.solver)
            state = solution.x[: self.size].copy()
            points = self.head.project(solution.values, self.person.points.evaluate(self.head.flat(solution.values)))
            missed = np.linalg.norm(points - self._observed(marks), axis=1) / frame.scale_px
            error = float(np.sqrt(np.average(missed**2, weights=share + 1e-9)))
            return FrameFit(state, self._own_sigma(solution.hessian, prior), error, float(share.mean()))

    def misses(self, marks: Float[np.ndarray, "478 D"], state: Float[np.ndarray, " S"]) -> PointError:
        """How a frame's points miss the head in a state that was found otherwise."""
        values = self.values(state)
        flat = self.head.flat(values)
        person = self.person
        vertices = posed_vertices(person.surface, person.candidates, flat)
        normals = vertex_normals(vertices, person.triangles)
        share = visibility_of(embed(normals, person.marks), embed(vertices, person.marks))
        share[list(groups.FOREHEAD)] *= 0.3
        observed = self._observed(self.options.noise.unbiased(groups.check_landmarks(marks)))
        missed = observed - self.head.project(values, person.points.evaluate(flat))
        scale = float(np.exp(-state[self.slices["placement"]][2]))
        return PointError(missed, share, state[self.slices["global_orient"]], scale)

    def with_person(self, person: PersonalHead) -> FrameFitter:
        """The same for a head with other offsets."""
        return FrameFitter(person, self.focal_px, self.image_size, self.openings, self.options)

    def with_options(self, options: FrameOptions) -> FrameFitter:
        """The same with other weights."""
        return FrameFitter(self.person, self.focal_px, self.image_size, self.openings, options)

    def _tied(self, block: Block, prior: StatePrior | None) -> Block:
        """The block with what the frame before says: the product of two normal distributions is one."""
        if prior is None:
            return block
        s = self.slices[block.name]
        own, tie = 1 / block.sigma**2, 1 / prior.sigma[s] ** 2
        total = own + tie
        known = total > 0
        mean = np.where(known, (own * block.mean + tie * prior.mean[s]) / np.where(known, total, 1.0), block.mean)
        return replace(block, mean=mean, sigma=1 / np.sqrt(np.where(known, total, 0.0) + 1e-30))

    def _own_sigma(self, hessian: np.ndarray, prior: StatePrior | None) -> np.ndarray:
        """Deviation of each entry as this frame alone leaves it."""
        ids = np.flatnonzero(self.free)
        information = hessian[np.ix_(ids, ids)].copy()
        if prior is not None:
            information[np.diag_indices(len(ids))] -= 1 / prior.sigma[ids] ** 2
        # What only the frame before held up is not known at all; the solve below needs it to be something.
        information[np.diag_indices(len(ids))] += 1e-6 * np.diag(information) + 1e-9
        sigma = np.zeros(self.size)
        sigma[ids] = np.sqrt(np.maximum(np.diag(np.linalg.inv(information)), 1e-18))
        return sigma

    def _observed(self, marks: np.ndarray) -> np.ndarray:
        return np.concatenate([marks[: groups.NUM_MESH, :2], groups.iris_centers_px(marks)])

    def _gaze_held(self, prior: StatePrior, shown: Float[np.ndarray, "2"]) -> StatePrior:
        """Where an eye is shut, it looks where it looked: nothing in the frame says otherwise."""
        sigma = prior.sigma.copy()
        for name, share in zip(("reye_pose", "leye_pose"), shown, strict=True):
            sigma[self.slices[name]] *= _HELD_GAZE + (1 - _HELD_GAZE) * share
        return replace(prior, sigma=sigma)

    def _residuals(
        self, marks: np.ndarray, frame: EyeFrame, values: Values, irises: Float[np.ndarray, "2"]
    ) -> tuple[list[Residual], np.ndarray]:
        """What the frame says, with visibility and outline chosen at `values`; and each point's visibility.

        irises: how much of the right and the left one can be seen.
        """
        person, options = self.person, self.options
        flat = self.head.flat(values)
        vertices = posed_vertices(person.surface, person.candidates, flat)
        normals = vertex_normals(vertices, person.triangles)
        outline = contour.match_outline(person.bands, vertices, normals)
        share = visibility_of(embed(normals, person.marks), embed(vertices, person.marks))
        share[groups.NUM_MESH :] = irises if person.irises_turn else 0.0
        high = self.openings.read_high.reshape(2, -1).mean(1)
        for lids, wrong in zip((groups.RIGHT_EYE, groups.LEFT_EYE), high, strict=True):
            # A detector that leaves shut lids half open says so with all their points.
            rims = [i for i in lids if i not in groups.RIGHT_EYE_CORNERS + groups.LEFT_EYE_CORNERS]
            share[rims] *= 1 - _LIDS_MUTED * wrong
        shown = share.copy()
        share[list(groups.FOREHEAD)] /= options.forehead_factor**2
        share[outline.landmarks] = 0.0
        scale = frame.scale_px / person.interocular_m
        extra = scale * options.expression_error * self._expression_motion(flat)
        order = np.array(POINT_IDS)
        weights = whitening(options.noise.sigma[order], frame, share, extra)
        none = np.zeros((0, len(order), 2))
        kernel = Huber(options.huber)
        out: list[Residual] = [
            LandmarkResidual("points", self.head, person.points, self._observed(marks), weights, none, kernel=kernel)
        ]
        if len(outline.landmarks):
            out.append(self._outline(marks, frame, (vertices, normals), outline))
        out.append(opening_residual(person, self.head, self.openings, marks, frame, self.head.orient(values)))
        out.append(self._symmetry)
        if person.irises_turn:
            out.append(head_priors.vergence_residual(options.prior, self.head.names))
        return out, shown

    def _expression_motion(self, flat: np.ndarray) -> np.ndarray:
        """How far, in metres, the expression moves each point."""
        points = self.person.points
        still = flat.copy()
        still[points.layout.slices["expression"]] = 0.0
        return np.linalg.norm(points.evaluate(flat) - points.evaluate(still), axis=1)

    def _outline(
        self, marks: np.ndarray, frame: EyeFrame, mesh: tuple[np.ndarray, np.ndarray], match: contour.ContourMatch
    ) -> LandmarkResidual:
        """Distance across the outline of the points that slide along it."""
        person, options = self.person, self.options
        own = person.bands.candidates
        ids, bary = own.vertex_ids[match.candidates], own.barycentrics[match.candidates]
        points, normals = ((array[ids] * bary[..., None]).sum(1) for array in mesh)
        across = contour.image_normals(normals, points)
        sigma = options.noise.sigma[match.landmarks].mean(1) * frame.scale_px * options.contour_factor
        return LandmarkResidual(
            "outline",
            self.head,
            person.candidates.subset(match.candidates),
            marks[match.landmarks, :2],
            (across / sigma[:, None])[:, None, :],
            np.zeros((0, len(match.landmarks), 2)),
            kernel=Huber(options.huber),
        )


__all__ = ["ROLES", "FrameFit", "FrameFitter", "FrameOptions", "OpeningResidual", "StatePrior"]
