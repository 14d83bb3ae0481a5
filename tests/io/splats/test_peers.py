"""Our files in tools that others wrote: PlayCanvas' splat-transform, with Niantic's spz inside, and Khronos' validator.

splat-transform keeps splats as a PLY has them, undoes half a turn about z when it writes glTF (y up), and treats PLY as
COLMAP's axes when it writes spz. So every pair of formats checks another turn, with shapes and colours turned along.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrecon.geometry.harmonics import evaluate_harmonics
from headrecon.io.splats.cloud import SplatCloud, cloud_from
from headrecon.io.splats.glb import read_splat_glb, write_splat_glb
from headrecon.io.splats.ply import read_splat_ply, write_splat_ply
from headrecon.io.splats.splat import read_splat, write_splat
from headrecon.io.splats.spz import read_spz, write_spz
from headrecon.structures import Gaussians
from tests.io.splats.clouds import covariances, random_cloud

pytestmark = pytest.mark.slow  # node starts in a second, and there are a dozen conversions

Convert = Callable[..., Path]


@pytest.fixture(scope="session")
def convert(node_package: Callable[[str], Path]) -> Convert:
    """Let splat-transform turn one file into another."""
    program = node_package("@playcanvas/splat-transform") / "bin" / "cli.mjs"

    def run(source: Path, target: Path, *options: str) -> Path:
        command = [shutil.which("node") or "node", str(program), "-q", "-w", *options, str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and target.is_file(), done.stdout + done.stderr
        return target

    return run


def same(found: Gaussians, expected: Gaussians, place: float, shape: float, colour: float) -> None:
    """The same Gaussians in the same order. place: metres; shape: relative to each; colour: from any side, of 1."""
    a, b = cloud_from(found), cloud_from(expected)
    assert len(a) == len(b) and a.degree == b.degree
    np.testing.assert_allclose(a.means, b.means, atol=place)
    np.testing.assert_allclose(a.opacities, b.opacities, atol=colour)
    size = covariances(expected).trace(axis1=1, axis2=2)[:, None, None]
    np.testing.assert_allclose(covariances(found) / size, covariances(expected) / size, atol=shape)
    for direction in ([0.6, -0.48, 0.64], [-0.6, 0.64, 0.48]):
        np.testing.assert_allclose(seen(a, direction), seen(b, direction), atol=colour)


def seen(cloud: SplatCloud, direction: list[float]) -> np.ndarray:
    return np.einsum("k,nkc->nc", evaluate_harmonics(np.array(direction), cloud.degree), cloud.sh)


@pytest.mark.parametrize("degree", [0, 3])
def test_our_ply_becomes_their_glb(tmp_path: Path, convert: Convert, degree: int) -> None:
    """Through PlayCanvas' own idea of a PLY's axes and of turning harmonics, into the axes that glTF fixes."""
    cloud = random_cloud(degree=degree)
    write_splat_ply(tmp_path / "a.ply", cloud)
    found = read_splat_glb(convert(tmp_path / "a.ply", tmp_path / "b.glb"))
    # Float32 arithmetic, and opacities through logits.
    same(found, cloud, place=1e-7, shape=1e-5, colour=1e-5)


@pytest.mark.parametrize("degree", [0, 3])
def test_our_ply_becomes_their_spz(tmp_path: Path, convert: Convert, degree: int) -> None:
    """Niantic's writer, from COLMAP's axes. It rounds places to 1/4096 m, harmonics to 5 and 4 bits."""
    cloud = random_cloud(degree=degree)
    write_splat_ply(tmp_path / "a.ply", cloud, axes="opencv")
    found = read_spz(convert(tmp_path / "a.ply", tmp_path / "b.spz", "--spz-version", "3"))
    # Scales lose up to 1/32 of their logarithm (6 % of a variance), rotations 0.2 degrees. Harmonics: half a bucket of
    # 1/32 (degree 1) and 1/16 each; sixteen of them at their worst add up to 0.3 along these directions.
    same(found, cloud, place=0.51 / 4096, shape=0.08, colour=0.005 if degree == 0 else 0.3)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("degree", [0, 3])
def test_our_spz_becomes_their_ply(tmp_path: Path, convert: Convert, degree: int, version: int) -> None:
    """Niantic's reader, into COLMAP's axes, against our own reader: only float32 is between them."""
    write_spz(tmp_path / "a.spz", random_cloud(degree=degree), version)
    found = read_splat_ply(convert(tmp_path / "a.spz", tmp_path / "b.ply"), axes="opencv")
    same(found, read_spz(tmp_path / "a.spz"), place=1e-7, shape=1e-5, colour=1e-5)


def test_our_splat_becomes_their_ply(tmp_path: Path, convert: Convert) -> None:
    write_splat(tmp_path / "a.splat", random_cloud())
    found = read_splat_ply(convert(tmp_path / "a.splat", tmp_path / "b.ply"))
    # They read a byte of a quaternion as 2 b / 255 - 1, we as the format's author does, (b - 128) / 128.
    same(found, read_splat(tmp_path / "a.splat"), place=1e-7, shape=0.02, colour=1e-5)


@pytest.mark.parametrize("degree", [0, 2])
def test_their_ply_is_ours(tmp_path: Path, convert: Convert, degree: int) -> None:
    cloud = random_cloud(degree=degree)
    write_splat_ply(tmp_path / "a.ply", cloud)
    same(read_splat_ply(convert(tmp_path / "a.ply", tmp_path / "b.ply")), cloud, 1e-7, 1e-5, 1e-5)


def test_their_newest_spz_is_refused_by_name(tmp_path: Path, convert: Convert) -> None:
    from headrecon.errors import InputError

    write_splat_ply(tmp_path / "a.ply", random_cloud(5))
    with pytest.raises(InputError, match="version 4"):
        read_spz(convert(tmp_path / "a.ply", tmp_path / "b.spz"))


_VALIDATE = """
const validator = require(process.argv[1]);
const bytes = new Uint8Array(require("fs").readFileSync(process.argv[2]));
validator.validateBytes(bytes).then((report) => console.log(JSON.stringify(report.issues)));
"""


@pytest.mark.parametrize("degree", [0, 3])
def test_khronos_validator_finds_no_fault(tmp_path: Path, node_package: Callable[[str], Path], degree: int) -> None:
    folder = node_package("gltf-validator")
    write_splat_glb(tmp_path / "a.glb", random_cloud(degree=degree))
    command = [shutil.which("node") or "node", "-e", _VALIDATE, str(folder), str(tmp_path / "a.glb")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    issues = json.loads(done.stdout)
    # Validators older than the extension say that they do not know it, and take its attributes' names for mistakes
    # (in everybody's files). The rest of the file they check all the same.
    attributes = "/meshes/0/primitives/0/attributes/KHR_gaussian_splatting:"
    found = [m for m in issues["messages"] if m["severity"] < 2 and not m["pointer"].startswith(attributes)]
    assert not found, found
