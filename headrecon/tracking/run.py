"""A video to a track: the stages in their order. `headrecon.track` is this module's.

open -> follow the face -> choose segment and keyframes -> identity, focal length, scale -> skin -> every frame ->
smooth ->
`TrackResult`, whose `save` writes the output folder (`tracking.outputs`). What a killed run has finished is used again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headrecon.config import ReconstructConfig, as_dict, resolve_kind
from headrecon.errors import InputError, NoFaceFound
from headrecon.fitting.video.frame_fit import FrameFitter
from headrecon.fitting.video.identity import ClipIdentity
from headrecon.fitting.video.smoothing import frame_noise, smooth, smooth_turns
from headrecon.io.runs import Timings, remove_half_written, versions
from headrecon.io.video_reader import VideoInfo, VideoReader
from headrecon.io.work_folder import WorkFolder, fingerprint, work_folder
from headrecon.perception.face_following import Follower
from headrecon.perception.face_landmarks import LOOKS, Look
from headrecon.pipeline import load_engine
from headrecon.stages import Engine
from headrecon.structures import POSE_FIELDS, Cameras, FaceObservation, HeadParams, Licence, Track
from headrecon.tracking.eta import frame_progress
from headrecon.tracking.frames import FittedFrames, fit_all
from headrecon.tracking.person import FoundPerson, PersonFinder
from headrecon.tracking.seen import look_at_all, seen_chunks
from headrecon.tracking.segments import ClipFeatures, Segment, choose_segment
from headrecon.tracking.settings import TrackConfig
from headrecon.tracking.turned import TurnedHeads

if TYPE_CHECKING:
    from headrecon.tracking.skin import SkinPass

Progress = Callable[[str, float], None]
#: A head that turns further than this somewhere (radians) is smoothed as one that may turn round.
_FAR_ROUND = 1.8
#: Share of the work when a stage begins, for progress: looking, identity, skin, frames, turned, smoothing, writing.
_LOOK, _IDENTITY, _SKIN, _FRAMES, _TURNED, _SMOOTH, _WRITE = 0.02, 0.25, 0.3, 0.33, 0.56, 0.62, 0.64
#: Noise from frame to frame as a share of what a frame leaves open, at most: on videos of three people 0.02 to 0.06 of
#: weights and gaze; of the pose, which the points' common tremor moves, more.
_NOISE_SHARE = 0.06
_NOISE_SHARES = {"global_orient": 0.35, "placement": 0.6}


@dataclass(frozen=True)
class TrackResult:
    """A person followed through a video, and everything that led to it.

    track: the result. identity: what the keyframes gave. keyframes: index in the video and picture of each. errors:
    distance of the visible points per frame as a share of the eye distance (NaN: nobody seen). segments: the clip's
    shots, of which `segment` was tracked.
    """

    config: TrackConfig
    video: VideoInfo
    track: Track
    identity: ClipIdentity
    keyframes: tuple[tuple[int, FaceObservation], ...]
    engine: Engine
    errors: Float[np.ndarray, " T"]
    raw: FittedFrames
    segments: tuple[Segment, ...]
    segment: Segment
    licences: tuple[Licence, ...]
    warnings: tuple[str, ...] = ()
    timings: Timings = field(default_factory=Timings)


def track(
    video: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    config: TrackConfig | None = None,
    *,
    engine: Engine | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Track:
    """Follow a person through a video and write the output folder (docs/formats.md).

    config: all settings (`headrecon.config.resolve_kind` makes one from a preset); settings: single ones by key with
    "__" for ".", such as `motion__smooth=0.0`. engine: a loaded model and networks to use again. progress: called with
    the stage and the share done. Memory does not grow with the video's length beyond some hundred bytes a frame.
    A run that is stopped goes on where it was when it is started again with the same video, folder and settings.
    Raises InputError, NoFaceFound, AssetError or NetworkUnavailable, each saying what to do.
    """
    from headrecon.io.runs import check_output_folder
    from headrecon.tracking.outputs import write_outputs

    if config is not None and settings:
        raise InputError("track takes either a config or single settings, found both; put them into the config")
    config = config or resolve_kind(TrackConfig, overrides={k.replace("__", "."): v for k, v in settings.items()})
    check_output_folder(out_dir, overwrite)
    with tracked(video, out_dir, config, engine, progress) as (result, work):
        write_outputs(result, Path(out_dir), overwrite, _from(_WRITE, progress))
        work.remove()
    return result.track


@contextmanager
def tracked(
    video: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    config: TrackConfig,
    engine: Engine | None,
    progress: Progress | None,
) -> Iterator[tuple[TrackResult, WorkFolder]]:
    """The track, while its working folder beside `out_dir` is held; nothing is written to `out_dir`."""
    report = progress or (lambda stage, fraction: None)
    report("opening the video", 0.0)
    reader = VideoReader(video)
    timings = Timings()
    with work_folder(out_dir, _job(reader, config)) as work:
        remove_half_written(out_dir, "track.npz")
        with timings.stage("load"):
            engine = engine or load_engine(_engine_config(config), _from(0.0, progress))
        try:
            result = _Run(reader, config, engine, work, report, timings).result()
        except NoFaceFound:
            work.remove()  # there is nothing that a second run could use
            raise
        yield result, work


def _engine_config(config: TrackConfig) -> ReconstructConfig:
    return replace(ReconstructConfig(), model=config.model, age=config.age)


def _from(start: float, progress: Progress | None) -> Progress:
    report = progress or (lambda stage, fraction: None)
    return lambda stage, fraction: report(stage, max(start, fraction))


def _job(reader: VideoReader, config: TrackConfig) -> dict[str, Any]:
    """What makes two runs the same: the file, the settings that the kept parts depend on, and the program."""
    size, digest = fingerprint(reader.path)
    settings = as_dict(config)
    for name in ("output", "texture"):
        settings.pop(name)
    settings["motion"].pop("smooth")
    settings["follow"].pop("segment")  # parts of another segment have names of their own
    found = versions()
    return {"schema": "headrecon.track-work/1", "size": size, "sha256": digest, "settings": settings,
            "versions": {k: found[k] for k in ("headrecon", "numpy", "av") if k in found}}  # fmt: skip


class _Run:
    """One run: holds what the stages hand to each other."""

    def __init__(
        self,
        reader: VideoReader,
        config: TrackConfig,
        engine: Engine,
        work: WorkFolder,
        report: Progress,
        timings: Timings,
    ) -> None:
        self.reader, self.config, self.engine, self.work = reader, config, engine, work
        self.report, self.timings = report, timings
        self.warnings: list[str] = []

    def result(self) -> TrackResult:
        config, info = self.config, self.reader.info
        with self.timings.stage("look"), self._loading_ahead():
            self.warnings += look_at_all(self.reader, self._follower(), self.work, self._frame_progress(
                "following the face", _LOOK, _IDENTITY))  # fmt: skip
            clip = ClipFeatures.of(seen_chunks(self.work))
        segments = clip.segments()
        segment, warning = choose_segment(segments, config.follow.segment, config.follow.face)
        self.warnings += [warning] if warning else []
        shot = clip.of_shot(segment.index)
        with self.timings.stage("identity"):
            self.report("finding out who it is", _IDENTITY)
            found = PersonFinder(self.reader, self.work, self.engine, config).find(shot)
        identity = found.identity
        fitter = FrameFitter(identity.person, identity.focal_px, (info.width, info.height), identity.openings)
        skin = self._skin(fitter, found) if config.motion.dense else None
        progress = self._frame_progress("fitting every frame", _FRAMES, _TURNED)
        with self.timings.stage("frames"), nullcontext() if skin is None else closing(skin):
            fitted = fit_all(fitter, self.work, segment.index, progress, skin)
        if config.follow.turned:
            with self.timings.stage("turned heads"):
                heads = TurnedHeads.of(self.engine.assets, identity, fitter, self.engine.networks)
                self.report("following the head where it turns away", _TURNED)
                fitted = heads.follow_all(self.reader, self.work, fitted, segment.index)
        with self.timings.stage("smooth"):
            self.report("smoothing over time", _SMOOTH)
            followed = self._track(fitter, identity, fitted)
        self.warnings += self._doubts(fitted)
        return TrackResult(
            config=config,
            video=info,
            track=followed,
            identity=identity,
            keyframes=found.keyframes,
            engine=self.engine,
            errors=fitted.errors,
            raw=fitted,
            segments=tuple(segments),
            segment=segment,
            licences=(*self.engine.assets.licences, *self.engine.networks.licences, *_landmark_licences()),
            warnings=tuple(dict.fromkeys(self.warnings)),
            timings=self.timings,
        )

    @contextmanager
    def _loading_ahead(self) -> Iterator[None]:
        """What the next stage needs is unpacked while the frames are looked at; errors come when it is used."""
        with ThreadPoolExecutor(1) as helper:
            if self.config.keyframes.refine:
                helper.submit(lambda: self.engine.refiner)
            yield

    def _skin(self, fitter: FrameFitter, found: FoundPerson) -> SkinPass | None:
        """What every frame's picture is compared with; None, with a warning, where the keyframes do not show it."""
        from headrecon.tracking.skin import SkinPass, learn_skin

        with self.timings.stage("skin"):
            self.report("learning the skin", _SKIN)
            dense = learn_skin(self.engine.assets, fitter, found)
        if dense is None:
            self.warnings.append("the keyframes hardly show the face: frames are fitted by their landmarks alone")
            return None
        return SkinPass(dense, self.reader)

    def _frame_progress(self, stage: str, start: float, end: float) -> Callable[[int], None]:
        """Progress by frames done."""
        self.report(stage, start)
        return frame_progress(stage, (start, end), self.reader.info.frames, self.report)

    def _follower(self) -> Follower:
        follow = self.config.follow
        # Plain and mirrored looks in turn, so that two of them already take out the network's left-right bias.
        half = len(LOOKS) // 2
        pairs = [look for k in range(half) for look in (LOOKS[k], LOOKS[half + (k + half // 2) % half])]
        looks = (Look(),) if follow.looks == 1 else tuple(pairs[: follow.looks])
        return Follower(self.engine.networks, looks, follow.irises, follow.face, same_person())

    def _track(self, fitter: FrameFitter, identity: ClipIdentity, fitted: FittedFrames) -> Track:
        """Smoothed states as a track."""
        states = smoothed(fitter, fitted, self.config.motion.smooth)
        layout = fitter.person.points.layout
        count = len(states)
        names = ("expression", *POSE_FIELDS, "transl")
        parts = {n: np.empty((count, len(range(*layout.slices[n].indices(layout.size)))), np.float32) for n in names}
        for place, state in enumerate(states):
            flat = fitter.head.flat(fitter.values(state))
            for name, part in parts.items():
                part[place] = flat[layout.slices[name]]
        betas = np.broadcast_to(identity.betas.astype(np.float32), (count, len(identity.betas)))
        camera = identity.fit.pinholes[0]
        return Track(
            model=self.engine.assets.name,
            expression_names=tuple(self.engine.assets.expression_names),
            params=HeadParams(betas=betas, **parts),
            cameras=Cameras(
                np.broadcast_to(camera.viewmats, (count, 4, 4)), np.broadcast_to(camera.Ks, (count, 3, 3)),
                camera.width, camera.height,
            ),
            frames=fitted.frames.astype(np.int64),
            timestamps_s=fitted.times_s,
            confidence=fitted.confidence,
        ).validate()  # fmt: skip

    def _doubts(self, fitted: FittedFrames) -> list[str]:
        lost = int((fitted.confidence == 0).sum())
        out: list[str] = []
        if lost:
            out.append(f"in {lost} of {len(fitted.frames)} frames nobody was seen; the pose was carried on there")
        turned = int((np.isinf(fitted.sigmas[:, 0]) & (fitted.confidence > 0)).sum())
        if turned:
            out.append(
                f"in {turned} of {len(fitted.frames)} frames the head is turned too far for its landmarks; its pose "
                "was followed by the picture there (confidence 0.7 at most), and its expression was carried over, so "
                "blinks may be missed"
            )
        return out


def smoothed(fitter: FrameFitter, fitted: FittedFrames, amount: float) -> Float[np.ndarray, "T S"]:
    """The states smoothed over time; weights stay within their bounds."""
    free = fitter.free
    states = fitted.states.copy()
    largest = np.full(fitter.size, _NOISE_SHARE)
    for name, share in _NOISE_SHARES.items():
        largest[fitter.slices[name]] = share
    noise = frame_noise(states[:, free], fitted.sigmas[:, free], largest[free])
    if np.isfinite(noise).any():
        states[:, free] = smooth(fitted.times_s, states[:, free], noise, amount)
    turn = fitter.slices["global_orient"]
    known = np.isfinite(fitted.sigmas[:, turn]).all(1)
    if known.any() and np.linalg.norm(fitted.states[known][:, turn], axis=1).max() > _FAR_ROUND:
        own = np.where(free)[0].searchsorted(np.arange(turn.start, turn.stop))
        states[:, turn] = smooth_turns(fitted.times_s, fitted.states[:, turn], noise[:, own], amount)
    for block in fitter.blocks:
        if block.name != "global_orient" and block.lower is not None and block.upper is not None:
            s = fitter.slices[block.name]
            states[:, s] = np.clip(states[:, s], block.lower, block.upper)
    return states


def same_person() -> Callable[[np.ndarray, np.ndarray], bool]:
    """Whether two crops show one person; the network is loaded when this is first asked."""
    loaded: list[Any] = []

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        from headrecon.perception import face_identity

        if not loaded:
            loaded.append(face_identity.load_face_identity())
        first, second = (loaded[0].network(np.stack([x, x[:, ::-1]])).identity.mean(0) for x in (a, b))
        return face_identity.same_person(first, second) < face_identity.SAME_PERSON

    return same


def _landmark_licences() -> tuple[Licence, ...]:
    from headrecon.licences import licences_of

    return tuple(licences_of(["anny-landmarks"]))


__all__ = ["TrackResult", "smoothed", "track", "tracked"]
