"""A finished avatar judged by footage: `headrecon eval avatar`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headrecon.avatars.files import load_avatar
from headrecon.avatars.footage_build import FootageOptions, build_footage
from headrecon.avatars.footage_source import open_source
from headrecon.avatars.held_out import Drawable, evaluate_held_out, split
from headrecon.avatars.mesh_baseline import fit_mesh
from headrecon.avatars.protocol import Progress
from headrecon.errors import InputError
from headrecon.io.runs import check_output_folder, output_folder
from headrecon.io.work_folder import disk_errors, work_folder

#: Share of the work at which drawing begins.
_DRAW = 0.5


def score_avatar(
    avatar_dir: str | Path,
    track_dir: str | Path,
    out_dir: str | Path,
    video: str | Path | None = None,
    options: FootageOptions | None = None,
    test_fraction: float = 1.0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw an avatar as a track moves and compare it with the track's video; what `metrics.json` holds.

    track_dir, video: as `open_source` takes them; the track is used as it is. test_fraction: share of its usable
    frames, from the end, that is drawn; below 1 a textured mesh is fused from those before them and judged too.
    `out_dir` appears whole or not at all. Raises InputError or AssetError.
    """
    report = progress or (lambda stage, fraction: None)
    check_output_folder(out_dir, overwrite)
    if not 0 < test_fraction <= 1:
        raise InputError(f"the share of frames to judge by must be above 0 and at most 1, found {test_fraction}")
    avatar = load_avatar(avatar_dir)
    source = open_source(track_dir, video)
    if source.track.model != avatar.person.assets.name:
        raise InputError(
            f"{track_dir} is a track of the head model {source.track.model!r}, the avatar is made for "
            f"{avatar.person.assets.name!r}; track the video with --model {avatar.person.assets.name}"
        )
    job = {"footage": source.identity(), "avatar": str(Path(avatar_dir).resolve())}
    with work_folder(out_dir, job) as work:
        work.save("begun", {"begun": np.array(1)})
        footage = build_footage(
            source, work.path / "footage", options, lambda stage, fraction: report(stage, _DRAW * fraction)
        )
        beside: dict[str, Drawable] = {}
        if test_fraction < 1:
            train, test = split(footage, test_fraction)
            beside["mesh"] = fit_mesh(footage, train, avatar.person)
        else:
            test = np.flatnonzero(footage.usable)
        with disk_errors(Path(out_dir).parent), output_folder(out_dir, overwrite) as staging:
            page = evaluate_held_out(
                avatar, footage, test, staging, lambda stage, f: report(stage, _DRAW + (1 - _DRAW) * f), beside
            )
        work.remove()
    return page
