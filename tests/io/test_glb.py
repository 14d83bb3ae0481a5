from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from headrecon.errors import InputError, ShapeError
from headrecon.io.meshes.glb import RiggedHead, quaternion_xyzw, top_four, write_glb
from headrecon.models.head_model import HeadModel
from headrecon.structures import JOINT_NAMES, POSE_FIELDS, HeadParams, Licence, triangulate
from tests.io.glb_reader import Glb
from tests.synthetic_assets import make_tiny_assets

#: float32 coordinates of a head of 0.2 m, plus up to 52 dropped deltas of 1e-6 m.
POSITION_TOLERANCE = 1e-5


def smooth_texture(size: int = 64) -> np.ndarray:
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    return np.stack([red, green, np.full_like(red, 90)], axis=-1)


def random_params(assets, seed: int, pose: float = 0.3) -> HeadParams:
    rng = np.random.default_rng(seed)

    def tensor(*shape: int, scale: float) -> torch.Tensor:
        return torch.as_tensor(rng.normal(size=shape) * scale, dtype=torch.float64)

    poses = {name: tensor(1, 3, scale=pose) for name in POSE_FIELDS}
    return HeadParams(
        betas=tensor(1, assets.num_betas, scale=1.0),
        expression=tensor(1, assets.num_expressions, scale=0.3).abs(),
        transl=tensor(1, 3, scale=0.1),
        **poses,
    )


def neutral_vertices(assets, params: HeadParams) -> np.ndarray:
    return HeadModel(assets, dtype=torch.float64)(params.neutral()).vertices[0].numpy()


@pytest.fixture(scope="module")
def assets():
    return make_tiny_assets(posedirs=True)


