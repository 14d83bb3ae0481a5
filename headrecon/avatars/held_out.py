"""Avatars judged by frames that they have not learned from: `test/`, `metrics.json`, and where the head is.

Three figures for each frame, because peers differ in what they count (docs/accuracy.md):
frame: all of the picture on white. head: the pixels of head and hair, and a rim of background around them, alone.
head_frame: all of the picture after everything but head and hair was painted white in both pictures.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import maximum_filter

from headrecon.avatars.footage import Footage
from headrecon.avatars.protocol import AvatarPictures, Person, Progress
from headrecon.errors import InputError
from headrecon.evaluation.picture_quality import perceptual_distance, psnr, ssim
from headrecon.geometry import so3
from headrecon.geometry.cameras import project_points
from headrecon.io.images import save_png
from headrecon.io.runs import write_json
from headrecon.io.work_folder import disk_errors
from headrecon.models.moving_head import MovingHead
from headrecon.models.posed_mesh import embed
from headrecon.structures import Cameras, HeadAssets, HeadParams, Track

SCHEMA = "headrecon.avatar-metrics/1"
KINDS = ("frame", "head", "head_frame")
#: Background around head and hair that counts with them, in shares of the picture's side: floaters live there.
_RIM = 0.016
#: The chin's iBUG point, and how far below it the region ends, in metres.
_CHIN, _BELOW_M = 8, 0.012
WHITE = (1.0, 1.0, 1.0)


@runtime_checkable
class Drawable(Protocol):
    """What can be judged: every `Avatar`, and baselines."""

    @property
    def person(self) -> Person: ...

    def render(
        self, params: HeadParams, cameras: Cameras, background_srgb: Float[torch.Tensor, " 3"] | None = None
    ) -> AvatarPictures: ...


def split(footage: Footage, test_fraction: float = 0.15) -> tuple[Int[np.ndarray, " A"], Int[np.ndarray, " B"]]:
    """Rows to learn from and rows to be judged by: the last share of the usable ones is kept back.

    Raises InputError unless both have a frame (a fraction of 0 keeps nothing back).
    """
    if not 0 <= test_fraction < 1:
        raise InputError(f"the share of frames kept for testing must be at least 0 and below 1, found {test_fraction}")
    usable = np.flatnonzero(footage.usable)
    count = round(test_fraction * len(usable)) if test_fraction else 0
    count = max(count, 1) if test_fraction else 0
    if count >= len(usable):
        raise InputError(f"{len(usable)} usable frames cannot be split into training and testing; use a longer video")
    return usable[: len(usable) - count], usable[len(usable) - count :]


class HeadRegion:
    """Where head and hair are in a frame of footage: the person's pixels above a line just below the chin.

    assets: the head model of the footage's track, with its betas or with the person's identity settled.
    The line stands at right angles to the tracked head's own up, so it nods and tilts with the head. A rim of
    background around those pixels belongs to the region.
    """

    def __init__(self, assets: HeadAssets, footage: Footage) -> None:
        params = footage.track.params
        # An avatar's person has no betas: they are settled in its template.
        known = replace(params, betas=np.asarray(params.betas)[:, : assets.num_betas])
        self._head, self._footage = MovingHead.of(assets, replace(footage.track, params=known)), footage

    def above_chin(self, row: int) -> Bool[np.ndarray, "H W"]:
        """Pixels above the line, whatever they show."""
        width, height = self._footage.size
        params = self._head.track.params
        turn = so3.exp(np.asarray(params.global_orient[row])) @ so3.exp(np.asarray(params.neck_pose[row]))
        chin = embed(self._head.vertices(row).astype(np.float64), self._head.assets.landmarks["ibug68"])[_CHIN]
        points = chin + np.outer([-_BELOW_M, _BELOW_M], turn[:, 1])
        (x, y), top = project_points(points, self._head.camera(row))[0]
        up = top - np.array([x, y])
        rows, columns = np.mgrid[:height, :width] + 0.5
        return (columns - x) * up[0] + (rows - y) * up[1] > 0

    def __call__(self, row: int) -> Bool[np.ndarray, "H W"]:
        rim = max(1, round(_RIM * max(self._footage.size)))
        person = maximum_filter(self._footage.alphas[row] > 0, 2 * rim + 1)
        return person & self.above_chin(row)


@dataclass(frozen=True)
class FrameScore:
    """Figures of one frame by kind; lpips only where its network is at hand, and not of `head`."""

    frame: int
    psnr: dict[str, float]
    ssim: dict[str, float]
    lpips: dict[str, float]


def score_frame(
    frame: int,
    image: Float[np.ndarray, "H W 3"],
    reference: Float[np.ndarray, "H W 3"],
    region: Bool[np.ndarray, "H W"],
) -> FrameScore:
    """Compare a picture with the true one, both on white. A head that is out of the picture has only `frame`."""
    pairs: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {"frame": (image, reference, None)}
    if region[8:-8, 8:-8].any():
        kept = region[..., None]
        pairs["head"] = (image, reference, region)
        pairs["head_frame"] = (np.where(kept, image, 1.0), np.where(kept, reference, 1.0), None)
    distance = perceptual_distance()[0]
    lpips = {k: distance(a, b) for k, (a, b, r) in pairs.items() if r is None} if distance is not None else {}
    return FrameScore(frame, {k: psnr(*p) for k, p in pairs.items()}, {k: ssim(*p) for k, p in pairs.items()}, lpips)


def evaluate_held_out(
    avatar: Drawable,
    footage: Footage,
    ids: Int[np.ndarray, " N"],
    out_dir: str | Path,
    progress: Progress | None = None,
    baselines: dict[str, Drawable] | None = None,
) -> dict[str, Any]:
    """Draw frames of footage and write `test/pred_*.png`, `test/gt_*.png` and `metrics.json`; what the latter holds.

    ids: rows of the footage, such as the second of `split`. baselines: others that are drawn and scored too (written
    to `test/<name>_*.png`). One frame in memory at a time; deterministic. `out_dir/test` is replaced.
    Raises InputError without frames or when the disk is full.
    """
    if not len(ids):
        raise InputError("there is no frame to judge the avatar by; keep some back with --test-fraction")
    report = progress or (lambda stage, fraction: None)
    out_dir = Path(out_dir)
    drawn: dict[str, Drawable] = {"pred": avatar, **(baselines or {})}
    region = HeadRegion(avatar.person.assets, footage)
    scores: dict[str, list[FrameScore]] = {name: [] for name in drawn}
    with disk_errors(out_dir):
        shutil.rmtree(out_dir / "test", ignore_errors=True)
        (out_dir / "test").mkdir(parents=True)
        for done, row in enumerate(int(i) for i in ids):
            truth, where = footage.matted(row, WHITE), region(row)
            name = f"{int(footage.track.frames[row]):06d}.png"
            save_png(out_dir / "test" / f"gt_{name}", truth)
            for kind, one in drawn.items():
                picture = drawn_row(one, footage.track, row)
                save_png(out_dir / "test" / f"{kind}_{name}", picture)
                scores[kind].append(score_frame(int(footage.track.frames[row]), picture, truth, where))
            report("drawing held-out frames", (done + 1) / len(ids))
        page = _page(scores, footage)
        write_json(out_dir / "metrics.json", page, digits=6)
    return page


def drawn_row(avatar: Drawable, track: Track, row: int) -> Float[np.ndarray, "H W 3"]:
    """What the avatar looks like in a row of a track, on white, as 8 bits would hold it."""
    cameras = track.cameras
    camera = Cameras(cameras.viewmats[row][None], cameras.Ks[row][None], cameras.width, cameras.height).torch()
    with torch.no_grad():
        found = avatar.render(params_of(track, row, avatar.person.assets), camera, torch.ones(3))
    picture = found.image_srgb[0].clamp(0, 1).cpu().numpy()
    return (np.rint(picture * 255) / 255).astype(np.float32)


def params_of(track: Track, row: int, assets: HeadAssets) -> HeadParams:
    """One row of a track as an avatar takes it: float32 tensors, B = 1, expressions in the order of `assets`."""
    taken = track.take(np.array([row])).params
    names = list(track.expression_names)
    columns = [names.index(n) if n in names else -1 for n in assets.expression_names]
    padded = np.concatenate([np.asarray(taken.expression), np.zeros((1, 1))], axis=1)
    arrays = {f.name: np.asarray(getattr(taken, f.name)) for f in fields(taken)} | {"expression": padded[:, columns]}
    return HeadParams(**{name: torch.from_numpy(np.array(a, dtype=np.float32)) for name, a in arrays.items()})


def _page(scores: dict[str, list[FrameScore]], footage: Footage) -> dict[str, Any]:
    why = perceptual_distance()[1]
    return {
        "schema": SCHEMA,
        "size": list(footage.size),
        "frames": [s.frame for s in scores["pred"]],
        "background_srgb": list(WHITE),
        "ssim": "11 x 11 Gaussian window, sigma 1.5, windows within the picture, mean over channels",
        "lpips": {"network": "alex"} if not why else {"missing": why},
        "mean": {name: means(found) for name, found in scores.items()},
        "per_frame": {
            name: {
                f"{figure}_{kind}": [getattr(s, figure).get(kind) for s in found]
                for figure in ("psnr", "ssim", "lpips")
                for kind in KINDS
                if any(kind in getattr(s, figure) for s in found)
            }
            for name, found in scores.items()
        },
    }


def means(scores: Iterable[FrameScore]) -> dict[str, dict[str, float]]:
    """Means over frames, by figure and kind."""
    scores = list(scores)
    out: dict[str, dict[str, float]] = {}
    for figure in ("psnr", "ssim", "lpips"):
        for kind in KINDS:
            found = [getattr(s, figure)[kind] for s in scores if kind in getattr(s, figure)]
            if found:
                out.setdefault(figure, {})[kind] = float(np.mean(found))
    return out
