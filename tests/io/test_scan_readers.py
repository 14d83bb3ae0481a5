"""Reading scans from STL and GLB: what other programs write, what we write, and damage."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from headrecon.errors import InputError
from headrecon.io.meshes.glb import RiggedHead, write_glb
from headrecon.io.meshes.glb_reader import read_glb
from headrecon.io.meshes.loaded import read_mesh
from headrecon.io.meshes.stl import read_stl
from headrecon.structures import triangulate
from tests.synthetic_assets import make_tiny_assets


def same_surface(vertices: np.ndarray, faces: np.ndarray, other: trimesh.Trimesh) -> None:
    """The same triangles, whatever the order of vertices."""
    ours = np.sort(vertices[faces].mean(1).round(5), axis=0)
    theirs = np.sort(np.asarray(other.vertices)[other.faces].mean(1).round(5), axis=0)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("kind", ["stl", "stl_ascii"])
def test_stl_of_another_program(tmp_path: Path, kind: str) -> None:
    ball = trimesh.creation.icosphere(subdivisions=2, radius=3.0)
    path = tmp_path / "ball.stl"
    data = ball.export(file_type=kind)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    mesh = read_mesh(path).mesh
    assert len(mesh.vertices) == len(ball.vertices) and len(mesh.faces) == len(ball.faces)  # corners are joined
    same_surface(mesh.vertices, mesh.faces, ball)


def test_a_binary_stl_may_begin_with_solid(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=1)
    path = tmp_path / "ball.stl"
    data = bytearray(ball.export(file_type="stl"))
    data[:5] = b"solid"
    path.write_bytes(data)
    assert len(read_stl(path).mesh.faces) == len(ball.faces)


def test_glb_of_another_program_with_a_moved_node(tmp_path: Path) -> None:
    box = trimesh.creation.icosphere(subdivisions=2)
    matrix = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3])
    matrix[:3, 3] = 4, 5, 6
    matrix[:3, :3] *= 2.0
    scene = trimesh.Scene()
    scene.add_geometry(box, transform=matrix)
    scene.add_geometry(trimesh.creation.box(extents=(1, 2, 3)), transform=np.eye(4))
    path = tmp_path / "scene.glb"
    path.write_bytes(scene.export(file_type="glb"))
    mesh = read_glb(path).mesh
    same_surface(mesh.vertices, mesh.faces, scene.to_geometry())


def test_our_own_glb_comes_back_neutral(tmp_path: Path) -> None:
    """Vertices are split at seams and by material; each must be one of the head's, and every triangle be there."""
    assets = make_tiny_assets()
    texture = np.full((8, 8, 3), 128, np.uint8)
    write_glb(tmp_path / "head.glb", RiggedHead(assets, np.asarray(assets.v_template), texture))
    mesh = read_mesh(tmp_path / "head.glb").mesh
    triangles = triangulate(assets.faces)[0]
    assert len(mesh.faces) == len(triangles) and mesh.uvs is not None
    expected = np.sort(assets.v_template[triangles].mean(1).round(4), axis=0)
    np.testing.assert_allclose(np.sort(mesh.vertices[mesh.faces].mean(1).round(4), axis=0), expected, atol=2e-4)


@pytest.mark.parametrize("suffix", ["glb", "stl"])
def test_damaged_files_are_answered_with_input_errors(tmp_path: Path, suffix: str) -> None:
    """Cut anywhere or with bytes overwritten a file is refused or read; nothing else may happen."""
    good = trimesh.creation.icosphere(subdivisions=1).export(file_type=suffix)
    rng, path = np.random.default_rng(0), tmp_path / f"bad.{suffix}"
    refused = 0
    for _ in range(150):
        data = bytearray(good[: rng.integers(1, len(good) + 1)])
        for _ in range(rng.integers(0, 6)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_mesh(path)
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 75


def glb_of(document: dict, binary: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def one_mesh(**changes: object) -> dict:
    document = {
        "asset": {"version": "2.0"},
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
    }
    return document | changes


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (one_mesh(accessors=[{"bufferView": 0, "componentType": 5126, "count": 10**9, "type": "VEC3"}]), "entries"),
        (one_mesh(accessors=[{"bufferView": 0, "componentType": 5126, "count": -1, "type": "VEC3"}]), "whole number"),
        (one_mesh(bufferViews=[{"buffer": 0, "byteOffset": 99, "byteLength": 36}]), "beyond the file"),
        (one_mesh(scenes=[{"nodes": [0]}], nodes=[{"children": [0]}]), "contain themselves"),
        (one_mesh(extensionsRequired=["KHR_draco_mesh_compression"]), "without compression"),
        (one_mesh(meshes=[]), "no triangles"),
        (one_mesh(meshes=5), "damaged"),
    ],
)
def test_documents_that_lie(tmp_path: Path, document: dict, says: str) -> None:
    path = tmp_path / "lie.glb"
    path.write_bytes(glb_of(document, np.zeros(9, "<f4").tobytes()))
    with pytest.raises(InputError, match=says):
        read_glb(path)


def test_nan_is_kept_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "nan.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 nan\nv 0 1 0\nf 1 2 3\nf 1 2 4\n")
    with pytest.raises(InputError, match="not finite"):
        read_mesh(path)
    mesh = read_mesh(path, keep_nan=True).mesh
    assert np.isnan(mesh.vertices[2, 2]) and len(mesh.faces) == 2
