"""Synthetic videos with exact truth: a painted person who talks, blinks, looks about and turns, drawn frame by frame.

The person of a seed is the one of `synthetic_photo` with that seed. Frames are independent of each other: any of them
can be drawn alone, and memory does not grow with the length of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, UInt8

from headrecon.datasets.head_motion import HeadMotion, MotionOptions, draw_motion
from headrecon.datasets.looks import Look, draw_look
from headrecon.datasets.scene import SyntheticOptions, backdrop, draw_scene, random_light
from headrecon.datasets.studio import SyntheticStudio
from headrecon.datasets.synthetic import IRIS_SIGMA_M, resize_iris
from headrecon.datasets.texel_map import as_uint8
from headrecon.datasets.torso import Torso, draw_torso, joined
from headrecon.datasets.track_truth import TrackTruth
from headrecon.errors import InputError
from headrecon.geometry import so3
from headrecon.models.head_model import HeadModel
from headrecon.models.posed_mesh import embed
from headrecon.rendering.lighting import Lighting, Surface
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.pictures import Picture, draw
from headrecon.rendering.plain_head import IRIS_DIAMETER_M
from headrecon.structures import Cameras, HeadAssets, HeadParams, Mesh, Track

#: 35 mm equivalents of the cameras that people film themselves with.
_LENSES_MM = (28.0, 35.0, 50.0, 70.0)
#: Height of a head in metres, and the share of the picture that it fills.
_HEAD_M, _FILLS = 0.27, 0.68
_FACE_POINTS = 1500
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class VideoOptions:
    """A clip: its length, rate and size in pixels; what moves; how the person may look (`SyntheticOptions`).

    noise: of the camera, in shares of white; blur_px: of its lens; both drawn up to this much. lens_mm: 35 mm
    equivalent of the camera, or drawn; the person stands where the head fills the picture. torso: whether shoulders
    in a shirt are below the neck.
    """

    seconds: float = 6.0
    fps: float = 30.0
    size: int = 512
    motion: MotionOptions = field(default_factory=MotionOptions)
    tone: int | None = None
    masculine: bool | None = None
    hair: bool = True
    texture_size: int = 768
    supersample: int = 2
    noise: float = 0.012
    blur_px: float = 0.6
    torso: bool = False
    lens_mm: float | None = None


@dataclass(frozen=True)
class _Person:
    """Who is filmed. offsets: metres that hair, and irises of their own size, add to the neutral head."""

    params: HeadParams
    texture: Float[np.ndarray, "S S 3"]
    look: Look
    irises: Float[np.ndarray, "V 3"]
    hair: Float[np.ndarray, "V 3"]


class SyntheticVideo:
    """One clip. `frame(i)` draws a frame, `frames()` all of them, `truth` says what is true of each.

    Deterministic by seed: the same person and motion at any size, frame rate or subset of frames.
    Raises InputError for a clip without frames, AssetError for a model without 68 landmarks.
    """

    def __init__(self, assets: HeadAssets, seed: int, options: VideoOptions | None = None) -> None:
        self.assets, self.seed, self.options = assets, seed, options or VideoOptions()
        o = self.options
        count = round(o.seconds * o.fps)
        if count < 1 or o.fps <= 0:
            raise InputError(f"a video needs at least one frame, found {o.seconds} s at {o.fps} frames per second")
        self.times_s = np.arange(count) / o.fps
        self.motion: HeadMotion = draw_motion(np.random.default_rng([seed, 10]), self.times_s, o.seconds, o.motion)
        self._model = HeadModel(assets)
        rng = np.random.default_rng([seed, 11])
        drawn = float(rng.choice(_LENSES_MM))
        focal = (o.lens_mm or drawn) / math.hypot(36, 24) * math.hypot(o.size, o.size)
        self._distance = focal * _HEAD_M / (_FILLS * o.size)
        self._k = np.array([[focal, 0.0, o.size / 2], [0.0, focal, o.size / 2], [0.0, 0.0, 1.0]])
        self._person = self._draw_person()
        light_rng = np.random.default_rng([seed, 2])
        self._lights = [random_light(light_rng, self._person.look.skin) for _ in range(2)]
        # Wider than the picture: a camera that turns sees more of the room.
        self._room = backdrop(light_rng, math.ceil(1.4 * o.size))
        self._blur = float(light_rng.uniform(0, o.blur_px))
        self._noise = float(light_rng.uniform(0, o.noise))

    def __len__(self) -> int:
        return len(self.times_s)

    def _draw_person(self) -> _Person:
        o, assets = self.options, self.assets
        rng, look_rng = (np.random.default_rng([self.seed, stream]) for stream in range(2))
        betas = draw_scene(assets, rng, SyntheticOptions()).params.betas
        iris = float(rng.normal(IRIS_DIAMETER_M, IRIS_SIGMA_M))
        studio = SyntheticStudio(assets, o.texture_size)
        look = draw_look(look_rng, o.tone, o.masculine)
        look = look if o.hair else replace(look, hair_mm=0.0)
        painted = studio.paint(look, look_rng)
        params = replace(self._model.zeros(), betas=betas)
        neutral = self._model(params).vertices[0].numpy().astype(np.float64)
        eyes = resize_iris(assets, resize_iris(assets, neutral, "leye", iris), "reye", iris)
        return _Person(
            params, painted.texture_srgb.astype(np.float32) / 255, look, eyes - neutral,
            painted.hair_m[:, None] * studio.normals,
        )  # fmt: skip

    @cached_property
    def track(self) -> Track:
        """Parameters and cameras of every frame; the camera's world is that of the head."""
        names, m, count = self.assets.expression_names, self.motion, len(self)
        expression = np.zeros((count, len(names)))
        for name, curve in m.weights.items():
            if name in names:
                expression[:, names.index(name)] = curve
        rest = self._model(self._person.params).joints[0].numpy().astype(np.float64)
        # Between the eyes is where the camera first looks; the head turns about its root joint.
        still = np.array([0.0, 0.015, -self._distance]) - rest[3:5].mean(0)
        viewmats = np.tile(np.eye(4), (count, 1, 1))
        viewmats[:, :3, :3] = np.swapaxes(so3.exp(m.camera[:, 0]), 1, 2)
        viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ m.camera[:, 1][..., None])[..., 0]
        params = HeadParams(
            betas=np.tile(self._person.params.betas.numpy().astype(np.float64), (count, 1)),
            expression=expression,
            global_orient=m.root,
            neck_pose=m.neck,
            jaw_pose=np.zeros((count, 3)),
            leye_pose=m.eyes[:, 0],
            reye_pose=m.eyes[:, 1],
            transl=still + m.shift,
        )
        return Track(
            model=self.assets.name,
            expression_names=names,
            params=params,
            cameras=Cameras(_FLIP @ viewmats, np.tile(self._k, (count, 1, 1)), self.options.size, self.options.size),
            frames=np.arange(count),
            timestamps_s=self.times_s,
            confidence=np.ones(count),
        ).validate()

    @cached_property
    def _torso(self) -> Torso | None:
        if not self.options.torso:
            return None
        skin = np.unique(self.assets.faces[self.assets.faces_of("skin")])
        pivot = self._model(self._person.params).joints[0, 0].numpy().astype(np.float64)
        rng = np.random.default_rng([self.seed, 13])
        return draw_torso(self.neutral()[skin[skin >= 0]], pivot, rng, self.options.texture_size)

    @torch.no_grad()
    def vertices(self, index: int, hair: bool = True) -> Float[np.ndarray, "V 3"]:
        """The posed head of a frame in metres (float64), with or without the hair's volume."""
        return self._posed(self.track.take(np.array([index])).params, hair)

    @torch.no_grad()
    def neutral(self, hair: bool = False) -> Float[np.ndarray, "V 3"]:
        """The person at rest."""
        return self._posed(self._person.params.numpy(), hair)

    def _posed(self, params: HeadParams, hair: bool) -> np.ndarray:
        offsets = self._person.irises + self._person.hair * hair
        tensors = HeadParams(**{name: torch.from_numpy(np.array(a)).float() for name, a in vars(params).items()})
        found = self._model(tensors, torch.from_numpy(offsets).float())
        return found.vertices[0].numpy().astype(np.float64)

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Draw one frame."""
        drawn = self._drawn(index, None)
        alpha = drawn.alpha[..., None]
        image = drawn.image_srgb * alpha + self._behind(index) * (1 - alpha)
        return as_uint8(self._noisy(self._through_lens(image), index))

    def cut_out(self, index: int, cameras: Cameras | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The person of a frame alone, exactly: colours uint8 [H,W,3] and alphas uint8 [H,W].

        cameras: one camera that sees the same instant from elsewhere; None is the clip's own. Lens and noise are as in
        `frame`, except that other cameras have no noise.
        """
        drawn = self._drawn(index, cameras)
        alpha = drawn.alpha[..., None]
        mixed = self._through_lens(np.concatenate([drawn.image_srgb * alpha, alpha], axis=-1))
        colours = np.where(mixed[..., 3:] > 1e-4, mixed[..., :3] / np.maximum(mixed[..., 3:], 1e-4), 0)
        seen = colours if cameras is not None else self._noisy(colours, index)
        return as_uint8(seen), as_uint8(mixed[..., 3])

    def _drawn(self, index: int, cameras: Cameras | None) -> Picture:
        assets, o = self.assets, self.options
        # Cards of lashes need transparency, and stand as black plates before the eyes without; lashes are painted.
        solid = np.setdiff1d(np.arange(len(assets.faces)), assets.faces_of("lashes"))
        mesh = Mesh(self.vertices(index).astype(np.float32), assets.faces[solid], assets.uvs, assets.uv_faces[solid])
        texture = self._person.texture
        if self._torso is not None:
            params = self.track.params
            shoulders = self._torso.posed(params.global_orient[index], params.transl[index])
            mesh, texture = joined(mesh, texture, self._torso, shoulders)
        if cameras is None:
            own = self.track.cameras
            cameras = replace(own, viewmats=own.viewmats[index], Ks=own.Ks[index])
        first, second = self._lights
        light = _between(first, second, float(self.motion.light[index]))
        surface = Surface(specular=0.022, roughness=self._person.look.roughness)
        options = RenderOptions(lighting=light, supersample=o.supersample, background_srgb=None)
        return next(draw(mesh, cameras, Appearance(texture_srgb=texture, surface=surface), options))

    def frames(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """All frames, one at a time."""
        return (self.frame(index) for index in range(len(self)))

    def _behind(self, index: int) -> Float[np.ndarray, "H W 3"]:
        """The far room, shifted as the camera turns."""
        size, focal = self.options.size, float(self._k[0, 0])
        spare = len(self._room) - size
        pitch, yaw = self.motion.camera[index, 0, :2]
        across, down = (int(np.clip(round(spare / 2 + focal * a), 0, spare)) for a in (-yaw, -pitch))
        return self._room[down : down + size, across : across + size]

    def _through_lens(self, image: np.ndarray) -> np.ndarray:
        """The lens's blur, the same in all frames."""
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(image, (self._blur, self._blur, 0)) if self._blur > 0.05 else image

    def _noisy(self, image: np.ndarray, index: int) -> np.ndarray:
        """The sensor's noise, other in every frame."""
        rng = np.random.default_rng([self.seed, 12, index])
        return np.clip(image + self._noise * rng.standard_normal(image.shape, dtype=np.float32), 0, 1)

    def truth(self) -> TrackTruth:
        """Everything that is true of the clip; holds some points of every frame (18 kB a frame)."""
        assets = self.assets
        embedding = assets.landmarks["ibug68"]
        ids = _face_ids(assets, embed(assets.v_template, embedding))
        landmarks, face = [], []
        for index in range(len(self)):
            posed = self.vertices(index, hair=False)
            landmarks.append(embed(posed, embedding))
            face.append(posed[ids])
        rest = self.neutral()
        moving = self.options.motion != MotionOptions.still()
        return TrackTruth(
            self.track, np.stack(landmarks), np.stack(face), embed(rest, embedding), rest[ids], ids, not moving
        )


def _face_ids(assets: HeadAssets, marks: Float[np.ndarray, "68 3"]) -> np.ndarray:
    """Vertices of the skin in front, from the brows to the chin: what a face is judged by."""
    skin = np.unique(assets.faces[assets.faces_of("skin")])
    skin = skin[skin >= 0]
    points = assets.v_template[skin]
    eyes = float(np.linalg.norm(marks[36] - marks[45]))
    # The region of the NoW protocol (Sanyal et al. 2019): a ball about a place below the bridge of the nose.
    bridge = (marks[39] + marks[42]) / 2
    centre = marks[33] + 0.3 * (bridge - marks[33])
    radius = 0.7 * (eyes + float(np.linalg.norm(bridge - marks[33])))
    near = skin[(np.linalg.norm(points - centre, axis=1) < radius) & (points[:, 2] > centre[2] - 0.6 * eyes)]
    return near[:: max(1, math.ceil(len(near) / _FACE_POINTS))]


def _between(one: Lighting, two: Lighting, share: float) -> Lighting:
    """A light that has gone some of the way to another."""
    directions = (1 - share) * np.asarray(one.directions) + share * np.asarray(two.directions)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-6)
    return replace(
        one,
        ambient_sh=((1 - share) * one.ambient_sh + share * two.ambient_sh).astype(np.float32),
        directions=directions.astype(np.float32),
        intensities=((1 - share) * one.intensities + share * two.intensities).astype(np.float32),
    )
