"""The face recognition network: read from dlib's file, its numbers those of dlib, its verdicts on pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrecon.errors import AssetError, NetworkUnavailable
from headrecon.perception.dlib_weights import read_tensors
from headrecon.perception.face_identity import (
    SAME_PERSON,
    FaceIdentity,
    face_chip,
    load_face_identity,
    one_person,
    same_person,
)
from headrecon.structures import FaceObservation


def _packed(value: int) -> bytes:
    content = value.to_bytes(max(1, (value.bit_length() + 7) // 8), "little")
    return bytes([len(content)]) + content


def _layer(kind: str, weights: np.ndarray) -> bytes:
    """One layer as dlib writes it: name, for fc_2 its sizes (128 and 256), version 2, four sizes, floats."""
    sizes = b"\x01\x80\x02\x00\x01" if kind == "fc_2" else b""
    name = _packed(len(kind)) + kind.encode()
    dims = b"".join(_packed(n) for n in (len(weights), 1, 1, 1))
    return name + sizes + b"\x01\x02" + dims + weights.astype("<f4").tobytes() + b"\x01\x01relu_"


@pytest.fixture
def made_file(tmp_path: Path) -> tuple[Path, list[tuple[str, np.ndarray]]]:
    generator = np.random.default_rng(0)
    layers = [(k, generator.normal(size=n)) for k, n in (("con_4", 300), ("affine_", 64), ("fc_2", 70000))]
    path = tmp_path / "made.dat"
    path.write_bytes(b"\x01\x01\x01\rloss_metric_2" + b"".join(_layer(*layer) for layer in layers))
    return path, layers


def test_reads_what_was_written(made_file: tuple[Path, list[tuple[str, np.ndarray]]]) -> None:
    path, layers = made_file
    found = read_tensors(path, [(kind, len(weights)) for kind, weights in layers])
    for tensor, (_, weights) in zip(found, layers, strict=True):
        np.testing.assert_array_equal(tensor, weights.astype(np.float32))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([("affine_", 300)], "must be affine_, found con_4"),
        ([("con_4", 301)], "must have 301 weights, found 300"),
        ([("con_4", 300), ("affine_", 64), ("fc_2", 70000), ("fc_2", 1)], "must be fc_2, found None"),
    ],
)
def test_refuses_another_network(made_file, sizes: list[tuple[str, int]], message: str) -> None:
    with pytest.raises(AssetError, match=message):
        read_tensors(made_file[0], sizes)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.999])
def test_refuses_a_truncated_file(made_file, share: float) -> None:
    path, layers = made_file
    path.write_bytes(path.read_bytes()[: int(share * 70364 * 4)])
    with pytest.raises(AssetError):
        read_tensors(path, [(kind, len(weights)) for kind, weights in layers])


def test_refuses_numbers_that_are_none(made_file) -> None:
    path, _ = made_file
    path.write_bytes(_layer("con_4", np.full(5, np.nan)))
    with pytest.raises(AssetError, match="NaN"):
        read_tensors(path, [("con_4", 5)])


def test_the_majority_is_the_person() -> None:
    generator = np.random.default_rng(1)
    person, other = generator.normal(size=(2, 128)) * 0.06
    noise = generator.normal(size=(6, 128)) * 0.015
    faces = [person + noise[0], other + noise[1], person + noise[2], person + noise[3], other + noise[4]]
    assert same_person(faces[0], faces[2]) < SAME_PERSON < same_person(faces[0], faces[1])
    assert one_person(faces) == [0, 2, 3]
    assert one_person(faces[1:3]) == [0]  # one against one: the first
    assert one_person([]) == []


@pytest.fixture(scope="module")
def identity() -> FaceIdentity:
    try:
        return load_face_identity()
    except NetworkUnavailable as error:
        pytest.skip(f"needs the face recognition network: {error}")


def test_numbers_are_those_of_dlib(identity: FaceIdentity) -> None:
    """dlib 20.0.1 gave these for a crop made of formulas; five decimals were kept, float32 sums differ by 1e-6."""
    y, x = np.mgrid[:150, :150]
    chip = np.stack([(x * 7 + y * 3) % 256, (x * y) % 256, 255 - (x + y) % 256], -1).astype(np.uint8)
    found = identity.embed_chips(chip[None])[0]
    expected = [-0.07505, 0.1022, 0.04588, -0.03796, -0.10047, -0.05451, -0.01998, 0.01096]
    np.testing.assert_allclose(found[:8], expected, atol=2e-5)
    assert np.linalg.norm(found) == pytest.approx(1.36074, abs=1e-4)


def test_a_person_stays_the_same_and_a_stranger_does_not(
    identity: FaceIdentity, astronaut_image: np.ndarray, astronaut: FaceObservation, shared_data: Path
) -> None:
    from headrecon.io.images import load_image
    from headrecon.perception.faces import observe_faces
    from headrecon.perception.networks import load_networks

    networks = load_networks()
    vectors = [identity.embed(astronaut_image, astronaut)]
    for name in ("one_person_four_views/00000.jpg", "one_person_four_views/00003.jpg"):
        picture = load_image(shared_data / "photos" / name).image_srgb
        vectors.append(identity.embed(picture, observe_faces(picture, networks)[0]))
    # Found: 0.45 between the two photos of one person (front, from below), 0.73 and more to the astronaut.
    assert same_person(vectors[1], vectors[2]) < SAME_PERSON < min(same_person(vectors[0], v) for v in vectors[1:])


def test_light_and_turn_of_the_picture_do_not_matter(
    identity: FaceIdentity, astronaut_image: np.ndarray, astronaut: FaceObservation
) -> None:
    start = identity.embed(astronaut_image, astronaut)
    darker = (astronaut_image * 0.6).astype(np.uint8)
    assert same_person(start, identity.embed(darker, astronaut)) < 0.3
    turned = np.ascontiguousarray(np.rot90(astronaut_image))  # anticlockwise: (x, y) -> (y, W - x)
    marks = astronaut.landmarks.copy()
    marks[:, 0], marks[:, 1] = astronaut.landmarks[:, 1], astronaut_image.shape[1] - astronaut.landmarks[:, 0]
    # The same crop up to resampling.
    assert same_person(start, identity.embed(turned, replace(astronaut, landmarks=marks))) < 0.05


def test_chip_is_upright_with_the_eyes_where_dlib_has_them(
    astronaut_image: np.ndarray, astronaut: FaceObservation
) -> None:
    chip = face_chip(astronaut_image, astronaut)
    assert chip.shape == (150, 150, 3)
    dark = chip.astype(float).sum(-1)[35:60]
    # Both pupils are the darkest spots of the band that holds the eyes: near columns 47 and 100.
    columns = dark.min(0)
    assert abs(int(columns[30:65].argmin()) + 30 - 48) < 10
    assert abs(int(columns[85:120].argmin()) + 85 - 100) < 10
