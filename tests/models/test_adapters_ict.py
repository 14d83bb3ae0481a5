"""ICT-FaceKit, as a directory or packed, becomes a head in metres with joints that turn the right things."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrecon.errors import AssetError
from headrecon.io.npz import read_npz
from headrecon.models.adapters.ict import PART_NAMES, arkit_name, load_ict
from headrecon.models.adapters.ict_atlas import BOXES, OTHER_BOX
from headrecon.models.adapters.ict_files import read_ict
from headrecon.models.assets_file import load_assets, save_assets
from headrecon.models.head_model import HeadModel
from headrecon.structures import ARKIT_NAMES, JOINT_NAMES, HeadAssets, triangulate
from tests.models.ict_files import EYES, HINGE, OPENING, ict_model, write_ict, write_packed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ict(tmp_path_factory.mktemp("ict") / "FaceXModel")


@pytest.fixture(scope="module")
def assets(folder: Path) -> HeadAssets:
    return load_ict(folder)


@pytest.fixture(scope="module")
def whole(folder: Path) -> HeadAssets:
    """With the eye shells, so that vertices keep the numbers of the files."""
    return load_ict(folder, keep_shells=True)


def posed(assets: HeadAssets, **values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints for some fields of HeadParams given as lists."""
    model = HeadModel(assets, dtype=torch.float64)
    params = {k: torch.tensor([v], dtype=torch.float64) for k, v in values.items()}
    out = model(replace(model.zeros(), **params))
    return out.vertices[0].numpy(), out.joints[0].numpy()


def part_vertices(assets: HeadAssets, *parts: str) -> np.ndarray:
    used = np.unique(assets.faces[assets.faces_of(*parts)])
    return used[used >= 0]


def weights_of(name: str, size: float = 1.0) -> list[float]:
    return [size if n == name else 0.0 for n in ARKIT_NAMES]


def test_centimetres_become_metres(whole: HeadAssets) -> None:
    assert np.allclose(whole.v_template, ict_model()["vertices"] / 100, atol=1e-8)
    assert whole.expression_names == ARKIT_NAMES
    assert whole.num_betas == 3


def test_names_become_arkit_names() -> None:
    known = {"browDown_L": "browDownLeft", "cheekPuff_R": "cheekPuff", "mouthLeft": "mouthLeft", "jawOpen": "jawOpen"}
    assert {name: arkit_name(name) for name in known} == known
    assert arkit_name("eyeLookIn_R") == "eyeLookInRight"


def test_split_expressions_are_added_up_and_missing_ones_named(whole: HeadAssets) -> None:
    shapes = ict_model()["shapes"]

    def shape(name: str) -> np.ndarray:
        return whole.exprdirs[:, :, ARKIT_NAMES.index(name)]

    assert np.allclose(shape("browInnerUp") * 100, shapes["browInnerUp_L"] + shapes["browInnerUp_R"], atol=1e-5)
    assert np.allclose(shape("cheekPuff") * 100, shapes["cheekPuff_L"] + shapes["cheekPuff_R"], atol=1e-5)
    assert np.allclose(shape("browDownLeft") * 100, shapes["browDown_L"], atol=1e-5)
    assert not shape("tongueOut").any()
    assert not shape("noseSneerLeft").any()  # listed in vertex_indices.json, its file is absent
    note = whole.licences[0].note
    assert "tongueOut" in note
    assert "noseSneerLeft" in note
    assert "jawOpen" not in note


def test_eye_shells_are_left_out_and_landmarks_follow(assets: HeadAssets, whole: HeadAssets) -> None:
    model = ict_model()
    assert not len(assets.faces_of("eye_shells"))
    assert len(whole.faces_of("eye_shells")) == (model["materials"] == model["names"].index("M_EyeOcclusion")).sum()
    assert assets.num_vertices < whole.num_vertices
    assert np.array_equal(np.unique(assets.faces[:, :3]), np.arange(assets.num_vertices))
    for head in (assets, whole):
        marks = head.landmarks["ibug68"]
        assert np.allclose(
            head.v_template[marks.vertex_ids[:, 0]], model["vertices"][model["landmarks"]] / 100, atol=1e-8
        )
        assert np.array_equal(marks.barycentrics[:, 0], np.ones(68))


def test_joints_lie_in_eyes_hinge_and_neck(assets: HeadAssets) -> None:
    _, joints = posed(assets)
    at = dict(zip(JOINT_NAMES, joints, strict=True))
    assert np.allclose(at["leye"], EYES["Left"] / 100, atol=1e-5)
    assert np.allclose(at["reye"], EYES["Right"] / 100, atol=1e-5)
    assert np.allclose(at["jaw"], HINGE / 100, atol=1e-5)  # the files hold six decimals
    assert at["root"][1] < at["neck"][1] < at["leye"][1]
    assert at["root"][0] == pytest.approx(0, abs=1e-4)


