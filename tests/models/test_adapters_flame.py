"""FLAME files become heads that move as the `smplx` package moves them; wrong files are refused in one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrecon.errors import AssetError
from headrecon.models.adapters.flame import load_flame, split_components
from headrecon.models.assets_file import load_assets, save_assets
from headrecon.models.head_model import HeadModel
from headrecon.structures import HeadAssets, HeadParams
from tests.models.flame_files import LEYE, REYE, flame_arrays, write_flame


@pytest.fixture(scope="module")
def flame_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flame(tmp_path_factory.mktemp("flame"))


@pytest.fixture(scope="module")
def assets(flame_path: Path) -> HeadAssets:
    return load_flame(flame_path)


def random_params(assets: HeadAssets, batch: int = 6, pose_scale: float = 0.6) -> HeadParams:
    generator = torch.Generator().manual_seed(0)

    def normal(n: int) -> torch.Tensor:
        return torch.randn(batch, n, generator=generator, dtype=torch.float64)

    poses = [pose_scale * normal(3) for _ in range(5)]
    return HeadParams(normal(assets.num_betas), normal(assets.num_expressions), *poses, transl=0.3 * normal(3))


def test_agrees_with_smplx(flame_path: Path, assets: HeadAssets) -> None:
    """Vertices, joints and landmarks for random identities, expressions and large poses (up to a full turn)."""
    smplx = pytest.importorskip("smplx", reason="needs the development package smplx")
    params = random_params(assets)
    theirs = smplx.FLAME(
        str(flame_path.parent), num_betas=300, num_expression_coeffs=100, dtype=torch.float64, batch_size=params.batch
    )(
        betas=params.betas,
        expression=params.expression,
        global_orient=params.global_orient,
        neck_pose=params.neck_pose,
        jaw_pose=params.jaw_pose,
        leye_pose=params.leye_pose,
        reye_pose=params.reye_pose,
        transl=params.transl,
    )
    ours = HeadModel(assets, dtype=torch.float64)(params)
    # smplx adds 1e-8 to the rotation vector before taking its length: agreement cannot be better than about 1e-8 m.
    assert (ours.vertices - theirs.vertices).abs().max() < 1e-6
    assert (ours.joints - theirs.joints[:, :5]).abs().max() < 1e-6
    assert (ours.landmarks["ibug51"] - theirs.joints[:, 5:]).abs().max() < 1e-6
    assert (ours.vertices - torch.as_tensor(assets.v_template)).abs().max() > 0.05  # and the poses do something


def test_posedirs_matter_to_the_comparison(assets: HeadAssets) -> None:
    """The comparison above would notice a wrong order of the 36 pose features."""
    from dataclasses import replace

    assert assets.posedirs is not None
    swapped = replace(assets, posedirs=assets.posedirs.reshape(4, 3, 3, -1).transpose(0, 2, 1, 3).reshape(36, -1))
    params = random_params(assets)
    right = HeadModel(assets, dtype=torch.float64)(params).vertices
    wrong = HeadModel(swapped, dtype=torch.float64)(params).vertices
    assert (right - wrong).abs().max() > 1e-3


def test_expression_does_not_move_the_joints(assets: HeadAssets) -> None:
    params = HeadParams.zeros(300, 100, dtype=torch.float64)
    joints = HeadModel(assets, dtype=torch.float64)(params).joints
    assert torch.allclose(joints[0, 3], torch.as_tensor(LEYE), atol=1e-9)
    params.expression.fill_(3.0)
    assert torch.equal(HeadModel(assets, dtype=torch.float64)(params).joints, joints)


def test_eyeballs_are_found_and_named_from_the_subject(assets: HeadAssets) -> None:
    for part, centre in (("leye", LEYE), ("reye", REYE)):
        own = assets.v_template[assets.faces[assets.faces_of(part)]].reshape(-1, 3)
        assert len(own) == 3 * 80
        assert np.linalg.norm(own - centre, axis=1).max() < 0.0121
    assert len(assets.faces_of("skin")) == len(assets.faces) - 160


def test_the_plain_unwrap_is_a_usable_texture_layout(assets: HeadAssets) -> None:
    assert assets.uvs.min() >= 0
    assert assets.uvs.max() <= 1
    corner = assets.uvs[assets.uv_faces]
    size = np.ptp(corner, axis=1)
    assert size.max() < 0.15
    # Every UV belongs to one vertex, and the skin's front lies in the middle, the subject's left on the right.
    owner = {}
    for face, uv_face in zip(assets.faces, assets.uv_faces, strict=True):
        for vertex, uv in zip(face, uv_face, strict=True):
            assert owner.setdefault(int(uv), int(vertex)) == vertex
    skin = np.unique(assets.faces[assets.faces_of("skin")])
    front, left = skin[assets.v_template[skin, 2].argmax()], skin[assets.v_template[skin, 0].argmax()]
    u_of = {vertex: assets.uvs[uv, 0] for uv, vertex in owner.items()}
    assert abs(u_of[front] - 0.5) < 0.05
    assert abs(u_of[left] - 0.75) < 0.05


def signed_areas(assets: HeadAssets, faces: np.ndarray) -> np.ndarray:
    a, b, c = (assets.uvs[assets.uv_faces[faces, i]] for i in range(3))
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    return ux * vy - uy * vx


def test_the_unwrap_is_not_mirrored_and_does_not_fold(assets: HeadAssets) -> None:
    assert (signed_areas(assets, assets.faces_of("skin")) > -1e-12).all()
    for part in ("leye", "reye"):
        faces = assets.faces_of(part)
        front = assets.v_template[assets.faces[faces]].mean(1)[:, 2] > LEYE[2]
        assert (signed_areas(assets, faces[front]) > 0).all()


def test_texture_layouts_beside_the_file_are_used(tmp_path: Path) -> None:
    path = write_flame(tmp_path)
    faces = flame_arrays()["f"]
    vt, ft = np.random.default_rng(0).random((len(faces) * 3, 2)), np.arange(len(faces) * 3).reshape(-1, 3)
    np.savez(tmp_path / "FLAME_texture.npz", vt=vt[:, ::-1], ft=ft[:-1])  # of another mesh: left alone
    lines = [f"v {x} {y} {z}" for x, y, z in flame_arrays()["v_template"]]
    lines += [f"vt {u} {w}" for u, w in vt]
    lines += ["f " + " ".join(f"{a + 1}/{b + 1}" for a, b in zip(*p, strict=True)) for p in zip(faces, ft, strict=True)]
    (tmp_path / "head_template.obj").write_text("\n".join(lines))
    from_obj = load_flame(path)
    assert np.allclose(from_obj.uvs[from_obj.uv_faces], vt[ft])
    np.savez(tmp_path / "FLAME_texture.npz", vt=vt[:, ::-1], ft=ft)
    from_npz = load_flame(path)
    assert np.allclose(from_npz.uvs[from_npz.uv_faces], vt[ft][..., ::-1])


def test_npz_holds_the_same_model(tmp_path: Path, flame_path: Path, assets: HeadAssets) -> None:
    arrays = flame_arrays()
    arrays["J_regressor"] = arrays["J_regressor"].toarray()
    numeric: dict[str, Any] = {k: v for k, v in arrays.items() if isinstance(v, np.ndarray)}
    np.savez(tmp_path / "flame.npz", **numeric)
    again = load_flame(tmp_path / "flame.npz")
    for name in ("v_template", "shapedirs", "exprdirs", "posedirs", "J_regressor", "lbs_weights", "uvs"):
        assert np.array_equal(getattr(again, name), getattr(assets, name)), name


def test_survives_the_assets_file(tmp_path: Path, assets: HeadAssets) -> None:
    again = load_assets(save_assets(assets, tmp_path / "flame.npz"))
    params = random_params(assets, batch=2)
    a, b = (HeadModel(x, dtype=torch.float64)(params).vertices for x in (assets, again))
    assert (a - b).abs().max() < 1e-6  # float32 in the file


def test_licences(flame_path: Path, assets: HeadAssets) -> None:
    assert [licence.commercial for licence in assets.licences] == [False]
    assert "--licence cc-by-4.0" in assets.licences[0].note
    declared = load_flame(flame_path, licence="CC-BY-4.0").licences[0]
    assert declared.commercial
    assert declared.spdx == "CC-BY-4.0"
    with pytest.raises(AssetError, match=r"licence 'mit' is not one of cc-by-4\.0, non-commercial"):
        load_flame(flame_path, licence="mit")


@pytest.mark.parametrize(
    ("count", "split"),
    [(400, (300, 100)), (450, (300, 100)), (350, (300, 50)), (150, (100, 50)), (20, (10, 10)), (90, (90, 0))],
)
def test_other_numbers_of_components(tmp_path: Path, count: int, split: tuple[int, int]) -> None:
    assert split_components(count) == split
    if count < 400:
        small = load_flame(write_flame(tmp_path, flame_arrays(count)))
        assert (small.num_betas, small.num_expressions) == split
        assert len(small.expression_names) == split[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapedirs": None}, "not a FLAME model: shapedirs missing"),
        ({"weights": "text"}, "not a FLAME model: weights missing"),
        ({"v_template": np.zeros((9, 2))}, r"v_template must have shape \(any, 3\)"),
        ({"v_template": np.full((212, 3), np.nan)}, "v_template holds NaN"),
        ({"shapedirs": np.zeros((9, 3, 400))}, "shapedirs must have shape"),
        ({"posedirs": np.zeros((212, 3, 207))}, r"posedirs must have shape \(212, 3, 36\)"),
        ({"weights": np.zeros((212, 5))}, "lbs_weights"),
        ({"f": np.array([[0, 1, 9999]])}, "f must index the 212 vertices"),
        ({"f": np.zeros((4, 4), np.int32)}, "f must hold triangles"),
        ({"kintree_table": np.zeros((2, 24), np.uint32)}, "this is not FLAME"),
        ({"kintree_table": np.array([[0, 3, 1, 1, 1], [0, 1, 2, 3, 4]])}, "parents must"),
        ({"J_regressor": np.zeros((24, 212))}, "J_regressor must have shape"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_wrong_files_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {k: v for k, v in {**flame_arrays(), **changes}.items() if v is not None}
    assert len(arrays["v_template"]) in (9, 212)
    with pytest.raises(AssetError, match=message):
        load_flame(write_flame(tmp_path, arrays))


def test_hostile_and_broken_embeddings_are_refused(tmp_path: Path) -> None:
    path = write_flame(tmp_path)
    side = tmp_path / "flame_static_embedding.pkl"
    side.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(AssetError, match=r"asks to run os\.system"):
        load_flame(path)
    for table in ({}, {"lmk_face_idx": np.array([10**6]), "lmk_b_coords": np.ones((1, 3))}):
        side.write_bytes(pickle.dumps(table))
        with pytest.raises(AssetError, match="lmk_face_idx"):
            load_flame(path)
