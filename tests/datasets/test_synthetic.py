"""Synthetic people: exact truth, seeds, looks that can be set, and paint that varies as skin does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headrecon.datasets.eye_paint import eye_axis
from headrecon.datasets.looks import SKIN_TONES, draw_look
from headrecon.datasets.openness import openness
from headrecon.datasets.outside_modes import outside_modes
from headrecon.datasets.studio import SyntheticStudio
from headrecon.datasets.synthetic import SyntheticOptions, resize_iris, synthetic_photo
from headrecon.datasets.textured_scan import EXOCANTHION_MM, scan_photo, upright_scan
from headrecon.datasets.value_noise import NoiseField
from headrecon.datasets.visible_surface import visible_vertices
from headrecon.errors import AssetError, InputError
from headrecon.geometry.cameras import project_points
from headrecon.models.head_model import HeadModel
from headrecon.structures import HeadAssets, Mesh

SMALL = SyntheticOptions(size=256, texture_size=256)


@pytest.fixture(scope="module")
def model(anny_assets: HeadAssets) -> HeadModel:
    return HeadModel(anny_assets)


@pytest.fixture(scope="module")
def studio(anny_assets: HeadAssets) -> SyntheticStudio:
    return SyntheticStudio(anny_assets, 256)


def test_photos_are_what_they_say(anny_assets: HeadAssets, model: HeadModel) -> None:
    """The same seed gives the same picture; what was drawn projects onto the mask."""
    one, two = (synthetic_photo(anny_assets, 7, SMALL, model) for _ in range(2))
    np.testing.assert_array_equal(one.image_srgb, two.image_srgb)
    assert not np.array_equal(one.image_srgb, synthetic_photo(anny_assets, 8, SMALL, model).image_srgb)
    pixels, depth = project_points(torch.from_numpy(one.shown.astype(np.float32)), one.cameras)
    assert (depth > 0).all()
    rows, columns = np.nonzero(one.alpha > 0.02)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    # The person's box in the picture is the box of the drawn vertices, to a pixel of antialiasing each way.
    np.testing.assert_allclose(found, [*pixels.numpy().min(0), *pixels.numpy().max(0)], atol=1.6)


def test_the_person_stays_the_same_when_it_turns(anny_assets: HeadAssets, model: HeadModel) -> None:
    front = synthetic_photo(anny_assets, 3, SMALL, model)
    side = synthetic_photo(anny_assets, 3, replace(SMALL, turn=(0.0, 45.0, 0.0)), model)
    np.testing.assert_array_equal(front.neutral, side.neutral)
    np.testing.assert_array_equal(front.texture_srgb, side.texture_srgb)
    turn = side.params.global_orient - front.params.global_orient
    np.testing.assert_allclose(turn.numpy(), [[0, np.radians(45), 0]], atol=1e-6)


def test_hair_is_drawn_and_is_no_part_of_the_truth(anny_assets: HeadAssets, model: HeadModel) -> None:
    """Some seeds have hair; without it the same person's truth is the same and nothing is lifted."""
    photos = [synthetic_photo(anny_assets, seed, SMALL, model) for seed in range(4)]
    lifted = [np.linalg.norm(p.shown - p.posed, axis=1).max() for p in photos]
    assert max(lifted) > 0.004
    hairy = int(np.argmax(lifted))
    bald = synthetic_photo(anny_assets, hairy, replace(SMALL, hair=False), model)
    np.testing.assert_array_equal(bald.shown, bald.posed)
    np.testing.assert_array_equal(bald.neutral, photos[hairy].neutral)
    face = anny_assets.regions["face"] > 0.9
    moved = np.linalg.norm(photos[hairy].shown - photos[hairy].posed, axis=1)
    assert np.median(moved[face]) < 1e-6  # hair grows on the head, not on the face


