from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrecon.errors import InputError
from headrecon.io.meshes.loaded import read_mesh
from headrecon.io.meshes.obj import read_obj, write_obj
from headrecon.structures import triangulate
from tests.synthetic_assets import make_tiny_assets


@pytest.fixture
def assets():
    return make_tiny_assets()


def noise(size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (size, size, 3), dtype=np.uint8)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_round_trip_keeps_quads_uvs_and_order_of_vertices(assets, tmp_path):
    paths = write_obj(tmp_path / "head.obj", assets, assets.v_template, noise(), "made by a test\ntwo lines")
    assert [p.name for p in paths] == ["head.obj", "head.mtl", "head.png"]
    loaded = read_obj(tmp_path / "head.obj")
    np.testing.assert_allclose(loaded.mesh.vertices, assets.v_template, atol=1e-7)
    np.testing.assert_allclose(loaded.mesh.uvs, assets.uvs, atol=1e-6)
    assert sorted(map(tuple, loaded.mesh.faces.tolist())) == sorted(map(tuple, assets.faces.tolist()))
    assert sorted(map(tuple, loaded.mesh.uv_faces.tolist())) == sorted(map(tuple, assets.uv_faces.tolist()))
    assert loaded.texture == tmp_path / "head.png"
    np.testing.assert_array_equal(np.array(Image.open(loaded.texture)), noise())


def test_groups_and_materials(assets, tmp_path):
    write_obj(tmp_path / "head.obj", assets, assets.v_template, noise())
    text, mtl = (tmp_path / "head.obj").read_text(), (tmp_path / "head.mtl").read_text()
    for part in assets.part_names:
        assert f"\ng {part}\n" in text
    used = {line.split()[1] for line in text.splitlines() if line.startswith("usemtl")}
    assert used == {line.split()[1] for line in mtl.splitlines() if line.startswith("newmtl")}
    assert mtl.count("map_Kd head.png") == len(used)


def test_relief_belongs_to_the_skin(assets, tmp_path):
    relief = np.full((16, 16, 3), [128, 128, 255], np.uint8)
    write_obj(tmp_path / "head.obj", assets, assets.v_template, noise(), normal_map=relief)
    with Image.open(tmp_path / "head_normal.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), relief)
    blocks = (tmp_path / "head.mtl").read_text().split("newmtl ")[1:]
    assert [b.split()[0] for b in blocks if "norm head_normal.png" in b] == ["skin"]


def test_trimesh_agrees(assets, tmp_path):
    import trimesh

    write_obj(tmp_path / "head.obj", assets, assets.v_template, noise())
    scene = trimesh.load_scene(tmp_path / "head.obj")
    count = sum(len(g.faces) for g in scene.geometry.values())
    assert count == len(triangulate(assets.faces)[0])
    np.testing.assert_allclose(scene.bounds, [assets.v_template.min(0), assets.v_template.max(0)], atol=1e-6)


def test_normals_point_outwards(assets, tmp_path):
    write_obj(tmp_path / "head.obj", assets, assets.v_template, noise())
    lines = (tmp_path / "head.obj").read_text().splitlines()
    normals = np.array([line.split()[1:] for line in lines if line.startswith("vn ")], dtype=float)
    own = np.unique(assets.faces[assets.face_part == 0].clip(0))
    assert ((normals[own] * assets.v_template[own]).sum(1) > 0).mean() > 0.99


def test_forms_of_faces(tmp_path):
    text = """
        # a comment
        mtllib none.mtl
        o thing
        v 0 0 0
        v 1 0 0
        v 1 1 0
        v 0 1 0 1.0
        v 0.5 1.5 0
        vt 0 0
        vt 1 0 0
        vt 1 1
        vn 0 0 1
        f 1 2 3 4
        f 1/1 2/2 3/3
        f 1//1 2//1 3//1
        f -5 -4 -3 -2 -1
        f 1 2
        f 1/1/1 2/2/1 \\
          3/3/1
        l 1 2
    """
    mesh = read_obj(write(tmp_path / "a.obj", "\n".join(line.strip() for line in text.splitlines()))).mesh
    assert mesh.faces.tolist() == [
        [0, 1, 2, 3], [0, 1, 2, -1], [0, 1, 2, -1], [0, 1, 2, -1], [0, 2, 3, -1], [0, 3, 4, -1], [0, 1, 2, -1]
    ]  # fmt: skip
    assert mesh.uvs is None  # some corners have none, so none can be used for all


def test_uvs_follow_the_corners(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    text += "vt 0.1 0\nvt 0.2 0\nvt 0.3 0\nvt 0.4 0\nf 4/1 3/2 2/3 1/4\nf 1/2 2/3 3/4\n"
    mesh = read_obj(write(tmp_path / "a.obj", text)).mesh
    assert mesh.faces.tolist() == [[3, 2, 1, 0], [0, 1, 2, -1]]
    assert mesh.uv_faces.tolist() == [[0, 1, 2, 3], [1, 2, 3, -1]]


def test_negative_indices_count_from_their_line(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 1 1 0\nf -3 -2 -1\nv 5 5 5\nf -3 -2 -1\n"
    assert read_obj(write(tmp_path / "a.obj", text)).mesh.faces.tolist() == [[0, 1, 2], [1, 2, 3]]


@pytest.mark.parametrize(("numbers", "expected"), [("1 0.5 0", [255, 128, 0]), ("255 128 0", [255, 128, 0])])
def test_vertex_colours(tmp_path, numbers, expected):
    text = f"v 0 0 0 {numbers}\nv 1 0 0 {numbers}\nv 0 1 0 {numbers}\nf 1 2 3\n"
    assert read_obj(write(tmp_path / "a.obj", text)).colors.tolist() == [expected] * 3


def test_material_cannot_point_outside_the_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "sub" / "m.mtl").write_text("newmtl a\nmap_Kd ../secret.png\n")
    loaded = read_obj(write(tmp_path / "sub" / "a.obj", "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"))
    assert loaded.texture is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is no OBJ"),
        (b"hello\nworld\n", "is no OBJ"),
        (b"v 1 2\n", "must have 3 numbers"),
        (b"v a b c\n", "not made of numbers"),
        (b"v nan 0 0\n", "not finite"),
        (b"v 1e999 0 0\n", "not finite"),
        (b"v 0 0 0\nf 1 2 3\n", "names vertex 1"),
        (b"v 0 0 0\nf -1 -2 -3\n", "names vertex -1"),
        (b"v 0 0 0\nf 0 0 0\n", "names vertex -1"),
        (b"v 0 0 0\nvt 0 0\nf 1/1 1/7 1/1\n", "texture coordinate 6"),
        (b"v 0 0 0\nf 1/x 1 1\n", "not made of indices"),
        (b"v 0 0 0\nf 1 1.5 1\n", "not made of indices"),
        (b"v 0 0 0\nf 99999999999999999999 1 1\n", "not made of indices"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "bad.obj").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_obj(tmp_path / "bad.obj")


def test_other_bad_input(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_mesh(tmp_path / "missing.obj")
    with pytest.raises(InputError, match="cannot read"):
        read_obj(tmp_path)
    with pytest.raises(InputError, match=r"expected a file ending in \.obj or \.ply"):
        read_mesh(tmp_path / "a.fbx")
    assets = make_tiny_assets()
    with pytest.raises(InputError, match="cannot write"):
        write_obj(tmp_path / "none" / "head.obj", assets, assets.v_template, noise())
