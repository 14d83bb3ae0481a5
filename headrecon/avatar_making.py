"""A video, or a track of one, to an avatar: `headrecon.avatar`, and `headrecon avatar VIDEO|TRACK --out DIR`.

video -> track (unless there is one) -> footage -> training -> held-out figures -> the output folder. Everything that
is finished waits beside the output folder, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headrecon.avatars.footage import Footage
from headrecon.avatars.footage_build import FootageOptions, build_footage
from headrecon.avatars.footage_source import open_source
from headrecon.avatars.gaussian.files import write_gaussian_avatar
from headrecon.avatars.gaussian.fit import Fitted, Task, fit_gaussian
from headrecon.avatars.gaussian.lens import relensed_track
from headrecon.avatars.gaussian.settings import GaussianAvatarConfig
from headrecon.avatars.held_out import Drawable, evaluate_held_out, split
from headrecon.avatars.mesh_baseline import fit_mesh
from headrecon.avatars.plan import AvatarPlan, check_room, plan_avatar
from headrecon.avatars.protocol import Progress
from headrecon.config import as_yaml, resolve_kind
from headrecon.errors import HeadReconError, InputError
from headrecon.io.runs import Timings, check_output_folder, output_folder, versions, write_json, write_text
from headrecon.io.tracks import read_track, write_track
from headrecon.io.work_folder import WorkFolder, disk_errors, fingerprint, work_folder
from headrecon.saved_head import load_saved_head, person_of
from headrecon.tracking.run import track as track_video
from headrecon.tracking.settings import TrackConfig

SCHEMA = "headrecon.avatar-run/1"
_BEGUN = "begun"
#: Share of the work when a stage begins: tracking, footage, training, judging.
_FOOTAGE, _TRAIN, _JUDGE = 0.1, 0.2, 0.95
#: Files of the track that go with the avatar: the mesh to compare with, and what describes it.
_HEAD_FILES = ("head.glb", "track.json")


@dataclass(frozen=True)
class AvatarRun:
    """What a run made: its folder, the plan it followed, the fit, and the figures (None without held-out frames)."""

    out: Path
    plan: AvatarPlan
    fitted: Fitted
    metrics: dict[str, Any] | None


def avatar(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    config: GaussianAvatarConfig | None = None,
    *,
    video: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> AvatarRun:
    """Learn an avatar and write its folder (docs/formats.md).

    source: a video, or the folder that `headrecon track` made of one; video: that video, where it lies elsewhere.
    config: all settings; settings: single ones by key with "__" for ".", such as `train__iterations=2000`.
    A run that is stopped goes on where it was when it is started again with the same arguments, and ends in the same
    avatar. Raises InputError, NoFaceFound, AssetError or NetworkUnavailable, each saying what to do.
    """
    if config is not None and settings:
        raise InputError("avatar takes either a config or single settings, found both; put them into the config")
    config = config or resolve_kind(
        GaussianAvatarConfig, overrides={k.replace("__", "."): v for k, v in settings.items()}
    )
    report = progress or (lambda stage, fraction: None)
    source, out_dir = Path(source), Path(out_dir)
    check_output_folder(out_dir, overwrite)
    device = pick_device(config.device)
    timings = Timings()
    with work_folder(out_dir, _job(source, video, config)) as work, _kept(work):
        with timings.stage("track"):
            folder, clip = _tracked(source, video, work, config, report)
        with timings.stage("footage"):
            footage = build_footage(
                open_source(folder, clip), work.path / "footage",
                FootageOptions(size=config.footage.size, least_confidence=config.footage.least_confidence),
                _part(report, _FOOTAGE, _TRAIN),
            )  # fmt: skip
        plan = plan_avatar(footage, config.train.gaussians, config.train.iterations, device)
        check_room(plan)
        report(plan.sentence(), _TRAIN)
        fitted = _fit(footage, folder, work, config, device, timings, report)
        metrics = _write(out_dir, (folder, plan), fitted, config, timings, overwrite, report)
        shutil.rmtree(work.path, ignore_errors=True)
    return AvatarRun(out_dir, plan, fitted, metrics)


@contextmanager
def _kept(work: WorkFolder) -> Iterator[None]:
    """Keep what is finished for the next run, also of the stages that work in folders of their own in this one; of an
    input that cannot be used nothing is."""
    work.save(_BEGUN, {_BEGUN: np.array(1)})
    try:
        yield
    except HeadReconError:
        if all(p.stem == _BEGUN for p in work.path.rglob("*.npz")):
            work.remove()
        raise


def pick_device(wanted: str) -> str:
    """The device of that name; "auto" takes a GPU when there is one that torch and the kernels can use."""
    import torch

    if wanted == "auto":
        from headrecon.ops import _native

        return "cuda" if torch.cuda.is_available() and _native.describe()["cuda_archs"] else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no NVIDIA GPU here; use --device cpu")
    return wanted


def _job(source: Path, video: Any, config: GaussianAvatarConfig) -> dict[str, Any]:
    """What makes two runs the same: the files, the settings, and the program."""
    if not source.exists():
        raise InputError(f"{source} does not exist; expected a video, or a folder that `headrecon track` wrote")
    known = source / "track.npz" if source.is_dir() else source
    files = [path for path in (known, None if video is None else Path(video)) if path is not None and path.is_file()]
    found = versions()
    return {
        "source": str(source.resolve()),
        "video": None if video is None else str(Path(video).resolve()),
        "files": [fingerprint(path) for path in files],
        "config": asdict(config),
        "versions": {k: found[k] for k in ("headrecon", "numpy", "torch") if k in found},
    }


def _tracked(
    source: Path, video: Any, work: WorkFolder, config: GaussianAvatarConfig, report: Progress
) -> tuple[Path, Path | None]:
    """The track's folder and its video; a video without a track is tracked into the working folder."""
    if source.is_dir():
        return source, None if video is None else Path(video)
    if video is not None:
        raise InputError(f"--video goes with a track's folder, found {source}, which is a file; leave --video out")
    folder = work.path / "track"
    if not (folder / "track.json").is_file():
        settings = resolve_kind(TrackConfig, config.track_preset, overrides={"output.overlay": False})
        track_video(source, folder, settings, progress=_part(report, 0.0, _FOOTAGE))
    return folder, source


