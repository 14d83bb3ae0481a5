"""The person's skin through a clip: learnt from the frames that show who it is, then followed through all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError
from headrecon.fitting.video.dense_fit import DenseFit, DenseFrameFitter
from headrecon.fitting.video.dense_points import FacePoints
from headrecon.fitting.video.dense_template import Keyframe, learn_template
from headrecon.fitting.video.frame_fit import FrameFit, FrameFitter, StatePrior
from headrecon.fitting.video.personal import personal_offsets
from headrecon.io.video_reader import VideoFrame, VideoReader
from headrecon.structures import HeadAssets
from headrecon.tracking.person import FoundPerson
from headrecon.tracking.seen import ahead


def learn_skin(assets: HeadAssets, fitter: FrameFitter, found: FoundPerson) -> DenseFrameFitter | None:
    """What frames are compared with; None where the keyframes do not show enough of the face."""
    face = FacePoints.build(assets, found.identity.betas)
    keyframes = []
    for index in sorted(found.pictures):
        marks = found.points[index]
        fit = fitter.fit(marks, fitter.start(marks))
        for _ in range(2):
            fit = fitter.fit(marks, fit.state)
        keyframes.append(Keyframe(found.pictures[index], marks, fit))
    learnt = learn_template(fitter, face, keyframes)
    if learnt is None:
        return None
    face, template, posed = learnt
    # What the detector sees beside the head is known better now that the skin says where the head is.
    errors = [fitter.misses(k.marks, k.fit.state) for k in posed]
    person = fitter.person.with_offsets(personal_offsets(errors, fitter.person.interocular_m))
    return DenseFrameFitter(fitter.with_person(person), face, template)


class SkinPass:
    """Reads a video once more, frame by frame, as far as frames are asked for; they must be asked for in order."""

    def __init__(self, dense: DenseFrameFitter, reader: VideoReader) -> None:
        self.dense, self.reader = dense, reader
        self._frames: Generator[VideoFrame, None, None] | None = None

    def of_frame(
        self, index: int, points: Float[np.ndarray, "478 3"]
    ) -> Callable[[FrameFit, StatePrior | None], DenseFit]:
        """What refines the landmarks' answer for one frame. Raises InputError when the frame cannot be read again."""
        if self._frames is None:
            # The next frame is decoded while this one is fitted.
            self._frames = ahead(self.reader.frames(index))
        for frame in self._frames:
            if frame.index == index:
                return lambda fit, prior: self.dense.refine(frame.image_srgb, points, fit, prior)
            if frame.index > index:
                break
        raise InputError(f"{self.reader.path}: frame {index} cannot be read again; was the file changed meanwhile?")

    def close(self) -> None:
        """Stop reading."""
        if self._frames is not None:
            self._frames.close()
            self._frames = None
