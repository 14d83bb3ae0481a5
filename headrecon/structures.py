"""Plain, frozen data that travels between the layers. No algorithm and no file access lives here.

Units are metres, radians and pixels. Head space: +y up, the face looks along +z (as glTF).
Cameras are OpenCV: +x right, +y down, +z forward; the centre of the first pixel is at (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headrecon.arrays import Array, namespace
from headrecon.errors import ShapeError

#: Joints of every head model, in this order. `root` carries `global_orient`, `neck` carries `neck_pose` and so on.
JOINT_NAMES: tuple[str, ...] = ("root", "neck", "jaw", "leye", "reye")
POSE_FIELDS: tuple[str, ...] = ("global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose")

#: The 52 ARKit blendshapes, in Apple's alphabetical order.
ARKIT_NAMES: tuple[str, ...] = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip


def _numpy(values: Array) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()


@dataclass(frozen=True)
class HeadParams:
    """Parameters of a head, batched over B.

    betas are identity coefficients in standard deviations of the model's population; expression follows
    `HeadAssets.expression_names`; the five poses are axis-angle in radians about the joints `JOINT_NAMES`;
    transl is in metres, applied last. Torch tensors, or numpy arrays as files are written from them.
    """

    betas: Float[Array, "B Nb"]
    expression: Float[Array, "B Ne"]
    global_orient: Float[Array, "B 3"]
    neck_pose: Float[Array, "B 3"]
    jaw_pose: Float[Array, "B 3"]
    leye_pose: Float[Array, "B 3"]
    reye_pose: Float[Array, "B 3"]
    transl: Float[Array, "B 3"]

    @staticmethod
    def zeros(
        num_betas: int, num_expressions: int, batch: int = 1, dtype: Any = None, device: Any = None
    ) -> HeadParams:
        """The mean head, neutral, at rest: all parameters zero, as tensors (float32 unless `dtype` says otherwise)."""
        import torch

        def zero(n: int) -> Any:
            return torch.zeros(batch, n, dtype=dtype or torch.float32, device=device)

        return HeadParams(zero(num_betas), zero(num_expressions), *(zero(3) for _ in range(6)))

    @property
    def batch(self) -> int:
        return self.betas.shape[0]

    @property
    def full_pose(self) -> Float[Array, "B 5 3"]:
        """The five axis-angle poses stacked in the order of `JOINT_NAMES`."""
        return namespace(self.betas).stack([getattr(self, name) for name in POSE_FIELDS], 1)

    def take(self, rows: Any) -> HeadParams:
        """Some of the batch: a slice, or indices of the arrays' own kind."""
        return HeadParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def neutral(self) -> HeadParams:
        """The same identity with no expression, no pose and no translation."""
        zero = HeadParams.zeros(
            self.betas.shape[1], self.expression.shape[1], self.batch, self.betas.dtype, self.betas.device
        )
        return replace(zero, betas=self.betas)

    def numpy(self) -> HeadParams:
        """The same parameters as numpy arrays of the same precision."""
        return HeadParams(**{f.name: _numpy(getattr(self, f.name)) for f in fields(self)})

    def to(self, *args: Any, **kwargs: Any) -> HeadParams:
        """As `Tensor.to`, for every field."""
        return HeadParams(**{f.name: getattr(self, f.name).to(*args, **kwargs) for f in fields(self)})


@dataclass(frozen=True)
class Mesh:
    """A mesh with optional UVs. Faces are triangles [F,3] or quads [F,4] whose last index is -1 for a triangle."""

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F K"]
    uvs: Float[np.ndarray, "T 2"] | None = None
    uv_faces: Int[np.ndarray, "F K"] | None = None

    @property
    def triangles(self) -> Int[np.ndarray, "T 3"]:
        return triangulate(self.faces)[0]


