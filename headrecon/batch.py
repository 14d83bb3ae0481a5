"""Many photos, one after another: what fails is noted and the rest goes on; a killed run picks up where it was.

Each photo is a person of its own. Several photos of one person together are another matter (docs/architecture.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrecon.config import ReconstructConfig, resolve
from headrecon.errors import HeadReconError, InputError

SUMMARY_SCHEMA = "headrecon.batch/1"


@dataclass(frozen=True)
class BatchItem:
    """What became of one photo. status: done, kept (was there already) or failed; error says why it failed."""

    photo: str
    folder: str
    status: str
    seconds: float
    error: str | None = None


def find_photos(inputs: Sequence[str | Path]) -> list[Path]:
    """The photos among files and folders; of a folder, those directly in it (`io.images.find_images`).

    Raises InputError for a path that does not exist and a folder without photos.
    """
    from headrecon.io.images import find_images

    found: list[Path] = []
    for given in map(Path, inputs):
        if given.is_dir():
            found.extend(find_images(given))
        else:
            check_exists(given)
            found.append(given)
    return list(dict.fromkeys(found))


def check_exists(path: Path) -> None:
    """Raise InputError when there is nothing at that path, and name the nearest sibling."""
    if path.exists():
        return
    import difflib

    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"{path}: no such file, and no folder {folder}")
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1)
    raise InputError(f"{path}: no such file" + (f"; did you mean {folder / near[0]}?" if near else ""))


def reconstruct_batch(
    photos: Sequence[str | Path],
    out_dir: str | Path,
    config: ReconstructConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> list[BatchItem]:
    """Reconstruct every photo into a folder of its own under `out_dir`, and write `summary.json` there.

    Results that are there already are kept, so that an interrupted batch can be run again, unless `overwrite`.
    A photo that fails is noted and the others go on. Raises InputError when `out_dir` cannot be written, and what
    loading the model and the networks raises.
    """
    from headrecon.io.runs import write_json
    from headrecon.pipeline import load_engine

    out, report, settings = Path(out_dir), progress or (lambda stage, fraction: None), config or resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    engine = load_engine(settings, lambda stage, fraction: report(stage, 0.0))  # once, for all photos
    names = _folder_names([Path(p) for p in photos])
    items: list[BatchItem] = []
    for index, (photo, name) in enumerate(zip(map(Path, photos), names, strict=True)):

        def part(stage: str, fraction: float, index: int = index, photo: Path = photo) -> None:
            report(f"{index + 1}/{len(names)} {photo.name}: {stage}", (index + fraction) / len(names))

        part("starting", 0.0)
        items.append(_one(photo, out / name, _Job(settings, engine, overwrite, part)))
        write_json(out / "summary.json", _summary(items, len(names)))  # after each, so that a kill loses nothing
    return items


@dataclass(frozen=True)
class _Job:
    config: ReconstructConfig
    engine: Any
    overwrite: bool
    progress: Callable[[str, float], None]


def _one(photo: Path, folder: Path, job: _Job) -> BatchItem:
    from headrecon.io.runs import is_output_folder
    from headrecon.pipeline import reconstruct

    start = time.monotonic()
    if not job.overwrite and folder.is_dir() and is_output_folder(folder):
        return BatchItem(str(photo), folder.name, "kept", 0.0)
    error_text: str | None = None
    try:
        result = reconstruct(photo, job.config, engine=job.engine, progress=job.progress)
        result.save(folder, overwrite=job.overwrite, progress=job.progress)
    except HeadReconError as error:
        error_text = str(error)
    except Exception as error:  # noqa: BLE001 - one strange photo must not end a night's work; the summary names it
        error_text = f"unexpected {type(error).__name__}: {error}"
    status = "done" if error_text is None else "failed"
    return BatchItem(str(photo), folder.name, status, round(time.monotonic() - start, 2), error_text)


def _summary(items: list[BatchItem], total: int) -> dict[str, Any]:
    counts = {status: sum(i.status == status for i in items) for status in ("done", "kept", "failed")}
    return {"schema": SUMMARY_SCHEMA, "photos": total, **counts, "items": [asdict(i) for i in items]}


def _folder_names(photos: Sequence[Path]) -> list[str]:
    """One folder name a photo: its stem; where two share a stem, the suffix and then a number tell them apart."""
    stems = [p.stem for p in photos]
    names: list[str] = []
    for photo in photos:
        name = photo.stem if stems.count(photo.stem) == 1 else photo.name.replace(".", "_")
        candidates: Iterable[str] = (name, *(f"{name}_{n}" for n in range(2, len(photos) + 2)))
        names.append(next(c for c in candidates if c not in names))
    return names