def test_joints_follow_the_identity(assets: HeadAssets) -> None:
    vertices, joints = posed(assets, betas=[2.0, -1.5, 1.0])
    moved = np.linalg.norm(joints - posed(assets)[1], axis=1)
    assert (moved > 1e-4).all()
    for joint, part in ((3, "leye"), (4, "reye")):
        ball = vertices[part_vertices(assets, part)]
        assert np.linalg.norm(joints[joint] - ball.mean(0)) < 2e-4


def test_eyes_turn_in_place_and_nothing_else_turns(assets: HeadAssets) -> None:
    rest, joints = posed(assets)
    turned, _ = posed(assets, leye_pose=[0.2, 0.4, 0.0])
    ball = part_vertices(assets, "leye")
    others = np.setdiff1d(np.arange(assets.num_vertices), ball)
    assert np.abs(turned[others] - rest[others]).max() < 1e-12
    before, after = (np.linalg.norm(v[ball] - joints[3], axis=1) for v in (rest, turned))
    assert np.allclose(before, after, atol=1e-9)
    assert np.linalg.norm(turned[ball] - rest[ball], axis=1).max() > 5e-3
    front = ball[rest[ball, 2].argmax()]
    assert turned[front, 0] > rest[front, 0]  # a positive turn about +y looks to the subject's left


def test_the_jaw_joint_does_what_jaw_open_does(whole: HeadAssets) -> None:
    rest, _ = posed(whole)
    shape, _ = posed(whole, expression=weights_of("jawOpen"))
    joint, _ = posed(whole, jaw_pose=[float(OPENING), 0.0, 0.0])
    lower, upper = part_vertices(whole, "lower_teeth"), part_vertices(whole, "upper_teeth")
    assert np.abs(joint - shape).max() < 1e-5  # everywhere, by the pose corrective
    assert np.abs(joint[upper] - rest[upper]).max() < 1e-7
    assert (joint[lower] - rest[lower])[:, 1].max() < -0.005  # it opens: the teeth go down
    skinned, _ = posed(replace(whole, posedirs=None), jaw_pose=[float(OPENING), 0.0, 0.0])
    moved = np.linalg.norm(shape - rest, axis=1) > 3e-3
    # Skinning alone does most of it. What remains is smoothing, and shapes that turn by part of the angle.
    assert np.linalg.norm(skinned - shape, axis=1)[moved].mean() < 1.5e-3
    assert np.linalg.norm(shape - rest, axis=1)[moved].mean() > 1e-2
    weights = whole.lbs_weights[:, JOINT_NAMES.index("jaw")]
    face = part_vertices(whole, "skin")
    assert np.abs(weights[face] - ict_model()["share"][face]).mean() < 0.03


def test_half_way_the_jaw_is_half_open_and_sideways_adds_no_opening(whole: HeadAssets) -> None:
    half_shape, _ = posed(whole, expression=weights_of("jawOpen", 0.5))
    half_joint, _ = posed(whole, jaw_pose=[float(OPENING) / 2, 0.0, 0.0])
    # A chord against an arc of 20 degrees: up to 1.5 % of the radius of about 0.1 m.
    assert np.linalg.norm(half_shape - half_joint, axis=1).max() < 2e-3
    sideways, _ = posed(whole, jaw_pose=[0.0, 0.2, 0.0])
    plain, _ = posed(replace(whole, posedirs=None), jaw_pose=[0.0, 0.2, 0.0])
    assert np.abs(sideways - plain).max() < 1e-9


def test_the_neck_carries_the_head_and_leaves_the_bottom(assets: HeadAssets) -> None:
    rest, _ = posed(assets)
    turned, _ = posed(assets, neck_pose=[0.0, 0.3, 0.0])
    carried = assets.lbs_weights[:, 1:].sum(1)
    assert carried[rest[:, 1] > 0.02].min() == 1.0
    bottom = rest[:, 1] < -0.155
    assert bottom.any()
    assert np.abs(turned[bottom] - rest[bottom]).max() < 1e-12
    assert np.linalg.norm(turned - rest, axis=1).max() > 0.01
    assert np.allclose(assets.lbs_weights.sum(1), 1)


def test_parts(assets: HeadAssets) -> None:
    assert set(assets.face_part) == {PART_NAMES.index(p) for p in PART_NAMES if p not in ("mouth", "eye_shells")}
    teeth = {p: assets.v_template[part_vertices(assets, p), 1] for p in ("upper_teeth", "lower_teeth")}
    assert teeth["lower_teeth"].max() < teeth["upper_teeth"].min()


