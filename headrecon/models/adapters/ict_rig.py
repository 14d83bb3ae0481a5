"""Joints and skinning weights for ICT-FaceKit, which has none: made from its own shapes and landmarks.

- Eyes: centres of the sclera spheres. Both shells of an eyeball turn with it; lids, lashes and tear film do not
  (ICT's eyeLook shapes move the lids and leave the balls alone).
- Jaw: ICT's jawOpen turns the lower teeth rigidly (by 25 degrees, residual 0.1 mm); the jaw joint lies on that axis,
  midway between the ears, where a real jaw's condyles are. A vertex follows the jaw by as much of that turn as it makes
  in jawOpen. What one blended turn cannot do (skin slides under the chin) is a pose corrective as in SMPL: it grows
  with the sine of the opening and makes the joint, at jawOpen's angle, give jawOpen's shape exactly.
- Neck: pivot at the base of the skull. Skin follows it between two tilted planes, one under chin and occiput, one
  around the bottom of the neck, both placed from the landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.errors import AssetError
from headrecon.models.adapters.anny_parts import fit_sphere
from headrecon.models.adapters.ict_files import IctFiles
from headrecon.structures import JOINT_NAMES

EYE_MATERIALS = {"leye": ("M_ScleraLeft", "M_IrisLeft"), "reye": ("M_ScleraRight", "M_IrisRight")}
SKIN_MATERIALS = ("M_Face", "M_BackHead")

#: Points of the mid-plane as (y, z) offsets from a landmark, in units of the distance between landmarks 1 and 17 (the
#: ends of the jaw line, 14.7 cm apart in the mean face). Read off ICT's mean head in profile.
_FROM_EARS = {
    "skull_base": (-0.39, -0.32),
    "neck_bottom": (-1.17, -0.49),
    "nape": (-0.46, -0.62),
    "back": (-1.0, -0.73),
}
_FROM_CHIN = {"crease": (-0.06, -0.34), "front": (-0.44, -0.47)}


@dataclass(frozen=True)
class Rig:
    """Joint positions, the regressor that gives them, skinning weights, and pose correctives as in HeadAssets.

    Lengths are in the unit of the vertices.
    """

    joints: Float[np.ndarray, "J 3"]
    regressor: Float[np.ndarray, "J V"]
    weights: Float[np.ndarray, "V J"]
    posedirs: Float[np.ndarray, "P V3"]
    lower_teeth: Bool[np.ndarray, " V"]


def make_rig(files: IctFiles, neighbours) -> Rig:
    """Rig for the mean face. `neighbours`: sparse adjacency [V,V], for smoothing. Raises AssetError without jawOpen."""
    if "jawOpen" not in files.expressions:
        raise AssetError(f"{files.source}: jawOpen.obj is missing; the jaw is rigged from it, copy it from ICT-FaceKit")
    v = files.vertices
    marks, unit = _anchors(files)
    opening = files.expressions["jawOpen"].astype(np.float64)
    lower_teeth = _lower_teeth(files, opening)
    turn, hinge = _jaw_turn(files, v[lower_teeth], opening[lower_teeth])
    eyes = {part: _eye_centre(files, part) for part in EYE_MATERIALS}
    joints = np.stack([marks["neck_bottom"], marks["skull_base"], hinge, eyes["leye"], eyes["reye"]])
    weights = _weights(files, marks, _jaw_share(v, opening, turn, hinge, unit), lower_teeth, neighbours)
    posedirs = _jaw_corrective(v, opening, turn, hinge, weights[:, JOINT_NAMES.index("jaw")])
    return Rig(joints, _regressor(files, joints, unit), weights, posedirs, lower_teeth)


def _anchors(files: IctFiles) -> tuple[dict[str, Float[np.ndarray, "3"]], float]:
    """The named points of the mid-plane and the unit that they are given in."""
    right, left, chin = files.vertices[files.landmarks[[0, 16, 8]]]
    unit = float(np.linalg.norm(left - right))
    out = {}
    for origin, offsets in (((left + right) / 2, _FROM_EARS), (chin, _FROM_CHIN)):
        for name, (y, z) in offsets.items():
            out[name] = np.array([(left[0] + right[0]) / 2, origin[1] + unit * y, origin[2] + unit * z])
    return out, unit


def _lower_teeth(files: IctFiles, opening: Float[np.ndarray, "V 3"]) -> Bool[np.ndarray, " V"]:
    """Vertices of the teeth that jawOpen moves; the upper ones stay where they are."""
    teeth = files.vertices_of("M_Teeth")
    if not len(teeth):
        raise AssetError(f"{files.source}: no faces of material M_Teeth; the jaw is rigged from the lower teeth")
    moved = np.linalg.norm(opening[teeth], axis=1)
    out = np.zeros(len(files.vertices), bool)
    out[teeth[moved > 0.1 * moved.max()]] = True
    if moved.max() <= 0 or out.sum() < 3:
        raise AssetError(f"{files.source}: jawOpen does not move the lower teeth; the jaw is rigged from their motion")
    return out


def _jaw_turn(
    files: IctFiles, before: Float[np.ndarray, "N 3"], motion: Float[np.ndarray, "N 3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Best rigid rotation of the lower teeth (Kabsch 1976) and the point of the mid-plane that it leaves in place."""
    after = before + motion
    a, b = before.mean(0), after.mean(0)
    u, _, vt = np.linalg.svd((before - a).T @ (after - b))
    turn = (u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt).T
    system = (np.eye(3) - turn)[1:, 1:]
    if np.linalg.det(system) < 1e-3:  # 2 - 2 cos(angle): under 2 degrees there is no axis to find
        raise AssetError(f"{files.source}: jawOpen turns the lower teeth by less than 2 degrees; no hinge can be found")
    yz = np.linalg.solve(system, (b - turn @ a)[1:])
    return turn, np.array([float(before[:, 0].min() + before[:, 0].max()) / 2, *yz])


