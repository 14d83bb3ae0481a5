"""One person's head with the identity settled: what every frame of a video is compared with.

With the identity fixed the head model loses its largest part, and of its surface only what carries a landmark or may be
an outline is needed; a frame then takes milliseconds. What the detector always sees a little elsewhere on this person
is taken out by an offset per point, so that a frame's expression need not explain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from headrecon.fitting import contour
from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.head_priors import eyes_turn_irises, without_fixed_joints
from headrecon.fitting.landmarks import take
from headrecon.fitting.lip_embedding import with_lower_rim
from headrecon.fitting.view_residuals import POINT_IDS
from headrecon.geometry import so3
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import embed
from headrecon.structures import HeadAssets, LandmarkEmbedding, triangulate

#: Upper and lower rim of each opening: subject's right eye, left eye, lips; three to five pairs across.
RIGHT_LIDS = ((159, 145), (158, 153), (160, 144))
LEFT_LIDS = ((386, 374), (385, 380), (387, 373))
INNER_LIPS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402))
PAIRS: tuple[tuple[int, int], ...] = (*RIGHT_LIDS, *LEFT_LIDS, *INNER_LIPS)
#: Spread of the personal offsets, metres: the fit of the keyframes leaves about this much.
_OFFSET_SIGMA_M = 0.003
#: Deviation of a detected point from keyframe to keyframe, in eye distances.
_POINT_SIGMA = 0.015


@dataclass(frozen=True)
class PersonalHead:
    """A head with its identity fixed (betas: none), cut to what tracking evaluates.

    surface: vertices and triangles around the points below. marks, points: of `POINT_IDS`; pairs: upper rims of
    `PAIRS`, then their lower ones. interocular_m: between the eyes' corners. gaps_m: distance of
    each pair at rest, and with both eyes shut. lips_m: from the lower to the upper lip of each of `INNER_LIPS` at rest.
    """

    surface: HeadAssets
    triangles: Int[np.ndarray, "F 3"]
    marks: LandmarkEmbedding
    points: PointModel
    pairs: PointModel
    bands: contour.ContourBands
    candidates: PointModel
    anchor: Float[np.ndarray, "3"]
    root: Float[np.ndarray, "3"]
    interocular_m: float
    gaps_m: Float[np.ndarray, "N"]
    shut_gaps_m: Float[np.ndarray, "N"]
    lips_m: Float[np.ndarray, "5 3"]
    irises_turn: bool

    def with_offsets(self, offsets: Float[np.ndarray, "L 3"]) -> PersonalHead:
        """The same with the detector's points beside the model's (metres at rest, in the order of `POINT_IDS`)."""
        return replace(self, points=self.points.shifted(offsets))


def personal_head(assets: HeadAssets, betas: Float[np.ndarray, " Nb"]) -> PersonalHead:
    """Settle the identity. assets: the whole model with `mediapipe478` landmarks."""
    assets = without_fixed_joints(with_lower_rim(assets))
    template = assets.v_template.astype(np.float64)
    bands = contour.build_bands(assets)
    marks = take(assets.landmarks["mediapipe478"], np.array(POINT_IDS))
    rims = [u for u, _ in PAIRS] + [low for _, low in PAIRS]
    pairs = take(assets.landmarks["mediapipe478"], np.array(rims))
    irises = embed(template, take(assets.landmarks["mediapipe478"], [groups.RIGHT_IRIS[0], groups.LEFT_IRIS[0]]))
    # Placement and pose refer to the template, as in the fit that found the identity.
    whole = PointModel(assets, marks)
    root = whole.joints(whole.layout.zeros())[0]
    person = settled(assets, betas)
    every = assets.landmarks["mediapipe478"]
    surface, where = cut_to(person, np.concatenate([every.vertex_ids.ravel(), bands.candidates.vertex_ids.ravel()]))
    every = replace(every, vertex_ids=where[every.vertex_ids])
    surface = replace(surface, landmarks={"mediapipe478": every})
    bands = replace(bands, candidates=replace(bands.candidates, vertex_ids=where[bands.candidates.vertex_ids]))
    at = embed(person.v_template, take(assets.landmarks["mediapipe478"], np.arange(groups.NUM_ALL)))
    pair_points = PointModel(person, pairs)
    return PersonalHead(
        surface=surface,
        triangles=triangulate(surface.faces)[0].astype(np.int64),
        marks=take(every, np.array(POINT_IDS)),
        points=PointModel(person, marks),
        pairs=pair_points,
        bands=bands,
        candidates=PointModel(surface, bands.candidates),
        anchor=0.5 * (irises[0] + irises[1]),
        root=root,
        interocular_m=groups.interocular_px(at),
        gaps_m=_gaps(pair_points, ()),
        shut_gaps_m=_gaps(pair_points, _columns(assets, ("eyeBlinkLeft", "eyeBlinkRight"))),
        lips_m=_apart(pair_points, ())[-len(INNER_LIPS) :],
        irises_turn=eyes_turn_irises(assets),
    )


def settled(assets: HeadAssets, betas: Float[np.ndarray, " Nb"]) -> HeadAssets:
    """The model as one person: the identity in the template, and no directions of it left."""
    shape = assets.v_template.astype(np.float64) + assets.shapedirs.astype(np.float64) @ betas
    return replace(assets, v_template=shape, shapedirs=np.zeros((assets.num_vertices, 3, 0)))


def _columns(assets: HeadAssets, names: Sequence[str]) -> list[int]:
    return [assets.expression_names.index(n) for n in names if n in assets.expression_names]


def _gaps(pairs: PointModel, active: Sequence[int]) -> Float[np.ndarray, "N"]:
    """Height of each pair's upper point above the lower one with some expressions at 1."""
    return _apart(pairs, active)[:, 1]


