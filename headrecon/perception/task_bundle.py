"""A user's `face_landmarker.task`: MediaPipe's newer landmark network, and the scores of 52 expressions.

The bundle is a zip of TensorFlow Lite files. Its landmark network sees 256 x 256 pixels and gives the irises too.
The expression network takes 146 of the points and gives one score in 0..1 per ARKit name, with "_neutral" in place of
"tongueOut" (MediaPipe Blendshape V2 model card, 2022).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import AssetError
from headrecon.io.archives import read_members
from headrecon.perception.networks import Network
from headrecon.structures import ARKIT_NAMES, Licence

LANDMARKS_FILE, BLENDSHAPES_FILE = "face_landmarks_detector.tflite", "face_blendshapes.tflite"
#: The published bundle has 4 MB.
MAX_BYTES = 64 * 2**20

#: The score that the network does not give. It is reported as 0 so that all 52 names are there.
NOT_SEEN = "tongueOut"
_SCORE_NAMES = ("_neutral", *(name for name in ARKIT_NAMES if name != NOT_SEEN))

#: The points that the expression network takes, in its order (from the published graph).
_BLENDSHAPE_POINTS = """
0 1 4 5 6 7 8 10 13 14 17 21 33 37 39 40 46 52 53 54 55 58 61 63 65 66 67 70 78 80 81 82 84 87 88 91 93 95 103 105
107 109 127 132 133 136 144 145 146 148 149 150 152 153 154 155 157 158 159 160 161 162 163 168 172 173 176 178 181
185 191 195 197 234 246 249 251 263 267 269 270 276 282 283 284 285 288 291 293 295 296 297 300 308 310 311 312 314
317 318 321 323 324 332 334 336 338 356 361 362 365 373 374 375 377 378 379 380 381 382 384 385 386 387 388 389 390
397 398 400 402 405 409 415 454 466 468 469 470 471 472 473 474 475 476 477
"""


class BundleLandmarks:
    """The bundle's landmark network, in the place of the attention mesh."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @property
    def input_size(self) -> int:
        return self._network.input_size

    def __call__(self, crop_srgb: UInt8[np.ndarray, "R R 3"]) -> tuple[Float[np.ndarray, "478 3"], float]:
        """As `AttentionMesh`: points in crop coordinates and the presence of a face."""
        outputs = self._network(crop_srgb.astype(np.float32) / 255.0)
        points = next(v for v in outputs.values() if v.size == 478 * 3).reshape(478, 3).astype(np.float64)
        logit = next(v for v in outputs.values() if v.shape == (1, 1, 1, 1))
        return points / self.input_size, 1.0 / (1.0 + math.exp(-float(logit.reshape(()))))


class TaskBundle:
    """The loaded networks of a bundle; the expression network may be missing."""

    def __init__(self, path: Path, landmarks: BundleLandmarks, expressions: Network | None) -> None:
        self.path = path
        self.landmarks = landmarks
        self._expressions = expressions

    @property
    def licence(self) -> Licence:
        return Licence(
            name=f"{self.path.name} (given by you)",
            spdx="Apache-2.0",
            commercial=True,
            source="https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker",
            note="the terms of Google's published bundle; yours may be another",
        )

    def blendshapes(self, points: Float[np.ndarray, "478 3"]) -> dict[str, float] | None:
        """The 52 scores by ARKit name for points in pixels, `tongueOut` always 0; None where there is no network."""
        if self._expressions is None:
            return None
        chosen = points[np.array(_BLENDSHAPE_POINTS.split(), dtype=int), :2]
        scores = next(iter(self._expressions(chosen).values())).reshape(-1)
        by_name = dict(zip(_SCORE_NAMES, map(float, scores), strict=True))
        return {name: by_name.get(name, 0.0) for name in ARKIT_NAMES}


def load_task_bundle(path: Path, num_threads: int = 2) -> TaskBundle:
    """Read a bundle.

    Raises:
        AssetError: it is missing, no zip, or holds other networks than a face landmarker's.
    """
    if not path.is_file():
        raise AssetError(f"{path} does not exist; expected MediaPipe's face_landmarker.task")
    files = read_members(path, ["*.tflite"], MAX_BYTES)
    if LANDMARKS_FILE not in files:
        raise AssetError(
            f"{path} is not a face landmarker: expected {LANDMARKS_FILE} in it, found {', '.join(sorted(files))}"
        )
    network = Network(files[LANDMARKS_FILE], num_threads)
    sizes = sorted(math.prod(spec.shape) for spec in network.outputs.values())
    if sizes[-1] != 478 * 3 or [1, 1, 1, 1] not in [list(spec.shape) for spec in network.outputs.values()]:
        raise AssetError(f"{path}: its landmark network gives {sizes[-1]} numbers, expected 478 points and a presence")
    expressions = None
    if BLENDSHAPES_FILE in files:
        expressions = Network(files[BLENDSHAPES_FILE], num_threads)
        shape = next(iter(expressions.inputs.values())).shape
        if shape != (1, 146, 2):
            raise AssetError(f"{path}: its expression network takes {list(shape)}, expected [1, 146, 2]")
    return TaskBundle(path, BundleLandmarks(network), expressions)
