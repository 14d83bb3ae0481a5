"""One photo to a head: the stages in their order, and nothing else. `headrecon.reconstruct` is this module's.

load picture -> load model and networks -> find the face -> fit landmarks -> fit pixels -> hair -> texture ->
`Reconstruction`, whose `save` writes the output folder (`headrecon.outputs`). What draft leaves out it does not import.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from headrecon import stages
from headrecon.config import ReconstructConfig, resolve
from headrecon.errors import InputError
from headrecon.fitting.detector_noise import photo_options
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.photo import CameraHint, LandmarkFit, LandmarkFitter
from headrecon.io.exif import FocalHint
from headrecon.io.images import LoadedImage, from_array, load_image
from headrecon.io.runs import Timings
from headrecon.licences import licences_of
from headrecon.models.posed_mesh import embed
from headrecon.models.store import load_head
from headrecon.perception.faces import choose_face, observe_faces
from headrecon.perception.networks import load_networks
from headrecon.rendering.lighting import Lighting
from headrecon.stages import Colours, Engine, Sitting
from headrecon.structures import Cameras, FaceObservation, HeadAssets, HeadParams, Licence

if TYPE_CHECKING:
    from headrecon.appearance.hair import HairLift

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed head and everything that led to it. Vertices are in metres; see docs/conventions.md.

    neutral: the identity at rest, +y up, facing +z. posed: as in the photo, in the world of `cameras` (the photo's).
    Both have the hair's volume where `hair` is not None (`hair.offsets`, metres on the neutral head). colours: texture,
    normal map and the photo's light. relight: another light to show the head in.
    metric: figures such as `ipd_mm` or `distance_m`, each with `value`, `sigma` and a 90 % interval.
    """

    config: ReconstructConfig
    image: LoadedImage
    observation: FaceObservation
    assets: HeadAssets
    fit: LandmarkFit
    neutral: Float[np.ndarray, "V 3"]
    posed: Float[np.ndarray, "V 3"]
    landmarks: dict[str, Float[np.ndarray, "L 3"]]
    colours: Colours
    metric: dict[str, Any]
    focal_source: str
    licences: tuple[Licence, ...]
    warnings: tuple[str, ...] = ()
    timings: Timings = field(default_factory=Timings)
    hair: HairLift | None = None
    relight: Lighting | None = None

    @property
    def texture(self) -> UInt8[np.ndarray, "S S 3"]:
        """The skin's colours in the model's UVs, row 0 on top (v = 1), sRGB."""
        return self.colours.texture

    @property
    def params(self) -> HeadParams:
        """The head's parameters as tensors (`fit.arrays` in numpy)."""
        return self.fit.params

    @property
    def cameras(self) -> Cameras:
        """The photo's camera as tensors (`fit.pinholes[0]` in numpy)."""
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
    image: str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"],
    config: ReconstructConfig | None = None,
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Reconstruction:
    """Reconstruct the head in one photo.

    image: a file, or an upright sRGB picture as uint8 [H,W,3]. config: all settings (`headrecon.config.resolve`
    makes one from a preset); settings: single ones by key with "__" for ".", such as `knowledge__ipd_mm=63`.
    engine: a loaded model and networks to use again. progress: called with the stage and the share done, 0..1.
    Raises InputError, NoFaceFound, AssetError or NetworkUnavailable, each saying what to do.
    """
    config = _configured(config, settings)
    relight = None if config.output.relight is None else stages.light_from(config.output.relight)
    timings = Timings()
    report = progress or (lambda stage, fraction: None)
    report("reading the photo", 0.0)
    with timings.stage("read"):
        loaded = load_image(image) if isinstance(image, (str, os.PathLike)) else from_array(image)
    report("loading model and networks", 0.05)
    with timings.stage("load"):
        engine = engine or load_engine(config, lambda stage, f: report(stage, 0.05 + 0.2 * f))
    report("finding the face", 0.2)
    with timings.stage("see"):
        sitting, face_warning = _look(loaded, engine, config)
    report("fitting the head", 0.25)
    with timings.stage("fit"):
        focal, focal_source = _focal_hint(loaded, config)
        hint, knowledge = CameraHint(focal=focal), _knowledge(config)
        fit = engine.fitter.fit(sitting.fitted, hint, knowledge)
    if config.fit.dense:
        report("fitting the photo's pixels", 0.3)
        with timings.stage("dense"):
            fit = stages.refine(engine, fit, sitting, hint, knowledge)
    hair = None
    if config.hair.lift:
        report("shaping the hair", 0.4)
        with timings.stage("hair"):
            hair = stages.lift_hair(engine, fit, sitting)
    neutral, posed = stages.heads(engine, fit, None if hair is None else hair.offsets)
    report("painting the texture", 0.45)
    with timings.stage("texture"):
        if config.texture.detail == "sketch":
            colours = stages.sketch(engine, fit, sitting, posed, config.texture.size)
        else:
            colours = stages.paint(engine, fit, sitting, (neutral, posed, hair), config.texture.size)
    heard = [loaded.warnings, [face_warning] if face_warning else [], fit.warnings, hair.warnings if hair else []]
    return Reconstruction(
        config=config,
        image=loaded,
        observation=sitting.observation,
        assets=engine.assets,
        fit=fit,
        neutral=neutral,
        posed=posed,
        landmarks=_named_landmarks(engine.assets, posed if config.output.posed else neutral),
        colours=colours,
        metric={**fit.figures, **fit.view_figures[0]},
        focal_source=focal_source,
        licences=(*engine.assets.licences, *engine.networks.licences, *licences_of(["anny-landmarks"])),
        warnings=tuple(text for group in heard for text in group),
        timings=timings,
        hair=hair,
        relight=relight,
    )


