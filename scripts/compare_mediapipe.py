"""How well headrecon.perception agrees with the mediapipe package 0.10.21, and how well both agree with themselves.

Three steps, because mediapipe needs numpy<2 and therefore an environment of its own:

    python scripts/compare_mediapipe.py prepare WORK PHOTO...   # writes photos and turned, scaled copies of them
    (python -m venv E && E/bin/pip install "numpy<2" mediapipe==0.10.21 pillow)
    E/bin/python scripts/compare_mediapipe.py reference WORK    # what mediapipe says of each
    python scripts/compare_mediapipe.py compare WORK            # the tables of docs/accuracy.md
    python scripts/compare_mediapipe.py small WORK              # the same photos reduced
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

COPIES = 8
MAX_TURN_RAD, SCALES, MAX_SHIFT_PX = 0.2, (0.7, 1.2), 3.0
RIGHT_IRIS, LEFT_IRIS = 468, 473


def prepare(work: Path, photos: list[Path]) -> None:
    """Each photo and COPIES of it under random similarity transforms; `index.json` holds the affine back."""
    from skimage.data import astronaut

    from headrecon.io.images import load_image

    work.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    named = {"astronaut": astronaut(), **{f"{p.parent.name}/{p.stem}": load_image(p).image_srgb for p in photos}}
    index = []
    for number, (name, image) in enumerate(named.items()):
        for copy in range(COPIES + 1):
            file = f"{number:02d}_{copy}.png"
            turned, affine = (image, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]) if copy == 0 else _similar(image, rng)
            Image.fromarray(turned).save(work / file, compress_level=1)
            index.append({"photo": name, "copy": copy, "file": file, "affine": affine})
    (work / "index.json").write_text(json.dumps(index, indent=1))


def _similar(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """The image turned, scaled and shifted, and the affine from the copy's pixels back to the image's."""
    height, width = image.shape[:2]
    angle, scale = rng.uniform(-MAX_TURN_RAD, MAX_TURN_RAD), rng.uniform(*SCALES)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    size = (round(width * scale), round(height * scale))
    dx, dy = rng.uniform(-MAX_SHIFT_PX, MAX_SHIFT_PX, 2)
    left = width / 2 - (cos * size[0] / 2 - sin * size[1] / 2) + dx
    top = height / 2 - (sin * size[0] / 2 + cos * size[1] / 2) + dy
    affine = [cos, -sin, float(left), sin, cos, float(top)]
    turned = Image.fromarray(image).transform(
        size, Image.Transform.AFFINE, tuple(affine), Image.Resampling.BICUBIC, fillcolor=(127, 127, 127)
    )
    return np.asarray(turned), affine


def reference(work: Path) -> None:
    """What mediapipe finds; runs in mediapipe's own environment and needs nothing of headrecon."""
    import mediapipe as mp  # pyright: ignore[reportMissingImports] - has an environment of its own

    solutions = mp.solutions
    index = json.loads((work / "index.json").read_text())
    mesh = solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=1)
    detectors = [solutions.face_detection.FaceDetection(model_selection=k) for k in (0, 1)]
    person = solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
    for entry in index:
        image = np.asarray(Image.open(work / entry["file"]).convert("RGB"))
        size = np.array([image.shape[1], image.shape[0]], float)
        found = mesh.process(image).multi_face_landmarks
        points = [[p.x, p.y, p.z] for p in found[0].landmark] if found else np.full((478, 3), np.nan)
        near, far = (_detection(detector.process(image).detections, size) for detector in detectors)
        mask = person.process(image).segmentation_mask if entry["copy"] == 0 else np.zeros((0, 0))
        points = np.array(points) * [*size, size[0]]
        np.savez(work / f"{entry['file']}.npz", points=points, near=near, far=far, mask=mask)


def _detection(detections, size: np.ndarray) -> np.ndarray:
    """Two corners of the box and six key points of the best detection, in pixels."""
    if not detections:
        return np.full((8, 2), np.nan)
    found = detections[0]
    box, points = found.location_data.relative_bounding_box, found.location_data.relative_keypoints
    corners = [(box.xmin, box.ymin), (box.xmin + box.width, box.ymin + box.height)]
    return np.array([*corners, *((p.x, p.y) for p in points)]) * size


