"""A clip's focal length from skin that several of its frames show, as the head turns before the camera.

Landmarks say next to nothing about the lens: how near a face looks is told by differences of a pixel, and a detector's
own errors change with the turn by as much. Skin can be followed to a fraction of a pixel. When a head turns, a near
lens shows the side that comes nearer growing and the other shrinking; a few degrees of turn show it in thousands of
matched patches. Frames are matched pair by pair through the head (`multiview.matching`), and one camera, one identity
and a pose per frame are adjusted until the matches meet (`multiview.calibration`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.multiview.calibration import CalibrationOptions, Stand
from headrecon.fitting.multiview.looking import Look, look
from headrecon.fitting.multiview.matching import MatchOptions, match
from headrecon.fitting.multiview.one_camera import calibrate_one_camera, focal_spread
from headrecon.fitting.multiview.pictures import WorkingPicture, working_picture
from headrecon.fitting.multiview.surface import Surface
from headrecon.fitting.multiview.views import Views
from headrecon.geometry import so3
from headrecon.io.exif import FocalHint
from headrecon.structures import HeadAssets


@dataclass(frozen=True)
class SkinFocalOptions:
    """levels: pixels per metre on the face and how often frames are matched at that size, coarse to fine.

    The deviation of what the matches say has three parts: the larger one of the adjustment's and the jackknife's times
    widen; model_sigma, which all frames share (blendshapes are not quite how a face moves, light moves over it); and
    turned_sigma over the head's turns (root mean square, degrees), as the less it turns, the more do such errors weigh.
    From clips of known lens (docs/accuracy.md).
    least_matches: fewer say nothing.
    """

    matching: MatchOptions = field(default_factory=lambda: MatchOptions(least_deg=2.5))
    calibration: CalibrationOptions = field(default_factory=lambda: CalibrationOptions(per_pair=120, together=3.0))
    levels: tuple[tuple[float, int], ...] = ((375.0, 1), (750.0, 2), (1500.0, 2))
    widen: float = 1.25
    model_sigma: float = 0.12
    turned_sigma: float = 0.3
    least_matches: int = 400


def focal_of_skin(
    assets: HeadAssets, views: Views, believed: FocalHint, options: SkinFocalOptions | None = None
) -> FocalHint | None:
    """The focal length of a clip. views: frames of it, posed by the tracker with some focal length.

    believed: what is known of it beforehand, which the answer is drawn to by as much as the frames leave open: where
    they disagree about the lens, it ends near the usual. None where the frames say nothing: the head does not turn, or
    hardly any skin can be matched. O(frames times pixels of the face); a dozen frames at 512² take some ten seconds.
    """
    import torch

    options = options or SkinFocalOptions()
    if len(views) < 2:
        return None
    with one_blas_thread(), torch.no_grad():
        return _Search(Surface.build(assets), views, options).run(believed)


def weighed(focal_px: float, sigma_log: float, believed: FocalHint) -> FocalHint:
    """What the frames say and what was believed, both with deviations of the logarithm: the product of the two."""
    said, before = 1 / sigma_log**2, 1 / believed.sigma_log**2
    log = (said * math.log(focal_px) + before * math.log(believed.focal_px)) / (said + before)
    return FocalHint(math.exp(log), (said + before) ** -0.5, "skin")


class _Search:
    """One run: pictures at each size are made once."""

    def __init__(self, surface: Surface, views: Views, options: SkinFocalOptions) -> None:
        self.surface, self.views, self.options = surface, views, options
        cameras = tuple(
            replace(
                v.camera, viewmats=np.asarray(v.camera.viewmats, np.float64), Ks=np.asarray(v.camera.Ks, np.float64)
            )
            for v in views.views
        )
        self.start = Stand(np.stack([np.asarray(v.params, np.float64) for v in views.views]), cameras)

    def run(self, believed: FocalHint) -> FocalHint | None:
        import torch

        triangles = torch.from_numpy(self.surface.triangles.astype(np.int32))
        prior = (believed.focal_px, believed.sigma_log)
        stand, matched, found, count, sigma = self.start, self.start, [], 0, math.inf
        for per_m, rounds in self.options.levels:
            pictures = [self._picture(i, per_m) for i in range(len(self.views))]
            for _ in range(rounds):
                looks = [self._look(i, stand, picture) for i, picture in enumerate(pictures)]
                now = match(looks, [p.scale for p in pictures], triangles, self.options.matching)
                count = sum(len(m) for m in now)
                if count < self.options.least_matches:
                    break  # at this size; a finer one shows more
                found, matched = now, stand
                stand, sigma = calibrate_one_camera(
                    self.surface, stand, self.start, found, self.options.calibration, prior
                )
        focal = float(stand.cameras[0].Ks[0, 0])
        if count < self.options.least_matches or not math.isfinite(focal) or focal <= 0:
            return None
        spread = focal_spread(self.surface, stand, matched, self.start, found, self.options.calibration, prior)
        o, turned = self.options, max(self._turned_deg(stand), 1e-3)
        said = math.hypot(o.widen * max(sigma, spread), o.model_sigma, o.turned_sigma / turned)
        return weighed(focal, said, believed)

    def _turned_deg(self, stand: Stand) -> float:
        """How far the views' heads are turned from their mean, root mean square; rolling does not count."""
        neck = [self.surface.joints.pose(x)[2][1] for x in stand.params]
        turns = np.stack([c.viewmats[:3, :3] @ r for c, r in zip(stand.cameras, neck, strict=True)])
        u, _, v = np.linalg.svd(turns.mean(0))
        away = np.stack([so3.log(turn @ (u @ v).T)[:2] for turn in turns])
        return math.degrees(float(np.sqrt((away**2).sum(1).mean())))

    def _picture(self, index: int, per_m: float) -> WorkingPicture:
        view, camera = self.views.views[index], self.start.cameras[index]
        posed = self.surface.posed(self.start.params[index], None)
        depth = float((posed @ camera.viewmats[2, :3] + camera.viewmats[2, 3]).mean())
        return working_picture(view, float(camera.Ks[0, 0]) / max(depth, 0.05), per_m)

    def _look(self, index: int, stand: Stand, picture: WorkingPicture) -> Look | None:
        camera, params = stand.cameras[index], stand.params[index]
        K = np.array(camera.Ks, np.float64)
        K[0] *= picture.size[1] / camera.width
        K[1] *= picture.size[0] / camera.height
        now = replace(self.views.views[index], camera=camera, params=params)
        return look(self.surface, now, replace(picture, K=K), self.surface.posed(params, None))
