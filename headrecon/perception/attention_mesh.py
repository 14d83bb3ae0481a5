"""The face mesh network with attention: 468 points of the face, the lips and eyes refined, and both irises.

Grishchenko et al., "Attention Mesh: High-fidelity Face Mesh Prediction in Real-time", 2020. The network predicts
a coarse mesh, cuts three regions (lips, both eyes) out of its own feature map with a spatial transformer each, and
predicts those points again. The transformer is an operator that only MediaPipe's runtime knows; it is computed here
in numpy between the two halves of the network (see tflite_cut). Which mesh points a region refines is stated in
the network file itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from headrecon.errors import AssetError
from headrecon.perception.networks import Network
from headrecon.perception.tflite_cut import TfliteGraph

MESH_POINTS = 468
#: First index of each iris among the 478 points: its centre, then four points on its rim (towards the right of the
#: picture, top, left, bottom). The network calls the eye on the left of the picture "left"; it is the subject's right
#: eye, with the corners 33 and 133.
RIGHT_IRIS, LEFT_IRIS = 468, 473

_FEATURES, _COARSE, _PRESENCE = "p_re_lu_3", "output_mesh", "conv_faceflag"
_CROPS = ("transform_tensor_bilinear_v2", "transform_tensor_bilinear_v2_1", "transform_tensor_bilinear_v2_2")
_REGION_OUTPUTS = (("conv_lips",), ("conv_left_eye", "conv_left_iris"), ("conv_right_eye", "conv_right_iris"))
#: Feature maps that `features` hands out: of the whole face at an eighth and a sixteenth of the picture's resolution,
#: and the last ones before the points of the face, the lips, and each eye and iris.
_MIDDLE, _DEEP, _LAST = "p_re_lu_8", "p_re_lu_11", "p_re_lu_17"
_REGION_LAST = ("p_re_lu_32", "p_re_lu_45", "p_re_lu_52", "p_re_lu_65", "p_re_lu_72")
_FEATURE_STRIDE = 4  # the feature map has a quarter of the picture's resolution


@dataclass(frozen=True)
class Region:
    """A part of the face that is looked at again: its mesh points, the two that give its tilt, and its margin."""

    points: Int[np.ndarray, " N"]
    tilt_from: int
    tilt_to: int
    scale: tuple[float, float]
    grid: tuple[int, int]

    def affine(self, mesh_xy: Float[np.ndarray, "468 2"]) -> Float[np.ndarray, "2 3"]:
        """Maps positions in the region's grid to those in the feature map; mesh_xy is in feature pixels.

        The region is the box around its points in the frame turned by the tilt, times the margin.
        """
        dx, dy = mesh_xy[self.tilt_to] - mesh_xy[self.tilt_from]
        angle = math.atan2(dy, dx)
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        upright = mesh_xy[self.points] @ rotation
        low, high = upright.min(0), upright.max(0)
        step = np.array(self.scale) * (high - low) / self.grid
        linear = rotation * step
        centre = rotation @ ((low + high) / 2)
        return np.concatenate([linear, (centre - linear @ (np.array(self.grid) / 2))[:, None]], axis=1)


@dataclass(frozen=True)
class MeshFeatures:
    """The network's own description of a crop, which its points are made from."""

    middle: Float[np.ndarray, "24 24 64"]
    deep: Float[np.ndarray, "12 12 128"]
    summary: Float[np.ndarray, "1792"]


