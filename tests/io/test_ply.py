from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrecon.errors import InputError
from headrecon.io.meshes.loaded import read_mesh
from headrecon.io.meshes.ply import read_ply, sample_texture, vertex_colors, write_ply
from headrecon.io.meshes.topology import vertex_normals
from headrecon.structures import Mesh, triangulate
from tests.synthetic_assets import make_tiny_assets


def test_round_trip_with_everything(tmp_path):
    assets = make_tiny_assets()
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (assets.num_vertices, 3), dtype=np.uint8)
    normals = vertex_normals(assets.v_template, triangulate(assets.faces)[0])
    write_ply(tmp_path / "a.ply", Mesh(assets.v_template, assets.faces), colors, normals, "made by a test: é")
    loaded = read_mesh(tmp_path / "a.ply")
    np.testing.assert_array_equal(loaded.mesh.vertices, assets.v_template)
    np.testing.assert_array_equal(loaded.mesh.faces, assets.faces)
    np.testing.assert_array_equal(loaded.colors, colors)
    np.testing.assert_array_equal(loaded.normals, normals)


def test_trimesh_agrees(tmp_path):
    import trimesh

    assets = make_tiny_assets()
    colors = np.full((assets.num_vertices, 3), [10, 20, 30], dtype=np.uint8)
    triangles = triangulate(assets.faces)[0]
    write_ply(tmp_path / "a.ply", Mesh(assets.v_template, triangles), colors)
    mesh = trimesh.load_mesh(tmp_path / "a.ply", process=False)
    np.testing.assert_array_equal(mesh.faces, triangles)
    np.testing.assert_allclose(mesh.vertices, assets.v_template)
    assert mesh.visual.vertex_colors[5].tolist() == [10, 20, 30, 255]


def test_point_cloud(tmp_path):
    points = np.random.default_rng(0).normal(size=(7, 3))
    write_ply(tmp_path / "a.ply", Mesh(points, np.zeros((0, 3), dtype=np.int64)))
    loaded = read_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(loaded.mesh.vertices, points, rtol=1e-6)
    assert loaded.mesh.faces.shape == (0, 3)
    assert loaded.colors is None


ASCII = """ply
format ascii 1.0
comment x
element vertex 5
property double x
property float y
property float z
property float red
property float green
property float blue
element face 3
property uchar flags
property list uchar int vertex_index
element edge 1
property int vertex1
property int vertex2
end_header
0 0 0 1 0 0.5
1 0 0 1 0 0.5
1 1 0 1 0 0.5
0 1 0 1 0 0.5
.5 1.5 0 1 0 0.5
7 3 0 1 2
7 4 0 1 2 3
7 5 0 1 2 3 4
0 1
"""


def test_ascii_with_extra_properties_and_polygons(tmp_path):
    (tmp_path / "a.ply").write_text(ASCII)
    loaded = read_ply(tmp_path / "a.ply")
    assert loaded.mesh.faces.tolist() == [[0, 1, 2, -1], [0, 1, 2, 3], [0, 1, 2, -1], [0, 2, 3, -1], [0, 3, 4, -1]]
    assert loaded.colors.tolist() == [[255, 0, 128]] * 5
    (tmp_path / "b.ply").write_text(ASCII.replace("property uchar flags\n", "").replace("\n7 ", "\n"))
    assert read_ply(tmp_path / "b.ply").mesh.faces.tolist() == loaded.mesh.faces.tolist()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("sizes", [(3, 3), (3, 4)])
