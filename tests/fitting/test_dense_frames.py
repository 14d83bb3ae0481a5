"""Frames by their skin, on pictures of a known head drawn exactly: what landmarks miss comes back, and light, hands and
strangers do not move it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from headrecon.datasets.value_noise import NoiseField
from headrecon.fitting.head_priors import without_fixed_joints
from headrecon.fitting.video.dense_fit import DenseFrameFitter, projected
from headrecon.fitting.video.dense_points import FacePoints
from headrecon.fitting.video.dense_residual import LightSolver, SkinResidual, light_solvers
from headrecon.fitting.video.dense_template import Keyframe, learn_template
from headrecon.fitting.video.frame_fit import FrameFit, FrameFitter
from headrecon.fitting.video.openings import Openings
from headrecon.fitting.video.personal import personal_head, settled
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.rendering.lighting import Lighting, soft_front, studio
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.mesh import render_mesh
from headrecon.rendering.plain_head import plain_head
from headrecon.structures import Cameras, HeadAssets, Mesh

FOCAL, SIDE = 700.0, 256
#: Root mean square error of the landmarks in these tests, pixels: 1.5 % of the eye distance.
MARKS_PX = 1.2


@dataclass(frozen=True)
class Person:
    """Someone who can be drawn in any state."""

    assets: HeadAssets
    betas: np.ndarray
    fitter: FrameFitter
    marks: PointModel
    joints: PointModel
    person: HeadAssets
    colours: np.ndarray

    def draw(self, state: np.ndarray, light: Lighting | None = None) -> np.ndarray:
        vertices = posed_vertices(self.person, self.joints, self.fitter.head.flat(self.fitter.values(state)))
        K = np.array([[FOCAL, 0.0, SIDE / 2], [0.0, FOCAL, SIDE / 2], [0.0, 0.0, 1.0]])
        camera = Cameras(np.diag([1.0, -1.0, -1.0, 1.0])[None], K[None], SIDE, SIDE)
        look = Appearance(vertex_srgb=torch.from_numpy(self.colours.astype(np.float32)))
        options = RenderOptions(lighting=light or soft_front(), background_srgb=(0.3, 0.4, 0.35))
        mesh = Mesh(vertices.astype(np.float32), self.person.faces)
        return (render_mesh(mesh, camera, look, options).image_srgb[0].numpy() * 255).round().astype(np.uint8)

    def seen(self, state: np.ndarray, seed: int, error_px: float = MARKS_PX) -> np.ndarray:
        """What a detector sees, with errors of its own."""
        at = self.marks.evaluate(self.fitter.head.flat(self.fitter.values(state)))
        scale = FOCAL / float(np.median(-at[:, 2]))
        pixels = self.fitter.head.project(self.fitter.values(state), at)
        rng = np.random.default_rng(seed)
        # Detectors err for whole regions alike: the mouth as a whole, an eye as a whole.
        smooth = NoiseField(rng), NoiseField(rng)
        rest = self.marks.evaluate(self.marks.layout.zeros())
        pixels = pixels + error_px * np.stack([field(rest, 0.05) for field in smooth], axis=1)
        return np.concatenate([pixels, -scale * (at[:, 2:] - at[:, 2].mean())], axis=1)

    def state(self, turn: tuple[float, float, float] = (0.0, 0.0, 0.0), **weights: float) -> np.ndarray:
        state = np.zeros(self.fitter.size)
        state[self.fitter.slices["placement"]] = (3.0, -6.0, np.log(0.6 / FOCAL))
        state[self.fitter.slices["global_orient"]] = turn
        for name, weight in weights.items():
            state[self.assets.expression_names.index(name)] = weight
        return state

    def by_marks(self, state: np.ndarray, seed: int, error_px: float = MARKS_PX) -> tuple[np.ndarray, FrameFit]:
        marks = self.seen(state, seed, error_px)
        fit = self.fitter.fit(marks, self.fitter.start(marks))
        return marks, self.fitter.fit(marks, fit.state)

    def missed(self, face: FacePoints, found: np.ndarray, true: np.ndarray) -> float:
        """Root mean square distance of the skin's points in the picture."""
        apart = projected(self.fitter, face, found) - projected(self.fitter, face, true)
        return float(np.sqrt(np.mean(np.sum(apart**2, axis=1))))


