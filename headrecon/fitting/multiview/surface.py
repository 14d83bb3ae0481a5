"""The part of a head model that multi-view stereo moves, and where it is in each photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.geometry.mesh import vertex_normals
from headrecon.models.eye_sockets import LID_RIM_M, eye_sockets
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.structures import HeadAssets, LandmarkEmbedding, triangulate

#: Weight of a region from which on a vertex belongs to it.
_INSIDE = 0.5


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
        compared = is_skin & ~hairy
        # Lids and eyeballs are taken for each other, which tears the lids' rims. 6 mm instead of 2.5 would cost too
        # much of the lids that photos do show (0.34 instead of 0.21 mm on a scan with shut eyes).
        for socket in eye_sockets(assets):
            rim = np.zeros(assets.num_vertices, bool)
            rim[socket.eyeball] = rim[socket.near[socket.distance < LID_RIM_M]] = True
            compared &= ~rim[triangles].any(1)
        root = LandmarkEmbedding(np.zeros((1, 3), np.int64), np.array([[1.0, 0.0, 0.0]]))
        return Surface(assets, PointModel(assets, root), triangles.astype(np.int64), is_skin, compared)

    def posed(
        self, params: Float[np.ndarray, " P"], offsets: Float[np.ndarray, "V 3"] | None
    ) -> Float[np.ndarray, "V 3"]:
        return posed_vertices(self.assets, self.joints, params, offsets)

    def normals(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
        """Of the skin alone: what hangs inside of the lids and lips does not bend them."""
        return vertex_normals(vertices, self.triangles[self.is_skin])