@pytest.fixture(scope="module")
def validator(tmp_path_factory) -> Path:
    """The Khronos validator's folder; needs node and a package registry once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("the Khronos glTF validator needs node and npm, which are not installed here")
    folder = tmp_path_factory.mktemp("gltf_validator")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "gltf-validator@2.0.0-dev.3.10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the Khronos glTF validator could not be fetched within 90 s")
    if done.returncode:
        pytest.skip(f"the Khronos glTF validator could not be fetched: {done.stderr.strip()[-200:]}")
    return folder


def validate(validator: Path, glb: Path) -> dict:
    script = (
        "const v=require('gltf-validator'),fs=require('fs');"
        "v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1]))).then(r=>console.log(JSON.stringify(r)));"
    )
    done = subprocess.run(
        ["node", "-e", script, str(glb)], capture_output=True, text=True, timeout=60, check=True, cwd=validator
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(("posed", "texture_format"), [(False, "jpeg"), (True, "png")])
def test_khronos_validator_finds_nothing(validator, assets, tmp_path, posed, texture_format):
    params = random_params(assets, 1)
    path = tmp_path / "head.glb"
    head = RiggedHead(
        assets, neutral_vertices(assets, params), smooth_texture(), params if posed else None, (), texture_format
    )
    write_glb(path, head)
    report = validate(validator, path)
    assert report["issues"]["messages"] == []
    assert report["info"]["hasMorphTargets"]
    assert report["info"]["hasSkins"]
    assert report["info"]["totalTriangleCount"] == len(triangulate(assets.faces)[0])


def test_the_validator_is_alive(validator, assets, tmp_path):
    """A file with one wrong byte count must be reported, or the test above proves nothing."""
    from headrecon.io.meshes.glb import build_gltf

    gltf = build_gltf(RiggedHead(assets, assets.v_template, smooth_texture()))
    gltf.accessors[0].max = [9.0, 9.0, 9.0]
    path = tmp_path / "bad.glb"
    path.write_bytes(b"".join(gltf.save_to_bytes()))
    assert validate(validator, path)["issues"]["numErrors"] > 0


def test_names_counts_and_materials(assets, tmp_path):
    write_glb(tmp_path / "head.glb", RiggedHead(assets, assets.v_template, smooth_texture()))
    glb = Glb(tmp_path / "head.glb")
    mesh = glb.json["meshes"][0]
    assert tuple(mesh["extras"]["targetNames"]) == assets.expression_names
    assert mesh["weights"] == [0.0] * 52
    assert [glb.json["nodes"][j]["name"] for j in glb.json["skins"][0]["joints"]] == list(JOINT_NAMES)
    primitives = glb.primitives()
    assert {p.material["name"] for p in primitives} == {"skin", "eyes", "teeth", "mouth"}
    assert all(len(p.targets) == 52 for p in primitives)
    roughness = {p.material["name"]: p.material["pbrMetallicRoughness"]["roughnessFactor"] for p in primitives}
    assert roughness["skin"] == pytest.approx(0.5)
    assert roughness["eyes"] < roughness["skin"]
    assert glb.json["asset"]["generator"].startswith("headrecon")


def test_relief_belongs_to_the_skin(assets, tmp_path):
    relief = np.full((16, 16, 3), [128, 128, 255], np.uint8)
    write_glb(tmp_path / "h.glb", RiggedHead(assets, assets.v_template, smooth_texture(), normal_map=relief))
    glb = Glb(tmp_path / "h.glb")
    bumpy = [m for m in glb.json["materials"] if "normalTexture" in m]
    assert [m["name"] for m in bumpy] == ["skin"]
    image = glb.json["images"][glb.json["textures"][bumpy[0]["normalTexture"]["index"]]["source"]]
    assert image["mimeType"] == "image/png"
    assert all("normalTexture" not in m for m in glb_materials_without_relief(assets, tmp_path))


def glb_materials_without_relief(assets, tmp_path) -> list[dict]:
    write_glb(tmp_path / "plain.glb", RiggedHead(assets, assets.v_template, smooth_texture()))
    return Glb(tmp_path / "plain.glb").json["materials"]


def test_licences_are_in_the_file(assets, tmp_path):
    closed = Licence("some model", "LicenseRef-research", False, "https://example.org")
    head = RiggedHead(assets, assets.v_template, smooth_texture(), licences=(*assets.licences, closed))
    write_glb(tmp_path / "head.glb", head)
    asset = Glb(tmp_path / "head.glb").json["asset"]
    assert asset["extras"]["commercialUse"] is False
    assert "some model: LicenseRef-research" in asset["copyright"]


def test_every_original_vertex_and_delta_comes_back(assets, tmp_path):
    write_glb(tmp_path / "head.glb", RiggedHead(assets, assets.v_template, smooth_texture()))
    glb = Glb(tmp_path / "head.glb")
    tree = cKDTree(assets.v_template)
    found = np.zeros(assets.num_vertices, dtype=bool)
    for p in glb.primitives():
        distance, source = tree.query(p.attributes["POSITION"])
        assert distance.max() < 1e-7
        found[source] = True
        read = np.stack([t["POSITION"] for t in p.targets], axis=-1)
        np.testing.assert_allclose(read, assets.exprdirs[source], atol=1.1e-6)
        np.testing.assert_allclose(np.linalg.norm(p.attributes["NORMAL"], axis=1), 1, atol=1e-5)
    assert found.all()


def test_texture_lookup_is_the_same_as_in_the_model(assets, tmp_path):
    """Sampling the embedded image with glTF's top-left origin gives what the model's bottom-left origin gives."""
    texture = smooth_texture(256)
    write_glb(tmp_path / "head.glb", RiggedHead(assets, assets.v_template, texture, texture_format="png"))
    glb = Glb(tmp_path / "head.glb")
    image = np.array(Image.open(io.BytesIO(glb.image())))
    np.testing.assert_array_equal(image, texture)
    triangles, _ = triangulate(assets.faces)
    uv = assets.uvs[triangulate(assets.uv_faces)[0]].mean(1)
    centroids = assets.v_template[triangles].mean(1)
    expected = texture[((1 - uv[:, 1]) * 256).astype(int), (uv[:, 0] * 256).astype(int)].astype(int)
    tree = cKDTree(centroids)
    for p in glb.primitives():
        tex = p.attributes["TEXCOORD_0"][p.triangles].mean(1)
        got = image[(tex[:, 1] * 256).astype(int), (tex[:, 0] * 256).astype(int)].astype(int)
        distance, match = tree.query(p.attributes["POSITION"][p.triangles].mean(1))
        assert distance.max() < 1e-6
        # Two texels at most: float32 rounding may land on the neighbour.
        assert np.abs(got - expected[match]).max() <= 2


def test_skinning_reproduces_the_head_model(assets, tmp_path):
    """A posed file, evaluated by an independent reader, is the model's own output."""
    params = random_params(assets, 3)
    head = RiggedHead(assets, neutral_vertices(assets, params), smooth_texture(), params)
    write_glb(tmp_path / "posed.glb", head)
    expected = HeadModel(assets, dtype=torch.float64)(params).vertices[0].numpy()
    glb = Glb(tmp_path / "posed.glb")
    tree = cKDTree(expected)
    assert np.linalg.norm(expected - assets.v_template, axis=1).max() > 0.02
    for p in glb.primitives():
        distance, _ = tree.query(glb.skinned(p))
        assert distance.max() < 5 * POSITION_TOLERANCE


