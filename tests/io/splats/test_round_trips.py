"""Files of splats read back: nothing is lost beyond what each format says it rounds."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from headrecon.errors import InputError, ShapeError
from headrecon.geometry.harmonics import C0, evaluate_harmonics
from headrecon.io.splats.cloud import AXES, cloud_from
from headrecon.io.splats.glb import read_splat_glb, write_splat_glb
from headrecon.io.splats.ply import read_splat_ply, write_splat_ply
from headrecon.io.splats.splat import read_splat, write_splat
from headrecon.io.splats.spz import read_spz, write_spz
from headrecon.structures import Gaussians
from tests.io.splats.clouds import angles_between, covariances, random_cloud

WRITERS: dict[str, Callable[..., None]] = {
    "ply": write_splat_ply, "splat": write_splat, "spz": write_spz, "glb": write_splat_glb,
}  # fmt: skip
READERS: dict[str, Callable[..., Gaussians]] = {
    "ply": read_splat_ply, "splat": read_splat, "spz": read_spz, "glb": read_splat_glb,
}  # fmt: skip


def seen_from(gaussians: Gaussians, directions: np.ndarray) -> np.ndarray:
    """Colours [N,3] of all Gaussians along one direction of view."""
    assert gaussians.sh is not None
    degree = {1: 0, 4: 1, 9: 2, 16: 3}[gaussians.sh.shape[1]]
    return 0.5 + np.einsum("k,nkc->nc", evaluate_harmonics(directions, degree), gaussians.sh)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["ply", "glb"])
def test_float_formats_lose_nothing(tmp_path: Path, kind: str, degree: int) -> None:
    path, cloud = tmp_path / f"a.{kind}", random_cloud(degree=degree)
    WRITERS[kind](path, cloud)
    back = READERS[kind](path)
    expected = cloud_from(cloud)
    np.testing.assert_array_equal(back.means, expected.means)
    np.testing.assert_array_equal(back.sh, expected.sh)
    # Logarithm and exponential in float32, and two normalisations: a few units in the last place.
    np.testing.assert_allclose(back.scales, expected.scales, rtol=2e-6)
    np.testing.assert_allclose(back.quats_wxyz, expected.quats_wxyz, atol=3e-7)
    # The logit of an opacity near 1 is a float32 near 16: half a unit there moves the opacity by less than 1e-6.
    np.testing.assert_allclose(back.opacities, expected.opacities, atol=1e-6)


def test_splat_rounds_as_it_says_and_sorts_by_importance(tmp_path: Path) -> None:
    path, cloud = tmp_path / "a.splat", random_cloud()
    write_splat(path, cloud)
    assert path.stat().st_size == 32 * len(cloud)
    back = read_splat(path)
    order = [int(np.argmin(np.abs(cloud.means - m).sum(1))) for m in back.means]
    assert sorted(order) == list(range(len(cloud)))
    importance = (cloud.scales.astype(np.float64).prod(1) * cloud.opacities)[order]
    assert (np.diff(importance) <= 0).all()
    np.testing.assert_array_equal(back.means, cloud.means[order])
    np.testing.assert_array_equal(back.scales, cloud.scales[order])
    np.testing.assert_allclose(back.opacities, cloud.opacities[order], atol=0.5001 / 255)
    assert cloud.colours is not None and back.sh is not None
    np.testing.assert_allclose(back.sh[:, 0] * C0 + 0.5, cloud.colours[order], atol=0.5001 / 255)
    # Half a step of 1/128 in each of four components, and a whole one where 1 is stored as 127/128: at most 1/64 of a
    # quaternion's length, which is twice that in angle.
    assert angles_between(back.quats_wxyz, cloud.quats_wxyz[order]).max() < 2 / 64


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize(("version", "degrees"), [(2, 1.3), (3, 0.25)])
def test_spz_rounds_as_it_says(tmp_path: Path, version: int, degrees: float, degree: int) -> None:
    path, cloud = tmp_path / "a.spz", random_cloud(degree=degree)
    write_spz(path, cloud, version)
    back, expected = read_spz(path), cloud_from(cloud)
    np.testing.assert_allclose(back.means, cloud.means, atol=0.51 / 2**20)  # 20 bits of fraction: a micrometre
    np.testing.assert_allclose(np.log(back.scales), np.log(cloud.scales), atol=0.501 / 16)
    np.testing.assert_allclose(back.opacities, cloud.opacities, atol=0.501 / 255)
    assert back.sh is not None
    np.testing.assert_allclose(back.sh[:, 0], expected.sh[:, 0], atol=0.501 / (0.15 * 255))
    inside = np.abs(expected.sh[:, 1:]) < 127 / 128
    np.testing.assert_allclose(back.sh[:, 1:][inside], expected.sh[:, 1:][inside], atol=0.501 / 128)
    # Version 2 loses precision where w is small: a step of 1/127.5 in x, y and z is stretched by 1/w. Version 3 keeps
    # the largest component out: three steps of sqrt(1/2)/511, stretched by at most 2.
    close = cloud_from(cloud).quats_wxyz
    usual = np.abs(close[:, 0]) > 0.3 if version == 2 else np.ones(len(close), bool)
    assert np.degrees(angles_between(back.quats_wxyz, cloud.quats_wxyz)[usual]).max() < degrees


def test_spz_says_how_it_was_fitted(tmp_path: Path) -> None:
    for fitted, flags in ((False, 0), (True, 1)):
        write_spz(tmp_path / "a.spz", random_cloud(3), antialiased=fitted)
        assert gzip.decompress((tmp_path / "a.spz").read_bytes())[14] == flags
        assert len(read_spz(tmp_path / "a.spz")) == 3


def test_spz_takes_fewer_bits_for_places_far_away(tmp_path: Path) -> None:
    cloud = random_cloud(20)
    far = Gaussians(cloud.means * 1e4, cloud.quats_wxyz, cloud.scales, cloud.opacities, cloud.colours)
    write_spz(tmp_path / "far.spz", far)
    header = gzip.decompress((tmp_path / "far.spz").read_bytes())[:16]
    bits = header[13]
    largest = float(np.abs(far.means).max())
    assert largest * 2**bits <= 2**23 - 1 < largest * 2 ** (bits + 1)
    np.testing.assert_allclose(read_spz(tmp_path / "far.spz").means, far.means, atol=0.51 / 2**bits, rtol=1e-6)


@pytest.mark.parametrize("axes", list(AXES))
def test_axes_are_rotations_that_turn_shape_and_colour_along(tmp_path: Path, axes: str) -> None:
    """What a viewer sees in the file's world is what memory has, turned: places, ellipsoids, colours from anywhere."""
    path, cloud = tmp_path / "a.ply", random_cloud(50, degree=3)
    write_splat_ply(path, cloud, axes)
    raw = read_splat_ply(path, "y-up")  # the numbers in the file
    turn = np.diag(AXES[axes]).astype(np.float64)
    assert np.linalg.det(turn) == 1
    np.testing.assert_allclose(raw.means, cloud.means @ turn, rtol=1e-6)
    np.testing.assert_allclose(covariances(raw), turn @ covariances(cloud) @ turn, atol=1e-9)
    direction = np.array([0.6, -0.48, 0.64])
    np.testing.assert_allclose(seen_from(raw, turn @ direction), seen_from(cloud, direction), atol=1e-5)
    np.testing.assert_array_equal(read_splat_ply(path, axes).means, cloud.means)


