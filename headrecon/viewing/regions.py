"""Which sliders stand together: expressions by the part of the face that they move."""

from __future__ import annotations

from collections.abc import Sequence

#: Title of a group and how the names in it begin; what fits nowhere comes last.
_GROUPS = (
    ("Eyes", ("eye",)),
    ("Brows", ("brow",)),
    ("Jaw", ("jaw",)),
    ("Mouth", ("mouth",)),
    ("Cheeks and nose", ("cheek", "nose")),
    ("Tongue", ("tongue",)),
)
OTHER = "Other"


def grouped(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Expression names by group, in the order in which sliders are shown; groups without names are left out."""
    found: dict[str, list[str]] = {title: [] for title, _ in _GROUPS} | {OTHER: []}
    for name in names:
        title = next((t for t, starts in _GROUPS if name.lower().startswith(starts)), OTHER)
        found[title].append(name)
    return {title: tuple(members) for title, members in found.items() if members}


def matches(name: str, wanted: str) -> bool:
    """Whether a name has all the words that are looked for, in any order, whatever their case."""
    return all(word in name.lower() for word in wanted.lower().split())
