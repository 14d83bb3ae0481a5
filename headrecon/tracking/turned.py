"""Frames in which the head is turned too far for its landmarks: followed by their pictures, from both ends.

After every frame was fitted to its points, stretches with a head beyond 40 degrees, or with nobody seen, are looked at
again (`stretches`): small pictures of the head are kept in memory, at most some hundred at once, and the head is
followed through them from the known frames before and after (`fitting.video.rigid_chain`). Frames with points are
fitted again with the pose so found; where there are none the face is carried over the gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.video.frame_fit import FrameFitter, StatePrior
from headrecon.fitting.video.identity import ClipIdentity
from headrecon.fitting.video.rigid_align import Reference
from headrecon.fitting.video.rigid_chain import Chain, Followed, Sight, blended, follow_chain, landmark_sigma
from headrecon.fitting.video.rigid_head import RigidHead, RigidPose, rigid_head
from headrecon.fitting.video.rigid_marks import Lens, Sighting, learned_places, usual_places
from headrecon.fitting.video.rigid_picture import RigidPicture, Window
from headrecon.io.video_reader import VideoReader
from headrecon.io.work_folder import WorkFolder, chunk_name
from headrecon.perception.face_detection import FULL_RANGE, SHORT_RANGE, run_detector
from headrecon.perception.networks import Networks
from headrecon.structures import HeadAssets
from headrecon.tracking.frames import FittedFrames
from headrecon.tracking.seen import seen_chunks
from headrecon.tracking.stretches import Stretch, find_stretches

_STAGE = "turned"
#: At most so many frames are followed from either end of a stretch: pictures of twice as many are in memory.
HALF = 150
#: Room around the head's middle, metres.
_ROOM_M = 0.27
#: Least score of a detected face, and least confidence of a frame that is taken for known.
_SCORE, _GOOD = 0.4, 0.5
#: Beyond this turn points say nothing of the face's expression either (radians).
_NO_FACE = math.radians(55.0)
#: Up to the first turn (radians) a frame's own fit stays, from the second on it has no say; between, less and less.
_LANDMARKS_DO, _LANDMARKS_END = math.radians(25.0), math.radians(50.0)
#: How sure a followed pose is at most, the correlations at which it is not at all and fully, and the deviation
#: (radians) at which it is 1/e of that.
_SUREST, _CORRELATIONS, _UNSURE = 0.7, (0.2, 0.7), math.radians(8.0)
#: Deviations with which a pose is held when a frame's face is fitted again: radians, pixels per eye distance.
_HELD_TURN, _HELD_SHIFT, _HELD_DEPTH = 0.005, 0.01, 0.003


@dataclass
class _Kept:
    """What is held of the frames of one stretch: their pictures, and what the detector saw."""

    pictures: dict[int, RigidPicture] = field(default_factory=dict)
    seen: dict[int, Float[np.ndarray, "6 2"]] = field(default_factory=dict)


@dataclass(frozen=True)
class TurnedHeads:
    """Follows one person's head where it is turned too far; holds what all stretches share."""

    fitter: FrameFitter
    head: RigidHead
    lens: Lens
    places: Float[np.ndarray, "6 3"]
    networks: Networks

    @staticmethod
    def of(assets: HeadAssets, identity: ClipIdentity, fitter: FrameFitter, networks: Networks) -> TurnedHeads:
        """Prepare a person: a tenth of a second."""
        return TurnedHeads(
            fitter,
            rigid_head(assets, identity.betas),
            Lens(fitter.focal_px, fitter.head.geometry.principal),
            usual_places(assets, identity.betas),
            networks,
        )

    def follow_all(
        self,
        reader: VideoReader,
        work: WorkFolder,
        fitted: FittedFrames,
        shot: int,
    ) -> FittedFrames:
        """The frames with better poses where the head is turned far. What an earlier run finished is used again.

        One pass over the video, which decodes it up to the last such frame. Raises InputError when the disk is full.
        """
        poses = [self._pose(state) for state in fitted.states]
        azimuth = np.array([pose.azimuth(self.head.centre) for pose in poses])
        good = np.isfinite(fitted.sigmas[:, 0]) & (fitted.confidence > _GOOD)
        stretches = find_stretches(fitted.times_s, azimuth, good)
        stage = f"{_STAGE}-{shot}"
        done = work.count(stage)
        left = iter(range(done, len(stretches)))
        for index, kept in zip(left, self._kept(reader, fitted, poses, stretches[done:]), strict=False):
            with one_blas_thread():
                rows = self._followed(work, fitted, poses, azimuth, stretches[index], kept)
            work.save(chunk_name(stage, index), rows)
        return _merged(fitted, work, stage)

    def _pose(self, state: np.ndarray) -> RigidPose:
        flat = self.fitter.head.flat(self.fitter.values(state))
        slices = self.fitter.person.points.layout.slices
        return self.head.pose_of(flat[slices["global_orient"]], flat[slices["transl"]])

    def _state(self, state: np.ndarray, pose: RigidPose) -> np.ndarray:
        """A state with another pose."""
        orient, transl = self.head.parameters_of(pose)
        out = state.copy()
        names, view = self.fitter.head.names, self.fitter.head
        out[self.fitter.slices[names["global_orient"]]] = orient
        out[self.fitter.slices[names["placement"]]] = view.placement_of(transl, orient, self.fitter.focal_px)
        return out

    def _kept(
        self, reader: VideoReader, fitted: FittedFrames, poses: list[RigidPose], stretches: list[Stretch]
    ) -> Iterator[_Kept]:
        """Pictures of each stretch in turn, as the video is read once."""
        wanted = [sorted({*s.before, *s.after, *(p for part in s.places(HALF) for p in part)}) for s in stretches]
        owners: dict[int, list[int]] = {}
        for index, places in enumerate(wanted):
            for place in places:
                owners.setdefault(int(fitted.frames[place]), []).append(index)
        windows = [self._window(s, poses) for s in stretches]
        waiting: dict[int, _Kept] = {}
        place_of = {int(f): i for i, f in enumerate(fitted.frames)}
        out = 0
        for frame in reader.some(owners):
            # A stretch is handed out once a frame beyond it is read.
            while out < len(stretches) and wanted[out][-1] < place_of[frame.index]:
                yield waiting.pop(out, _Kept())
                out += 1
            for index in owners[frame.index]:
                kept, window = waiting.setdefault(index, _Kept()), windows[index]
                picture = RigidPicture(window, window.keep(frame.image_srgb))
                kept.pictures[place_of[frame.index]] = picture
                found = self._detected(picture)
                if found is not None:
                    kept.seen[place_of[frame.index]] = found
        for index in range(out, len(stretches)):
            yield waiting.pop(index, _Kept())

    def _window(self, stretch: Stretch, poses: list[RigidPose]) -> Window:
        ends = [poses[p] for p in (*stretch.before[:1], *stretch.after[:1])]
        middles = np.concatenate([self.lens.project(p.apply(self.head.centre[None])) for p in ends])
        depth = min(float(p.apply(self.head.centre[None])[0, 2]) for p in ends)
        per_m = self.lens.focal_px / depth
        room = _ROOM_M * per_m
        return Window.around(middles.min(0) - room, middles.max(0) + room, self.fitter.image_size, per_m)

    def _detected(self, picture: RigidPicture) -> np.ndarray | None:
        """The detectors' six points in pixels of the frame: the mean of those that see a face."""
        window, found = picture.window, []
        for network, layout in (
            (self.networks.face_short_range, SHORT_RANGE),
            (self.networks.face_full_range, FULL_RANGE),
        ):
            faces = run_detector(picture.colours, network, layout, _SCORE)
            found += [faces[0].keypoints] if faces else []
        if not found:
            return None
        scale = np.array([window.width / window.size[0], window.height / window.size[1]])
        return np.mean(found, axis=0) * scale + (window.left, window.top)

    def _followed(
        self,
        work: WorkFolder,
        fitted: FittedFrames,
        poses: list[RigidPose],
        azimuth: np.ndarray,
        stretch: Stretch,
        kept: _Kept,
    ) -> dict[str, np.ndarray]:
        """The rows of a stretch that are to be replaced."""
        known = [p for p in (*stretch.before, *stretch.after) if p in kept.seen]
        places = learned_places(self.places, self.lens, [(poses[p], kept.seen[p]) for p in known])
        found: dict[int, list[Followed]] = {}
        for ends, order in zip((stretch.before, stretch.after), stretch.places(HALF), strict=True):
            usable = [p for p in ends if p in kept.pictures]
            if not usable or not order:
                continue
            references = [
                Reference.of(p, self.head, self.lens, kept.pictures[p], poses[p], landmark_sigma(azimuth[p]))
                for p in usable
            ]
            step = 1 if ends is stretch.before else -1
            earlier = min(max(usable[0] - step, 0), len(poses) - 1)
            chain = Chain(self.head, self.lens, references, [poses[earlier], poses[usable[0]]])
            fed = (self._sight(p, kept, places, fitted, poses, azimuth) for p in order)
            for place, one in follow_chain(chain, fed).items():
                found.setdefault(place, []).append(one)
        return self._rows(work, fitted, poses, azimuth, found)

    def _sight(
        self, place: int, kept: _Kept, places: np.ndarray, fitted: FittedFrames, poses: list[RigidPose],
        azimuth: np.ndarray,
    ) -> Sight:  # fmt: skip
        seen = kept.seen.get(place)
        marked = np.isfinite(fitted.sigmas[place, 0])
        return Sight(
            place,
            kept.pictures.get(place),
            None if seen is None else Sighting(places, seen),
            poses[place] if marked else None,
        )

    def _rows(
        self,
        work: WorkFolder,
        fitted: FittedFrames,
        poses: list[RigidPose],
        azimuth: np.ndarray,
        found: dict[int, list[Followed]],
    ) -> dict[str, np.ndarray]:
        order = sorted(found)
        points = _points_of(work, {int(fitted.frames[p]): p for p in order})
        places, states, sigmas, confidence, errors = [], [], [], [], []
        for place in order:
            pose = blended(found[place][0], found[place][-1] if len(found[place]) > 1 else None, self.head.centre)
            assert pose is not None
            if place in points:
                turned = max(abs(p.azimuth(self.head.centre)) for p in (pose.pose, poses[place]))
                share = (_LANDMARKS_END - turned) / (_LANDMARKS_END - _LANDMARKS_DO)
                if share >= 1:
                    continue
                pose = replace(pose, pose=self._between(pose.pose, poses[place], max(share, 0.0)))
            places.append(place)
            row = self._row(fitted, place, pose, points.get(place))
            for column, value in zip((states, sigmas, confidence, errors), row, strict=True):
                column.append(value)
        size = self.fitter.size
        return {
            "places": np.array(places, np.int64),
            "states": np.array(states).reshape(-1, size),
            "sigmas": np.array(sigmas).reshape(-1, size),
            "confidence": np.array(confidence),
            "errors": np.array(errors),
        }

    def _between(self, first: RigidPose, second: RigidPose, share: float) -> RigidPose:
        return first.turned(share * first.step_to(second, self.head.centre), self.head.centre)

    def _row(
        self, fitted: FittedFrames, place: int, found: Followed, points: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, float, float]:
        """State, deviations, confidence and error of a frame whose pose is known now."""
        fitter, names = self.fitter, self.fitter.head.names
        orient, placement = (fitter.slices[names[n]] for n in ("global_orient", "placement"))
        state = self._state(fitted.states[place], found.pose)
        sigma, error = np.full(fitter.size, np.inf), math.nan
        if points is not None and abs(found.pose.azimuth(self.head.centre)) < _NO_FACE:
            held = np.full(fitter.size, np.inf)
            held[orient] = _HELD_TURN
            wide = fitter.person.interocular_m / math.exp(state[placement][2])
            held[placement] = (_HELD_SHIFT * wide, _HELD_SHIFT * wide, _HELD_DEPTH)
            fit = fitter.fit(points, state, StatePrior(state, held))
            state, sigma, error = fit.state, fit.sigma.copy(), fit.error
        depth_m = float(found.pose.apply(self.head.centre[None])[0, 2])
        sigma[orient] = found.sigma
        across = found.sigma * 0.05 * fitter.focal_px / depth_m
        sigma[placement] = (across, across, 0.1 * found.sigma)
        return state, sigma, confidence_of(found), error


