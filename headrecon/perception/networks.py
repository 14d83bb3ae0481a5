"""The networks that look at pictures: where they come from, under which licence, and how they are run.

They are MediaPipe's TensorFlow Lite files (Apache-2.0), taken as data out of the `mediapipe` wheel and run with LiteRT.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from headrecon.errors import AssetError
from headrecon.io.downloads import ProgressCallback, WheelAsset, fetch
from headrecon.structures import Licence

if TYPE_CHECKING:
    from headrecon.perception.attention_mesh import AttentionMesh
    from headrecon.perception.face_landmarks import MeshNetwork
    from headrecon.perception.task_bundle import TaskBundle

MEDIAPIPE_LICENCE = Licence(
    name="MediaPipe networks",
    spdx="Apache-2.0",
    commercial=True,
    source="PyPI: mediapipe 0.10.21",
    note="face detection, face mesh with attention, iris and selfie segmentation; Copyright The MediaPipe Authors",
)

_MODULES = "mediapipe/modules"

#: The networks by the name we use, with the sha256 of each file, which is the same in the wheels of every platform.
NETWORK_FILES: dict[str, tuple[str, str]] = {
    "face_short_range": (
        f"{_MODULES}/face_detection/face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    "face_full_range": (
        f"{_MODULES}/face_detection/face_detection_full_range_sparse.tflite",
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    ),
    "face_mesh": (
        f"{_MODULES}/face_landmark/face_landmark_with_attention.tflite",
        "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
    ),
    "iris": (
        f"{_MODULES}/iris_landmark/iris_landmark.tflite",
        "d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f",
    ),
    "person": (
        f"{_MODULES}/selfie_segmentation/selfie_segmentation.tflite",
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
    ),
}

#: One wheel serves every platform and Python version, since only its data files are used.
MEDIAPIPE_WHEEL = WheelAsset(
    package="mediapipe",
    version="0.10.21",
    sha256=("05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",),
    members=tuple(path for path, _ in NETWORK_FILES.values()),
    licence=MEDIAPIPE_LICENCE,
    size_bytes=35_622_638,
    pip_args=(
        "--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11",
        "--implementation", "cp", "--abi", "cp311",
    ),
    member_sha256=dict(NETWORK_FILES.values()),
)  # fmt: skip


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a network."""

    index: int
    shape: tuple[int, ...]


class Network:
    """One TensorFlow Lite network, run on the CPU. Calls from several threads are put in a row."""

    def __init__(self, content: bytes, num_threads: int = 2) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            with _quiet_stderr():
                self._interpreter = Interpreter(model_content=content, num_threads=num_threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise AssetError(f"LiteRT cannot load the network ({error}); fetch it again") from error
        self.inputs = self._specs(self._interpreter.get_input_details())
        self.outputs = self._specs(self._interpreter.get_output_details())
        self._lock = threading.Lock()

    @staticmethod
    def _specs(details: list[dict]) -> dict[str, TensorSpec]:
        return {d["name"]: TensorSpec(d["index"], tuple(int(n) for n in d["shape"])) for d in details}

    @property
    def input_size(self) -> int:
        """Side of the square picture that the network takes."""
        return next(iter(self.inputs.values())).shape[1]

    def __call__(self, feed: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Output tensors by name (copies). An array feeds the only input, a mapping the named ones."""
        named = feed if isinstance(feed, Mapping) else {next(iter(self.inputs)): feed}
        with self._lock:
            for name, value in named.items():
                spec = self.inputs[name]
                self._interpreter.set_tensor(spec.index, np.ascontiguousarray(value, np.float32).reshape(spec.shape))
            self._interpreter.invoke()
            return {name: self._interpreter.get_tensor(spec.index) for name, spec in self.outputs.items()}


class Networks:
    """The networks of one process, each loaded when first used. Make one and pass it on; nothing is kept globally.

    With a user's bundle, its landmark network takes the place of ours and `blendshapes` gives its expression scores.
    """

    def __init__(self, directory: Path, num_threads: int = 2, bundle: TaskBundle | None = None) -> None:
        self._directory = directory
        self._num_threads = num_threads
        self._bundle = bundle

    def _load(self, name: str) -> bytes:
        path = self._directory / NETWORK_FILES[name][0]
        try:
            return path.read_bytes()
        except OSError as error:
            raise AssetError(f"the network {path} cannot be read ({error}); remove the model cache entry") from error

    @cached_property
    def face_short_range(self) -> Network:
        return Network(self._load("face_short_range"), self._num_threads)

    @cached_property
    def face_full_range(self) -> Network:
        return Network(self._load("face_full_range"), self._num_threads)

    @cached_property
    def face_mesh(self) -> AttentionMesh:
        from headrecon.perception.attention_mesh import AttentionMesh

        return AttentionMesh(self._load("face_mesh"), self._num_threads)

    @property
    def mesh(self) -> MeshNetwork:
        """The network that finds the 478 points."""
        return self.face_mesh if self._bundle is None else self._bundle.landmarks

    def blendshapes(self, points: Float[np.ndarray, "478 3"]) -> dict[str, float] | None:
        """Scores of the expressions by ARKit name for points in pixels; None without a bundle that has them."""
        return None if self._bundle is None else self._bundle.blendshapes(points)

    @cached_property
    def iris(self) -> Network:
        return Network(self._load("iris"), self._num_threads)

    @cached_property
    def person(self) -> Network:
        return Network(self._load("person"), self._num_threads)

    @property
    def licences(self) -> tuple[Licence, ...]:
        """Of everything that took part; a user's bundle is theirs to know."""
        return (MEDIAPIPE_LICENCE,) if self._bundle is None else (MEDIAPIPE_LICENCE, self._bundle.licence)


def load_networks(
    num_threads: int = 2, progress: ProgressCallback | None = None, task_bundle: Path | None = None
) -> Networks:
    """The networks from the model cache, fetched on first use; with a user's `face_landmarker.task` if given.

    Raises:
        NetworkUnavailable: they are not cached and cannot be downloaded.
        AssetError: the download is not what was published, or the bundle is not a face landmarker.
    """
    from headrecon.perception.task_bundle import load_task_bundle

    bundle = None if task_bundle is None else load_task_bundle(task_bundle, num_threads)
    return Networks(fetch(MEDIAPIPE_WHEEL, progress), num_threads, bundle)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Swallow LiteRT's "INFO:" lines, which it writes straight to the process's stderr; all else is passed on."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # a process without stderr has nothing to keep quiet
        yield
        return
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            sink.seek(0)
            rest = b"".join(line for line in sink if not line.startswith(b"INFO:"))
            if rest:
                os.write(saved, rest)
            os.close(saved)