def test_every_material_has_its_own_place_in_one_texture(whole: HeadAssets) -> None:
    model = ict_model()
    for number, name in enumerate(model["names"]):
        own = model["materials"] == number
        u0, v0, u1, v1 = BOXES[name]
        corners = whole.uvs[whole.uv_faces[own, :3]]
        assert (corners > [u0, v0]).all()
        assert (corners < [u1, v1]).all()
        before = np.column_stack([model["uvs"][model["faces"][own]].reshape(-1, 2), np.ones(3 * own.sum())])
        fit, *_ = np.linalg.lstsq(before, corners.reshape(-1, 2), rcond=None)
        assert np.abs(before @ fit - corners.reshape(-1, 2)).max() < 1e-6  # only scaled and moved
        assert fit[0, 0] > 0
        assert fit[1, 1] > 0
    boxes = [*BOXES.values(), OTHER_BOX]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


def test_regions_are_soft_masks_of_the_skin(assets: HeadAssets, whole: HeadAssets) -> None:
    for head in (assets, whole):
        off_skin = np.setdiff1d(np.arange(head.num_vertices), part_vertices(head, "skin"))
        assert set(head.regions) == {"ears", "neck", "lips", "brows"}
        for name, region in head.regions.items():
            assert region.shape == (head.num_vertices,), name
            assert region.min() >= 0, name
            assert region.max() <= 1, name
            assert not region[off_skin].any(), name
    neck = assets.regions["neck"]
    assert neck[assets.v_template[:, 1] > 0].max() == 0
    assert neck[assets.v_template[:, 1] < -0.155].min() == 1


def test_packed_and_directory_agree(tmp_path: Path, whole: HeadAssets) -> None:
    packed = load_ict(write_packed(tmp_path / "ict.npz"), keep_shells=True)
    for name, tolerance in (("v_template", 1e-7), ("shapedirs", 1e-7), ("exprdirs", 1e-6), ("J_regressor", 1e-4)):
        assert np.allclose(getattr(packed, name), getattr(whole, name), atol=tolerance), name
    assert np.array_equal(packed.faces, whole.faces)
    assert np.array_equal(packed.face_part, whole.face_part)
    assert np.allclose(packed.lbs_weights, whole.lbs_weights, atol=1e-3)
    uv = [head.uvs[head.uv_faces[:, :3]] for head in (packed, whole)]
    assert np.allclose(uv[0], uv[1], atol=1e-6)


def test_the_parent_directory_and_few_files_are_enough(tmp_path: Path) -> None:
    model = ict_model(num_identity=0)
    model["shapes"] = {"jawOpen": model["shapes"]["jawOpen"]}
    write_ict(tmp_path / "FaceXModel", model)
    few = load_ict(tmp_path)
    assert few.num_betas == 0
    assert [n for n, d in zip(ARKIT_NAMES, few.exprdirs.transpose(2, 0, 1), strict=True) if d.any()] == ["jawOpen"]


def test_survives_the_assets_file(tmp_path: Path, assets: HeadAssets) -> None:
    again = load_assets(save_assets(assets, tmp_path / "ict.npz"))
    values: dict[str, Any] = {"betas": [1.0, 1.0, -1.0], "jaw_pose": [0.2, 0.0, 0.0]}
    assert np.abs(posed(assets, **values)[0] - posed(again, **values)[0]).max() < 1e-6


def test_licence_is_mit(folder: Path, assets: HeadAssets) -> None:
    assert [(x.spdx, x.commercial) for x in assets.licences] == [("MIT", True)]
    with pytest.raises(AssetError, match="published under MIT"):
        load_ict(folder, licence="cc-by-4.0")


# Wrong input ----------------------------------------------------------------------------------------------------------


