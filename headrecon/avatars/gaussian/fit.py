"""Footage in, avatar out: training with previews, checkpoints, and an aligned track. `fit_gaussian` is the way in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from headrecon.avatars.footage import Footage
from headrecon.avatars.gaussian.alignment import align
from headrecon.avatars.gaussian.build import begin
from headrecon.avatars.gaussian.lens import choose_lens, relensed
from headrecon.avatars.gaussian.model import GaussianAvatar
from headrecon.avatars.gaussian.settings import GaussianAvatarConfig
from headrecon.avatars.gaussian.training import Learner
from headrecon.avatars.protocol import Person, Progress
from headrecon.io.images import save_png
from headrecon.io.npz import read_npz, write_npz
from headrecon.io.tensor_files import read_tensors, write_tensors
from headrecon.io.work_folder import disk_errors
from headrecon.structures import HeadParams, Track

_CHECKPOINT, _PREVIEW, _CHOSEN = "checkpoint.safetensors", "preview.png", "lens.npz"
#: Share of the work that choosing the focal length takes, and after which held-out frames are aligned.
_LENS, _ALIGN = 0.08, 0.9
#: Frames in the preview.
_PREVIEWS = 4


@dataclass(frozen=True)
class Fitted:
    """avatar: what was learned. lens: factor on the focal length of the track that came, as `footage` has it. track:
    the footage's, with what training and alignment corrected in it; frames that
    were neither learned from nor held out are as they were. losses: mean over each hundredth of the run."""

    avatar: GaussianAvatar
    footage: Footage
    track: Track
    lens: float
    losses: Float[np.ndarray, " L"]
    train: Int[np.ndarray, " M"]
    test: Int[np.ndarray, " K"]


@dataclass(frozen=True)
class Task:
    """What to learn from and what to keep for judging (rows of the footage); texture: colours in the head's UVs for
    what the footage does not show. folder: where checkpoints and previews are kept; None: nowhere. focal_known: the
    track's focal length is not to be doubted."""

    footage: Footage
    person: Person
    train: Int[np.ndarray, " M"]
    test: Int[np.ndarray, " K"]
    texture_srgb: UInt8[np.ndarray, "S S 3"] | None = None
    folder: Path | None = None
    focal_known: bool = False


def fit_gaussian(
    task: Task, config: GaussianAvatarConfig, device: str = "cpu", progress: Progress | None = None
) -> Fitted:
    """Learn an avatar. Goes on from a checkpoint in `task.folder`, and then ends in the same avatar.

    O(iterations x (pixels + Gaussians)); memory: `avatars.plan`. Raises InputError when the disk is full.
    """
    report = progress or (lambda stage, fraction: None)
    lens = _lens(task, config, device, report)
    footage = relensed(task.footage, task.person, lens)
    report("placing Gaussians", _LENS)
    begun = begin(footage, task.person, task.train, config, device, task.texture_srgb)
    learner = begun.learner
    losses = _Losses(config.train.iterations)
    _take_up(learner, losses, task.folder)
    total = config.train.iterations

    def told(step: int, loss: float) -> None:
        losses.add(step, loss)
        if step % 10 == 0 or step == total:
            report(
                f"learning: {len(learner.rig)} Gaussians, difference {losses.recent():.4f}",
                _LENS + (_ALIGN - _LENS) * step / total,
            )
        if task.folder is not None:
            if step % config.train.checkpoint_every == 0 or step == total:
                with disk_errors(task.folder):
                    _keep(learner, losses, task.folder)
            if config.train.preview_every and step % config.train.preview_every == 0:
                save_preview(task.folder / _PREVIEW, learner, task.train)

    learner.run(total, told)
    track = _refined(footage.track, learner.nuisances.refined(), task.train)
    if len(task.test) and config.train.refine_track:
        aligned = align(
            learner.painter(), learner.nuisances.params, task.test,
            lambda share: report("aligning held-out frames", _ALIGN + (1 - _ALIGN) * share),
        )  # fmt: skip
        track = _refined(track, aligned.refined(), task.test)
    avatar = learner.avatar(begun.avatar)
    return Fitted(avatar, footage, track, lens, losses.all(), task.train, task.test)