def test_binary_orders_with_ragged_and_uniform_faces(tmp_path, order, sizes):
    """Texture coordinates after the indices, as MeshLab writes them."""
    name = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    header = (
        f"ply\nformat {name} 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 2\nproperty list uchar int vertex_indices\nproperty list uchar float texcoord\nend_header\n"
    )
    body = b"".join(struct.pack(order + "fff", *p) for p in [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)])
    for n in sizes:
        body += struct.pack(f"{order}B{n}i", n, *range(n)) + struct.pack(f"{order}B{2 * n}f", 2 * n, *[0.5] * 2 * n)
    (tmp_path / "a.ply").write_bytes(header.encode() + body)
    mesh = read_ply(tmp_path / "a.ply").mesh
    assert mesh.vertices[2].tolist() == [1, 1, 0]
    assert [[v for v in f if v >= 0] for f in mesh.faces.tolist()] == [list(range(n)) for n in sizes]


def header(vertices: int = 1, faces: int = 0, line: str = "") -> bytes:
    return (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\n"
        f"property float z\n{line}element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()


POINT = struct.pack("<fff", 1, 2, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"plain text", "is no PLY"),
        (b"ply\nformat ascii 1.0\n", "is no PLY"),
        (header(2) + POINT, "ends early or is damaged"),
        (header(1, 1) + POINT, "ends early or is damaged"),
        (header(1, 1) + POINT + struct.pack("<B2i", 3, 0, 0), "ends early or is damaged"),
        (header(1, 1) + POINT + struct.pack("<B3i", 3, 0, 0, 5), "names vertex 5"),
        (header(1, 1) + POINT + struct.pack("<B3i", 3, 0, 0, -1), "names vertex -1"),
        (header(10**12) + POINT, "more elements than the file"),
        (header(-1) + POINT, "more elements than the file"),
        (header(0), "must have an element 'vertex'|no vertices"),
        (header(1) + struct.pack("<fff", 1, float("inf"), 3), "not finite"),
        (header(1, 0, "property quaternion q\n") + POINT, "cannot read the PLY header line"),
        (header(1, 0, "nonsense\n") + POINT, "cannot read the PLY header line"),
        (header().replace(b"float z", b"float w") + POINT, "with x, y and z"),
        (ASCII.replace("7 3 0 1 2", "7 3 0 1").encode(), "too few numbers"),
        (ASCII.replace("0 0 0 1 0 0.5", "0 0 zero 1 0 0.5").encode(), "damaged"),
        (ASCII[: ASCII.index("7 5")].encode(), "damaged"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "bad.ply").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_ply(tmp_path / "bad.ply")


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 10_000), flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4))
def test_damage_never_ends_in_a_traceback(tmp_path_factory, cut, flips):
    path = tmp_path_factory.getbasetemp() / "fuzzed.ply"
    write_ply(path, Mesh(np.eye(3), np.array([[0, 1, 2, -1], [0, 1, 2, 0]])), np.zeros((3, 3), np.uint8))
    data = bytearray(path.read_bytes())
    for position, value in flips:
        data[position % len(data)] = value
    path.write_bytes(bytes(data[: 1 + cut % len(data)]))
    try:
        loaded = read_ply(path)
    except InputError:
        return
    assert np.isfinite(loaded.mesh.vertices).all()


def test_texture_samples_by_hand():
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, 0], image[0, 1], image[1, 0], image[1, 1] = 10, 20, 30, 40
    uvs = np.array([[0.25, 0.75], [0.75, 0.25], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])
    assert sample_texture(image, uvs)[:, 0].tolist() == [10, 40, 25, 10, 40]


def test_vertex_colours_come_from_the_texture():
    assets = make_tiny_assets()
    ramp = np.linspace(0, 255, 128).astype(np.uint8)
    texture = np.stack(np.broadcast_arrays(ramp[None, :], ramp[::-1, None], 0), axis=-1).astype(np.uint8)
    colors = vertex_colors(assets, texture)
    face, uv_face = assets.faces[700, 1], assets.uv_faces[700, 1]
    np.testing.assert_allclose(colors[face][:2], assets.uvs[uv_face] * 255, atol=3)


def test_unwritable(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_ply(tmp_path / "none" / "a.ply", Mesh(np.eye(3), np.array([[0, 1, 2]])))
