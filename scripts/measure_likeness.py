"""Whether a face recognition network takes the reconstructed head for the person: the table of docs/accuracy.md.

    python scripts/measure_likeness.py PHOTO... [--preset default]

Each photo becomes a head, whose neutral face is drawn from the front and from three quarters, and whose posed face is
drawn over the photo. Each drawing is compared with the photo (1) and with the photos of the others (2) by
`perception.face_identity`: distances below 0.6 are one person's. Photos whose names start alike, digits aside, are one
person's. The network takes part in the fit of the shape (`perception.face_refiner`), so this judges the whole head,
colour and all, and not the shape.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from headrecon.config import resolve
from headrecon.outputs import scene_of
from headrecon.perception.face_identity import FaceIdentity, load_face_identity, same_person
from headrecon.perception.faces import observe_faces
from headrecon.perception.networks import Networks
from headrecon.pipeline import load_engine, reconstruct
from headrecon.report.contact_sheet import TITLES, contact_pictures

DRAWN = {"head over the photo": "over the photo", "front": "neutral, front", "three-quarter": "neutral, three-quarter"}


def person(path: Path) -> str:
    """Files of one folder named by numbers alone are one person's, else the name without its digits says whose."""
    return path.stem.rstrip("0123456789") or path.parent.name


def embedded(picture: np.ndarray, networks: Networks, identity: FaceIdentity) -> np.ndarray | None:
    found = observe_faces(np.ascontiguousarray(picture), networks, max_faces=1)
    return identity.embed(picture, found[0]) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--preset", default="default")
    args = parser.parse_args()
    assert set(DRAWN) <= set(TITLES)
    config, identity = resolve(args.preset), load_face_identity()
    engine = load_engine(config)
    photos: dict[Path, np.ndarray] = {}
    drawn: dict[Path, dict[str, np.ndarray | None]] = {}
    for path in args.photos:
        result = reconstruct(path, config, engine=engine)
        scene = scene_of(result)
        photos[path] = identity.embed(scene.photo, result.photos[0].sitting.observation)
        pictures = contact_pictures(scene, 512)
        drawn[path] = {title: embedded(pictures[title], engine.networks, identity) for title in DRAWN}
    print(f"| photo | {' | '.join(DRAWN.values())} | nearest stranger to the drawings |")
    print("|---" * (len(DRAWN) + 2) + "|")
    for path, pictures in drawn.items():
        known = [vector for vector in pictures.values() if vector is not None]
        strangers = [same_person(v, other) for v in known for p, other in photos.items() if person(p) != person(path)]
        own = [
            "no face" if vector is None else f"{same_person(vector, photos[path]):.2f}" for vector in pictures.values()
        ]
        print(f"| {path.stem} | {' | '.join(own)} | {min(strangers, default=float('nan')):.2f} |", flush=True)


if __name__ == "__main__":
    main()
