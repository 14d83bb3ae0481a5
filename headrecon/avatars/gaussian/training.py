"""Learning a Gaussian avatar from footage, one picture at a time.

Deterministic: what a step draws (frame, background) follows from the seed and the step's number, so a run that was cut
short and taken up again from its checkpoint ends in the same avatar as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.avatars.footage import Footage
from headrecon.avatars.gaussian.carrier import Carrier, Places
from headrecon.avatars.gaussian.density import Strain, divided, plan
from headrecon.avatars.gaussian.features import MotionBasis
from headrecon.avatars.gaussian.losses import Limits, LossWeights, picture_loss, shape_loss
from headrecon.avatars.gaussian.model import SPLAT_OPTIONS, GaussianAvatar
from headrecon.avatars.gaussian.nuisances import FrameState, Nuisances
from headrecon.avatars.gaussian.settings import TrainConfig
from headrecon.avatars.gaussian.sparse import SparseMix
from headrecon.avatars.gaussian.splat_rig import SplatRig
from headrecon.avatars.gaussian.torso import SheetMotion, swayed
from headrecon.ops.splat_gaussians import SplatInfo, splat_gaussians
from headrecon.structures import Cameras, Gaussians

#: Learning rates at the start and at the end (as shares of the first; offsets in metres), and Adam's eps: gradients
#: below it move nothing. Without that, what shows through a thousandth of a pixel would move as fast as what is seen.
_RATES = {
    "offsets": (8e-5, 0.05, 1e-5),
    "quats_wxyz": (2e-3, 0.2, 1e-8),
    "log_scales": (8e-3, 0.2, 2e-8),
    "logits": (4e-2, 0.2, 1e-8),
    "colours": (8e-3, 0.1, 1e-7),
    "corrections": (1e-3, 0.1, 1e-7),
    "sheet": (2e-4, 0.1, 1e-8),
}
#: Decoupled weight decay of the corrections, per unit of learning rate.
_DECAY = 2.0
#: Pictures of half the size for the first share of the steps; the track's corrections begin after the second.
_COARSE, _SETTLED = 0.25, 0.04
#: Gaussians are split and taken out between these shares, so many times.
_DENSIFY, _ROUNDS = (0.06, 0.55), 14
#: Corrections begin after this share: first the mean head, then what moves.
_MOVES = 0.25
#: Pictures are not halved below this side.
_SMALLEST = 128
Told = Callable[[int, float], None]


@dataclass(frozen=True)
class Scene:
    """What does not change while training. train: rows of the footage to learn from. sketch: a quick run, at half the
    size all the time and with Gaussians that answer to nothing."""

    footage: Footage
    carrier: Carrier
    basis: MotionBasis
    train: Int[np.ndarray, " M"]
    config: TrainConfig
    seed: int
    weights: LossWeights = field(default_factory=LossWeights)
    sketch: bool = False

    def picture(
        self, index: int, background_srgb: tuple[float, float, float], half: bool
    ) -> tuple[Float[Tensor, "H W 3"], Cameras]:
        """A frame before a plain colour, and its camera (viewmats [1,4,4]); half: at half the size."""
        device = self.carrier.device
        target = torch.from_numpy(self.footage.matted(index, background_srgb)).to(device)
        camera = self.footage.track.cameras
        row = slice(index, index + 1)
        camera = replace(camera, viewmats=camera.viewmats[row], Ks=camera.Ks[row]).torch().to(device)
        if half and min(target.shape[:2]) >= _SMALLEST:
            target, camera = halved(target, camera)
        return target.contiguous(), camera


@dataclass(frozen=True)
class Painter:
    """Draws frames with what has been learned. moves: whether Gaussians already answer to the features."""

    scene: Scene
    rig: SplatRig
    mix: SparseMix
    sheet_motion: Float[Tensor, "A 3 P"]
    moves: bool = True

    def draw(
        self, state: FrameState, camera: Cameras, background: Float[Tensor, " 3"]
    ) -> tuple[Float[Tensor, "H W 3"], SplatInfo]:
        """A frame, its exposure included, before a background; differentiable."""
        gaussians = self.gaussians(state)
        assert gaussians.colours is not None
        lit = replace(gaussians, colours=gaussians.colours * state.gain + state.bias)
        options = replace(SPLAT_OPTIONS, centre_gradients=torch.is_grad_enabled())
        pictures = splat_gaussians(lit, camera, options, background)
        return pictures.image[0], pictures.info

    def gaussians(self, state: FrameState) -> Gaussians:
        """The Gaussians of a frame."""
        basis = self.scene.basis
        features = basis(state.params)[0]
        sheet = SheetMotion(self.scene.carrier.sheet_rest, self.sheet_motion)(features[-basis.num_pose :])
        moved = self.scene.carrier.pose(state.params, swayed(sheet, state.body))
        return self.rig.pose(moved, self.mix, features if self.moves else torch.zeros_like(features))


class Learner:
    """The state of a training run: Gaussians, the sheet's motion, what each frame has of its own, and moments."""

    def __init__(self, scene: Scene, rig: SplatRig, sheet_motion: Tensor, nuisances: Nuisances) -> None:
        self.scene, self.step_number = scene, 0
        self.nuisances = nuisances
        self.sheet_motion = sheet_motion.clone().requires_grad_()
        self._take_up(rig, rig.colours.detach().clone())
        self.strain = Strain.zeros(len(rig), scene.carrier.device)

    def _take_up(self, rig: SplatRig, seeds_srgb: Float[Tensor, "N 3"]) -> None:
        self.rig = rig.with_tensors({k: t.detach().clone().requires_grad_() for k, t in rig.tensors().items()})
        self.mix = rig.places.mix(self.scene.carrier)
        self.limits = _limits(self.scene.carrier, self.rig, seeds_srgb)
        leaves = {**self.rig.tensors(), "sheet": self.sheet_motion}
        groups = [
            {
                "params": [t],
                "lr": _RATES[k][0],
                "eps": _RATES[k][2],
                "name": k,
                "weight_decay": _DECAY if k == "corrections" else 0.0,
            }
            for k, t in leaves.items()
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)

    @property
    def progress(self) -> float:
        return self.step_number / self.scene.config.iterations

    @property
    def _moves(self) -> bool:
        return self.progress >= _MOVES and not self.scene.sketch

    def frame_of(self, step: int) -> int:
        """The frame that a step draws: all of them in a new order every time round."""
        train = self.scene.train
        turn, place = divmod(step, len(train))
        order = np.random.default_rng([self.scene.seed, 1, turn]).permutation(len(train))
        return int(train[order[place]])

    def step(self) -> float:
        """Draw one frame, compare, improve. Returns the difference of the pictures."""
        scene, step = self.scene, self.step_number
        index = self.frame_of(step)
        leaves = self.nuisances.leaves(index)
        coarse = scene.sketch or self.progress < _COARSE
        target, camera, background = self._picture(index, step, coarse)
        state = self.nuisances.state(index, leaves)
        image, info = self.painter().draw(state, camera, background)
        difference = picture_loss(image, target, scene.weights)
        loss = difference
        if step % 4 == 0:  # these change slowly, and the factor makes up for it
            loss = loss + 4 * shape_loss(self.rig, self.limits, scene.weights)
        loss = loss + scene.weights.frame * self.nuisances.prior(leaves)
        self._set_rates()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        if self.progress > _SETTLED:
            self.nuisances.step(index, leaves, _decay(self.progress, 0.05))
        _, absolute = info.centre_gradients()
        self.strain.add(absolute[0], info.radii[0], max(camera.width, camera.height))
        self.step_number += 1
        if self.step_number % len(scene.train) == 0:
            self.nuisances.centre(scene.train)
        self._divide()
        return float(difference.detach())

    def painter(self) -> Painter:
        """What draws frames as things stand now."""
        return Painter(self.scene, self.rig, self.mix, self.sheet_motion, self._moves)

    def _picture(self, index: int, step: int, coarse: bool) -> tuple[Tensor, Cameras, Tensor]:
        """Target, camera and background of a step."""
        scene = self.scene
        rng = np.random.default_rng([scene.seed, 2, step])
        background = rng.random(3) if step % 2 else np.full(3, float(rng.integers(2)))
        target, camera = scene.picture(
            index, (float(background[0]), float(background[1]), float(background[2])), coarse
        )
        return target, camera, torch.tensor(background, dtype=torch.float32, device=target.device)

    def _set_rates(self) -> None:
        for group in self.optimiser.param_groups:
            first, last, _ = _RATES[group["name"]]
            group["lr"] = first * _decay(self.progress, last)

    def _divide(self) -> None:
        """Split and prune when it is time."""
        config = self.scene.config
        first, last = (round(share * config.iterations) for share in _DENSIFY)
        every = max(1, (last - first) // _ROUNDS)
        if not (first <= self.step_number <= last and (self.step_number - first) % every == 0):
            return
        done = (self.step_number - first) // every
        target = config.gaussians - len(self.rig)
        room = max(0, target // max(1, _ROUNDS - done)) if done < _ROUNDS else target
        keep, split = plan(self.rig, self.strain, max(room, 0))
        rig, parents = divided(self.rig, keep, split)
        moments = self._moments()
        self._take_up(rig, self.limits.colours_srgb[parents])
        self._put_moments({k: v[parents] if k.split(".")[0] != "sheet" else v for k, v in moments.items()})
        self.strain = Strain.zeros(len(rig), self.scene.carrier.device)

    def _moments(self) -> dict[str, Tensor]:
        """Adam's moments by name and kind; empty before the first step."""
        found = {}
        for group in self.optimiser.param_groups:
            state = self.optimiser.state.get(group["params"][0], {})
            for kind in ("exp_avg", "exp_avg_sq"):
                if kind in state:
                    found[f"{group['name']}.{kind}"] = state[kind]
        return found

    def _put_moments(self, moments: dict[str, Tensor]) -> None:
        for group in self.optimiser.param_groups:
            name = group["name"]
            if f"{name}.exp_avg" not in moments:
                continue
            step = torch.tensor(float(self.step_number), device=group["params"][0].device)  # where fused Adam wants it
            kept = {kind: moments[f"{name}.{kind}"].clone() for kind in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[group["params"][0]] = {"step": step, **kept}

    def state(self) -> dict[str, Tensor]:
        """All that a later run needs to go on from here, by name."""
        found = {f"rig.{k}": t.detach() for k, t in self.rig.tensors().items()}
        found |= {
            "seeds": self.limits.colours_srgb,
            "sheet": self.sheet_motion.detach(),
            "step": torch.tensor(self.step_number),
        }
        found |= {f"moments.{k}": t for k, t in self._moments().items()}
        found |= {f"frames.{k}": t for k, t in self.nuisances.tensors().items()}
        found |= {"strain.pull": self.strain.pull, "strain.drawn": self.strain.drawn}
        places = self.rig.places
        found["bind.triangles"] = torch.from_numpy(places.triangles)
        found["bind.barycentrics"] = torch.from_numpy(places.barycentrics)
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up where `state` was taken."""
        device = self.scene.carrier.device
        state = {k: t.to(device) for k, t in state.items()}
        self.step_number = int(state["step"])
        places = Places(state["bind.triangles"].cpu().numpy(), state["bind.barycentrics"].cpu().numpy())
        learned = {k: state[f"rig.{k}"] for k in self.rig.tensors()}
        self.sheet_motion = state["sheet"].clone().requires_grad_()
        self._take_up(SplatRig(places, **learned), state["seeds"])
        self._put_moments({k.removeprefix("moments."): t for k, t in state.items() if k.startswith("moments.")})
        self.nuisances.load({k.removeprefix("frames."): t for k, t in state.items() if k.startswith("frames.")})
        self.strain = Strain(state["strain.pull"].clone(), state["strain.drawn"].clone())

    def avatar(self, like: GaussianAvatar) -> GaussianAvatar:
        """What has been learned, in place of what `like` holds."""
        tensors = {k: t.detach().clone() for k, t in self.rig.tensors().items()}
        return replace(like, rig=self.rig.with_tensors(tensors), sheet_motion=self.sheet_motion.detach().clone())

    def run(self, until: int, told: Told | None = None) -> None:
        """Steps up to this number. told: is called after each with the number and the loss."""
        while self.step_number < until:
            loss = self.step()
            if told is not None:
                told(self.step_number, loss)


def _decay(progress: float, last: float) -> float:
    return math.exp(math.log(last) * min(max(progress, 0.0), 1.0))


def halved(image: Float[Tensor, "H W 3"], camera: Cameras) -> tuple[Tensor, Cameras]:
    """A picture of half the size (means of 2 x 2) and its camera."""
    height, width = (n // 2 for n in image.shape[:2])
    small = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3))
    ks = camera.Ks.clone()
    ks[..., :2, :] *= 0.5
    return small, replace(camera, Ks=ks, width=width, height=height)


#: Limits in metres: skin, and hair or cloth.
_FAR_M, _LARGE_M, _NEAR_M = (0.005, 0.03), (0.006, 0.014), (0.002, 0.012)


def _limits(carrier: Carrier, rig: SplatRig, seeds_srgb: Float[Tensor, "N 3"]) -> Limits:
    """Hair and shoulders may leave the surface that carries them; skin may not."""
    assets = carrier.model.assets
    loose = np.ones(len(carrier.rest))
    loose[: assets.num_vertices] = assets.regions.get("scalp", np.zeros(assets.num_vertices))
    places = rig.places
    found = (loose[carrier.triangles[places.triangles]] * places.barycentrics).sum(1)
    share = torch.as_tensor(np.clip(2 * found, 0, 1), dtype=torch.float32, device=carrier.device)
    far, large, near = (skin + (hair - skin) * share for skin, hair in (_FAR_M, _LARGE_M, _NEAR_M))
    return Limits(far, large, near, seeds_srgb)
