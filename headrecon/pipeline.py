"""Photos to a head: the stages in their order, and nothing else. `headrecon.reconstruct` is this module's.

load model and networks -> load the pictures, find the face (`several`: of one person in all) -> fit landmarks ->
fit pixels -> hair -> texture ->
`Reconstruction`, whose `save` writes the output folder (`headrecon.outputs`). What draft leaves out it does not import.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Float, UInt8

from headrecon import stages
from headrecon.config import ReconstructConfig, resolve
from headrecon.errors import InputError
from headrecon.fitting.detector_noise import photo_options
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.photo import LandmarkFit, LandmarkFitter
from headrecon.io.images import LoadedImage, from_array, load_image
from headrecon.io.runs import Timings
from headrecon.licences import licences_of
from headrecon.models.posed_mesh import embed
from headrecon.models.store import load_head
from headrecon.perception.faces import choose_face, observe_faces
from headrecon.perception.networks import load_networks
from headrecon.rendering.lighting import Lighting
from headrecon.several import Company, ImageLike, LeftOut, gather
from headrecon.stages import Colours, Engine, Sitting
from headrecon.structures import Cameras, FaceObservation, HeadAssets, HeadParams, Licence

if TYPE_CHECKING:
    from headrecon.appearance.hair import HairLift
    from headrecon.fitting.multiview.result import MultiviewFit

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class PhotoResult:
    """The head in one of the photos. posed: vertices as there, with hair, in the world of `camera` (numpy).

    fit: the answer as seen from this photo: its parameters, residuals and figures. light: of the photo, where known.
    """

    sitting: Sitting
    fit: LandmarkFit
    posed: Float[np.ndarray, "V 3"]
    light: Lighting | None = None

    @property
    def camera(self) -> Cameras:
        return self.fit.pinholes[0]


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed head and everything that led to it. Vertices are in metres; see docs/conventions.md.

    photos: what went into it; the first shows the face best, and what is said of "the photo" is said of it. left_out:
    photos that were given and not used. cameras_known: all stand in one world, that of the file they came from.
    fit: joint, one row per photo in the order of `photos`.
    surface: what overlapping photos agree on, where there were enough of them: observed vertices, deviations, offsets.
    neutral: the identity at rest, +y up, facing +z, with what the photos showed of the skin, the hair's volume, and the
    eyes seated behind their lids (`offsets`, metres on the neutral head). colours: texture, normal map and the photo's
    light. relight: another light to show the head in. metric: figures such as `ipd_mm` or `distance_m`, each with
    `value`, `sigma` and a 90 % interval.
    """

    config: ReconstructConfig
    photos: tuple[PhotoResult, ...]
    assets: HeadAssets
    fit: LandmarkFit
    neutral: Float[np.ndarray, "V 3"]
    offsets: Float[np.ndarray, "V 3"]
    landmarks: dict[str, Float[np.ndarray, "L 3"]]
    colours: Colours
    metric: dict[str, Any]
    licences: tuple[Licence, ...]
    warnings: tuple[str, ...] = ()
    timings: Timings = field(default_factory=Timings)
    hair: HairLift | None = None
    surface: MultiviewFit | None = None
    relight: Lighting | None = None
    left_out: tuple[LeftOut, ...] = ()
    cameras_known: bool = False

    @property
    def image(self) -> LoadedImage:
        """The photo."""
        return self.photos[0].sitting.image

    @property
    def observation(self) -> FaceObservation:
        """What was seen in it, as detected."""
        return self.photos[0].sitting.observation

    @property
    def posed(self) -> Float[np.ndarray, "V 3"]:
        """Vertices as in the photo, in the world of `cameras`."""
        return self.photos[0].posed

    @property
    def focal_source(self) -> str:
        """Where the photo's focal length comes from: exif, user, estimated or known."""
        return self.photos[0].sitting.focal_source

    @property
    def texture(self) -> UInt8[np.ndarray, "S S 3"]:
        """The skin's colours in the model's UVs, row 0 on top (v = 1), sRGB."""
        return self.colours.texture

    @property
    def params(self) -> HeadParams:
        """The head's parameters as tensors, a row per photo (`fit.arrays` in numpy)."""
        return self.fit.params

    @property
    def cameras(self) -> Cameras:
        """The photo's camera as tensors (`photos[0].camera` in numpy)."""
        return self.fit.camera

    def save(self, out_dir: str | os.PathLike[str], overwrite: bool = False, progress: Progress | None = None) -> Path:
        """Write the output folder (docs/formats.md), whole or not at all, and return its path. Raises InputError."""
        from headrecon.outputs import write_outputs

        return write_outputs(self, Path(out_dir), overwrite, progress)


def load_engine(config: ReconstructConfig, progress: Progress | None = None) -> Engine:
    """Load the model and the networks that a configuration asks for; both are fetched on first use."""
    report = progress or (lambda stage, fraction: None)
    assets = load_head(config.model, config.age, report)
    task = None if config.perception.task is None else Path(config.perception.task)
    networks = load_networks(
        progress=lambda s: report(s.message, s.done_bytes / max(s.total_bytes, 1)), task_bundle=task
    )
    options = photo_options()
    options = replace(options, solver=replace(options.solver, max_iterations=config.fit.iterations))
    return Engine(assets, LandmarkFitter(assets, options), networks)


