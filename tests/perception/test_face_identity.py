"""The face recognition network: its numbers are those of dlib; its verdicts on pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrecon.errors import AssetError
from headrecon.perception.face_identity import (
    SAME_PERSON,
    FaceIdentity,
    face_chip,
    load_face_identity,
    one_person,
    same_person,
)
from headrecon.perception.recognition_network import TABLE, load_recognition_network
from headrecon.structures import FaceObservation


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
    return load_face_identity()


def test_numbers_are_those_of_dlib(identity: FaceIdentity) -> None:
    """dlib 20.0.1 gave these for a crop made of formulas. Ours have weights of 8 bits: 0.008 per number at the most."""
    y, x = np.mgrid[:150, :150]
    chip = np.stack([(x * 7 + y * 3) % 256, (x * y) % 256, 255 - (x + y) % 256], -1).astype(np.uint8)
    found = identity.network(chip[None]).identity[0]
    expected = [-0.07505, 0.1022, 0.04588, -0.03796, -0.10047, -0.05451, -0.01998, 0.01096]
    np.testing.assert_allclose(found[:8], expected, atol=8e-3)
    assert np.linalg.norm(found) == pytest.approx(1.36074, abs=0.02)


def test_many_faces_at_once_are_each_as_alone(identity: FaceIdentity) -> None:
    chips = np.random.default_rng(2).integers(0, 256, (3, 150, 150, 3), dtype=np.uint8)
    together = identity.network(chips)
    for i in range(3):
        alone = identity.network(chips[i : i + 1])
        # Sums of float32 products in another order.
        np.testing.assert_allclose(together.middle[i], alone.middle[0], atol=1e-4)
        np.testing.assert_allclose(together.deep[i], alone.deep[0], atol=1e-4)
        np.testing.assert_allclose(together.identity[i], alone.identity[0], atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / TABLE
    path.write_bytes(content)
    with pytest.raises(AssetError, match=TABLE):
        load_recognition_network(path)


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
