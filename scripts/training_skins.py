"""Makes the skins that scripts/render_training_crops.py dresses heads in: one file with many textures.

    python scripts/training_skins.py OUT.npz --skins PHOTO... [--looks 140] [--count 1500] [--held-out 0]

Two sources are mixed: textures that `reconstruct` takes from openly licensed portraits (docs/accuracy.md names them),
and looks painted by `headrecon.datasets`. A photo's texture lies where the fit put it, a millimetre off here and there,
and a smile leaves teeth on its lips; a network would learn both as errors of its own. So lids, lips and nostrils are
always painted, where the geometry has them, and photos give the skin between. Mixing is done in shares of the colour of
the cheek, so that any skin goes with any tone. With `--held-out` looks are drawn from other seeds, for validation.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import zoom

from headrecon.datasets.face_frame import inside_ring, resampled, smooth_step
from headrecon.datasets.looks import HAIR_COLOURS, SKIN_TONES, draw_look
from headrecon.datasets.studio import SyntheticStudio
from headrecon.models.store import load_head

SIZE = 512
_SEED = 77


@dataclass(frozen=True)
class Source:
    """Logarithms of linear colours of the skin's texels over that of the cheek [N,3], and the cheek's [3]."""

    shares: np.ndarray
    cheek: np.ndarray


def to_linear(srgb: np.ndarray) -> np.ndarray:
    return (np.clip(srgb, 0, 1) ** 2.2).astype(np.float32)


class Skins:
    """Texels of the skin, masks over them, and the sources."""

    def __init__(self, size: int = SIZE) -> None:
        self.studio = SyntheticStudio(load_head(), size)
        self.frame = self.studio.frame
        texels = self.studio.texels
        self.skin = texels.part == self.studio.assets.part_names.index("skin")
        self.points = self.studio.points[self.skin]
        x, y, z = self.points.T
        self.front = z > -70
        self.cheek = (np.abs(np.abs(x) - 36) < 9) & (np.abs(y + 32) < 14) & self.front
        scalp = np.asarray(self.studio.assets.regions["scalp"], dtype=np.float64)
        self.scalp = np.clip((texels.interpolate(scalp)[self.skin] - 0.1) / 0.4, 0, 1)
        self.features = self._features().astype(np.float32)

    def _features(self) -> np.ndarray:
        """1 where colours must lie where the geometry is: lids, lips, nostrils."""
        out = np.zeros(len(self.points))
        rings = [(self.frame.eye_ring(side), 5.0) for side in ("right", "left")] + [(self.frame.outer_lips, 7.0)]
        for ring, reach in rings:
            closed = resampled(ring, 100, closed=True)
            rows = np.flatnonzero((np.linalg.norm(self.points - closed.mean(0), axis=1) < 50) & self.front)
            out[rows] = np.maximum(out[rows], smooth_step(inside_ring(self.points[rows], closed), -reach, -0.4 * reach))
        for mark in self.frame.marks[31:36]:
            away = np.linalg.norm(self.points - mark, axis=1)
            out = np.maximum(out, smooth_step(away, 11, 6) * smooth_step(self.points[:, 1] - mark[1], 6, 1))
        return out

    def source(self, texture: np.ndarray) -> Source:
        """From a texture (uint8 [S,S,3])."""
        linear = to_linear(texture.reshape(-1, 3)[self.studio.texels.index][self.skin] / np.float32(255))
        cheek = np.median(linear[self.cheek], axis=0)
        return Source(np.log(np.maximum(linear, 2e-3) / cheek).clip(-4, 2.5), cheek)

    def looks(self, seeds: range) -> tuple[np.ndarray, np.ndarray]:
        """Painted textures [L,S,S,3] and how far their hair lifts each vertex [L,V] (metres)."""
        textures, hair, plain = [], [], self.frame.marks
        for seed in seeds:
            rng = np.random.default_rng([_SEED, seed])
            wide = {"brows": (0.15, 1), "lips": (0, 1.1), "lashes": (0.1, 1), "mottling": (0.3, 1.6)}
            drawn = {name: float(rng.uniform(*span)) for name, span in wide.items()}
            look = replace(draw_look(rng), brow_mm=float(rng.uniform(4, 13)), **drawn)
            marks = plain.copy()  # brows grow higher on some, and steeper
            marks[17:27, 1] += rng.normal(0, 2.5) + rng.normal(0, 0.06) * (np.abs(marks[17:27, 0]) - 30)
            self.studio.frame = replace(self.frame, marks=marks)
            painted = self.studio.paint(look, rng)
            textures.append(painted.texture_srgb)
            hair.append(painted.hair_m.astype(np.float32))
        self.studio.frame = self.frame
        return np.stack(textures), np.stack(hair)

    def field(self, rng: np.random.Generator) -> np.ndarray:
        """A smooth mask over the texels: patches, or the upper face against the lower one."""
        if rng.random() < 0.3:
            y = self.points[:, 1]
            share = smooth_step(y + 6 * np.sin(self.points[:, 0] / 15), *rng.permutation([-50.0, -20.0]))
        else:
            coarse = rng.normal(size=(int(rng.integers(3, 9)),) * 2)
            smooth = np.asarray(zoom(coarse, SIZE / len(coarse), order=1))[:SIZE, :SIZE].reshape(-1)
            share = np.clip(smooth * rng.uniform(0.7, 3) + 0.5, 0, 1)[self.studio.texels.index][self.skin]
        return share.astype(np.float32)[:, None]


def fringe(rng: np.random.Generator, skins: Skins, linear: np.ndarray) -> np.ndarray:
    """Hair that falls over the forehead, to anywhere between the hair line and the brows."""
    x, y, _ = skins.points.T
    grid = np.linspace(-100, 100, 401)
    edge = rng.uniform(12, 75) + rng.normal(0, 0.3) * x + rng.normal(0, 8) * (np.abs(x) / 40) ** 2
    for grain, height in ((20, 6.0), (5, 4.0), (1, 2.5)):
        rough = np.interp(grid, grid[::grain], rng.normal(size=len(grid[::grain])))
        edge = edge + height * np.interp(x + 0.2 * (y - 50), grid, rough)
    cover = smooth_step(y - edge, -1, 3) * skins.front
    strands = np.interp(x + rng.normal(0, 0.3) * (y - 50), grid, rng.normal(size=len(grid)))
    colour = to_linear(np.array(HAIR_COLOURS[int(rng.integers(len(HAIR_COLOURS)))]) * rng.uniform(0.7, 1.3))
    share = (cover * rng.uniform(0.75, 1.0))[:, None].astype(np.float32)
    return linear * (1 - share) + colour * np.exp(0.35 * strands)[:, None].astype(np.float32) * share


def mixed(
    rng: np.random.Generator, skins: Skins, photos: list[Source], painted: list[Source]
) -> tuple[np.ndarray, int]:
    """Linear colours of the skin's texels, and which look gives hair, eyes and mouth."""
    which = int(rng.integers(len(painted)))
    own = painted[which].shares
    if rng.random() < 0.3:
        shares, cheek = own, painted[which].cheek
    else:
        first, second = (photos[int(rng.integers(len(photos)))] for _ in range(2))
        other = second.shares if rng.random() < 0.5 else painted[int(rng.integers(len(painted)))].shares
        blend = skins.field(rng)
        shares, cheek = first.shares * (1 - blend) + other * blend, first.cheek
        if rng.random() < 0.7:
            keep = skins.scalp[:, None].astype(np.float32)
            shares = shares * (1 - keep) + own * keep
    shares = shares * np.float32(np.exp(rng.normal(0, 0.2)))
    shares = shares * (1 - skins.features[:, None]) + own * skins.features[:, None]
    if rng.random() < 0.3:
        shares = shares + np.float32(rng.uniform(0.05, 0.35)) * (skins.field(rng) - 0.5)
    if rng.random() < 0.75:
        at = rng.uniform(0, len(SKIN_TONES) - 1)
        tone = np.array([np.interp(at, range(len(SKIN_TONES)), c) for c in np.array(SKIN_TONES).T])
        cheek = to_linear(tone * np.exp(rng.normal(0, 0.06, 3)))
    linear = np.exp(shares) * cheek.astype(np.float32)
    if rng.random() < 0.35:
        linear = fringe(rng, skins, linear)
    return linear, which