@pytest.mark.parametrize("tone", range(6))
def test_skin_has_its_tone_and_is_not_uniform(studio: SyntheticStudio, tone: int) -> None:
    rng = np.random.default_rng(tone)
    look = replace(draw_look(rng, tone, False), hair_mm=0.0)
    texture = studio.paint(look, rng).texture_srgb.reshape(-1, 3)[studio.texels.index] / 255
    cheek = np.linalg.norm(studio.points - [40, -35, -5], axis=1) < 12
    middle = np.median(texture[cheek], axis=0)
    np.testing.assert_allclose(middle, SKIN_TONES[tone], atol=0.16)  # blood and the person's own shade move it
    assert middle[0] > middle[1] > middle[2]  # no skin is green or blue
    assert (texture[cheek].std(0) / middle).max() > 0.008  # by more than the bytes' steps


def test_features_lie_where_they_belong(studio: SyntheticStudio) -> None:
    """Brows darker than the forehead, lips redder than the chin, pupils black, hair of its colour on the top."""
    rng = np.random.default_rng(1)
    look = replace(draw_look(rng, 1, True), brows=0.9, lips=0.8, beard=0.0, hair=(0.1, 0.07, 0.05), hair_mm=20.0)
    painted = studio.paint(look, rng)
    colours = painted.texture_srgb.reshape(-1, 3)[studio.texels.index].astype(float)

    def around(point: object, radius: float) -> np.ndarray:
        return colours[np.linalg.norm(studio.points - np.asarray(point), axis=1) < radius].mean(0)

    marks = studio.frame.marks
    forehead, chin = around(marks[27] + [0, 35, 5], 8), around(marks[8] + [0, 8, 0], 6)
    assert around(marks[19] - [0, 2, 0], 3).sum() < 0.75 * forehead.sum()
    lips = around(marks[57] + [0, 3, 0], 3)
    assert lips[0] / lips[1] > 1.12 * chin[0] / chin[1]
    assert around([0.0, 120.0, -80.0], 25).sum() < 0.4 * forehead.sum()
    assert painted.hair_m.max() == pytest.approx(0.020, rel=0.5)


def test_irises_come_out_at_the_size_asked_for(anny_assets: HeadAssets) -> None:
    """The painted edge lies 5.855 mm beside the eye's axis on the mean head: where does it go?"""
    a = anny_assets
    ids = np.unique(a.faces[a.faces_of("leye")])
    points = a.v_template[ids[ids >= 0]].astype(np.float64)
    axis = eye_axis(a, "leye")
    before = axis.beside(points)
    near = ((points - axis.middle) @ axis.axis > 0) & (np.abs(before - 0.005855) < 4e-4)
    for diameter in (0.0106, 0.0129):
        moved = resize_iris(a, a.v_template.astype(np.float64), "leye", diameter)[ids[ids >= 0]]
        slope, offset = np.polyfit(before[near], axis.beside(moved)[near], 1)
        # Eyeballs are round to 0.1 mm.
        assert slope * 0.005855 + offset == pytest.approx(diameter / 2, abs=1e-4)
        lengths = [np.linalg.norm(p - axis.middle, axis=1) for p in (moved, points)]
        np.testing.assert_allclose(*lengths, atol=3e-4)  # still on the ball


def test_displacement_outside_the_modes_is_outside_and_as_large_as_asked(anny_assets: HeadAssets) -> None:
    a = anny_assets
    moved = outside_modes(a, np.random.default_rng(0), 1.0)
    size = np.linalg.norm(moved, axis=1)
    face = size > 1e-5
    assert 500 < face.sum() < a.num_vertices and size.max() < 0.006
    assert np.sqrt((moved[face] ** 2).sum(1).mean()) == pytest.approx(1e-3, rel=0.1)
    directions = a.shapedirs[face].reshape(-1, a.num_betas)
    known, *_ = np.linalg.lstsq(directions, moved[face].reshape(-1), rcond=None)
    explained = 1 - ((moved[face].reshape(-1) - directions @ known) ** 2).sum() / (moved[face] ** 2).sum()
    assert explained < 0.15  # the rest comes from the fade at the edge, which is applied after the projection
    assert not outside_modes(a, np.random.default_rng(0), 0.0).any()