def _eye_centre(files: IctFiles, part: str) -> Float[np.ndarray, "3"]:
    """Centre of the sclera's sphere; the cornea, which bulges out of it, is left out step by step."""
    points = files.vertices[files.vertices_of(EYE_MATERIALS[part][0])]
    if len(points) < 8:
        raise AssetError(
            f"{files.source}: no faces of material {EYE_MATERIALS[part][0]}; the eye joints lie in its middle"
        )
    keep = np.ones(len(points), bool)
    centre, radius = fit_sphere(points)
    for _ in range(8):
        off = np.abs(np.linalg.norm(points - centre, axis=1) - radius)
        keep = off <= max(2.5 * float(np.median(off)), 1e-6 * radius)
        centre, radius = fit_sphere(points[keep])
    return centre


def _jaw_share(v, opening, turn, hinge, unit: float) -> Float[np.ndarray, " V"]:
    """How much of the jaw's turn each vertex makes in jawOpen, 0..1: projection on the full turn's displacement."""
    full = (v - hinge) @ (turn - np.eye(3)).T
    # The floor keeps points on the axis, which hardly move either way, from taking a share out of noise.
    share = (opening * full).sum(1) / ((full**2).sum(1) + (0.007 * unit) ** 2)
    return np.clip(share, 0.0, 1.0)


def _jaw_corrective(v, opening, turn, hinge, jaw: Float[np.ndarray, " V"]) -> Float[np.ndarray, "P V3"]:
    """The rest shape's change that makes skinning by `turn` end in jawOpen, spread over the jaw's entries of R - I.

    Only the antisymmetric part of R counts: it is sin(angle) times the axis, so turning the jaw sideways adds nothing.
    """
    blend = np.eye(3) + jaw[:, None, None] * (turn - np.eye(3))
    skinned = v + jaw[:, None] * ((v - hinge) @ (turn - np.eye(3)).T)
    change = np.linalg.solve(blend, (v + opening - skinned)[..., None])[..., 0]
    skew = (turn - turn.T) / 2
    out = np.zeros((9 * (len(JOINT_NAMES) - 1), v.size), np.float32)
    first = 9 * (JOINT_NAMES.index("jaw") - 1)
    out[first : first + 9] = np.outer(skew.ravel() / (skew**2).sum(), change.ravel())
    return out


