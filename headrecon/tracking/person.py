"""Who the person in a clip is: keyframes are seen as carefully as photos, and frames in which the head turns show the
lens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.fitting.camera_prior import video_focal_prior
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.multiview.views import PosedView, Views
from headrecon.fitting.video.frame_fit import FrameFitter
from headrecon.fitting.video.identity import ClipIdentity, fit_identity
from headrecon.fitting.video.keyframes import choose_keyframes, choose_turns
from headrecon.fitting.video.openings import Openings
from headrecon.io.exif import FocalHint
from headrecon.io.video_reader import VideoReader
from headrecon.io.work_folder import WorkFolder
from headrecon.perception.face_following import as_observation
from headrecon.perception.face_landmarks import LOOKS
from headrecon.stages import Engine
from headrecon.structures import FaceObservation
from headrecon.tracking.seen import seen_chunks
from headrecon.tracking.segments import ClipFeatures
from headrecon.tracking.settings import TrackConfig

Pictures = dict[int, UInt8[np.ndarray, "H W 3"]]
Points = dict[int, Float[np.ndarray, "478 3"]]
#: Frames that are asked for the focal length.
_TURNS = 12


@dataclass(frozen=True)
class FoundPerson:
    """identity, and what it was found from. keyframes: index and face of each; pictures, points: of these frames and of
    those that were asked for the lens, by index, with the points as every frame has them."""

    identity: ClipIdentity
    keyframes: tuple[tuple[int, FaceObservation], ...]
    pictures: Pictures
    points: Points


@dataclass(frozen=True)
class PersonFinder:
    """Finds the identity of a clip; holds what all steps need."""

    reader: VideoReader
    work: WorkFolder
    engine: Engine
    config: TrackConfig

    def find(self, shot: ClipFeatures) -> FoundPerson:
        """The identity, and what it is from. Raises InputError."""
        config = self.config
        ids = choose_keyframes(shot.features, shot.presence, config.keyframes.count)
        frames = [int(i) for i in shot.frames[ids]]
        search = config.keyframes.focal and config.knowledge.focal_px is None
        turns: list[int] = []
        if search:
            turns = [int(i) for i in shot.frames[choose_turns(shot.features, shot.presence, _TURNS)]]
        pictures = self.reader.pictures_at([*frames, *turns])
        points = self._points_at([*frames, *turns])
        faces = [self._look_closely(pictures[i], points[i]) for i in frames]
        seen = np.isfinite(shot.heights).all(1)
        openings = Openings.of(shot.heights[seen], shot.times_s[seen])
        size = (self.reader.info.width, self.reader.info.height)
        believed = video_focal_prior(size)
        followed = [points[i] for i in frames]
        hint = None
        if search:
            # From the lens that landmarks choose, a long one: from there the adjustment ends nearest to the truth.
            start = self._fit(faces, followed, openings, None)
            hint = self._focal(start, turns, pictures, points, believed)
        identity = self._fit(faces, followed, openings, hint or believed)
        return FoundPerson(identity, tuple(zip(frames, faces, strict=True)), pictures, points)

    def _fit(
        self, faces: list[FaceObservation], followed: list[np.ndarray], openings: Openings, focal: FocalHint | None
    ) -> ClipIdentity:
        k = self.config.knowledge
        knowledge = MetricKnowledge(ipd_mm=k.ipd_mm, focal_px=k.focal_px, distance_m=k.distance_m)
        return fit_identity(self.engine.fitter, faces, followed, knowledge, openings, focal)

    def _focal(
        self, identity: ClipIdentity, turns: list[int], pictures: Pictures, points: Points, believed: FocalHint
    ) -> FocalHint | None:
        """The focal length by the skin of the frames `turns`, each posed by its landmarks first."""
        from headrecon.fitting.video.skin_focal import focal_of_skin  # imports torch, which drafts do without

        size = (self.reader.info.width, self.reader.info.height)
        fitter = FrameFitter(identity.person, identity.focal_px, size, identity.openings)
        camera = identity.fit.pinholes[0]
        views = []
        for index in turns:
            state = fitter.fit(points[index], fitter.start(points[index])).state
            state = fitter.fit(points[index], state).state
            flat = identity.with_identity(fitter.head.flat(fitter.values(state)))
            views.append(PosedView(pictures[index], camera, flat))
        return focal_of_skin(self.engine.assets, Views.of(views, len(identity.betas)), believed)

    def _points_at(self, frames: list[int]) -> Points:
        out = {}
        for chunk in seen_chunks(self.work):
            for i in np.flatnonzero(np.isin(chunk.frames, frames)):
                out[int(chunk.frames[i])] = chunk.points[i]
        return out

    def _look_closely(self, picture: UInt8[np.ndarray, "H W 3"], points: np.ndarray) -> FaceObservation:
        """A keyframe's face, seen as well as a photo's."""
        from headrecon.perception.face_following import look_again

        settings = self.config.keyframes
        points = look_again(picture, points, self.engine.networks, LOOKS[: settings.looks])
        face = as_observation(picture, points)
        refined = self.engine.refined(face, picture) if settings.refine else None
        return refined or face