def test_neutral_file_driven_from_outside(tmp_path):
    """Without pose correctives the neutral rig, driven by weights and rotations, matches at any pose."""
    assets = make_tiny_assets()
    params = random_params(assets, 4)
    params = dataclasses.replace(params, transl=torch.zeros(1, 3, dtype=torch.float64))
    write_glb(tmp_path / "head.glb", RiggedHead(assets, neutral_vertices(assets, params), smooth_texture()))
    glb = Glb(tmp_path / "head.glb")
    pose = params.full_pose[0].numpy()
    rotations = {n: Rotation.from_rotvec(pose[j]).as_matrix() for j, n in enumerate(JOINT_NAMES)}
    expected = HeadModel(assets, dtype=torch.float64)(params).vertices[0].numpy()
    tree = cKDTree(expected)
    for p in glb.primitives():
        posed = glb.skinned(p, params.expression[0].numpy(), rotations)
        assert tree.query(posed)[0].max() < 5 * POSITION_TOLERANCE


def test_eyes_turn_about_their_centres(tmp_path):
    assets = make_tiny_assets()
    write_glb(tmp_path / "head.glb", RiggedHead(assets, assets.v_template, smooth_texture()))
    glb = Glb(tmp_path / "head.glb")
    eyes = next(p for p in glb.primitives() if p.material["name"] == "eyes")
    left = eyes.attributes["POSITION"][:, 0] > 0
    turned = glb.skinned(eyes, rotations={"leye": Rotation.from_euler("y", 30, degrees=True).as_matrix()})
    centre = glb.world_matrices()["leye"][:3, 3]
    before = np.linalg.norm(eyes.attributes["POSITION"][left] - centre, axis=1)
    np.testing.assert_allclose(np.linalg.norm(turned[left] - centre, axis=1), before, atol=1e-6)
    np.testing.assert_allclose(turned[~left], eyes.attributes["POSITION"][~left], atol=1e-7)


def test_trimesh_opens_it(assets, tmp_path):
    import trimesh

    write_glb(tmp_path / "head.glb", RiggedHead(assets, assets.v_template, smooth_texture()))
    scene = trimesh.load_scene(tmp_path / "head.glb")
    assert sum(len(g.faces) for g in scene.geometry.values()) == len(triangulate(assets.faces)[0])
    np.testing.assert_allclose(scene.bounds, [assets.v_template.min(0), assets.v_template.max(0)], atol=1e-6)