def _weights(
    files: IctFiles, marks: dict[str, np.ndarray], jaw: Float[np.ndarray, " V"], lower_teeth: np.ndarray, neighbours
) -> Float[np.ndarray, "V J"]:
    """Weights of root, neck, jaw and both eyes. The jaw takes its share first, root and neck divide the rest."""
    skin = files.vertices_of(*SKIN_MATERIALS)
    degree = np.maximum(np.asarray(neighbours.sum(1)).ravel(), 1)
    for _ in range(3):
        smooth = 0.5 * jaw + 0.5 * (neighbours @ jaw) / degree
        jaw = np.where(np.isin(np.arange(len(jaw)), skin), smooth, jaw)
    jaw = np.where(jaw < 0.01, 0.0, jaw)
    jaw[files.vertices_of("M_Teeth")] = 0.0
    jaw[lower_teeth] = 1.0
    low = _above(files.vertices, marks["front"], marks["back"])
    high = _above(files.vertices, marks["crease"], marks["nape"])
    ramp = np.clip(low / np.maximum(low - high, 1e-9), 0.0, 1.0)
    neck = np.where(low <= 0, 0.0, np.where(high >= 0, 1.0, ramp * ramp * (3 - 2 * ramp)))
    out = np.zeros((len(jaw), len(JOINT_NAMES)))
    out[:, 0] = (1 - jaw) * (1 - neck)
    out[:, 1] = (1 - jaw) * neck
    out[:, 2] = jaw
    for part, materials in EYE_MATERIALS.items():
        out[files.vertices_of(*materials)] = np.eye(len(JOINT_NAMES))[JOINT_NAMES.index(part)]
    return out


def _above(points: Float[np.ndarray, "V 3"], front: np.ndarray, back: np.ndarray) -> Float[np.ndarray, " V"]:
    """Signed distance above the plane that holds both points and runs from side to side."""
    along = front - back
    normal = np.array([0.0, along[2], -along[1]]) / np.linalg.norm(along)
    return (points - front) @ normal


def _regressor(files: IctFiles, joints: Float[np.ndarray, "J 3"], unit: float) -> Float[np.ndarray, "J V"]:
    """Rows over the vertices around each joint, so that the joints follow the identity.

    root, neck: a ring of skin at the joint's height. jaw: the skin in front of both ears. Eyes: the sclera.
    """
    v = files.vertices
    skin = files.vertices_of(*SKIN_MATERIALS)
    away = np.abs(v[skin] - joints[:, None])
    groups = [
        skin[away[0, :, 1] < 0.1 * unit],
        skin[away[1, :, 1] < 0.04 * unit],
        skin[(away[2, :, 1:].max(1) < 0.17 * unit) & (away[2, :, 0] > 0.25 * unit)],
        files.vertices_of(EYE_MATERIALS["leye"][0]),
        files.vertices_of(EYE_MATERIALS["reye"][0]),
    ]
    out = np.zeros((len(joints), len(v)))
    for row, group, joint, name in zip(out, groups, joints, JOINT_NAMES, strict=True):
        if len(group) < 4:
            raise AssetError(f"{files.source}: too few vertices near the {name} joint; is this ICT-FaceKit's head?")
        row[group] = _minimum_norm(v[group], joint)
    return out


def _minimum_norm(points: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "3"]) -> Float[np.ndarray, " N"]:
    """The smallest weights that sum to one and whose mean of the points is the target (least squares if impossible)."""
    system = np.c_[points - target, np.ones(len(points))].T
    return np.linalg.lstsq(system, np.array([0.0, 0.0, 0.0, 1.0]), rcond=None)[0]


def neighbour_matrix(faces: Int[np.ndarray, "F 4"], count: int):
    """Sparse [V,V] adjacency of the quads' and triangles' edges."""
    from scipy.sparse import coo_matrix

    from headrecon.geometry.mesh import unique_edges
    from headrecon.structures import triangulate

    edges = unique_edges(triangulate(faces)[0])
    both = np.concatenate([edges, edges[:, ::-1]])
    return coo_matrix((np.ones(len(both)), both.T), shape=(count, count)).tocsr()
