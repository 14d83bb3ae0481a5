"""Which pixels of the person are hair: colours of skin and hair learnt from where they must be, and where hair can be.

Colours are mixtures of Gaussians (as in GrabCut: Rother, Kolmogorov, Blake 2004), in the logarithm of brightness and
of two ratios of channels, in which shading moves skin along one axis only. The decision is smoothed along the
picture's own edges by a guided filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from headrecon.appearance.hair_scalp import smooth_step
from headrecon.appearance.hair_view import Drawn, HairView

_COMPONENTS = 3
_SAMPLES = 1500
_ROUNDS = 8
#: Standard deviations that no component falls below: brightness, chroma.
_FLOOR = (0.06, 0.025, 0.03)
#: Colours this many standard deviations from all skin are not this skin.
_UNLIKE = 3.0
#: Share of the pixels above the forehead that must be unlike skin for hair to be certain; below the first: bald.
_HAIR_SHARE = (0.2, 0.4)
#: What colours may contribute at most against what the place says (log odds).
_MOST_COLOUR = 6.0
_ENOUGH = 40
#: Bands below the eyes in which long hair shows beside the head, and how wide it is in each (metres, both sides).
_BESIDE_M = (0.055, 0.075, 0.095, 0.115)
_LONG_M = (0.006, 0.020)
#: Radius of the guided filter and its smoothing (colour variance), metres and squared sRGB.
_FILTER_M, _FILTER_EPS = 0.004, 2e-4


@dataclass(frozen=True)
class HairColours:
    """mask: how likely each pixel of the view is hair, 0..1. amount: 0 bald .. 1 hair, by colour alone.

    long: 0..1, hair falls beside the neck. known: whether there were pixels to learn from.
    """

    mask: Float[np.ndarray, "h w"]
    amount: float
    long: float
    known: bool


@dataclass(frozen=True)
class Places:
    """What the head says about each pixel. odds: log odds of hair by place alone. above: certainly over the hairline
    if there is one. skin: certainly skin. clothed: below the head. beside: how far below the eyes (metres), for pixels
    next to jaw and neck and beyond the model, else 0. All [h,w].
    """

    odds: Float[np.ndarray, "h w"]
    above: np.ndarray
    skin: np.ndarray
    clothed: np.ndarray
    beside: Float[np.ndarray, "h w"]


@dataclass(frozen=True)
class Mixture:
    """K Gaussians in three dimensions."""

    shares: Float[np.ndarray, " K"]
    means: Float[np.ndarray, "K 3"]
    roots: Float[np.ndarray, "K 3 3"]

    def distances(self, x: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N K"]:
        """Mahalanobis distances, squared."""
        k = len(self.shares)
        arms = x @ self.roots.reshape(3 * k, 3).T - np.einsum("kij,kj->ki", self.roots, self.means).reshape(-1)
        np.square(arms, out=arms)
        return arms[:, 0::3] + arms[:, 1::3] + arms[:, 2::3]

    def log_density(self, x: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
        volume = np.log(np.abs(np.diagonal(self.roots, axis1=1, axis2=2))).sum(1)
        terms = -0.5 * self.distances(x) + volume + np.log(self.shares)
        top = terms.max(1)
        return top + np.log(np.exp(terms - top[:, None]).sum(1)) - 1.5 * np.log(2 * np.pi)


def fit_mixture(x: Float[np.ndarray, "N 3"], floor: tuple[float, float, float] = _FLOOR) -> Mixture:
    """Expectation maximisation from a start that splits the samples by brightness: the same answer every time."""
    order = np.argsort(x[:, 0], kind="stable")
    member = np.zeros((len(x), _COMPONENTS))
    for k, part in enumerate(np.array_split(order, _COMPONENTS)):
        member[part, k] = 1.0
    mixture = _maximise(x, member, floor)
    for _ in range(_ROUNDS):
        volume = np.log(np.abs(np.diagonal(mixture.roots, axis1=1, axis2=2))).sum(1)
        terms = -0.5 * mixture.distances(x) + volume + np.log(mixture.shares)
        terms -= terms.max(1, keepdims=True)
        member = np.exp(terms)
        mixture = _maximise(x, member / member.sum(1, keepdims=True), floor)
    return mixture


def _maximise(x: np.ndarray, member: np.ndarray, floor: tuple[float, float, float]) -> Mixture:
    total = member.sum(0) + 1e-6
    means = (member.T @ x + 1e-6 * x.mean(0)) / total[:, None]
    roots = []
    for k in range(member.shape[1]):
        arm = x - means[k]
        spread = (arm * member[:, k, None]).T @ arm / total[k] + np.diag(np.square(floor))
        roots.append(np.linalg.inv(np.linalg.cholesky(spread)))
    return Mixture(np.maximum(total / total.sum(), 1e-4), means, np.stack(roots))


def colour_features(srgb: Float[np.ndarray, "*N 3"]) -> Float[np.ndarray, "*N 3"]:
    """Log brightness and two log ratios; a little is added so that noise in shadows does not explode."""
    x = np.log(np.clip(srgb, 0, 1) + 0.06)
    return np.stack([x.mean(-1), x[..., 0] - x[..., 1], x[..., 2] - x[..., 1]], axis=-1)


def find_hair(view: HairView, drawn: Drawn, places: Places) -> HairColours:
    """Learn the two colours and decide. drawn: the head in the view (as far as it is known)."""
    person = view.person > 0.5
    features = colour_features(view.image_srgb.astype(np.float64))
    skin_seeds = _typical(_some(features[places.skin & person]))
    above = places.above & person
    by_place = 1.0 / (1.0 + np.exp(-places.odds))
    if len(skin_seeds) < _ENOUGH or above.sum() < _ENOUGH:
        return HairColours((by_place * view.person).astype(np.float32), 1.0, 0.0, known=False)
    skin = fit_mixture(skin_seeds)
    seeds = _some(features[above])
    unlike = np.sqrt(skin.distances(_brighter(seeds, skin_seeds)).min(1)) > _UNLIKE
    amount = float(smooth_step(np.array(unlike.mean()), *_HAIR_SHARE))
    if unlike.sum() < _ENOUGH:
        return HairColours(np.zeros_like(by_place, dtype=np.float32), 0.0, 0.0, known=True)
    hair = fit_mixture(seeds[unlike])
    others = [skin]
    cloth_seeds = _some(features[places.clothed & person])
    if len(cloth_seeds) >= _ENOUGH:
        others.append(fit_mixture(cloth_seeds))
    flat = features[person]
    rival = others[0].log_density(flat)
    if len(others) > 1:  # clothes are a rival only below the head
        low = 1.0 / (1.0 + np.exp(places.odds[person] - 0.6))
        rival = np.maximum(rival, others[1].log_density(flat) + np.log(low))
    ratio = np.clip(hair.log_density(flat) - rival, -_MOST_COLOUR, _MOST_COLOUR)
    odds = np.full(person.shape, -20.0)
    odds[person] = ratio + places.odds[person]
    likely = 1.0 / (1.0 + np.exp(-odds))
    mask = _connected(likely, above, places.beside > 0)
    long = _length(mask, places, view)
    if long == 0.0:  # what lies beside the neck is a collar
        mask = _connected(likely, above, np.zeros_like(above))
    mask = np.clip(_guided(mask, view), 0.0, 1.0) * view.person * smooth_step(np.array(amount), 0.0, 0.5)
    return HairColours(mask.astype(np.float32), amount, long, known=True)


def _connected(mask: Float[np.ndarray, "h w"], above: np.ndarray, beside: np.ndarray) -> Float[np.ndarray, "h w"]:
    """Only what hangs together with the hair on top, or large locks `beside` the neck: no beards, no buttons."""
    from scipy.ndimage import label

    labels = np.zeros(mask.shape, np.int32)
    label(mask > 0.3, output=labels)
    flat, count = labels.reshape(-1), int(labels.max())
    sizes = np.bincount(flat, minlength=count + 1)
    on_top = np.bincount(flat, above.reshape(-1), minlength=count + 1)
    at_neck = np.bincount(flat, beside.reshape(-1), minlength=count + 1)
    on_top[0] = sizes[0] = 0
    own = on_top > 0.05 * max(float(on_top.max()), 1.0)
    own |= (sizes > 0.04 * max(int(sizes.max()), 1)) & (at_neck > 0.6 * sizes)
    own[0] = False
    return np.where(own[labels] | (mask <= 0.3), mask, 0.0)


def _length(mask: Float[np.ndarray, "h w"], places: Places, view: HairView) -> float:
    """0 for short hair, 1 for hair that falls beside jaw and neck without a gap on the way down."""
    widths = []
    for low, high in pairwise(_BESIDE_M):
        band = (places.beside > low) & (places.beside <= high)
        widths.append(float(mask[band].sum()) * view.metres_per_px**2 / (high - low))
    return float(smooth_step(np.array(min(widths)), *_LONG_M))


def _some(values: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "M 3"]:
    return values[:: max(1, len(values) // _SAMPLES)]


def _typical(x: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "M 3"]:
    """Without what stands apart: glasses, locks and background among the cheeks of a fit that is a little off."""
    if len(x) < _ENOUGH:
        return x
    apart = np.abs(x - np.median(x, axis=0))
    spread = np.maximum(1.48 * np.median(apart, axis=0), _FLOOR)
    return x[(apart < 2.5 * spread).all(1)]


def _brighter(x: Float[np.ndarray, "N 3"], skin: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, "N 3"]:
    """The same colours with brightness above skin's taken down to it: a shining pate is no hair."""
    out = x.copy()
    limit = np.quantile(skin[:, 0], 0.75)
    # Highlights lose colour too; white hair does not shine, so only what is near in chroma is forgiven.
    near = np.abs(x[:, 1:] - np.median(skin[:, 1:], axis=0)).max(1) < 0.12
    out[near, 0] = np.minimum(out[near, 0], limit)
    return out


def _guided(mask: Float[np.ndarray, "h w"], view: HairView) -> Float[np.ndarray, "h w"]:
    """Guided filter with the brightness as guide (He, Sun, Tang 2013)."""
    from scipy.ndimage import uniform_filter

    guide = view.image_srgb.mean(2).astype(np.float64)
    side = 2 * max(1, round(_FILTER_M / view.metres_per_px)) + 1

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, side, mode="nearest")

    mean_guide, mean_mask = mean(guide), mean(mask)
    slope = (mean(guide * mask) - mean_guide * mean_mask) / (mean(guide**2) - mean_guide**2 + _FILTER_EPS)
    return mean(slope) * guide + mean(mean_mask - slope * mean_guide)