def test_a_scanner_does_not_see_what_is_inside() -> None:
    """A small ball in a large one is hidden, and so is the far side."""
    import trimesh

    outer, inner = trimesh.creation.icosphere(3, 0.1), trimesh.creation.icosphere(2, 0.05)
    vertices = np.concatenate([outer.vertices, inner.vertices])
    triangles = np.concatenate([outer.faces, inner.faces + len(outer.vertices)])
    seen = visible_vertices(vertices, triangles, 320)
    count = len(outer.vertices)
    assert not seen[count:].any() and seen[:count][outer.vertices[:, 2] > 0.03].all()
    assert not seen[int(outer.vertices[:, 2].argmin())]


def test_openness_of_a_ball_and_of_a_pit() -> None:
    """A convex vertex sees half the sphere, cosine-weighted: all of it; the bottom of a narrow well sees little."""
    import trimesh

    ball = trimesh.creation.icosphere(3, 0.1)
    free = openness(np.asarray(ball.vertices), np.asarray(ball.faces), np.asarray(ball.vertices) * 10)
    assert free.mean() > 0.97
    well = trimesh.creation.annulus(0.05, 0.06, 0.3)
    floor = np.array([[0.0, 0.0, -0.15], [0.04, 0, -0.15], [0, 0.04, -0.15]])
    vertices = np.concatenate([well.vertices, floor])
    faces = np.concatenate([well.faces, [[len(well.vertices) + i for i in range(3)]]])
    normals = np.concatenate([np.zeros((len(well.vertices), 3)), np.tile([0.0, 0, 1], (3, 1))])
    assert openness(vertices, faces, normals)[-3] < 0.15


def test_noise_is_smooth_and_of_unit_size() -> None:
    field, rng = NoiseField(np.random.default_rng(0)), np.random.default_rng(1)
    points = rng.uniform(-200, 200, (20000, 3))
    values = field(points, 5.0)
    assert abs(values.mean()) < 0.1 and values.std() == pytest.approx(1.0, abs=0.25)
    assert np.abs(field(points + 0.01, 5.0) - values).max() < 0.05
    assert np.corrcoef(field(points + 40.0, 5.0), values)[0, 1] < 0.1


def test_a_model_without_landmarks_is_refused(anny_assets: HeadAssets) -> None:
    with pytest.raises(AssetError, match="ibug68"):
        SyntheticStudio(replace(anny_assets, landmarks={}), 64)


def test_scans_are_turned_upright_scaled_and_photographed() -> None:
    """A relief of a face in an unknown unit, lying on its side."""
    from tests.evaluation.shapes import moved, relief

    mesh, marks = relief(step=6.0)
    uvs = (mesh.vertices[:, :2] + 130) / 260
    lying = Mesh(moved(mesh.vertices, 5, 3.7), mesh.faces, uvs, mesh.faces)
    texture = np.full((32, 32, 3), (200, 150, 120), np.uint8)
    scan = upright_scan(lying, texture, moved(marks, 5, 3.7))
    assert np.linalg.norm(scan.landmarks[0] - scan.landmarks[3]) == pytest.approx(1e-3 * EXOCANTHION_MM)
    assert scan.landmarks[3, 0] > 0 > scan.landmarks[5, 1]  # the person's left is +x, the mouth is below
    assert scan.mesh.vertices[:, 2].argmax() == mesh.vertices[:, 2].argmax()  # the nose still stands out furthest
    photo = scan_photo(scan, 0, SyntheticOptions(size=200))
    pixels, depth = project_points(torch.from_numpy(photo.landmarks.astype(np.float32)), photo.cameras)
    assert (depth > 0).all() and (pixels > 0).all() and (pixels < 200).all()
    with pytest.raises(InputError, match="texture coordinates"):
        upright_scan(Mesh(mesh.vertices, mesh.faces), texture, marks)
