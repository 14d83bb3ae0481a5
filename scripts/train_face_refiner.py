"""Makes headrecon/data/face_refiner.npz from rendered faces: heads on the features of two networks.

    python scripts/training_skins.py skins.npz --skins PHOTO...
    python scripts/training_skins.py held_out.npz --skins OTHER_PHOTO... --looks 20 --count 150 --held-out 1
    python scripts/render_training_crops.py faces0 --skins skins.npz --count 28000
    python scripts/render_training_crops.py held_out --skins held_out.npz --count 1200 --first 900000
    python scripts/read_training_crops.py faces0 && python scripts/read_training_crops.py held_out --both-looks
    python scripts/train_face_refiner.py --faces faces0 --held-out held_out [--seconds 260 330 600]

Trained for so many seconds of one core: the head on the mesh network's features without the finer map, then with it;
then the head on the recognition network's. Each face's loss counts by an
uncertainty that the network states itself (Kendall and Gal, "What Uncertainties Do We Need in Bayesian Deep Learning
for Computer Vision?", NeurIPS 2017), so that hidden and turned faces do not rule; points have noise added. The
covariance comes from held-out faces in held-out skins. How it fares on photos of people: docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from refiner_faces import Faces, identity_metric, load_faces, mirrored_identity
from refiner_network import MeshTrained, RecognitionTrained, TrainedHead
from torch import Tensor

from headrecon.models.store import load_head
from headrecon.perception.face_refiner import recognition_share
from headrecon.perception.shape_reader import MESH_POINTS, mirrored_points, pose_terms

OUT = Path(__file__).resolve().parents[1] / "headrecon/data/face_refiner.npz"
POINT_CODES, ERROR_CODES, POSE_TERMS = 80, 80, 10
BATCH, RATE, RATE_AGAIN, DECAY, AVERAGING = 64, 1.5e-3, 1.2e-3, 0.05, 0.998
_IDENTITY_CLAMP, _ERROR_CLAMP = (-4.0, 3.0), (-7.0, 4.0)
_LOSS_WEIGHT = 4.0


@dataclass(frozen=True)
class Coding:
    """How faces become rows of numbers and back; names as in `ShapeReader`."""

    mean_points: np.ndarray
    axes: np.ndarray
    scales: np.ndarray
    mean_pitch: float
    error_components: np.ndarray

    @staticmethod
    def of(faces: Faces, noise: float) -> Coding:
        flat = faces.points[:, :MESH_POINTS, :2].reshape(len(faces), -1)
        mean = np.zeros((1, 478, 2))
        mean[0, :MESH_POINTS] = flat.mean(0).reshape(-1, 2)
        mean = ((mean + mirrored_points(mean)) / 2)[0, :MESH_POINTS].ravel()
        some = np.random.default_rng(0).permutation(len(faces))[:5000]
        axes = principal_axes(flat[some] - mean, POINT_CODES)
        errors = faces.errors[:, :MESH_POINTS].reshape(len(faces), -1)
        codes = principal_axes(errors[some], ERROR_CODES)
        codes = codes * float((errors @ codes.T).std())  # so that codes are about 1
        up = faces.points[:, 152] - faces.points[:, 10]
        scales = np.sqrt(((flat - mean) @ axes.T).var(0) + noise**2)
        return Coding(mean, axes, scales, float(np.median(np.arctan2(up[:, 2], up[:, 1]))), codes)

    def design(self, points: np.ndarray) -> np.ndarray:
        flat = points[:, :MESH_POINTS, :2].reshape(len(points), -1)
        along = (flat - self.mean_points) @ self.axes.T / self.scales
        return np.concatenate([along, pose_terms(points, self.mean_pitch)], axis=1)

    def codes(self, errors: np.ndarray) -> np.ndarray:
        unit = self.error_components / (self.error_components**2).sum(1, keepdims=True)
        return errors[:, :MESH_POINTS].reshape(len(errors), -1) @ unit.T


def principal_axes(rows: np.ndarray, count: int) -> np.ndarray:
    return np.linalg.svd(rows, full_matrices=False)[2][:count]


class Training:
    """The data as tensors, a head and its running average."""

    def __init__(
        self, kind: type[MeshTrained] | type[RecognitionTrained], faces: Faces, coding: Coding, noise: float,
        metric: np.ndarray,
    ) -> None:  # fmt: skip
        self.faces, self.num_betas = faces, faces.betas.shape[1]
        design = coding.design(faces.points)
        answer = np.concatenate([faces.betas, coding.codes(faces.errors)], axis=1)
        self.rows, self.answer = torch.from_numpy(design).float(), torch.from_numpy(answer).float()
        self.metric = torch.from_numpy(metric).float()
        shake = np.concatenate([noise / coding.scales, np.zeros(POSE_TERMS)])
        self.shake = torch.from_numpy(shake).float()
        self.network: TrainedHead = kind(design.shape[1], answer.shape[1] + 2)
        self._start_linear(design, answer, shake)
        self.average = copy.deepcopy(self.network)

    def _start_linear(self, design: np.ndarray, answer: np.ndarray, shake: np.ndarray) -> None:
        """What is linear in the points starts at the regression that counts their noise in."""
        rows = np.concatenate([design, np.ones((len(design), 1))], axis=1)
        penalty = len(rows) * np.concatenate([shake**2, [0.0]]) + 1e-3
        solved = np.linalg.solve(rows.T @ rows + np.diag(penalty), rows.T @ answer)
        left = answer - rows @ solved
        identity, errors = left[:, : self.num_betas] @ self.metric.numpy(), left[:, self.num_betas :]
        start = [math.log((identity**2).sum(1).mean()), math.log((errors**2).mean())]
        with torch.no_grad():
            straight = self.network.straight
            straight.weight.zero_()
            straight.weight[:-2] = torch.from_numpy(solved[:-1].T).float()
            straight.bias.copy_(torch.from_numpy(np.concatenate([solved[-1], start])).float())

    def loss(self, rows: np.ndarray) -> Tensor:
        points = self.rows[rows] + self.shake * torch.randn(len(rows), len(self.shake))
        answer = self.network(*self.network.inputs(self.faces, rows), points)
        off = answer[:, :-2] - self.answer[rows]
        identity = (off[:, : self.num_betas] @ self.metric).square().sum(1)
        errors = off[:, self.num_betas :].square().mean(1)
        first, second = answer[:, -2].clamp(*_IDENTITY_CLAMP), answer[:, -1].clamp(*_ERROR_CLAMP)
        return _LOSS_WEIGHT * (identity * (-first).exp() + first + errors * (-second).exp() + second).mean()

    def run(self, seconds: float, rate: float) -> None:
        """Train for so many seconds of processor time, the rate falling to 0 along a cosine."""
        named = list(self.network.named_parameters())
        decayed = [p for n, p in named if p.ndim > 1 and "straight" not in n]
        rest = [p for n, p in named if p.ndim <= 1 or "straight" in n]
        groups = [{"params": decayed, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
        optimizer, rng = torch.optim.AdamW(groups, lr=rate), np.random.default_rng(0)
        began, step, losses = time.process_time(), 0, []
        self.network.train()
        while (share := (time.process_time() - began) / seconds) < 1:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(share / 0.04, 0.5 * (1 + math.cos(math.pi * share)))
            rows = np.sort(rng.choice(len(self.faces), BATCH, replace=False))
            loss = self.loss(rows)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 20.0)
            optimizer.step()
            step += 1
            losses.append(float(loss.detach()))
            self._average(step)
            if step % 500 == 0:
                print(f"{share:.0%}: {step * BATCH / len(self.faces):.1f} epochs, loss {np.mean(losses[-500:]):.3f}")

    @torch.no_grad()
    def _average(self, step: int) -> None:
        keep = min(AVERAGING, (1 + step) / (10 + step))
        pairs = zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True)
        for ours, theirs in pairs:
            if ours.is_floating_point():
                ours.mul_(keep).add_(theirs, alpha=1 - keep)
            else:
                ours.copy_(theirs)

    @torch.no_grad()
    def answers(self, faces: Faces, design: np.ndarray) -> np.ndarray:
        self.average.eval()
        rows = torch.from_numpy(design).float()
        parts = [
            self.average(*self.average.inputs(faces, slice(k, k + 128)), rows[k : k + 128])
            for k in range(0, len(faces), 128)
        ]  # fmt: skip
        return torch.cat(parts).double().numpy()


def both_looks(answers: np.ndarray, coding: Coding, mirror_betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Betas and errors [N,468,2] of faces whose plain and mirrored looks take turns."""
    count = len(mirror_betas)
    plain, mirrored = answers[::2], answers[1::2]
    betas = (plain[:, :count] + mirrored[:, :count] @ mirror_betas.T) / 2
    errors = np.zeros((2, len(plain), 478, 2))
    for k, look in enumerate((plain, mirrored)):
        flat = look[:, count : count + ERROR_CODES] @ coding.error_components
        errors[k, :, :MESH_POINTS] = flat.reshape(len(plain), MESH_POINTS, 2)
    return betas, ((errors[0] + mirrored_points(errors[1])) / 2)[:, :MESH_POINTS]


