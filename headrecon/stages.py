"""The stages of `pipeline.reconstruct` that look at the photo's pixels: dense fit, hair, texture. Each is optional.

They import what they need when they run: torch and SciPy cost more than a whole draft, which does without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.config import ReconstructConfig
from headrecon.errors import InputError
from headrecon.fitting.fit_report import LandmarkFit
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.photo import CameraHint, LandmarkFitter
from headrecon.fitting.rig import Rig
from headrecon.io.exif import FocalHint
from headrecon.io.images import LoadedImage
from headrecon.models.posed_mesh import embed, posed_vertices
from headrecon.perception.networks import Networks
from headrecon.rendering.lighting import Lighting
from headrecon.structures import FaceObservation, HeadAssets

if TYPE_CHECKING:
    from headrecon.appearance.hair import HairLift
    from headrecon.appearance.projection import Photo
    from headrecon.fitting.dense.refine import DenseFitter
    from headrecon.fitting.multiview.refine import MultiviewFitter
    from headrecon.fitting.multiview.result import MultiviewFit
    from headrecon.models.head_model import HeadModel
    from headrecon.perception.face_refiner import FaceRefiner


#: Share of the refiner's corrections in a face from the front. Chosen on tuning renderings and by how one person's
#: photos agree (docs/accuracy.md).
_FRONT_SHARE = 0.3


@dataclass(frozen=True)
class Engine:
    """What does not depend on the photo: model, fitter, networks. Make it once for many photos."""

    assets: HeadAssets
    fitter: LandmarkFitter
    networks: Networks

    @cached_property
    def refiner(self) -> FaceRefiner:
        """What knows the landmark network's errors, loaded when first used."""
        from headrecon.perception.face_refiner import load_face_refiner

        return load_face_refiner()

    def refined(self, face: FaceObservation, image_srgb: UInt8[np.ndarray, "H W 3"]) -> FaceObservation | None:
        """The face with what a closer look says about its shape and points; None if the refiner is for another model.

        On photos from the front the detected points lie on the features, and the refiner, which has their errors from
        renderings, counts for less; of a turned head the detector guesses the far half, and the refiner counts fully.
        """
        from headrecon.perception.face_refiner import turned

        if self.refiner.model != self.assets.name:
            return None
        refined = self.refiner.refine(face, image_srgb, self.networks.face_mesh)
        points = face.landmarks.astype(np.float64)
        points += (_FRONT_SHARE + (1 - _FRONT_SHARE) * turned(points)) * (refined.landmarks - points)
        return replace(refined, landmarks=points.astype(face.landmarks.dtype))

    @cached_property
    def dense(self) -> DenseFitter:
        """The fitter of pixels, made when first used."""
        from headrecon.fitting.dense.refine import DenseFitter

        return DenseFitter(self.fitter)

    @cached_property
    def multiview(self) -> MultiviewFitter:
        """The fitter of several photos' surfaces, made when first used."""
        from headrecon.fitting.multiview.refine import MultiviewFitter

        return MultiviewFitter(self.assets)

    @cached_property
    def head_model(self) -> HeadModel:
        """The model as torch evaluates it, made when first used."""
        from headrecon.models.head_model import HeadModel

        return HeadModel(self.assets)


@dataclass(frozen=True)
class Sitting:
    """One photo, the face in it, and the opacity of the person (None where no stage needs it)."""

    image: LoadedImage
    observation: FaceObservation
    mask: Float[np.ndarray, "H W"] | None = None
    #: as the fit takes it, after `Engine.refined`; None: as detected
    refined: FaceObservation | None = None
    #: what is known of the camera, and who says so
    hint: CameraHint = field(default_factory=CameraHint)
    focal_source: str = "estimated"
    #: the photo's place among those that were given
    index: int = 0

    @property
    def fitted(self) -> FaceObservation:
        """The face that the fits compare the head with."""
        return self.refined or self.observation


@dataclass(frozen=True)
class Colours:
    """Textures in the model's UVs (row 0 is v = 1).

    texture: sRGB; albedo where `lights` are known, which then are the photos' lights, each in the axes of its camera;
    else the colours as photographed. normal_map: tangent-space relief as glTF has it, where the photo showed any.
    """

    texture: UInt8[np.ndarray, "S S 3"]
    normal_map: UInt8[np.ndarray, "N N 3"] | None = None
    lights: tuple[Lighting | None, ...] = ()

    @property
    def light(self) -> Lighting | None:
        """The (first) photo's light."""
        return self.lights[0] if self.lights else None