def damage(folder: Path, name: str, change: str | Callable[[str], str] | None) -> None:
    file = folder / name
    if change is None:
        file.unlink()
    else:
        file.write_text(change if isinstance(change, str) else change(file.read_text()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("generic_neutral_mesh.obj", None, "no generic_neutral_mesh.obj in it"),
        ("generic_neutral_mesh.obj", "", "is empty"),
        ("generic_neutral_mesh.obj", lambda t: t.replace("vt ", "# "), "no texture coordinates"),
        ("generic_neutral_mesh.obj", lambda t: t.replace("M_Teeth", "M_Other"), "no faces of material M_Teeth"),
        (
            "generic_neutral_mesh.obj",
            lambda t: t.replace("M_ScleraLeft", "M_Other"),
            "no faces of material M_ScleraLeft",
        ),
        ("generic_neutral_mesh.obj", lambda t: t + "f 1/1 2/2 3/3 4/4 5/5\n", "triangles or quads"),
        ("jawOpen.obj", None, "jawOpen.obj is missing"),
        ("jawOpen.obj", "v 1 2 3\n", "expected 1908 vertices"),
        ("jawOpen.obj", lambda t: t.replace("v 0", "v x", 1), "not plain numbers"),
        ("jawOpen.obj", "# hello", "expected 1908 vertices"),
        ("identity001.obj", lambda t: re.sub(r"\nv \S+", "\nv nan", t, count=1), "holds NaN"),
        ("vertex_indices.json", None, "expected ICT-FaceKit's JSON"),
        ("vertex_indices.json", "{", "expected ICT-FaceKit's JSON"),
        ("vertex_indices.json", "[1]", "expected ICT-FaceKit's JSON"),
        ("vertex_indices.json", lambda t: t.replace("noseSneer_L", "../../secret"), "expected ICT-FaceKit's JSON"),
        ("vertex_indices.json", '{"expressions": ["jawOpen"], "idx_to_landmark_verts": [99999]}', "expected ICT"),
    ],
)
def test_damaged_directories_are_refused(tmp_path: Path, name: str, change: Any, message: str) -> None:
    folder = write_ict(tmp_path / "FaceXModel")
    damage(folder, name, change)
    with pytest.raises(AssetError, match=message.replace(".", r"\.")):
        load_ict(folder)


def test_a_jaw_that_does_not_turn_is_refused(tmp_path: Path) -> None:
    for motion, message in ((0.0, "does not move the lower teeth"), (0.5, "less than 2 degrees")):
        model = ict_model()
        model["shapes"]["jawOpen"] = np.full_like(model["vertices"], motion) * (model["vertices"][:, 1:2] < -3)
        with pytest.raises(AssetError, match=message):
            load_ict(write_packed(tmp_path / "x.npz", model) if motion else write_ict(tmp_path / "x", model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity_deltas_q": None}, "'identity_deltas_q' is missing"),
        ({"identity_scale": np.ones(2, np.float32)}, "does not fit its scales"),
        ({"faces": np.zeros((5, 4), np.int32)}, "faces and uv_faces must be alike"),
        ({"face_material": np.full(3780, 99, np.uint8)}, "face_material must index"),
        ({"landmark_vertices_68": np.full(68, 10**6)}, "68 landmark vertices"),
        ({"expression_names": np.array(["jawOpen"])}, "1 expression_names for 9 expressions"),
        ({"neutral_vertices": np.full((1908, 3), np.inf, np.float32)}, "finite points"),
    ],
)
def test_damaged_packed_files_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_packed(tmp_path / "ict.npz")
    arrays = {k: v for k, v in {**read_npz(path), **changes}.items() if v is not None}
    np.savez(path, **arrays)
    with pytest.raises(AssetError, match=message):
        load_ict(path)


# The real model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_path(shared_data: Path) -> Path:
    path = shared_data / "models" / "ict_facekit"
    if not (path / "ict_facekit.npz").is_file():
        pytest.skip("needs ICT-FaceKit in the development data (models/ict_facekit), which is absent")
    return path


@pytest.fixture(scope="module")
def real(real_path: Path) -> HeadAssets:
    return load_ict(real_path / "ict_facekit.npz")


def test_the_real_model_is_a_head_in_metres(real: HeadAssets) -> None:
    assert (real.num_betas, real.num_expressions) == (100, 52)
    joints = dict(zip(JOINT_NAMES, posed(real)[1], strict=True))
    assert joints["leye"][0] - joints["reye"][0] == pytest.approx(0.0624, abs=1e-3)
    # Two eye fits of different shells agree on where the ball turns.
    assert np.abs(joints["leye"] * [-1, 1, 1] - joints["reye"]).max() < 1e-4
    ears = real.v_template[real.landmarks["ibug68"].vertex_ids[[0, 16], 0]]
    assert np.linalg.norm(ears[0] - ears[1]) == pytest.approx(0.147, abs=2e-3)
    assert abs(joints["jaw"][1] - ears[:, 1].mean()) < 0.05  # the hinge is beside the ears
    shapes = {name: np.abs(real.exprdirs[:, :, i]).max() for i, name in enumerate(ARKIT_NAMES)}
    assert [name for name, size in shapes.items() if size == 0] == ["tongueOut"]