class AttentionMesh:
    """Runs the two halves of the network with the regions cut out in between."""

    def __init__(self, content: bytes, num_threads: int = 2) -> None:
        graph = TfliteGraph(content)
        self.regions = _read_regions(graph)
        coarse = [_COARSE, _FEATURES, _PRESENCE, _MIDDLE, _DEEP, _LAST]
        fine = [name for names in _REGION_OUTPUTS for name in names]
        self._coarse = Network(graph.cut(graph.input_names, coarse), num_threads)
        self._fine = Network(graph.cut(_CROPS, [*fine, *_REGION_LAST]), num_threads)

    @property
    def input_size(self) -> int:
        return self._coarse.input_size

    def __call__(self, crop_srgb: UInt8[np.ndarray, "R R 3"]) -> tuple[Float[np.ndarray, "478 3"], float]:
        """The points in crop coordinates (x, y in 0..1 over the crop, z in the same scale), the presence of a face."""
        first, second, affines = self._run(crop_srgb)
        mesh = first[_COARSE].reshape(MESH_POINTS, 3).astype(np.float64)
        points = np.concatenate([mesh, np.zeros((10, 3))])
        for region, affine, names in zip(self.regions, affines, _REGION_OUTPUTS, strict=True):
            points[region.points, :2] = _to_picture(second[names[0]], affine)
            if len(names) == 2:
                iris = RIGHT_IRIS if names[1] == "conv_left_iris" else LEFT_IRIS
                points[iris : iris + 5, :2] = _to_picture(second[names[1]], affine)
                # The network gives the iris no depth; that of the eyelids around it is the best guess.
                points[iris : iris + 5, 2] = mesh[region.points[:16], 2].mean()
        presence = 1.0 / (1.0 + math.exp(-float(first[_PRESENCE].reshape(()))))
        return points / self.input_size, presence

    def features(self, crop_srgb: UInt8[np.ndarray, "R R 3"]) -> MeshFeatures:
        """The feature maps of a crop. As costly as the points."""
        first, second, _ = self._run(crop_srgb)
        last = [first[_LAST], *(second[name] for name in _REGION_LAST)]
        return MeshFeatures(first[_MIDDLE][0], first[_DEEP][0], np.concatenate([values.ravel() for values in last]))

    def _run(
        self, crop_srgb: UInt8[np.ndarray, "R R 3"]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[Float[np.ndarray, "2 3"]]]:
        """What both halves answer, and the affine of each region between them."""
        first = self._coarse(crop_srgb.astype(np.float32) / 255.0)
        mesh = first[_COARSE].reshape(MESH_POINTS, 3).astype(np.float64)
        affines = [region.affine(mesh[:, :2] / _FEATURE_STRIDE) for region in self.regions]
        crops = {
            name: sample_features(first[_FEATURES][0], affine, region.grid)
            for name, affine, region in zip(_CROPS, affines, self.regions, strict=True)
        }
        return first, self._fine(crops), affines


def sample_features(
    features: Float[np.ndarray, "H W D"], affine: Float[np.ndarray, "2 3"], grid: tuple[int, int]
) -> Float[np.ndarray, "h w D"]:
    """Bilinear samples of a feature map at the grid's pixel centres, moved by the affine; zero beyond the map."""
    height, width = features.shape[:2]
    across, down = np.meshgrid(np.arange(grid[0]) + 0.5, np.arange(grid[1]) + 0.5)
    x = affine[0, 0] * across + affine[0, 1] * down + affine[0, 2] - 0.5
    y = affine[1, 0] * across + affine[1, 1] * down + affine[1, 2] - 0.5
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x0 = np.clip(np.floor(x).astype(int), 0, width - 2)
    y0 = np.clip(np.floor(y).astype(int), 0, height - 2)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    upper = features[y0, x0] * (1 - fx) + features[y0, x0 + 1] * fx
    lower = features[y0 + 1, x0] * (1 - fx) + features[y0 + 1, x0 + 1] * fx
    return np.where(inside[..., None], upper * (1 - fy) + lower * fy, 0.0).astype(np.float32)


def _to_picture(raw: np.ndarray, affine: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "N 2"]:
    """Region points to pixels of the picture: they count the grid in picture pixels (a quarter of a grid cell each)."""
    local = raw.reshape(-1, 2).astype(np.float64)
    return local @ affine[:, :2].T + _FEATURE_STRIDE * affine[:, 2]


def _read_regions(graph: TfliteGraph) -> tuple[Region, ...]:
    """The regions as the network file states them, in the order of `_CROPS`."""
    from flatbuffers import flexbuffers

    regions = []
    for operator in graph.operators:
        if operator.custom_name != "Landmarks2TransformMatrix":
            continue
        options = flexbuffers.Loads(operator.custom_options)
        if not isinstance(options, dict) or options.get("target_rotation_radians") != 0.0:
            raise AssetError("the face mesh network describes its regions in a way that is not understood here")
        regions.append(
            Region(
                points=np.array(options["subset_idxs"], dtype=np.int64),
                tilt_from=int(options["left_rotation_idx"]),
                tilt_to=int(options["right_rotation_idx"]),
                scale=(float(options["scale_x"]), float(options["scale_y"])),
                grid=(int(options["output_width"]), int(options["output_height"])),
            )
        )
    if [len(region.points) for region in regions] != [80, 71, 71]:
        raise AssetError("the face mesh network refines other regions than lips and eyes; expected the pinned file")
    return tuple(regions)