def known_part(left: np.ndarray) -> np.ndarray:
    """Covariance of what estimates are wrong by [N,Nb], no direction known worse than the population knows it."""
    values, axes = np.linalg.eigh(left.T @ left / len(left))
    return (axes * np.clip(values, 0.02, 1.0)) @ axes.T


def points_off_the_mouth(mean: np.ndarray) -> np.ndarray:
    """Mesh points outside an ellipse about the mouth of the mean face [468,2]."""
    reach = (mean - mean[[61, 291]].mean(0)) / (0.50, 0.32)
    return np.flatnonzero((reach**2).sum(1) > 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faces", nargs="+", required=True)
    parser.add_argument("--held-out", nargs="+", required=True)
    parser.add_argument("--seconds", nargs=3, type=float, default=(260.0, 330.0, 600.0))
    parser.add_argument("--noise", type=float, default=0.02, help="of each coordinate, in eye distances")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    assets = load_head()
    mirror, metric = mirrored_identity(assets), identity_metric(assets)
    faces, unseen = load_faces(args.faces, mirror), load_faces(args.held_out, mirror)
    coding = Coding.of(faces, args.noise)
    print(f"{len(faces)} looks, {len(unseen)} held out")
    on_mesh = Training(MeshTrained, faces, coding, args.noise, metric)
    on_mesh.run(args.seconds[0], RATE)
    for network in (on_mesh.network, on_mesh.average):
        network.use_middle = True  # pyright: ignore[reportArgumentType]
    on_mesh.run(args.seconds[1], RATE_AGAIN)
    on_recognition = Training(RecognitionTrained, faces, coding, args.noise, metric)
    on_recognition.run(args.seconds[2], RATE)
    answers = [
        both_looks(training.answers(unseen, coding.design(unseen.points)), coding, mirror)
        for training in (on_mesh, on_recognition)
    ]
    shares = np.array([recognition_share(points) for points in unseen.points[::2]])
    betas, errors = (
        (1 - weights) * first + weights * second
        for weights, first, second in zip((shares[:, None], shares[:, None, None]), *answers, strict=True)
    )
    heads = {"mesh.": on_mesh.average, "recognition.": on_recognition.average}
    write(args.out, heads, coding, mirror, known_part(betas - unseen.betas[::2]))
    seen = unseen.errors[::2, :MESH_POINTS]
    before, after = (np.sqrt((e**2).sum(2).mean(1)) for e in (seen, seen - errors))
    print(f"points: error {100 * np.median(before):.2f} % of the eye distance, {100 * np.median(after):.2f} % after")


def write(out: Path, heads: dict[str, TrainedHead], coding: Coding, mirror: np.ndarray, covariance: np.ndarray) -> None:
    tables: dict[str, np.ndarray] = {
        "model": np.array("anny"),
        "used": points_off_the_mouth(coding.mean_points.reshape(-1, 2)).astype(np.int16),
        "mirror_betas": mirror.astype(np.float16),
        "covariance": covariance.astype(np.float32),
    }
    for prefix, head in heads.items():
        own = head.tables(len(mirror) + ERROR_CODES)
        own |= {"axes": coding.axes.astype(np.float16), "error_components": coding.error_components.astype(np.float16)}
        own |= {"mean_points": coding.mean_points.astype(np.float32), "scales": coding.scales.astype(np.float32)}
        own["mean_pitch"] = np.array(coding.mean_pitch)
        tables |= {prefix + name: values for name, values in own.items()}
    np.savez_compressed(out, allow_pickle=False, **tables)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