def _lens(task: Task, config: GaussianAvatarConfig, device: str, report: Progress) -> float:
    """The factor on the focal length; what an earlier run chose counts."""
    if task.focal_known or not config.train.choose_lens:
        return 1.0
    kept = None if task.folder is None else task.folder / _CHOSEN
    if kept is not None and kept.is_file():
        return float(read_npz(kept)["factor"])
    report("choosing the focal length", 0.0)
    found = choose_lens(
        task.footage, task.person, task.train, config, device,
        lambda share: report("choosing the focal length", _LENS * share),
    )  # fmt: skip
    if kept is not None:
        with disk_errors(kept.parent):
            write_npz(kept, {"factor": np.array(found)})
    return found


def _refined(track: Track, params: HeadParams, ids: Int[np.ndarray, " M"]) -> Track:
    """The track with these rows of pose, expression and gaze."""
    found = params.numpy()
    changed = {}
    for name in ("expression", "global_orient", "transl", "leye_pose", "reye_pose"):
        values = np.array(getattr(track.params, name))
        values[ids] = getattr(found, name)[ids]
        changed[name] = values
    return replace(track, params=replace(track.params, **changed))


class _Losses:
    """Means over the run, and of the latest steps."""

    def __init__(self, total: int) -> None:
        self._sums, self._counts = np.zeros(100), np.zeros(100)
        self._total, self._recent = total, 0.0

    def add(self, step: int, loss: float) -> None:
        place = min(99, (step - 1) * 100 // self._total)
        self._sums[place] += loss
        self._counts[place] += 1
        self._recent = loss if not self._recent else 0.98 * self._recent + 0.02 * loss

    def recent(self) -> float:
        return self._recent

    def arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint."""
        return {"losses.sums": self._sums, "losses.counts": self._counts}

    def take_up(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on where `arrays` was taken."""
        self._sums, self._counts = arrays["losses.sums"].copy(), arrays["losses.counts"].copy()

    def all(self) -> np.ndarray:
        done = self._counts > 0
        return self._sums[done] / self._counts[done]


def _keep(learner: Learner, losses: _Losses, folder: Path) -> None:
    arrays = {k: t.cpu().numpy() for k, t in learner.state().items()} | losses.arrays()
    half = folder / f".{_CHECKPOINT}.partial-new"
    write_tensors(half, arrays)
    half.replace(folder / _CHECKPOINT)


def _take_up(learner: Learner, losses: _Losses, folder: Path | None) -> None:
    """Go on from the checkpoint, if there is one."""
    if folder is None or not (folder / _CHECKPOINT).is_file():
        return
    arrays = read_tensors(folder / _CHECKPOINT)
    losses.take_up(arrays)
    learner.restore({k: torch.from_numpy(np.array(a)) for k, a in arrays.items() if not k.startswith("losses.")})


@torch.no_grad()
def save_preview(path: Path, learner: Learner, train: Int[np.ndarray, " M"]) -> None:
    """Some frames above what the avatar makes of them."""
    columns: list[np.ndarray] = []
    painter: Callable = learner.painter().draw
    for index in train[np.linspace(0, len(train) - 1, min(_PREVIEWS, len(train))).astype(int)]:
        target, camera = learner.scene.picture(int(index), (1.0, 1.0, 1.0), half=False)
        state = learner.nuisances.state(int(index), learner.nuisances.leaves(int(index)))
        image, _ = painter(state, camera, torch.ones(3, device=target.device))
        columns.append(torch.cat([target, image.clamp(0, 1)]).cpu().numpy())
    with disk_errors(path.parent):
        save_png(path, np.concatenate(columns, 1))