def test_the_real_texture_layout_does_not_overlap(real: HeadAssets) -> None:
    triangles, source = triangulate(real.uv_faces)
    material_of_texel = np.full((512, 512), -1)
    for part in range(len(real.part_names)):
        uv = real.uvs[triangles[real.face_part[source] == part]]
        texels = np.unique((uv.mean(1) * 512).astype(int), axis=0)  # the texels that face centres fall on
        taken = material_of_texel[texels[:, 0], texels[:, 1]]
        assert (taken == -1).all(), real.part_names[part]
        material_of_texel[texels[:, 0], texels[:, 1]] = part
    assert real.uvs.min() > 0
    assert real.uvs.max() < 1


def test_the_real_regions_lie_at_their_landmarks(real: HeadAssets) -> None:
    at_marks = {name: region[real.landmarks["ibug68"].vertex_ids[:, 0]] for name, region in real.regions.items()}
    brows, lips = np.arange(17, 27), np.arange(48, 68)
    assert (at_marks["brows"][brows] > 0.95).all()
    assert (at_marks["brows"][np.setdiff1d(np.arange(68), brows)] == 0).all()
    assert (at_marks["lips"][lips] > 0.3).all()  # the outer line is the middle of the fade
    assert (at_marks["lips"][np.setdiff1d(np.arange(68), lips)] == 0).all()
    assert (at_marks["neck"] == 0).all()
    assert (at_marks["ears"][17:] == 0).all()
    ears = real.v_template[real.regions["ears"] > 0.5]
    assert np.abs(ears[:, 0]).min() > 0.065
    assert np.ptp(ears[:, 1]) == pytest.approx(0.06, abs=0.012)  # published ear length: 59 to 64 mm
    lip_points = real.v_template[real.regions["lips"] > 0.5]
    assert np.ptp(lip_points[:, 0]) == pytest.approx(0.05, abs=0.006)  # published lip length: 48 to 51 mm


def test_the_real_jaw_follows_jaw_open(real: HeadAssets) -> None:
    rest, _ = posed(real)
    shape, _ = posed(real, expression=weights_of("jawOpen"))
    joint, _ = posed(real, jaw_pose=[np.radians(25.33), 0.0, 0.0])
    assert np.linalg.norm(joint - shape, axis=1).max() < 5e-4  # the angle is rounded
    skinned, _ = posed(replace(real, posedirs=None), jaw_pose=[np.radians(25.33), 0.0, 0.0])
    moved = np.linalg.norm(shape - rest, axis=1) > 3e-3
    # Measured 1.8 mm of 24 mm; the rest is skin under the chin, which slides in jawOpen instead of turning.
    assert np.linalg.norm(skinned - shape, axis=1)[moved].mean() < 2.5e-3


def test_the_real_eyes_stay_in_their_sockets_for_other_identities(real: HeadAssets) -> None:
    betas = np.random.default_rng(1).normal(size=real.num_betas)
    vertices, joints = posed(real, betas=list(betas))
    rest, rest_joints = posed(real)
    for joint, part in ((3, "leye"), (4, "reye")):
        ball = part_vertices(real, part)
        # ICT moves the balls almost rigidly with the identity; the joint must have gone along (measured 0.25 mm).
        a, b = rest[ball].mean(0), vertices[ball].mean(0)
        u, _, vt = np.linalg.svd((rest[ball] - a).T @ (vertices[ball] - b))
        assert np.linalg.norm(b + (rest_joints[joint] - a) @ (u @ vt) - joints[joint]) < 5e-4
        turned, _ = posed(real, betas=list(betas), **{f"{part}_pose": [0.0, 0.5, 0.0]})
        others = np.setdiff1d(np.arange(real.num_vertices), ball)
        assert np.abs(turned[others] - vertices[others]).max() < 1e-12


def test_the_real_directory_agrees_with_the_packed_file(real_path: Path, real: HeadAssets) -> None:
    folder = real_path / "FaceXModel"
    files = read_ict(folder)
    one = load_ict(folder)
    assert len(files.identity) == one.num_betas == 1
    assert set(files.expressions) == {"jawOpen"}
    assert np.abs(one.v_template - real.v_template).max() < 1e-6
    assert np.abs(one.shapedirs[:, :, 0] - real.shapedirs[:, :, 0]).max() < 1e-6
    assert np.abs(one.exprdirs - real.exprdirs)[:, :, ARKIT_NAMES.index("jawOpen")].max() < 2e-6
    assert np.array_equal(one.faces, real.faces)
    assert np.array_equal(one.landmarks["ibug68"].vertex_ids, real.landmarks["ibug68"].vertex_ids)
    assert np.allclose(one.lbs_weights, real.lbs_weights, atol=1e-3)