def triangulate(faces: Int[np.ndarray, "F K"]) -> tuple[Int[np.ndarray, "T 3"], Int[np.ndarray, " T"]]:
    """Split quads (last index -1 for a triangle) into triangles (a,b,c), (a,c,d); also the source face of each.

    Apply it to `faces` and `uv_faces` alike: the pattern is fixed by the padding alone, so corners stay matched.
    """
    source = np.arange(len(faces))
    if faces.shape[1] == 3:
        return np.ascontiguousarray(faces), source
    quads = faces[:, 3] >= 0
    triangles = np.concatenate([faces[:, :3], faces[quads][:, [0, 2, 3]]])
    source = np.concatenate([source, source[quads]])
    order = np.argsort(source, kind="stable")
    return np.ascontiguousarray(triangles[order]), source[order]


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras in the OpenCV convention. viewmats are world to camera (T_cam_world); Ks in pixels.

    Both are torch tensors, or both numpy arrays; `geometry.cameras` computes with either.
    """

    viewmats: Float[Array, "*C 4 4"]
    Ks: Float[Array, "*C 3 3"]
    width: int
    height: int

    def to(self, *args: Any, **kwargs: Any) -> Cameras:
        """As `Tensor.to`, for cameras that hold tensors."""
        return replace(self, viewmats=self.viewmats.to(*args, **kwargs), Ks=self.Ks.to(*args, **kwargs))

    def numpy(self) -> Cameras:
        """The same cameras as numpy arrays of the same precision."""
        return replace(self, viewmats=_numpy(self.viewmats), Ks=_numpy(self.Ks))

    def torch(self) -> Cameras:
        """The same cameras as float32 tensors (numpy's memory is shared where it is float32 already)."""
        import torch

        return replace(self, viewmats=torch.asarray(self.viewmats).float(), Ks=torch.asarray(self.Ks).float())


@dataclass(frozen=True)
class Track:
    """One person followed through the T frames of a video, as numpy arrays (file: `track.npz`, docs/formats.md).

    params: B = T, rows of betas all the same. cameras: [T], the camera stands still at the world's origin unless it is
    known to move. frames: index of each in the video, rising; a frame that could not be read is absent.
    timestamps_s: when each is shown, rising. confidence: 0..1; 0 where nobody was seen and the pose was carried on.
    expression_names: of the columns of `params.expression`. model: whose parameters these are.
    """

    model: str
    expression_names: tuple[str, ...]
    params: HeadParams
    cameras: Cameras
    frames: Int[np.ndarray, " T"]
    timestamps_s: Float[np.ndarray, " T"]
    confidence: Float[np.ndarray, " T"]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def betas(self) -> Float[np.ndarray, " Nb"]:
        """The person's identity."""
        return self.params.betas[0]

    def take(self, ids: Int[np.ndarray, " N"]) -> Track:
        """Some of the frames, by their place in this track."""
        return replace(
            self,
            params=self.params.take(ids),
            cameras=replace(self.cameras, viewmats=self.cameras.viewmats[ids], Ks=self.cameras.Ks[ids]),
            frames=self.frames[ids],
            timestamps_s=self.timestamps_s[ids],
            confidence=self.confidence[ids],
        )

    def validate(self) -> Track:
        """Return self when every array agrees with the others; raise ShapeError naming the first that does not."""
        count = len(self.frames)
        arrays = {f.name: getattr(self.params, f.name) for f in fields(self.params)}
        arrays |= {"viewmats": self.cameras.viewmats, "Ks": self.cameras.Ks}
        arrays |= {"timestamps_s": self.timestamps_s, "confidence": self.confidence}
        for name, array in arrays.items():
            if len(array) != count:
                raise ShapeError(f"track: {name} must have one row for each of the {count} frames, found {len(array)}")
            if not np.isfinite(array).all():
                raise ShapeError(f"track: {name} holds NaN or infinity")
        if self.params.expression.shape[1] != len(self.expression_names):
            raise ShapeError(
                f"track: expression must have {len(self.expression_names)} columns, "
                f"found {self.params.expression.shape[1]}"
            )
        if (np.diff(self.frames) <= 0).any() or (np.diff(self.timestamps_s) <= 0).any():
            raise ShapeError("track: frames and timestamps_s must rise")
        if count and (self.params.betas != self.params.betas[0]).any():
            raise ShapeError("track: all frames must have the same betas")
        return self


@dataclass(frozen=True)
class Gaussians:
    """N coloured 3D Gaussians, or batches *B of so many; torch tensors, or numpy arrays as files are written from them.

    means in metres; quats_wxyz turn a Gaussian's axes into the world's, of any length; scales are standard deviations
    along its axes, metres; opacities 0..1. Either colours: D values that look the same from everywhere, [*B,N,D], or
    one set for every camera, [*B,C,N,D]; or sh: coefficients of K = 1, 4, 9 or 16 spherical harmonics of the
    direction of view, as Gaussian-splat files hold them (colour = 1/2 + sum, in the order of `geometry.harmonics`).
    """

    means: Float[Array, "*B N 3"]
    quats_wxyz: Float[Array, "*B N 4"]
    scales: Float[Array, "*B N 3"]
    opacities: Float[Array, "*B N"]
    colours: Float[Array, "*A N D"] | None = None
    sh: Float[Array, "*B N K 3"] | None = None

    def __len__(self) -> int:
        """How many there are (in each of the batches)."""
        return self.means.shape[-2]

    def to(self, *args: Any, **kwargs: Any) -> Gaussians:
        """As `Tensor.to`, for every field."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return Gaussians(**{name: None if t is None else t.to(*args, **kwargs) for name, t in found.items()})


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Points on a mesh surface: each is a barycentric mix of three vertices.

    sigma_m, where known, is the standard error in metres of where the point was placed (isotropic).
    """

    vertex_ids: Int[np.ndarray, "L 3"]
    barycentrics: Float[np.ndarray, "L 3"]
    sigma_m: Float[np.ndarray, " L"] | None = None

    def __len__(self) -> int:
        return len(self.vertex_ids)


@dataclass(frozen=True)
class Licence:
    """Under which terms a model, network or table may be used. `commercial` says whether its output may be sold."""

    name: str
    spdx: str
    commercial: bool
    source: str
    note: str = ""


@dataclass(frozen=True)
class HeadAssets:
    """Everything a head model is made of, as plain arrays (one `.npz` per model; see docs/formats.md).

    shapedirs are metres per standard deviation of identity; exprdirs metres at expression weight 1.
    posedirs follow SMPL: row 9(j-1)+k multiplies entry k of (R_j - I) for the joints after the root.
    face_part indexes part_names (skin, leye, reye, mouth, upper_teeth, lower_teeth, tongue, ...).
    regions are per-vertex weights in 0..1 by name (face, nose, lips, scalp, neck, ...).
    """

    name: str
    v_template: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F K"]
    uvs: Float[np.ndarray, "T 2"]
    uv_faces: Int[np.ndarray, "F K"]
    shapedirs: Float[np.ndarray, "V 3 Nb"]
    exprdirs: Float[np.ndarray, "V 3 Ne"]
    expression_names: tuple[str, ...]
    J_regressor: Float[np.ndarray, "J V"]
    parents: Int[np.ndarray, " J"]
    lbs_weights: Float[np.ndarray, "V J"]
    face_part: Int[np.ndarray, " F"]
    part_names: tuple[str, ...]
    licences: tuple[Licence, ...]
    posedirs: Float[np.ndarray, "P V3"] | None = None
    landmarks: dict[str, LandmarkEmbedding] = field(default_factory=dict)
    regions: dict[str, Float[np.ndarray, " V"]] = field(default_factory=dict)
    version: str = "1"

    @property
    def num_vertices(self) -> int:
        return self.v_template.shape[0]

    @property
    def num_betas(self) -> int:
        return self.shapedirs.shape[2]

    @property
    def num_expressions(self) -> int:
        return self.exprdirs.shape[2]

    def faces_of(self, *parts: str) -> Int[np.ndarray, " N"]:
        """Indices of the faces that belong to the named parts; names the model lacks are skipped."""
        wanted = [self.part_names.index(p) for p in parts if p in self.part_names]
        return np.flatnonzero(np.isin(self.face_part, wanted))

    def validate(self) -> HeadAssets:
        """Return self when every array agrees with the others; raise ShapeError naming the first that does not."""
        v, j = self.num_vertices, len(self.parents)
        expected: dict[str, tuple[int, ...]] = {
            "v_template": (v, 3),
            "shapedirs": (v, 3, self.num_betas),
            "exprdirs": (v, 3, len(self.expression_names)),
            "J_regressor": (j, v),
            "lbs_weights": (v, j),
            "uv_faces": self.faces.shape,
            "face_part": (len(self.faces),),
        }
        if self.posedirs is not None:
            expected["posedirs"] = (9 * (j - 1), 3 * v)
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ShapeError(f"head model {self.name!r}: {name} must have shape {shape}, found {found}")
        if j != len(JOINT_NAMES):
            raise ShapeError(
                f"head model {self.name!r}: expected the {len(JOINT_NAMES)} joints {JOINT_NAMES}, found {j}"
            )
        self._validate_values(v)
        return self

    def _validate_values(self, v: int) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ShapeError(f"head model {self.name!r}: {f.name} holds NaN or infinity")
        for name, table, high in (("faces", self.faces, v), ("uv_faces", self.uv_faces, len(self.uvs))):
            first = table[:, :3]
            if table.size and (first.min() < 0 or table.max() >= high or table.min() < -1):
                raise ShapeError(f"head model {self.name!r}: {name} must index 0..{high - 1}")
        if self.parents[0] != -1 or any(p >= i or p < 0 for i, p in enumerate(self.parents) if i):
            raise ShapeError(f"head model {self.name!r}: parents must start with -1 and point to earlier joints")
        if not np.allclose(self.lbs_weights.sum(1), 1.0, atol=1e-4):
            raise ShapeError(f"head model {self.name!r}: lbs_weights must sum to 1 for every vertex")
        if self.face_part.size and int(self.face_part.max()) >= len(self.part_names):
            raise ShapeError(
                f"head model {self.name!r}: face_part must index part_names ({len(self.part_names)} names)"
            )
        for name, emb in self.landmarks.items():
            if emb.vertex_ids.size and (emb.vertex_ids.min() < 0 or emb.vertex_ids.max() >= v):
                raise ShapeError(f"head model {self.name!r}: landmarks {name!r} must index 0..{v - 1}")


@dataclass(frozen=True)
class FaceDetection:
    """A face found in an image: box (x0,y0,x1,y1) and six key points in pixels, score in 0..1.

    Key points, as named from the subject's side: right eye, left eye, nose tip, mouth, right ear, left ear.
    """

    box: Float[np.ndarray, "4"]
    keypoints: Float[np.ndarray, "6 2"]
    score: float


@dataclass(frozen=True)
class ShapeEstimate:
    """What a picture alone says about identity: betas ~ N(mean, covariance) under the population N(0, I).

    model: whose betas these are. covariance: of the estimate's error, measured; no larger than the population's.
    """

    model: str
    mean: Float[np.ndarray, " Nb"]
    covariance: Float[np.ndarray, "Nb Nb"]


@dataclass(frozen=True)
class FaceObservation:
    """What perception saw of one face, in pixels of the upright image.

    landmarks: MediaPipe's 478 points (468 mesh points, then 5 per iris: subject's right first), x and y in pixels,
    z in the same scale (smaller is nearer). presence: probability that the crop held a face.
    blendshapes: 52 ARKit scores by name where the network bundle offers them, else None.
    shape: what the closer look of `perception.face_refiner` says; None before it, and `landmarks` are then as detected.
    """

    detection: FaceDetection
    landmarks: Float[np.ndarray, "478 3"]
    presence: float
    image_size: tuple[int, int]
    blendshapes: dict[str, float] | None = None
    shape: ShapeEstimate | None = None