@pytest.fixture(scope="module")
def person(anny_assets) -> Person:
    betas = np.random.default_rng(3).normal(size=anny_assets.num_betas) * 0.5
    fitter = FrameFitter(personal_head(anny_assets, betas), FOCAL, (SIDE, SIDE), Openings(np.full(6, 0.12)))
    whole = settled(without_fixed_joints(anny_assets), betas)
    surface = fitter.person.surface
    pattern = NoiseField(np.random.default_rng(5))
    rest = anny_assets.v_template.astype(np.float64)
    colours = plain_head(anny_assets) * (1 + 0.06 * pattern(rest, 0.012) + 0.05 * pattern(rest + 1.0, 0.03))[:, None]
    return Person(
        anny_assets, betas, fitter, PointModel(surface, surface.landmarks["mediapipe478"]),
        PointModel(whole, np.array([0])), whole, np.clip(colours, 0.02, 1.0),
    )  # fmt: skip


def keyframes_of(person: Person, error_px: float) -> tuple[list[np.ndarray], list[Keyframe]]:
    """Six states and their pictures, posed by landmarks that err by so much."""
    shown = [
        person.state(),
        person.state((0.05, 0.25, 0.0), jawOpen=0.3),
        person.state((-0.05, -0.25, 0.03), browInnerUp=0.4),
        person.state((0.1, 0.1, -0.05), mouthSmileLeft=0.5, mouthSmileRight=0.5),
        person.state((-0.1, -0.1, 0.0), jawOpen=0.15, mouthFunnel=0.3),
        person.state((0.0, 0.12, 0.05), browDownLeft=0.4, browDownRight=0.4),
    ]
    return shown, [Keyframe(person.draw(s), *person.by_marks(s, 10 + i, error_px)) for i, s in enumerate(shown)]


@pytest.fixture(scope="module")
def learnt(person) -> DenseFrameFitter:
    """From keyframes whose landmarks are right: where the template lies is theirs to say, in the mean."""
    _, keyframes = keyframes_of(person, 0.0)
    found = learn_template(person.fitter, FacePoints.build(person.assets, person.betas), keyframes)
    assert found is not None
    return DenseFrameFitter(person.fitter, found[0], found[1])


def test_keyframes_come_to_agree(person):
    """Each is where the others are, though the landmarks misplace each in its own way."""
    shown, keyframes = keyframes_of(person, MARKS_PX)
    found = learn_template(person.fitter, FacePoints.build(person.assets, person.betas), keyframes)
    assert found is not None
    face, _, posed = found

    def disagreement(frames: list[Keyframe]) -> float:
        """Spread over the keyframes of where points lie beside where they are (head turns are small here)."""
        apart = [
            projected(person.fitter, face, k.fit.state) - projected(person.fitter, face, s)
            for k, s in zip(frames, shown, strict=True)
        ]
        return float(np.sqrt(np.mean(np.sum((apart - np.mean(apart, axis=0)) ** 2, axis=2))))

    assert disagreement(posed) < 0.6 * disagreement(keyframes)


NEW = {"turn": (0.03, -0.15, 0.02), "jawOpen": 0.2, "mouthSmileLeft": 0.3, "mouthSmileRight": 0.3, "browInnerUp": 0.2}


def test_what_landmarks_miss_comes_back(person, learnt):
    true = person.state(**NEW)
    errors = []
    for seed in range(3):
        marks, found = person.by_marks(true, seed)
        fit = learnt.refine(person.draw(true), marks, found)
        assert fit.accepted
        assert fit.trust > 0.9
        errors.append([person.missed(learnt.face, s, true) for s in (found.state, fit.fit.state)])
        share = fit.fit.sigma / np.where(person.fitter.free, found.sigma, np.inf)
        assert np.median(share[person.fitter.slices["expression"]]) < 1.0
        assert share[person.fitter.slices["leye_pose"]].max() < 1.1
    before, after = np.mean(errors, axis=0)
    assert before > 1.2
    assert after < 0.45 * before


def test_light_from_elsewhere_does_not_move_it(person, learnt):
    true = person.state(**NEW)
    marks, found = person.by_marks(true, 0)
    states = [learnt.refine(person.draw(true, light), marks, found) for light in (soft_front(), studio())]
    assert all(fit.accepted for fit in states)
    assert person.missed(learnt.face, states[0].fit.state, states[1].fit.state) < 0.4