def compare(work: Path) -> None:
    """Print the tables."""
    from headrecon.perception.face_detection import FULL_RANGE, SHORT_RANGE, run_detector
    from headrecon.perception.face_landmarks import read_region, roi_from_detection
    from headrecon.perception.faces import observe_faces
    from headrecon.perception.networks import load_networks
    from headrecon.perception.person_mask import person_mask
    from headrecon.structures import FaceDetection

    networks = load_networks()
    rows: dict[str, list[float]] = {}
    repeats: dict[tuple[str, str], list[np.ndarray]] = {}
    for entry in json.loads((work / "index.json").read_text()):
        image = np.asarray(Image.open(work / entry["file"]))
        said = np.load(work / f"{entry['file']}.npz")
        theirs = said["points"]
        eye_distance = float(np.linalg.norm(theirs[RIGHT_IRIS] - theirs[LEFT_IRIS]))

        def note(what: str, error_px: np.ndarray, distance: float = eye_distance) -> None:
            rows.setdefault(f"{what}: px, mean", []).append(float(error_px.mean()))
            rows.setdefault(f"{what}: px, greatest", []).append(float(error_px.max()))
            rows.setdefault(f"{what}: % of eye distance, mean", []).append(float(100 * error_px.mean() / distance))

        near = FaceDetection(said["near"][:2].reshape(4), said["near"][2:], 1.0)
        roi = roi_from_detection(near)
        points, _ = networks.face_mesh(_their_crop(image, roi, networks.face_mesh.input_size))
        note("same region, same sampling", _distance(roi.to_image(points), theirs))
        note("same region, our sampling", _distance(read_region(image, roi, networks.mesh).points, theirs))
        (ours, *_) = observe_faces(image, networks)
        note("whole pipeline", _distance(ours.landmarks, theirs))
        for name, network, layout in (
            ("near", networks.face_short_range, SHORT_RANGE),
            ("far", networks.face_full_range, FULL_RANGE),
        ):
            found = run_detector(image, network, layout)
            if found and np.isfinite(said[name]).all():
                eyes = np.linalg.norm(found[0].keypoints[:2] - said[name][2:4], axis=1)
                note(f"detection, {name}: eyes", eyes)
        if entry["copy"] == 0:
            mask, their_mask = person_mask(image, networks, ours) > 0.5, said["mask"] > 0.5
            rows.setdefault("person mask: intersection over union", []).append(
                float((mask & their_mask).sum() / (mask | their_mask).sum())
            )
            rows.setdefault("photos", []).append(1.0)
        else:
            for who, found_points in (("mediapipe", theirs), ("headrecon", ours.landmarks)):
                repeats.setdefault((entry["photo"], who), []).append(_back(found_points[:, :2], entry["affine"]))
    print(f"{len(rows.pop('photos'))} photos, {COPIES} copies of each\n\n| | mean | greatest |\n|---|---|---|")
    for what, values in rows.items():
        print(f"| {what} | {np.mean(values):.3f} | {np.max(values):.3f} |")
    _print_repeatability(repeats)


def _print_repeatability(repeats: dict[tuple[str, str], list[np.ndarray]]) -> None:
    print("\n| spread over the copies, % of eye distance | mediapipe | headrecon |\n|---|---|---|")
    table: dict[str, dict[str, list[float]]] = {}
    for (_, who), copies in repeats.items():
        stack = np.array(copies)
        distance = np.linalg.norm(stack[:, RIGHT_IRIS] - stack[:, LEFT_IRIS], axis=1)
        spread = 100 * np.sqrt(stack.var(axis=0).sum(axis=1)) / distance.mean()
        widths = [np.linalg.norm(stack[:, k + 1] - stack[:, k + 3], axis=1) for k in (RIGHT_IRIS, LEFT_IRIS)]
        width = np.mean(widths, axis=0)
        for what, value in (
            ("mesh points", spread[:468].mean()),
            ("iris centres", spread[[RIGHT_IRIS, LEFT_IRIS]].mean()),
            ("distance of the irises", 100 * distance.std() / distance.mean()),
            ("diameter of the irises (% of itself)", 100 * width.std() / width.mean()),
        ):
            table.setdefault(what, {}).setdefault(who, []).append(float(value))
    for what, by in table.items():
        print(f"| {what} | {np.mean(by['mediapipe']):.2f} | {np.mean(by['headrecon']):.2f} |")


def small(work: Path) -> None:
    """Photos reduced to a given eye distance, against the same photo in full."""
    from headrecon.perception.faces import eye_distance_px, observe_faces
    from headrecon.perception.networks import load_networks

    networks = load_networks()
    errors: dict[int, list[float]] = {}
    missed: dict[int, int] = {}
    for entry in json.loads((work / "index.json").read_text()):
        if entry["copy"]:
            continue
        image = Image.open(work / entry["file"])
        (full, *_) = observe_faces(np.asarray(image), networks)
        distance = eye_distance_px(full)
        for target in (60, 40, 28, 20, 14, 10):
            size = (round(image.width * target / distance), round(image.height * target / distance))
            if size[0] > image.width:
                continue
            found = observe_faces(np.asarray(image.resize(size, Image.Resampling.BOX)), networks)
            if not found:
                missed[target] = missed.get(target, 0) + 1
                continue
            enlarged = found[0].landmarks[:, :2] * (np.array(image.size) / size)
            errors.setdefault(target, []).append(float(100 * _distance(enlarged, full.landmarks).mean() / distance))
    print("| px between the pupils | points, % of that distance: mean | worst photo | not found |\n|---|---|---|---|")
    for target, values in sorted(errors.items(), reverse=True):
        print(f"| {target} | {np.mean(values):.2f} | {np.max(values):.2f} | {missed.get(target, 0)} |")


def _distance(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(ours[:, :2] - theirs[:, :2], axis=1)


def _back(points: np.ndarray, affine: list[float]) -> np.ndarray:
    a = np.array(affine).reshape(2, 3)
    return points @ a[:, :2].T + a[:, 2]


def _their_crop(image: np.ndarray, roi, size: int) -> np.ndarray:
    """The crop as mediapipe's CPU path makes it: bilinear, not averaged, pixel corners taken for their centres."""
    from scipy.ndimage import map_coordinates

    at = np.arange(size) / size
    grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    x, y = roi.to_image(grid).T
    channels = [map_coordinates(image[..., k].astype(np.float32), [y, x], order=1, mode="nearest") for k in range(3)]
    return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8).reshape(size, size, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "reference", "compare", "small"))
    parser.add_argument("work", type=Path)
    parser.add_argument("photos", type=Path, nargs="*")
    given = parser.parse_args()
    if given.step == "prepare":
        prepare(given.work, given.photos)
    else:
        {"reference": reference, "compare": compare, "small": small}[given.step](given.work)


if __name__ == "__main__":
    main()