def test_a_ply_is_laid_out_as_the_paper_s_code_writes_it(tmp_path: Path) -> None:
    cloud = Gaussians(
        np.array([[0.25, 0.5, -0.125]], np.float32), np.array([[2.0, 0, 0, 0]], np.float32),
        np.array([[1.0, np.e, np.e**2]], np.float32), np.array([0.5], np.float32),
        sh=np.arange(12, dtype=np.float32).reshape(1, 4, 3),
    )  # fmt: skip
    write_splat_ply(tmp_path / "a.ply", cloud, axes="y-up")
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[2] for line in header.decode().splitlines() if line.startswith("property")]
    rest = [f"f_rest_{i}" for i in range(9)]
    assert names == [
        "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity", "scale_0", "scale_1",
        "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
    ]  # fmt: skip
    red, green, blue = [3, 6, 9], [4, 7, 10], [5, 8, 11]
    expected = [0.25, 0.5, -0.125, 0, 0, 0, 0, 1, 2, *red, *green, *blue, 0, 0, 1, 2, 1, 0, 0, 0]
    np.testing.assert_allclose(struct.unpack("<26f", body), expected, atol=1e-6)


def test_a_splat_row_worked_by_hand(tmp_path: Path) -> None:
    cloud = Gaussians(
        np.array([[1.0, 2.0, 3.0]], np.float32), np.array([[0.0, -1.0, 0, 0]], np.float32),
        np.array([[0.1, 0.2, 0.3]], np.float32), np.array([1.0], np.float32), np.array([[1.5, 0.2, -3]], np.float32),
    )  # fmt: skip
    write_splat(tmp_path / "a.splat", cloud, axes="y-up")
    row = (tmp_path / "a.splat").read_bytes()
    np.testing.assert_allclose(struct.unpack("<6f", row[:24]), [1, 2, 3, 0.1, 0.2, 0.3], rtol=1e-6)
    assert list(row[24:]) == [255, 51, 0, 255, 128, 0, 128, 128]