def _fit(
    footage: Footage,
    folder: Path,
    work: WorkFolder,
    config: GaussianAvatarConfig,
    device: str,
    timings: Timings,
    report: Progress,
) -> Fitted:
    head = load_saved_head(folder)
    train, test = split(footage, config.footage.test_fraction)
    with disk_errors(work.path), timings.stage("training"):
        task = Task(footage, person_of(head), train, test, head.texture, work.path, focal_known(folder))
        return fit_gaussian(task, config, device, _part(report, _TRAIN, _JUDGE))


def focal_known(folder: Path) -> bool:
    """Whether the track was told its focal length (`--focal-px`), as its page says."""
    try:
        page = json.loads((folder / "track.json").read_text(encoding="utf-8"))
        return page["config"]["knowledge"]["focal_px"] is not None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _write(
    out_dir: Path,
    made_from: tuple[Path, AvatarPlan],
    fitted: Fitted,
    config: GaussianAvatarConfig,
    timings: Timings,
    overwrite: bool,
    report: Progress,
) -> dict[str, Any] | None:
    folder, plan = made_from
    metrics = None
    with disk_errors(out_dir.parent), output_folder(out_dir, overwrite) as staging:
        write_gaussian_avatar(staging, fitted.avatar)
        if len(fitted.test):
            with timings.stage("judging"):
                metrics = _judge(fitted, staging, _part(report, _JUDGE, 1.0))
        whole = relensed_track(read_track(folder / "track.npz"), np.zeros(3), fitted.lens).cameras
        write_track(staging / "track.npz", replace(fitted.track, cameras=whole))
        for name in _HEAD_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, staging / name)
        write_text(staging / "config.yaml", as_yaml(config))
        run = {
            "schema": SCHEMA,
            "plan": plan.sentence(),
            "frames": {"learned": len(fitted.train), "held_out": len(fitted.test), "all": len(fitted.track)},
            "lens_factor": fitted.lens,
            "losses": [float(x) for x in fitted.losses],
            "timings_s": timings.as_dict(),
            "metrics": None if metrics is None else metrics["mean"],
        }
        write_json(staging / "run.json", run)
    return metrics


def _judge(fitted: Fitted, staging: Path, report: Progress) -> dict[str, Any]:
    """Figures of held-out frames with the aligned track, as peers have them, and with the track as it came.

    A textured mesh driven by the same tracks is judged beside the avatar.
    """
    footage = fitted.footage
    aligned = replace(footage, track=fitted.track)
    beside: dict[str, Drawable] = {
        "mesh": fit_mesh(aligned, fitted.train, fitted.avatar.person, progress=_part(report, 0.0, 0.2))
    }
    as_tracked = evaluate_held_out(fitted.avatar, footage, fitted.test, staging, _part(report, 0.2, 0.6), beside)
    found = evaluate_held_out(fitted.avatar, aligned, fitted.test, staging, _part(report, 0.6, 1.0), beside)
    found["mean"] |= {f"{name}_as_tracked": means for name, means in as_tracked["mean"].items()}
    found["track"] = "aligned to the held-out pictures with the avatar held still; pred_as_tracked: as it came"
    write_json(staging / "metrics.json", found, digits=6)
    return found


def _part(report: Progress, low: float, high: float) -> Progress:
    return lambda stage, fraction: report(stage, low + (high - low) * fraction)
