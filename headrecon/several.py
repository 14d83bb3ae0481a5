"""Several photos of one person: read, find the person in each, leave out what does not belong, and say so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from headrecon import stages
from headrecon.config import ReconstructConfig
from headrecon.errors import InputError, NoFaceFound
from headrecon.fitting.rig import Rig
from headrecon.io.cameras import KnownCamera
from headrecon.io.images import LoadedImage, from_array, load_image
from headrecon.perception.faces import MIN_EYE_DISTANCE_PX, eye_distance_px, observe_faces
from headrecon.stages import Engine, Sitting
from headrecon.structures import FaceObservation

ImageLike = str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class LeftOut:
    """A photo that was not used. index: its place among those given."""

    path: Path
    index: int
    reason: str
    #: None where it could not be read
    image: LoadedImage | None = None


@dataclass(frozen=True)
class Company:
    """What several photos show of one person. sittings: the photo that shows the face best comes first.

    rig: their cameras, where known, in the same order.
    """

    sittings: tuple[Sitting, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    rig: Rig | None = None


@dataclass(frozen=True)
class _Seen:
    """A photo that could be read, with its faces that are large enough."""

    index: int
    image: LoadedImage
    faces: list[FaceObservation]


def gather(images: Sequence[ImageLike], engine: Engine, config: ReconstructConfig) -> Company:
    """Look at all photos. Raises InputError when none can be used, when they show different people, and with
    `photos.strict` when any would be left out."""
    _check_settings(images, config)
    seen: list[_Seen] = []
    left_out: list[LeftOut] = []
    for index, image in enumerate(images):
        found = _read_and_see(image, index, engine)
        (seen if isinstance(found, _Seen) else left_out).append(found)  # pyright: ignore[reportArgumentType]
    cameras = _known_cameras(seen, left_out, config)
    chosen, strangers, notes = _choose(seen, config)
    left_out += strangers
    _check_left_out(left_out, chosen, len(images), config)
    several = len(images) > 1
    sittings = [
        stages.sit(s.image, face, engine, config, s.index, s.image.path.name if several else "") for s, face in chosen
    ]
    sittings.sort(key=lambda s: -stages.frontal_size(s.observation))
    if cameras:
        sittings = [replace(s, focal_source="known") for s in sittings]
    heard = [text for s in sittings for text in s.image.warnings]
    left_out.sort(key=lambda x: x.index)
    heard += [f"{x.path.name} was left out: {x.reason}" for x in left_out]
    return Company(tuple(sittings), tuple(left_out), (*heard, *notes), _rig(sittings, cameras, config))


def _known_cameras(
    seen: Sequence[_Seen], left_out: Sequence[LeftOut], config: ReconstructConfig
) -> dict[int, KnownCamera]:
    """The camera of each photo that could be read, by its place; none unless the user names a file with them."""
    if config.photos.cameras is None:
        return {}
    if config.knowledge.focal_px is not None:
        raise InputError("--focal-px and --cameras both give the focal length; leave one out")
    from headrecon.io.known_cameras import match_cameras, read_known_cameras, same_file

    cameras = read_known_cameras(config.photos.cameras, config.photos.camera_unit)
    readable = [(s.index, s.image) for s in seen] + [(x.index, x.image) for x in left_out if x.image is not None]
    # A photo that cannot be read is left out by its own reason; its camera is no riddle then.
    broken = [x.path for x in left_out if x.image is None]
    cameras = [c for c in cameras if not any(same_file(c.image, path) for path in broken)]
    matched = match_cameras(cameras, [image for _, image in readable])
    return {index: camera for (index, _), camera in zip(readable, matched, strict=True)}


def _rig(sittings: Sequence[Sitting], cameras: dict[int, KnownCamera], config: ReconstructConfig) -> Rig | None:
    if not cameras:
        return None
    own = [cameras[s.index] for s in sittings]
    return Rig(
        np.stack([c.viewmat for c in own]), np.stack([c.k for c in own]), config.photos.moving,
        config.photos.refine_cameras, config.photos.camera_unit != "any",
    )  # fmt: skip


def _check_settings(images: Sequence[ImageLike], config: ReconstructConfig) -> None:
    if not images:
        raise InputError("reconstruct needs at least one photo, found none")
    if len(images) < 2:
        return
    if config.perception.face is not None:
        raise InputError("--face chooses in one photo; in several the person who is in most of them is taken")
    if config.knowledge.distance_m is not None:
        raise InputError("--distance-m is known of one photo; several have a distance each: leave it out")


def _read_and_see(image: ImageLike, index: int, engine: Engine) -> _Seen | LeftOut:
    path = Path(image) if isinstance(image, str | os.PathLike) else Path(f"photo {index + 1}")
    try:
        loaded = load_image(image) if isinstance(image, str | os.PathLike) else from_array(image, path.name)
    except InputError as error:
        return LeftOut(path, index, f"it cannot be read ({error})")
    faces = observe_faces(loaded.image_srgb, engine.networks)
    large = [f for f in faces if eye_distance_px(f) >= MIN_EYE_DISTANCE_PX]
    if large:
        return _Seen(index, loaded, large)
    if faces:
        return LeftOut(
            path, index, f"its face is too small ({eye_distance_px(faces[0]):.0f} px between the pupils)", loaded
        )
    return LeftOut(path, index, "no face was found in it", loaded)


def _choose(
    seen: Sequence[_Seen], config: ReconstructConfig
) -> tuple[list[tuple[_Seen, FaceObservation]], list[LeftOut], list[str]]:
    """The person's face in each photo, the photos without it, and what a user should know."""
    largest = [(s, s.faces[0]) for s in seen]
    if (len(seen) < 2 and all(len(s.faces) == 1 for s in seen)) or not config.photos.same_person:
        return largest, [], []
    from headrecon.perception.face_identity import SAME_PERSON, load_face_identity
    from headrecon.perception.person_choice import TELLING_YAW, Candidate, choose_person
    from headrecon.perception.shape_reader import yaw_of

    identity = load_face_identity()
    candidates = []
    for place, s in enumerate(seen):
        for number, face in enumerate(s.faces):
            yaw = abs(float(yaw_of(face.landmarks[None].astype(np.float64))[0]))
            telling = yaw <= TELLING_YAW
            vector = identity.embed(s.image.image_srgb, face) if telling else None
            candidates.append(Candidate(place, number, eye_distance_px(face), vector))
    names = [s.image.path.name for s in seen]
    choice = choose_person(candidates, names)
    chosen = [(s, s.faces[choice.face[i]]) for i, s in enumerate(seen) if i in choice.face]
    away = [
        LeftOut(
            seen[i].image.path,
            seen[i].index,
            f"it shows someone else (face distance {d:.2f}; one person's photos differ by less than {SAME_PERSON:g})",
        )
        for i, d in choice.stranger.items()
    ]
    notes = [
        f"{names[i]}: the face is turned too far to tell whose it is; it was taken on trust"
        for i in choice.unsure
        if len(seen) > 1
    ]
    return chosen, away, notes


def _check_left_out(
    left_out: Sequence[LeftOut], chosen: Sequence[object], count: int, config: ReconstructConfig
) -> None:
    if left_out and config.photos.strict:
        first = left_out[0]
        raise InputError(f"{first.path.name}: {first.reason}; without --strict it would be left out")
    if chosen:
        return
    if count == 1:
        raise NoFaceFound(f"{left_out[0].path}: {left_out[0].reason}; try another photo")
    reasons = "; ".join(f"{x.path.name}: {x.reason}" for x in left_out)
    raise NoFaceFound(f"none of the {count} photos shows a face that can be used: {reasons}")