def test_a_hand_before_the_face_does_not_drag_it(person, learnt):
    true = person.state(**NEW)
    marks, found = person.by_marks(true, 1)
    clear = person.draw(true)
    covered = clear.copy()
    at = projected(person.fitter, learnt.face, true)
    x, y = at.mean(0).astype(int)
    covered[y : y + 60, x + 8 : x + 60] = (150, 95, 80)
    fit = learnt.refine(covered, marks, found)
    plain = learnt.refine(clear, marks, found)
    assert fit.accepted
    assert fit.trust < plain.trust - 0.05
    hidden = (at >= [x + 8, y]).all(1) & (at < [x + 60, y + 60]).all(1)
    apart = np.linalg.norm(projected(person.fitter, learnt.face, fit.fit.state) - at, axis=1)
    uncovered = np.linalg.norm(projected(person.fitter, learnt.face, plain.fit.state) - at, axis=1)
    assert np.sqrt(np.mean(apart[~hidden] ** 2)) < 1.3 * np.sqrt(np.mean(uncovered[~hidden] ** 2))


def test_a_picture_of_something_else_leaves_the_landmarks_answer(person, learnt):
    true = person.state(**NEW)
    marks, found = person.by_marks(true, 2)
    noise = np.random.default_rng(0).integers(0, 255, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    other = np.repeat(np.repeat(noise, 8, axis=0), 8, axis=1)
    for picture in (other, np.full_like(other, 90)):
        fit = learnt.refine(picture, marks, found)
        assert not fit.accepted
        assert np.array_equal(fit.fit.state, found.state)


def test_the_same_frame_gives_the_same_answer_twice(person, learnt):
    true = person.state(**NEW)
    marks, found = person.by_marks(true, 2)
    first, second = (learnt.refine(person.draw(true), marks, found) for _ in range(2))
    assert np.array_equal(first.fit.state, second.fit.state)
    assert np.array_equal(first.fit.sigma, second.fit.sigma)


def test_the_jacobian_of_skin(person, learnt):
    state = person.state(**NEW)
    picture = learnt.picture(person.draw(state), state)
    assert picture is not None
    face, template = learnt.face, learnt.template
    weights = np.random.default_rng(0).uniform(0.0, 4.0, template.values.shape)
    residual = SkinResidual(
        person.fitter.head, face.model, picture, template.values, light_solvers(face.basis, face.sigma, weights)
    )
    values = person.fitter.values(state)
    at, slopes = residual.linearize(values)
    assert np.allclose(at, residual.evaluate(values), atol=1e-12)
    columns, start = {}, 0
    for name in residual.blocks:
        columns[name] = slice(start, start + len(values[name]))
        start += len(values[name])
    for name, entry, step in (
        ("expression", 17, 1e-4), ("global_orient", 1, 1e-5), ("placement", 0, 1e-3), ("placement", 2, 1e-5),
        ("log_focal", 0, 1e-4),
    ):  # fmt: skip
        name = person.fitter.head.names[name]
        moved = []
        for sign in (1.0, -1.0):
            there = values[name].copy()
            there[entry] += sign * step
            moved.append(residual.evaluate({**values, name: there}))
        expected = (moved[0] - moved[1]) / (2 * step)
        given = slopes[:, columns[name]][:, entry]
        # Catmull-Rom's slope is continuous but not smooth: differences across its knots are a little off.
        assert np.linalg.norm(given - expected) < 0.02 * np.linalg.norm(expected) + 1e-9, name


def test_light_is_marginalised():
    """The whitened rows have the length that the covariance D + B S B' gives."""
    rng = np.random.default_rng(0)
    basis, sigma, weights = rng.normal(size=(40, 5)), rng.uniform(0.5, 2.0, 5), rng.uniform(0.2, 3.0, 40)
    rows = rng.normal(size=(40, 3))
    white = LightSolver.make(basis, sigma, weights)(rows)
    covariance = np.diag(1 / weights) + (basis * sigma**2) @ basis.T
    assert np.allclose(white.T @ white, rows.T @ np.linalg.solve(covariance, rows), rtol=1e-9)


def test_a_face_out_of_the_picture_is_left_alone(person, learnt):
    state = person.state()
    state[person.fitter.slices["placement"]] = (900.0, 0.0, np.log(0.6 / FOCAL))
    marks = person.seen(state, 0)
    found = replace(person.fitter.fit(marks, state), state=state)
    fit = learnt.refine(person.draw(person.state()), marks, found)
    assert not fit.accepted
    assert np.array_equal(fit.fit.state, state)