def test_an_spz_worked_by_hand(tmp_path: Path) -> None:
    cloud = Gaussians(
        np.array([[1.0, -2.0, 0.5]], np.float32), np.array([[-0.5, 0.5, 0.5, 0.5]], np.float32),
        np.exp(np.array([[-10.0, -9.5, 0]], np.float32)), np.array([0.2], np.float32),
        np.array([[0.5, 0.5, 0.5]], np.float32),
    )  # fmt: skip
    write_spz(tmp_path / "a.spz", cloud)
    data = gzip.decompress((tmp_path / "a.spz").read_bytes())
    assert struct.unpack("<IIIBBBB", data[:16]) == (0x5053474E, 3, 1, 0, 20, 0, 0)
    places = [int.from_bytes(data[16 + 3 * i : 19 + 3 * i], "little", signed=True) for i in range(3)]
    assert places == [2**20, -(2**21), 2**19]
    assert list(data[25:26]) == [51]
    assert list(data[26:29]) == [128, 128, 128]
    assert list(data[29:32]) == [0, 8, 160]
    # x is the first of the equally large ones; y, z, w follow, each 0.5 / sqrt(1/2) * 511 = 361.3, w negative.
    word = int.from_bytes(data[32:36], "little")
    assert (word >> 30, [(word >> s) & 1023 for s in (20, 10, 0)]) == (0, [361, 361, 361 | 512])


def test_glb_points_have_linear_colours(tmp_path: Path) -> None:
    """COLOR_0 is linear by glTF's rules, while the splats' own colours stay sRGB."""
    from headrecon.io.meshes.glb_reader import open_glb

    path = tmp_path / "a.glb"
    cloud = random_cloud(3)
    grey = Gaussians(cloud.means, cloud.quats_wxyz, cloud.scales, cloud.opacities, np.full((3, 3), 0.5, np.float32))
    write_splat_glb(path, grey)
    glb = open_glb(path, path.read_bytes())
    attributes = glb.json["meshes"][0]["primitives"][0]["attributes"]
    np.testing.assert_allclose(glb.accessor(attributes["COLOR_0"])[:, :3], 0.21404, atol=1e-4)  # sRGB 0.5 in linear
    np.testing.assert_allclose(glb.accessor(attributes["COLOR_0"])[:, 3], cloud.opacities, atol=1e-4)
    assert np.abs(glb.accessor(attributes["KHR_gaussian_splatting:SH_DEGREE_0_COEF_0"])).max() < 1e-6


@pytest.mark.parametrize("kind", list(WRITERS))
def test_tensors_and_arrays_give_the_same_file(tmp_path: Path, kind: str) -> None:
    cloud = random_cloud(30)
    tensors = Gaussians(*(torch.from_numpy(a) for a in (
        cloud.means, cloud.quats_wxyz, cloud.scales, cloud.opacities, cloud.colours)))  # fmt: skip
    WRITERS[kind](tmp_path / f"a.{kind}", cloud)
    WRITERS[kind](tmp_path / f"b.{kind}", tensors)
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.parametrize("kind", list(WRITERS))
def test_extremes_stay_finite(tmp_path: Path, kind: str) -> None:
    """Opacity 0 and 1, a scale of 0: logits and logarithms have no such numbers, and the file must still be read."""
    ball = Gaussians(
        np.zeros((2, 3), np.float32), np.eye(4, dtype=np.float32)[:2], np.array([[0, 0.01, 0.01]] * 2, np.float32),
        np.array([0.0, 1.0], np.float32), np.ones((2, 3), np.float32),
    )  # fmt: skip
    WRITERS[kind](tmp_path / f"a.{kind}", ball)
    back = READERS[kind](tmp_path / f"a.{kind}")
    np.testing.assert_allclose(np.sort(back.opacities), [0, 1], atol=2e-7)
    assert back.scales.min() <= 5e-5  # spz knows nothing thinner than e^-10 m


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"means": np.full((4, 3), np.nan, np.float32)}, InputError),
        ({"quats_wxyz": np.zeros((4, 4), np.float32)}, InputError),
        ({"scales": np.full((4, 3), -1.0, np.float32)}, InputError),
        ({"colours": np.zeros((4, 7), np.float32)}, ShapeError),
        ({"colours": None}, ShapeError),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path: Path, kind: str, change: dict, error: type) -> None:
    from dataclasses import replace

    with pytest.raises(error):
        WRITERS[kind](tmp_path / "a", replace(random_cloud(4), **change))
    assert not list(tmp_path.iterdir())


def test_batches_empty_sets_and_unknown_axes_are_refused(tmp_path: Path) -> None:
    a = random_cloud(3)
    batch = Gaussians(*(np.stack([x, x]) for x in (a.means, a.quats_wxyz, a.scales, a.opacities, a.colours)))
    with pytest.raises(ShapeError, match="holds one set"):
        write_splat_ply(tmp_path / "a.ply", batch)
    with pytest.raises(InputError, match="at least one"):
        write_splat_ply(tmp_path / "a.ply", random_cloud(0))
    with pytest.raises(InputError, match="y-down, opencv, y-up"):
        write_splat_ply(tmp_path / "a.ply", random_cloud(3), axes="left")
    with pytest.raises(InputError, match="choose a folder"):
        write_splat_ply(tmp_path / "nowhere" / "a.ply", random_cloud(3))
