"""How far lids and lips are open: what the detector says of a person's openings, and what the head is asked to show.

On videos of three people the detector's lids are 0.01 to 0.03 eye distances apart when an eye is shut, and its inner
lips below 0.004 when they touch; open, both follow the face. Between these the model's own openings are interpolated,
so that a shut eye is shut and closed lips touch whatever the head's eyes and mouth are like at rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.least_squares import Values
from headrecon.fitting.parameters import HeadView
from headrecon.fitting.robust import Huber, Kernel
from headrecon.fitting.video.personal import LEFT_LIDS, PAIRS, RIGHT_LIDS, PersonalHead
from headrecon.models.point_model import PointModel
from headrecon.perception.eye_frame import EyeFrame

#: Detected heights of shut lids and of lips that touch, eye distances. On renderings, and of turned heads, both are
#: read a little higher: lids by up to a tenth of what they are when open, lips by half a millimetre.
SHUT_LIDS, TOUCHING_LIPS = 0.016, 0.008
_STILL_SHUT = 0.1
#: How low this person's lids are read when shut: the lowest hundredth of the frames, of a clip with so many frames, if
#: both eyes then are below this share of open ones. Some faces' lids are never read as low as `SHUT_LIDS`.
_SHUT_PERCENTILE, _LEAST_FRAMES, _BLINK_SHARE = 1.0, 60, 0.6
#: A blink takes up to 0.3 s: lids that are open no longer than so many seconds before and after a frame, and in it
#: below such a share of that, are shut in a blink even if they are read so high.
_BLINK_S, _QUICK_SHARE = 0.25, 0.8
#: Some faces' lips are never read as low either. Whoever talks closes them now and then: the lowest frames of a clip
#: tell how low, up to a height at which a mouth that is always ajar loses little.
_TOUCH_PERCENTILE, _TOUCH_MARGIN, _MOST_TOUCHING = 5.0, 1.2, 0.02
#: From a shut lid read at the first share of an open one on, and fully at the second, what is nearly open counts as
#: open: the little that is left between would make noise a flutter.
_READ_HIGH = (0.35, 0.65)
#: Where a person's open eyes are read: the share of frames that are less open.
OPEN_PERCENTILE = 75.0
#: A clip in which nobody opens the eyes further than this says nothing about open eyes.
_LEAST_OPEN = 0.05
#: Deviations in eye distances: of lids, of lips that touch, and the share of an opening that is added to them.
_LID_SIGMA, _LIP_SIGMA, _SHARE = 0.008, 0.004, 0.08
#: Lids open by these shares (of usual) hide the iris's middle and leave it to be seen.
_IRIS_HIDDEN, _IRIS_SHOWN = 0.3, 0.65
_LIDS = len(RIGHT_LIDS) + len(LEFT_LIDS)


@dataclass(frozen=True)
class Openings:
    """A person's lids as detected, in eye distances: one height per pair of lid points (right eye, left eye), open and,
    where the clip shows a blink, shut. touching: below this height lips are taken to touch."""

    open_lids: Float[np.ndarray, "6"]
    shut_lids: Float[np.ndarray, "6"] = field(default_factory=lambda: np.full(_LIDS, SHUT_LIDS))
    touching: float = TOUCHING_LIPS

    @staticmethod
    def of(heights: Float[np.ndarray, "T 11"], times_s: Float[np.ndarray, " T"] | None = None) -> Openings:
        """From the heights (`opening_heights`) of many frames; their times (seconds) tell quick blinks too."""
        lids = heights[:, :_LIDS]
        opened = np.maximum(np.percentile(lids, OPEN_PERCENTILE, axis=0), _LEAST_OPEN)
        lowest = np.percentile(lids, _SHUT_PERCENTILE, axis=0)
        limit = _BLINK_SHARE
        if times_s is not None and has_blink(lids, times_s):
            limit = _QUICK_SHARE
        both = (lowest / opened).reshape(2, -1).mean(1)
        blinked = len(lids) >= _LEAST_FRAMES and bool((both < limit).all())
        shut = np.clip(lowest, SHUT_LIDS, limit * opened) if blinked else np.full(_LIDS, SHUT_LIDS)
        touching = TOUCHING_LIPS
        if len(lids) >= _LEAST_FRAMES:
            least = float(np.percentile(heights[:, _LIDS:].mean(1), _TOUCH_PERCENTILE))
            touching = float(np.clip(_TOUCH_MARGIN * least, TOUCHING_LIPS, _MOST_TOUCHING))
        return Openings(opened, shut, touching)

    def targets(
        self, heights: Float[np.ndarray, "11"], person: PersonalHead, touching_m: Float[np.ndarray, "5"]
    ) -> Float[np.ndarray, "11"]:
        """Heights that the head should show, metres, for detected ones in eye distances. touching_m: of its lips where
        they touch (`touching_lips`)."""
        lips, share = heights[_LIDS:], self.lid_shares(heights)
        shut, rest = person.shut_gaps_m[:_LIDS], person.gaps_m[:_LIDS]
        return np.concatenate(
            [
                shut + np.maximum(share, 0.0) * (rest - shut),
                touching_m + np.maximum(lips - self.touching, 0.0) * person.interocular_m,
            ]
        )

    def lid_shares(self, heights: Float[np.ndarray, "11"]) -> Float[np.ndarray, "6"]:
        """How far the lids are open, pair by pair: 1 as usual, 0 or less when shut."""
        closed = self.shut_lids + _STILL_SHUT * self.open_lids
        share = (heights[:_LIDS] - closed) / (self.open_lids - closed)
        inside = np.clip(share, 0.0, 1.0)
        return share + self.read_high * (inside**2 * (3 - 2 * inside) - inside)

    @property
    def read_high(self) -> Float[np.ndarray, "6"]:
        """0 where shut lids are seen to be shut, 1 where the detector leaves them half open, pair by pair."""
        low, high = _READ_HIGH
        return np.clip((self.shut_lids / self.open_lids - low) / (high - low), 0.0, 1.0)

    def irises_shown(self, heights: Float[np.ndarray, "11"]) -> Float[np.ndarray, "2"]:
        """How much of each iris (right, left) can be seen, 0..1: behind a lid the detector guesses, and guesses low."""
        eyes = self.lid_shares(heights).reshape(2, -1).mean(1)
        return np.clip((eyes - _IRIS_HIDDEN) / (_IRIS_SHOWN - _IRIS_HIDDEN), 0.0, 1.0)


def has_blink(lids: Float[np.ndarray, "T 6"], times_s: Float[np.ndarray, " T"]) -> bool:
    """Whether both eyes' lids somewhere fall and rise again as quickly as only blinks do. O(T).

    Lids follow a gaze that goes down as well, but it stays there; half a second later they are not open again.
    """
    eyes = np.stack([lids[:, :3].mean(1), lids[:, 3:].mean(1)], axis=1)
    first = np.searchsorted(times_s, times_s - _BLINK_S)
    last = np.searchsorted(times_s, times_s + _BLINK_S, side="right")
    for i in range(1, len(eyes) - 1):
        around = np.minimum(eyes[first[i] : i + 1].max(0), eyes[i : last[i]].max(0))
        if (eyes[i] < _QUICK_SHARE * around).all():
            return True
    return False


def opening_heights(marks: Float[np.ndarray, "478 D"]) -> Float[np.ndarray, "11"]:
    """Distance between the points of each of `PAIRS` in the image, in eye distances."""
    upper, lower = (marks[[pair[i] for pair in PAIRS], :2] for i in (0, 1))
    return np.linalg.norm(upper - lower, axis=1) / groups.interocular_px(marks)


def touching_lips(
    person: PersonalHead, turn: Float[np.ndarray, "3 3"], down: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "5"]:
    """Heights in metres along `down` in the image of the lips' points at rest, of a head turned by `turn`.

    The rims' points lie on the lips' red, the upper ones in front of the lower ones by two millimetres: seen from below
    lips that touch have them further apart, and from above nearer.
    """
    seen = person.lips_m @ turn[:2].T * [1.0, -1.0]
    return -(seen @ down)


@dataclass(frozen=True)
class OpeningResidual:
    """Height of the upper points above the lower ones along the face's own vertical in the image, against a target."""

    view: HeadView
    points: PointModel  # upper points, then lower ones
    down: Float[np.ndarray, "2"]  # unit vector in the image
    target_px: Float[np.ndarray, " N"]
    sigma_px: Float[np.ndarray, " N"]
    name: str = "openings"
    kernel: Kernel = field(default_factory=lambda: Huber(4.0))
    group: int = 1

    @property
    def blocks(self) -> tuple[str, ...]:
        return self.view.blocks

    def evaluate(self, values: Values) -> Float[np.ndarray, " M"]:
        pixels = self.view.project(values, self.view.evaluate(self.points, values))
        return self._residual(pixels @ self.down)

    def _residual(self, along: np.ndarray) -> np.ndarray:
        count = len(self.target_px)
        return (along[count:] - along[:count] - self.target_px) / self.sigma_px

    def linearize(self, values: Values) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M K"]]:
        points, slopes = self.view.linearize(self.points, values)
        weights = np.broadcast_to(self.down, (len(points), 1, 2))
        pixels, columns = self.view.project_linear(values, points, slopes, weights)
        count, columns = len(self.target_px), columns[:, 0]
        return self._residual(pixels @ self.down), (columns[count:] - columns[:count]) / self.sigma_px[:, None]


def opening_residual(
    person: PersonalHead,
    view: HeadView,
    openings: Openings,
    marks: Float[np.ndarray, "478 D"],
    frame: EyeFrame,
    turn: Float[np.ndarray, "3 3"],
) -> OpeningResidual:
    """What a frame says about lids and lips. turn: about how the head is turned, as where the frame before ended."""
    heights = opening_heights(marks)
    base = np.where(np.arange(len(PAIRS)) < _LIDS, _LID_SIGMA, _LIP_SIGMA)
    return OpeningResidual(
        view,
        person.pairs,
        frame.axes[1],
        openings.targets(heights, person, touching_lips(person, turn, frame.axes[1]))
        * frame.scale_px
        / person.interocular_m,
        (base + _SHARE * heights) * frame.scale_px,
    )