def photo_textures(paths: list[Path]) -> list[np.ndarray]:
    from headrecon.config import resolve
    from headrecon.pipeline import load_engine, reconstruct

    config = resolve(overrides={"texture.size": SIZE})
    engine = load_engine(config)
    return [reconstruct(path, config, engine=engine).texture for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--skins", nargs="+", type=Path, required=True)
    for name, default in (("--looks", 140), ("--count", 1500), ("--held-out", 0)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    skins = Skins()
    first = 100_000 * args.held_out
    looks, hair = skins.looks(range(first, first + args.looks))
    photos = [skins.source(t) for t in photo_textures(args.skins)]
    build(args.out, skins, photos, (looks, hair), first, args.count)


def build(
    out: Path, skins: Skins, photos: list[Source], painted: tuple[np.ndarray, np.ndarray], first: int, count: int
) -> None:
    looks, hair = painted
    sources = [skins.source(t) for t in looks]
    texels = skins.studio.texels
    textures = np.empty((count, SIZE, SIZE, 3), np.uint8)
    lifts = np.empty((count, hair.shape[1]), np.float16)
    for k in range(count):
        rng = np.random.default_rng([_SEED + 1, first + k])
        linear, which = mixed(rng, skins, photos, sources)
        colours = looks[which].reshape(-1, 3)[texels.index]
        colours[skins.skin] = (linear.clip(0, 1) ** (1 / 2.2) * 255).round()
        textures[k], lifts[k] = texels.picture(colours), hair[which]
    np.save(out.with_suffix(".textures.npy"), textures)
    np.save(out.with_suffix(".hair.npy"), lifts)
    Image.fromarray(np.concatenate(list(textures[:6, ::2, ::2]), 1)).save(out.with_suffix(".png"))
    print(f"wrote {out}: {count} skins")


if __name__ == "__main__":
    main()
