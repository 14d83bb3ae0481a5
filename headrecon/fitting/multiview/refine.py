"""The multi-view stage: a joint fit of several photos refined until they agree on where the skin is.

Coarse to fine. Where cameras are not known, patches are matched between photos and cameras and poses found anew
(`matching`, `calibration`). Then stereo in the surface's own frame (`sweep`) says how far each seen place lies off the
head; what identity, expression and pose can explain of that is theirs (`identity`), the rest becomes offsets of the
neutral head under a prior that keeps the mesh clean (`displacement`, `membrane`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.multiview.calibration import Stand, calibrate
from headrecon.fitting.multiview.displacement import Displacement, rows_of, solve_displacement
from headrecon.fitting.multiview.guard import agreement, objection
from headrecon.fitting.multiview.identity import refit
from headrecon.fitting.multiview.looking import Look, look
from headrecon.fitting.multiview.matching import match
from headrecon.fitting.multiview.membrane import Membrane
from headrecon.fitting.multiview.options import Level, MultiviewOptions
from headrecon.fitting.multiview.outline import outline_samples
from headrecon.fitting.multiview.pictures import WorkingPicture, working_picture
from headrecon.fitting.multiview.result import MultiviewFit
from headrecon.fitting.multiview.surface import Surface
from headrecon.fitting.multiview.sweep import Samples, sweep
from headrecon.fitting.multiview.views import PosedView, Views
from headrecon.structures import HeadAssets

#: Sharpness at which photos are asked whether they agree, pixels per metre on the face.
_GUARD_PER_M = 1500.0
#: Deviation of the log of a known focal length.
_KNOWN_LOG_FOCAL = 1e-6


@dataclass(frozen=True)
class _State:
    """Where the stage stands: heads and cameras per view, and the offsets of the one neutral head."""

    stand: Stand
    offsets: Float[np.ndarray, "V 3"]


class MultiviewFitter:
    """Refines joint fits of one head model; building it prepares what does not depend on photos (0.4 s)."""

    def __init__(self, assets: HeadAssets, options: MultiviewOptions | None = None) -> None:
        self.options = options or MultiviewOptions()
        self.surface = Surface.build(assets, self.options.scalp)
        self.membrane = Membrane.build(self.surface, self.options.membrane)

    def refine(self, views: Views) -> MultiviewFit:
        """Refine a joint fit of C photos. Deterministic.

        Never worse by what can be told from the photos: unless they agree better on the refined head, the result is the
        fit that was given, with offsets of zero and the reason in words. Memory and time grow with the photos' area on
        the face and with the number of photos (7 at 1024²: some 20 s of processor time; 35 s with unknown cameras).
        """
        with one_blas_thread(), torch.no_grad():
            return _Refinement(self, views).run()


class _Refinement:
    """One run: holds what the levels hand to each other."""

    def __init__(self, fitter: MultiviewFitter, views: Views) -> None:
        self.surface, self.membrane, self.options = fitter.surface, fitter.membrane, fitter.options
        self.views = views
        self.triangles = torch.from_numpy(self.surface.triangles.astype(np.int32))
        params = np.stack([np.asarray(v.params, np.float64) for v in views.views])
        cameras = tuple(
            replace(
                v.camera, viewmats=np.asarray(v.camera.viewmats, np.float64), Ks=np.asarray(v.camera.Ks, np.float64)
            )
            for v in views.views
        )
        offsets = np.zeros((self.surface.assets.num_vertices, 3))
        self.start = _State(Stand(params, cameras), offsets)
        self.pictures: dict[tuple[int, float], WorkingPicture] = {}
        self.timings: dict[str, float] = {}

    def run(self) -> MultiviewFit:
        if len(self.views) < 2:
            return self._kept("one photo says nothing about depth; two that overlap are needed", float("nan"), 0)
        state, found, samples = self.start, None, 0
        levels = self.options.known if self.views.known_cameras else self.options.unknown
        for number, level in enumerate(levels):
            began = time.perf_counter()
            if not self.views.known_cameras:
                for _ in range(level.calibrations):
                    state = self._calibrated(state, level)
            if level.sweep:
                looks, scales = self._looks(state, level.pixels_per_m)
                measured = sweep(looks, self.triangles, level.options(self.options.sweep))
                if len(measured) < self.options.guard.least_samples:
                    return self._kept("the photos share too little skin", float("nan"), len(measured))
                measured = Samples.join([measured, self._outline(state, looks, scales)])
                draws = self.options.solve.draws if number == len(levels) - 1 else 0
                state, found = self._shaped(state, measured, draws)
                samples = len(measured)
            self.timings[f"level_{number + 1}"] = 1e3 * (time.perf_counter() - began)
        return self._result(state, found, samples)

    def _looks(self, state: _State, per_m: float) -> tuple[list[Look | None], list[float]]:
        """What each view sees of the head as it stands, and the scale of its working picture."""
        looks, scales = [], []
        one = None
        for index, view in enumerate(self.views.views):
            params, camera = state.stand.params[index], state.stand.cameras[index]
            if one is None or not self.views.one_moment:
                one = self.surface.posed(params, state.offsets)
            now = replace(view, camera=camera, params=params)
            key = (index, per_m)
            if key not in self.pictures:
                depth = float((one @ camera.viewmats[2, :3] + camera.viewmats[2, 3]).mean())
                self.pictures[key] = working_picture(now, float(camera.Ks[0, 0]) / max(depth, 0.05), per_m)
            picture = self.pictures[key]
            looks.append(look(self.surface, now, replace(picture, K=_scaled(now, picture)), one))
            scales.append(picture.scale)
        return looks, scales

    def _outline(self, state: _State, looks: list[Look | None], scales: list[float]) -> Samples:
        cameras = state.stand.cameras
        focal = [float(c.Ks[0, 0]) * s for c, s in zip(cameras, scales, strict=True)]
        return outline_samples(looks, np.stack([c.viewmats for c in cameras]), focal, self.options.outline)

    def _calibrated(self, state: _State, level: Level) -> _State:
        looks, scales = self._looks(state, level.pixels_per_m)
        matches = match(looks, scales, self.triangles, self.options.matching)
        options = self.options.calibration
        if self.views.known_focals:
            options = replace(options, log_focal=_KNOWN_LOG_FOCAL)
        stand = calibrate(self.surface, state.stand, self.start.stand, state.offsets, matches, options)
        return replace(state, stand=stand)

    def _shaped(self, state: _State, samples: Samples, draws: int) -> tuple[_State, Displacement]:
        """Identity (and the head, where all photos show one moment) and then offsets, from measured distances."""
        o, params = self.options, state.stand.params
        rows = rows_of(self.surface, samples, params)
        reach = samples.distance + rows @ state.offsets.reshape(-1)
        move_head = self.views.one_moment and self.views.known_cameras
        after = refit(self.surface, samples, reach, params, self.start.stand.params, move_head, o.identity)
        explained = np.empty(len(samples))
        for view in np.unique(samples.view):
            own = samples.view == view
            moved = self.surface.posed(after[view], None) - self.surface.posed(params[view], None)
            corners = moved[self.surface.triangles[samples.face[own]]]
            explained[own] = np.einsum("nk,nkd,nd->n", samples.barycentrics[own], corners, samples.normal[own])
        solve = replace(o.solve, draws=draws)
        found = solve_displacement(self.surface, self.membrane, samples, rows, reach - explained, solve)
        return _State(Stand(after, state.stand.cameras), found.offsets), found

    def _result(self, state: _State, found: Displacement | None, samples: int) -> MultiviewFit:
        began = time.perf_counter()
        before, after = (
            agreement(self._looks(s, _GUARD_PER_M)[0], self.triangles, self.options.sweep) for s in (self.start, state)
        )
        reason = objection(before, after, state.offsets, self.options.guard)
        self.timings["guard"] = 1e3 * (time.perf_counter() - began)
        if reason is not None or found is None:
            return self._kept(reason or "nothing was measured", before, samples)
        return MultiviewFit(
            params=state.stand.params,
            cameras=state.stand.cameras,
            offsets=state.offsets,
            sigma_m=found.sigma,
            observed=self._compared() & (found.sigma < self.options.observed * found.prior_sigma),
            accepted=True,
            agreement_before=before,
            agreement_after=after,
            samples=samples,
            timings_ms=dict(self.timings),
        )

    def _compared(self) -> Bool[np.ndarray, " V"]:
        """Vertices of skin that is compared between photos; what goes with it, such as eyes, was not seen itself."""
        out = np.zeros(self.surface.assets.num_vertices, bool)
        out[self.surface.triangles[self.surface.compared]] = True
        return out

    def _kept(self, reason: str, before: float, samples: int) -> MultiviewFit:
        count = self.surface.assets.num_vertices
        return MultiviewFit(
            params=self.start.stand.params,
            cameras=self.start.stand.cameras,
            offsets=np.zeros((count, 3)),
            sigma_m=np.full(count, self.options.membrane.sigma_m),
            observed=np.zeros(count, bool),
            accepted=False,
            agreement_before=before,
            agreement_after=before,
            samples=samples,
            warnings=(f"the photos together did not refine the head: {reason}",),
            timings_ms=dict(self.timings),
        )


def _scaled(view: PosedView, picture: WorkingPicture) -> Float[np.ndarray, "3 3"]:
    """The view's intrinsics now, in working pixels."""
    K = np.array(view.camera.Ks, np.float64)
    K[0] *= picture.grey.shape[1] / view.camera.width
    K[1] *= picture.grey.shape[0] / view.camera.height
    return K