def sit(
    image: LoadedImage,
    face: FaceObservation,
    engine: Engine,
    config: ReconstructConfig,
    index: int = 0,
    name: str = "",
) -> Sitting:
    """A photo and its face, with what the later stages want: a closer look, the person's mask, the camera."""
    mask = None
    if config.fit.dense or config.hair.lift or config.photos.stereo or config.texture.detail == "full":
        from headrecon.perception.person_mask import person_mask

        mask = person_mask(image.image_srgb, engine.networks, face)
    # The refiner knows our networks and head model, no others.
    closer = config.fit.refine and config.perception.task is None
    refined = engine.refined(face, image.image_srgb) if closer else None
    focal, source = _focal_hint(image, config)
    return Sitting(image, face, mask, refined, CameraHint(focal=focal, name=name), source, index)


def _focal_hint(image: LoadedImage, config: ReconstructConfig) -> tuple[FocalHint | None, str]:
    """What is known of the focal length and where it came from: the user's word comes before EXIF's."""
    if config.knowledge.focal_px is not None:
        return None, "user"
    if image.focal is not None and config.fit.exif_focal:
        return image.focal, "exif"
    return None, "estimated"


def frontal_size(face: FaceObservation) -> float:
    """How well a photo shows the face: the distance between the pupils in pixels, less the more it is turned."""
    from headrecon.perception.faces import eye_distance_px
    from headrecon.perception.shape_reader import yaw_of

    turned = float(yaw_of(face.landmarks[None].astype(np.float64))[0])
    return eye_distance_px(face) * max(float(np.cos(turned)), 0.0) ** 6


def refine(
    engine: Engine, fit: LandmarkFit, sittings: Sequence[Sitting], knowledge: MetricKnowledge, rig: Rig | None = None
) -> LandmarkFit:
    """The fit with the photos' pixels taken into account; the landmark fit itself where they do not agree with it."""
    from headrecon.fitting.dense.refine import DensePhoto

    photos = [DensePhoto(s.image.image_srgb, s.fitted, s.mask, s.hint) for s in sittings]
    return engine.dense.refine(fit, photos, knowledge, rig).fit


def together(
    engine: Engine, fit: LandmarkFit, sittings: Sequence[Sitting], rig: Rig | None = None
) -> MultiviewFit | None:
    """What overlapping photos agree on: cameras, heads and offsets. None where there are too few photos to ask.

    Two photos of known cameras are enough; where the cameras have to be found from the photos too it takes three.
    """
    from headrecon.fitting.multiview.from_fit import views_of

    if len(sittings) < (3 if rig is None else 2):
        return None
    still = rig is not None and rig.still
    views = views_of(fit, [s.image.image_srgb for s in sittings], [s.mask for s in sittings], still, still)
    return engine.multiview.refine(replace(views, known_focals=rig is not None))


def lift_hair(
    engine: Engine, fit: LandmarkFit, sittings: Sequence[Sitting], base: Float[np.ndarray, "V 3"] | None = None
) -> HairLift:
    """The hair's volume: offsets of the neutral head. base: offsets that it has already."""
    from headrecon.appearance import hair

    photos = [_photo(fit.of_view(i), sitting) for i, sitting in enumerate(sittings)]
    return hair.lift_hair(engine.head_model, fit.params, photos, base)


def seated(engine: Engine, fit: LandmarkFit, offsets: Float[np.ndarray, "V 3"] | None) -> Float[np.ndarray, "V 3"]:
    """The offsets, and what puts the eyes behind their lids."""
    from headrecon.models.eye_sockets import seat_eyes

    found = seat_eyes(engine.assets, heads(engine, replace(fit, flat=fit.flat[:1]), offsets)[0])
    return found if offsets is None else found + offsets


def heads(
    engine: Engine, fit: LandmarkFit, offsets: Float[np.ndarray, "V 3"] | None
) -> tuple[Float[np.ndarray, "V 3"], tuple[Float[np.ndarray, "V 3"], ...]]:
    """Neutral vertices and those as posed in each photo, float32, all with the offsets (metres on the neutral head)."""
    joints = engine.fitter.models.points
    betas = fit.layout.slices["betas"]
    still = np.zeros_like(fit.flat[0])
    still[betas] = fit.flat[0][betas]
    neutral, *posed = (posed_vertices(engine.assets, joints, x, offsets).astype(np.float32) for x in (still, *fit.flat))
    return neutral, tuple(posed)