def reconstruct(
    image: ImageLike | Sequence[ImageLike],
    config: ReconstructConfig | None = None,
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Reconstruction:
    """Reconstruct the head in one photo, or the one head that several photos show.

    image: a file, or an upright sRGB picture as uint8 [H,W,3]; or a list of such, which share identity and size while
    each has its own expression, pose, light and camera. config: all settings (`headrecon.config.resolve` makes one from
    a preset); settings: single ones by key with "__" for ".", such as `knowledge__ipd_mm=63`.
    engine: a loaded model and networks to use again. progress: called with the stage and the share done, 0..1.
    Raises InputError, NoFaceFound, AssetError or NetworkUnavailable, each saying what to do.
    """
    config = _configured(config, settings)
    relight = None if config.output.relight is None else stages.light_from(config.output.relight)
    timings = Timings()
    report = progress or (lambda stage, fraction: None)
    report("loading model and networks", 0.0)
    with timings.stage("load"):
        engine = engine or load_engine(config, lambda stage, f: report(stage, 0.15 * f))
    report("finding the face", 0.15)
    with timings.stage("see"):
        company = _look(image, engine, config)
    sittings = company.sittings
    report("fitting the head", 0.25)
    with timings.stage("fit"):
        knowledge = _knowledge(config)
        fit = engine.fitter.fit([s.fitted for s in sittings], [s.hint for s in sittings], knowledge, rig=company.rig)
    if config.fit.dense:
        report("fitting the photo's pixels", 0.3)
        with timings.stage("dense"):
            fit = stages.refine(engine, fit, sittings, knowledge, company.rig)
    surface = None
    if config.photos.stereo and len(sittings) > 1:
        report("comparing the photos", 0.35)
        with timings.stage("together"):
            fit, surface = _together(engine, fit, company)
    hair = None
    if config.hair.lift:
        report("shaping the hair", 0.4)
        with timings.stage("hair"):
            hair = stages.lift_hair(engine, fit, sittings, None if surface is None else surface.offsets)
    offsets = stages.seated(engine, fit, _sum(surface, hair))
    neutral, posed = stages.heads(engine, fit, offsets)
    report("painting the texture", 0.45)
    with timings.stage("texture"):
        paint = stages.sketch if config.texture.detail == "sketch" else stages.paint
        colours = paint(engine, fit, sittings, (neutral, posed, hair), config.texture.size)
    heard = [company.warnings, fit.warnings, hair.warnings if hair else []]
    return Reconstruction(
        config=config,
        photos=tuple(
            PhotoResult(s, fit.of_view(i), posed[i], colours.lights[i] if colours.lights else None)
            for i, s in enumerate(sittings)
        ),
        assets=engine.assets,
        fit=fit,
        neutral=neutral,
        offsets=offsets,
        landmarks=_named_landmarks(engine.assets, posed[0] if config.output.posed else neutral),
        colours=colours,
        metric={**fit.figures, **fit.view_figures[0]},
        licences=(*engine.assets.licences, *engine.networks.licences, *licences_of(["anny-landmarks"])),
        warnings=tuple(text for group in heard for text in group),
        timings=timings,
        hair=hair,
        surface=surface,
        relight=relight,
        left_out=company.left_out,
        cameras_known=company.rig is not None,
    )


def _together(engine: Engine, fit: LandmarkFit, company: Company) -> tuple[LandmarkFit, MultiviewFit | None]:
    """The fit on which overlapping photos agree, and what else they say; the fit as it was where they do not."""
    found = stages.together(engine, fit, company.sittings, company.rig)
    if found is None:
        return fit, None
    from headrecon.fitting.multiview.from_fit import applied

    neutral = stages.heads(engine, replace(fit, flat=found.params[:1]), found.offsets)[0]
    return applied(fit, found, engine.fitter.models.measures, neutral), found


def _sum(surface: MultiviewFit | None, hair: HairLift | None) -> Float[np.ndarray, "V 3"] | None:
    """Offsets of the neutral head: what photos showed of the skin, and the hair on it."""
    both = [x.offsets for x in (surface, hair) if x is not None]
    return sum(both[1:], both[0]) if both else None


def _look(image: ImageLike | Sequence[ImageLike], engine: Engine, config: ReconstructConfig) -> Company:
    """What the photo, or the photos, show."""
    if isinstance(image, list | tuple):
        return gather(image, engine, config)
    one = cast(ImageLike, image)
    if config.photos.cameras is not None:
        return gather([one], engine, config)
    loaded = load_image(one) if isinstance(one, str | os.PathLike) else from_array(one)
    observation, warning = choose_face(observe_faces(loaded.image_srgb, engine.networks), config.perception.face)
    heard = (*loaded.warnings, warning) if warning else loaded.warnings
    return Company((stages.sit(loaded, observation, engine, config),), (), heard)


def _configured(config: ReconstructConfig | None, settings: dict[str, Any]) -> ReconstructConfig:
    if config is not None and settings:
        raise InputError("reconstruct takes either a config or single settings, found both; put them into the config")
    return config or resolve(overrides={k.replace("__", "."): v for k, v in settings.items()})


def _knowledge(config: ReconstructConfig) -> MetricKnowledge:
    k = config.knowledge
    return MetricKnowledge(ipd_mm=k.ipd_mm, focal_px=k.focal_px, distance_m=k.distance_m)


def _named_landmarks(assets: HeadAssets, vertices: Float[np.ndarray, "V 3"]) -> dict[str, Float[np.ndarray, "L 3"]]:
    chosen = {name: assets.landmarks[name] for name in ("ibug68", "mediapipe478") if name in assets.landmarks}
    return {name: embed(vertices, embedding).astype(np.float32) for name, embedding in chosen.items()}