def _look(image: LoadedImage, engine: Engine, config: ReconstructConfig) -> tuple[Sitting, str | None]:
    """The face that is asked for, the mask of its person where a later stage wants it, and a warning about others."""
    observations = observe_faces(image.image_srgb, engine.networks)
    observation, warning = choose_face(observations, config.perception.face)
    mask = None
    if config.fit.dense or config.hair.lift or config.texture.detail == "full":
        from headrecon.perception.person_mask import person_mask

        mask = person_mask(image.image_srgb, engine.networks, observation)
    return Sitting(image, observation, mask, _refined(observation, image, engine, config)), warning


def _refined(
    face: FaceObservation, image: LoadedImage, engine: Engine, config: ReconstructConfig
) -> FaceObservation | None:
    """The face as the fit takes it. The refiner knows our networks and head model, no others."""
    wanted = config.fit.refine and config.perception.task is None
    return engine.refined(face, image.image_srgb) if wanted else None


def _configured(config: ReconstructConfig | None, settings: dict[str, Any]) -> ReconstructConfig:
    if config is not None and settings:
        raise InputError("reconstruct takes either a config or single settings, found both; put them into the config")
    return config or resolve(overrides={k.replace("__", "."): v for k, v in settings.items()})


def _knowledge(config: ReconstructConfig) -> MetricKnowledge:
    k = config.knowledge
    return MetricKnowledge(ipd_mm=k.ipd_mm, focal_px=k.focal_px, distance_m=k.distance_m)


def _focal_hint(image: LoadedImage, config: ReconstructConfig) -> tuple[FocalHint | None, str]:
    """What is known of the focal length and where it came from: the user's word comes before EXIF's."""
    if config.knowledge.focal_px is not None:
        return None, "user"
    if image.focal is not None and config.fit.exif_focal:
        return image.focal, "exif"
    return None, "estimated"


def _named_landmarks(assets: HeadAssets, vertices: Float[np.ndarray, "V 3"]) -> dict[str, Float[np.ndarray, "L 3"]]:
    chosen = {name: assets.landmarks[name] for name in ("ibug68", "mediapipe478") if name in assets.landmarks}
    return {name: embed(vertices, embedding).astype(np.float32) for name, embedding in chosen.items()}