def _apart(pairs: PointModel, active: Sequence[int]) -> Float[np.ndarray, "N 3"]:
    """From each pair's lower point to the upper one with some expressions at 1."""
    x = pairs.layout.zeros()
    x[pairs.layout.slices["expression"]][list(active)] = 1.0
    at = pairs.evaluate(x)
    return at[: len(PAIRS)] - at[len(PAIRS) :]


def cut_to(assets: HeadAssets, used: Int[np.ndarray, " N"]) -> tuple[HeadAssets, Int[np.ndarray, " V"]]:
    """The part of a model whose triangles touch the used vertices, and the new index of each old vertex (-1: gone).

    Normals at the used vertices are those of the whole mesh. Joints are kept as they are: they no longer depend on
    the cut's vertices.
    """
    wanted = np.zeros(assets.num_vertices, bool)
    wanted[used] = True
    faces = assets.faces
    touching = faces[(wanted[np.maximum(faces, 0)] & (faces >= 0)).any(1)]
    keep = np.unique(np.concatenate([touching[touching >= 0], used]))
    where = np.full(assets.num_vertices, -1)
    where[keep] = np.arange(len(keep))
    # The joints' places go into the regressor's stead: five extra vertices that nothing draws.
    joints = assets.J_regressor.astype(np.float64) @ assets.v_template
    count, extra = len(keep), len(joints)
    regressor = np.zeros((extra, count + extra))
    regressor[np.arange(extra), count + np.arange(extra)] = 1.0
    cut = replace(
        assets,
        v_template=np.concatenate([assets.v_template[keep], joints]),
        faces=np.where(touching >= 0, where[np.maximum(touching, 0)], -1),
        uv_faces=np.zeros_like(touching),
        shapedirs=np.zeros((count + extra, 3, 0)),
        exprdirs=np.concatenate([assets.exprdirs[keep], np.zeros((extra, 3, assets.num_expressions))]),
        J_regressor=regressor,
        lbs_weights=np.concatenate([assets.lbs_weights[keep], np.eye(extra)]),
        face_part=np.zeros(len(touching), int),
        posedirs=None if assets.posedirs is None else _cut_pose(assets.posedirs, keep, extra),
        landmarks={},
        regions={},
    )
    return cut, where


def _cut_pose(posedirs: np.ndarray, keep: np.ndarray, extra: int) -> np.ndarray:
    rows = posedirs.reshape(len(posedirs), -1, 3)[:, keep]
    return np.concatenate([rows, np.zeros((len(rows), extra, 3))], axis=1).reshape(len(posedirs), -1)


@dataclass(frozen=True)
class PointError:
    """How one keyframe's points miss the fitted head: pixels, where each point counts, and the view they belong to.

    missed: observed minus fitted; share: 0..1; turn: the head's rotation; scale_px: pixels per metre at the face.
    """

    missed: Float[np.ndarray, "L 2"]
    share: Float[np.ndarray, " L"]
    turn: Float[np.ndarray, "3"]
    scale_px: float


def personal_offsets(errors: Sequence[PointError], interocular_m: float) -> Float[np.ndarray, "L 3"]:
    """What the detector sees beside the model in all keyframes alike, metres at rest; irises keep their place.

    Per point a ridge regression of the misses on a shift of the head's surface: weak perspective suffices for
    millimetres. Depth is seen only where the keyframes turn.
    """
    count = len(errors[0].missed)
    normal = np.tile(np.eye(3) / _OFFSET_SIGMA_M**2, (count, 1, 1))
    right = np.zeros((count, 3))
    for error in errors:
        project = error.scale_px * (so3.exp(error.turn)[:2] * np.array([[1.0], [-1.0]]))  # [2,3] pixels per metre
        weight = error.share / (_POINT_SIGMA * interocular_m * error.scale_px) ** 2
        normal += weight[:, None, None] * (project.T @ project)
        right += weight[:, None] * (error.missed @ project)
    offsets = np.linalg.solve(normal, right[..., None])[..., 0]
    offsets[groups.NUM_MESH :] = 0.0
    return offsets
