"""A mesh head as Gaussians: flat discs laid on its surface, bound to it as a learned avatar's are.

For tools that show splats and no meshes, and to compare: the head moves with every expression, but what the mesh lacks
(loose hair, shoulders, change of shading) the splats lack too.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from headrecon.avatars.gaussian.carrier import Places
from headrecon.avatars.gaussian.features import MotionBasis
from headrecon.avatars.gaussian.model import GaussianAvatar
from headrecon.avatars.gaussian.seeding import scatter
from headrecon.avatars.gaussian.splat_rig import CHANNELS, SplatRig, facing
from headrecon.avatars.gaussian.torso import Sheet
from headrecon.avatars.protocol import Person
from headrecon.errors import InputError
from headrecon.io.meshes.ply import sample_texture
from headrecon.io.meshes.topology import vertex_normals
from headrecon.rendering.lighting import Surface, shade_points, soft_front
from headrecon.saved_head import SavedHead, person_of
from headrecon.structures import HeadAssets, HeadParams, triangulate

#: Splats of a head unless said otherwise: about 0.7 mm apart on the face.
SPLATS = 100_000
MOST_SPLATS = 2_000_000
#: Splats per area, times that of plain skin, by part of the model and by region.
_PART_DENSITY = {"leye": 12.0, "reye": 12.0, "upper_teeth": 3.0, "lower_teeth": 3.0, "tongue": 1.0, "mouth": 0.5}
_REGION_DENSITY = {"face": 3.0, "lips": 5.0, "brows": 3.0, "nose": 1.0}
#: A disc's deviation in shares of the distance to its sixth neighbour: no gaps, and no more blur than that asks for.
_SPREAD, _NEIGHBOURS, _THICKNESS = 0.55, 6, 0.08
_OPACITY = 0.97
_SMALLEST_LEVEL = 64
#: The plastic number's powers: fractional parts of their multiples fill a square evenly (Roberts 2018, "R2 sequence").
_R2 = (0.7548776662466927, 0.5698402909980532)


def splats_of_mesh(head: SavedHead, count: int = SPLATS) -> GaussianAvatar:
    """An avatar of `count` Gaussians on the head's surface, in even light. Deterministic. Raises InputError.

    Faces, lips and eyes get more of them than the back of the head. O(count).
    """
    if not 1000 <= count <= MOST_SPLATS:
        raise InputError(f"a mesh head becomes 1,000 to {MOST_SPLATS:,} splats, found {count:,}")
    person = person_of(head)
    triangles, owner = triangulate(person.assets.faces)
    uv_triangles, _ = triangulate(person.assets.uv_faces)
    rest = (person.assets.v_template + person.offsets).astype(np.float64)
    corners = rest[triangles]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    density = _density(person.assets, triangles, owner)
    chosen, barycentrics = scatter(areas * density, np.outer(_R2, np.arange(1, count + 1)) % 1.0)
    apart = np.sqrt(np.maximum((areas * density).sum() / count / density[chosen], 1e-12))
    normals = vertex_normals(rest, triangles)[triangles[chosen]]
    normals = _unit((normals * barycentrics[..., None]).sum(1))
    uvs = (person.assets.uvs[uv_triangles[chosen]] * barycentrics[..., None]).sum(1)
    texels = _texels_per_metre(person.assets.uvs[uv_triangles], areas, head.texture.shape[0])[chosen] * apart
    colours = _lit(_colours(head.texture, uvs, texels), normals)
    sigma = _SPREAD * _reach((corners[chosen] * barycentrics[..., None]).sum(1), apart)
    rig = SplatRig(
        Places(chosen, barycentrics),
        offsets=torch.zeros(count, 3),
        quats_wxyz=facing(normals),
        log_scales=torch.from_numpy(np.log(np.stack([sigma, sigma, _THICKNESS * sigma], 1))).float(),
        logits=torch.full((count,), float(np.log(_OPACITY / (1 - _OPACITY)))),
        colours=torch.from_numpy(colours).float(),
        corrections=torch.zeros(count, CHANNELS, 1),
    )
    return _avatar(person, rig)


def _avatar(person: Person, rig: SplatRig) -> GaussianAvatar:
    """Around a rig that nothing corrects: one motion feature that stays 0, no shoulders."""
    expressions = person.assets.num_expressions
    zero = torch.zeros(1)
    basis = MotionBasis(torch.zeros(1, expressions + 12), zero, zero, zero, torch.eye(3), num_pose=1)
    pose = HeadParams.zeros(0, expressions)
    return GaussianAvatar(person, rig, basis, Sheet.empty(), torch.zeros(0, 3, 1), pose)


def _density(
    assets: HeadAssets, triangles: Int[np.ndarray, "T 3"], owner: Int[np.ndarray, " T"]
) -> Float[np.ndarray, " T"]:
    parts = np.array([_PART_DENSITY.get(name, 1.0) for name in assets.part_names])
    density = parts[assets.face_part[owner]]
    skin = np.array([name == "skin" for name in assets.part_names])[assets.face_part[owner]]
    for name, extra in _REGION_DENSITY.items():
        if name in assets.regions:
            density = density + skin * extra * assets.regions[name][triangles].mean(1)
    return density


def _reach(places: Float[np.ndarray, "N 3"], apart: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """How far each splat has to reach: points are even on the whole, but here and there a gap is left between them."""
    from scipy.spatial import KDTree

    found = KDTree(places).query(places, _NEIGHBOURS + 1)[0][:, -1]
    return found.clip(0.8 * apart, 2.5 * apart)


def _texels_per_metre(uvs: Float[np.ndarray, "T 3 2"], areas: np.ndarray, side: int) -> np.ndarray:
    first, second = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
    covered = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2
    return side * np.sqrt(covered / np.maximum(areas, 1e-12))


def _colours(texture: np.ndarray, uvs: np.ndarray, texels: np.ndarray) -> np.ndarray:
    """sRGB 0..1. texels: how many of the texture lie between neighbouring splats, which share out its detail."""
    wanted = np.maximum(np.log2(np.maximum(texels, 1e-6)).round().astype(int), 0)
    out = np.zeros((len(uvs), 3))
    level, image = 0, texture
    while True:
        last = min(image.shape[:2]) < 2 * _SMALLEST_LEVEL or image.shape[0] % 2 or image.shape[1] % 2
        own = wanted >= level if last else wanted == level
        out[own] = sample_texture(image, uvs[own]) / 255
        if last:
            return out
        halved = image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2, 3).astype(np.float32).mean((1, 3))
        image, level = np.floor(halved + 0.5).astype(np.uint8), level + 1


def _lit(colours: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """sRGB under even light from the front, matt: what shines would not move with the eye."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    vectors = torch.from_numpy(normals).float()
    lit = shade_points(torch.from_numpy(linear).float(), vectors, vectors, soft_front(), Surface(specular=0.0))
    seen = lit.double().numpy().clip(0, 1)
    return np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-20)