def confidence_of(found: Followed) -> float:
    """0..1: how far a pose that was followed by its picture can be relied on; never more than a sure guess."""
    low, high = _CORRELATIONS
    alike = float(np.clip((found.correlation - low) / (high - low), 0.0, 1.0))
    return max(_SUREST * alike * math.exp(-found.sigma / _UNSURE), 0.01)


def _points_of(work: WorkFolder, frames: dict[int, int]) -> dict[int, np.ndarray]:
    """The seen points of some frames (number: place), by place."""
    out = {}
    for chunk in seen_chunks(work) if frames else ():
        for i in np.flatnonzero(np.isin(chunk.frames, list(frames)) & chunk.held):
            out[frames[int(chunk.frames[i])]] = chunk.points[i]
    return out


def _merged(fitted: FittedFrames, work: WorkFolder, stage: str) -> FittedFrames:
    states, sigmas = fitted.states.copy(), fitted.sigmas.copy()
    confidence, errors = fitted.confidence.copy(), fitted.errors.copy()
    for rows in work.chunks(stage):
        places = rows["places"]
        states[places], sigmas[places] = rows["states"], rows["sigmas"]
        confidence[places], errors[places] = rows["confidence"], rows["errors"]
    return replace(fitted, states=states, sigmas=sigmas, confidence=confidence, errors=errors)