def test_morph_normals_are_optional(assets, tmp_path):
    for name, wanted in (("with.glb", True), ("without.glb", False)):
        head = RiggedHead(assets, assets.v_template, smooth_texture(), morph_normals=wanted)
        write_glb(tmp_path / name, head)
        targets = [t for p in Glb(tmp_path / name).primitives() for t in p.targets]
        assert all(("NORMAL" in t) == wanted for t in targets)
    assert (tmp_path / "without.glb").stat().st_size < (tmp_path / "with.glb").stat().st_size


def test_morph_normals_turn_with_the_surface(assets, tmp_path):
    """At weight 1 the stored normal is that of the moved surface, computed here from scratch."""
    write_glb(tmp_path / "head.glb", RiggedHead(assets, assets.v_template, smooth_texture()))
    k = assets.expression_names.index("mouthSmileLeft")
    skin = next(p for p in Glb(tmp_path / "head.glb").primitives() if p.material["name"] == "skin")
    moved = skin.attributes["POSITION"] + skin.targets[k]["POSITION"]
    normals = skin.attributes["NORMAL"] + skin.targets[k]["NORMAL"]
    corners = moved[skin.triangles]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    inside = np.linalg.norm(skin.targets[k]["POSITION"][skin.triangles], axis=-1).max(1) > 1e-3
    assert inside.sum() > 10
    agreement = (normals[skin.triangles[inside]] * faces[inside][:, None]).sum(-1)
    assert agreement.min() > 0.8  # a coarse mesh: faces tilt up to 30 degrees from their smooth normals
    still = (skin.attributes["NORMAL"][skin.triangles[inside]] * faces[inside][:, None]).sum(-1)
    assert agreement.mean() > still.mean()


def test_same_input_same_bytes(assets, tmp_path):
    head = RiggedHead(assets, assets.v_template, smooth_texture())
    for name in ("a.glb", "b.glb"):
        write_glb(tmp_path / name, head)
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()


def test_top_four_sums_to_one_and_leaves_no_stray_joint():
    weights = np.array([[0.5, 0.3, 0.1, 0.06, 0.04], [0, 0, 1, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    joints, kept = top_four(weights)
    np.testing.assert_allclose(kept.sum(1), 1, atol=1e-6)
    assert joints[0].tolist() == [0, 1, 2, 3]
    assert joints[1].tolist() == [2, 0, 0, 0]
    assert (joints[kept == 0] == 0).all()


@pytest.mark.parametrize("vector", [[0.0, 0, 0], [1e-9, 0, 0], [0.3, -0.2, 0.9], [0, np.pi, 0]])
def test_quaternion_agrees_with_scipy(vector):
    expected = Rotation.from_rotvec(vector).as_matrix()
    np.testing.assert_allclose(Rotation.from_quat(quaternion_xyzw(np.array(vector))).as_matrix(), expected, atol=1e-12)


def test_what_does_not_fit_is_refused(assets, tmp_path):
    texture = smooth_texture()
    with pytest.raises(ShapeError, match="vertices must have shape"):
        write_glb(tmp_path / "x.glb", RiggedHead(assets, assets.v_template[:5], texture))
    # Past the run-time shape check of the test suite, which users do not run.
    head = RiggedHead(assets, assets.v_template, texture)
    object.__setattr__(head, "texture", texture.astype(float))
    with pytest.raises(ShapeError, match="texture must be uint8"):
        write_glb(tmp_path / "x.glb", head)
    with pytest.raises(InputError, match="texture_format"):
        write_glb(tmp_path / "x.glb", RiggedHead(assets, assets.v_template, texture, texture_format="webp"))
    with pytest.raises(InputError, match="cannot write"):
        write_glb(tmp_path / "no" / "x.glb", RiggedHead(assets, assets.v_template, texture))
    assert not list(tmp_path.iterdir())