def sketch(
    engine: Engine,
    fit: LandmarkFit,
    sittings: Sequence[Sitting],
    head: tuple[Float[np.ndarray, "V 3"], Sequence[Float[np.ndarray, "V 3"]], HairLift | None],
    size: int,
) -> Colours:
    """The quick texture, without torch, from the photo that shows the face best: see `appearance.sketch`."""
    from headrecon.appearance.sketch import sketch_texture

    return Colours(sketch_texture(engine.assets, head[1][0], sittings[0].image.image_srgb, fit.pinholes[0], size))


def paint(
    engine: Engine,
    fit: LandmarkFit,
    sittings: Sequence[Sitting],
    head: tuple[Float[np.ndarray, "V 3"], Sequence[Float[np.ndarray, "V 3"]], HairLift | None],
    size: int,
) -> Colours:
    """The full texture: see `appearance.texture`. head: neutral vertices, those posed in each photo, and the hair."""
    from headrecon.appearance.texture import make_texture

    neutral, posed, hair = head
    covered = None if hair is None else hair.hair_vertices
    first, *further = [
        (vertices, _aligned(engine, fit.of_view(i), sitting, vertices))
        for i, (sitting, vertices) in enumerate(zip(sittings, posed, strict=True))
    ]
    made = make_texture(engine.assets, *first, size, covered, neutral, further)
    return Colours(made.image, made.normal_map, made.lights)


def _aligned(engine: Engine, fit: LandmarkFit, sitting: Sitting, posed: Float[np.ndarray, "V 3"]) -> Photo:
    """The photo with its features where the fitted head has them."""
    from headrecon.appearance.feature_alignment import align_features, feature_field
    from headrecon.fitting.landmarks import visibility_of
    from headrecon.geometry.cameras import camera_centers, project_points
    from headrecon.geometry.mesh import vertex_normals

    models = engine.fitter.models
    marks = models.assets.landmarks["mediapipe478"]
    normals = vertex_normals(posed.astype(np.float64), models.triangles)
    points = embed(posed.astype(np.float64), marks)[:468]
    pixels, _ = project_points(points, fit.pinholes[0])
    from_camera = points - camera_centers(fit.pinholes[0]).astype(np.float64)
    detected = sitting.observation.landmarks[:468, :2].astype(np.float64)
    field = feature_field(pixels, detected, visibility_of(embed(normals, marks)[:468], from_camera))
    return align_features(_photo(fit, sitting), field)


def _photo(fit: LandmarkFit, sitting: Sitting) -> Photo:
    import torch

    from headrecon.appearance.openings import face_openings
    from headrecon.appearance.projection import Photo

    landmarks = sitting.observation.landmarks
    return Photo(
        torch.from_numpy(np.require(sitting.image.image_srgb, requirements="W")),  # torch wants it writable
        fit.camera,
        None if sitting.mask is None else torch.from_numpy(sitting.mask),
        landmarks[468:478, :2].reshape(2, 5, 2),
        face_openings(landmarks),
    )


def light_from(choice: str) -> Lighting:
    """The light that `--relight` names: one of ours, a JSON file with a light, or a panorama (any picture, 2:1).

    Raises InputError that lists what there is.
    """
    from headrecon.rendering import light_rigs

    if choice in light_rigs.LIGHT_NAMES:
        return light_rigs.named_light(choice)
    path = Path(choice)
    if not path.exists():
        names = ", ".join(light_rigs.LIGHT_NAMES)
        raise InputError(f"--relight {choice}: no such light and no such file; the lights are {names}")
    if path.suffix.lower() == ".json":
        return light_rigs.light_from_document(_read_json(path))
    import torch

    from headrecon.io.images import load_image
    from headrecon.rendering.colour import srgb_to_linear

    picture = torch.from_numpy(load_image(path).image_srgb.astype(np.float32) / 255)
    return light_rigs.light_from_panorama(srgb_to_linear(picture).numpy())


def _read_json(path: Path) -> dict:
    import json

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"--relight {path}: not readable as JSON ({error}); expected a light or a head.json"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"--relight {path}: expected a JSON object with a light, found {type(content).__name__}")
    return content
