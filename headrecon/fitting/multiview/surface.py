"""The part of a head model that multi-view stereo moves, and where it is in each photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.geometry.mesh import vertex_normals
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.structures import HeadAssets, LandmarkEmbedding, triangulate

#: Weight of a region from which on a vertex belongs to it.
_INSIDE = 0.5
#: Skin so near to the eyeballs is not compared: lids and eyeballs are taken for each other, which tears the lids' rims.
#: 6 mm would cost too much of the lids that photos do show (0.34 instead of 0.21 mm on a scan with shut eyes).
_LID_RIM_M = 2.5e-3


@dataclass(frozen=True)
class Surface:
    """Triangles of a model and which of them are compared: bare skin, not hair, eyes or what is inside of the mouth.

    joints: poses the model. compared: per triangle. skin: its vertices move freely, the others with the skin near them.
    """

    assets: HeadAssets
    joints: PointModel
    triangles: Int[np.ndarray, "F 3"]
    is_skin: Bool[np.ndarray, " F"]
    compared: Bool[np.ndarray, " F"]

    @staticmethod
    def build(assets: HeadAssets, scalp: bool = False) -> Surface:
        """scalp: compare the scalp too, for heads known to be bald. A model without parts is all skin."""
        triangles, source = triangulate(assets.faces)
        skin_faces = assets.faces_of("skin") if "skin" in assets.part_names else np.arange(len(assets.faces))
        is_skin = np.isin(source, skin_faces)
        covered = assets.regions.get("scalp")
        hairy = np.zeros(len(triangles), bool)
        if covered is not None and not scalp:
            hairy = (covered[triangles] > _INSIDE).any(1)
        rims = (_eye_distance(assets)[triangles] < _LID_RIM_M).any(1)
        compared = is_skin & ~hairy & ~rims
        root = LandmarkEmbedding(np.zeros((1, 3), np.int64), np.array([[1.0, 0.0, 0.0]]))
        return Surface(assets, PointModel(assets, root), triangles.astype(np.int64), is_skin, compared)

    def posed(
        self, params: Float[np.ndarray, " P"], offsets: Float[np.ndarray, "V 3"] | None
    ) -> Float[np.ndarray, "V 3"]:
        return posed_vertices(self.assets, self.joints, params, offsets)

    def normals(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
        """Of the skin alone: what hangs inside of the lids and lips does not bend them."""
        return vertex_normals(vertices, self.triangles[self.is_skin])


def _eye_distance(assets: HeadAssets) -> Float[np.ndarray, " V"]:
    """From each vertex to the nearest eyeball's vertex, at rest; infinite for models without eyes."""
    eyes = np.unique(assets.faces[assets.faces_of("leye", "reye")])
    eyes = eyes[eyes >= 0]
    if not len(eyes):
        return np.full(assets.num_vertices, np.inf)
    from scipy.spatial import KDTree

    return np.asarray(KDTree(assets.v_template[eyes]).query(assets.v_template)[0])
