"""Which face in each of several photos is the person that they are photos of: the one who is in most of them.

Faces are compared by what `face_identity` says of them. It knows faces up to about 45 degrees of yaw; further round it
takes people for strangers, so a face that is turned more neither votes nor is turned away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError
from headrecon.perception.face_identity import SAME_PERSON, one_person

#: Yaw in radians up to which the recognition network knows people.
TELLING_YAW = float(np.radians(45.0))


@dataclass(frozen=True)
class Candidate:
    """A face of a photo. embedding: None where it is turned too far to be told. size_px: between the pupils."""

    photo: int
    face: int
    size_px: float
    embedding: Float[np.ndarray, "128"] | None


@dataclass(frozen=True)
class PersonChoice:
    """face: of each photo that shows the person, its index there. stranger: of the others, the distance to the person
    (above `SAME_PERSON`). unsure: photos in which the face is turned so far that it was taken on trust."""

    face: dict[int, int]
    stranger: dict[int, float]
    unsure: tuple[int, ...]


def choose_person(candidates: Sequence[Candidate], names: Sequence[str]) -> PersonChoice:
    """Choose the person who is in most photos, and their face in each. names: of the photos, for messages.

    Raises InputError when no person stands out: each is in one photo only, or two people are in as many photos that
    do not overlap.
    """
    told = [c for c in candidates if c.embedding is not None]
    if not told:
        largest = _largest(candidates)
        return PersonChoice({p: c.face for p, c in largest.items()}, {}, tuple(sorted(largest)))
    group = _biggest_group(told, names)
    mean = np.mean([c.embedding for c in group if c.embedding is not None], axis=0)
    face, stranger, unsure = {}, {}, []
    for photo in sorted({c.photo for c in candidates}):
        here = [c for c in candidates if c.photo == photo]
        own = [c for c in group if c.photo == photo]
        if own:
            face[photo] = min(own, key=lambda c: _distance(c, mean)).face
            continue
        turned = _largest([c for c in here if c.embedding is None])
        if turned:
            face[photo] = turned[photo].face
            unsure.append(photo)
        else:
            stranger[photo] = min(_distance(c, mean) for c in here)
    return PersonChoice(face, stranger, tuple(unsure))


def _biggest_group(told: Sequence[Candidate], names: Sequence[str]) -> list[Candidate]:
    """The faces of the person who is in most photos; of equals who share photos, the one whose faces are larger."""
    groups, left = [], list(told)
    while left:
        group = [left[i] for i in one_person([c.embedding for c in left if c.embedding is not None])]
        groups.append(group)
        left = [c for c in left if c not in group]
    photos = [{c.photo for c in group} for group in groups]
    most = max(len(p) for p in photos)
    best = [i for i, p in enumerate(photos) if len(p) == most]
    if most == 1 and len(groups) > 1 and len({c.photo for c in told}) > 1:
        raise InputError(_mixed(photos, names))
    together = set.intersection(*(photos[i] for i in best))
    if len(best) > 1 and len(together) < most:
        raise InputError(_mixed([photos[i] for i in best], names))
    return max((groups[i] for i in best), key=lambda group: sum(c.size_px for c in group))


def _mixed(photos: Sequence[set[int]], names: Sequence[str]) -> str:
    parts = "; ".join(", ".join(names[p] for p in sorted(group)) for group in photos)
    return (
        f"these are photos of different people, none of whom is in most of them: {parts} (told apart by face "
        "recognition); give photos of one person, or --batch for a head of each"
    )


def _largest(candidates: Sequence[Candidate]) -> dict[int, Candidate]:
    out: dict[int, Candidate] = {}
    for c in candidates:
        if c.photo not in out or c.size_px > out[c.photo].size_px:
            out[c.photo] = c
    return out


def _distance(candidate: Candidate, mean: np.ndarray) -> float:
    return float("inf") if candidate.embedding is None else float(np.linalg.norm(candidate.embedding - mean))


__all__ = ["SAME_PERSON", "TELLING_YAW", "Candidate", "PersonChoice", "choose_person"]
