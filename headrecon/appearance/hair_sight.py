"""One photo of a head with hair: the head in it, what is hair in it, and what its outline says of the hair's volume."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from headrecon.appearance.hair_colour import HairColours, Places, find_hair
from headrecon.appearance.hair_outline import OutlineRows, read_outline
from headrecon.appearance.hair_scalp import Scalp, eyes_of, smooth_step
from headrecon.appearance.hair_view import Drawn, HairView, draw, hair_view, project, sample
from headrecon.appearance.projection import Photo
from headrecon.models.head_model import HeadModel
from headrecon.structures import HeadAssets, HeadParams, triangulate

#: Fits do not see how far ears stand out: beyond the model's, an ear is likelier than hair, up to here (metres).
_EAR_REACH_M = (0.012, 0.020)
#: Log odds of hair on cheeks, eyes and lips; on an ear, and beyond it within that reach.
_NEVER, _ON_EAR = -9.0, -3.0


@dataclass(frozen=True)
class Skull:
    """The head that all photos show, before any lift. triangles: all; earless: skin without ears."""

    assets: HeadAssets
    scalp: Scalp
    triangles: Int[np.ndarray, "F 3"]
    earless: Int[np.ndarray, "E 3"]

    @staticmethod
    def of(assets: HeadAssets, scalp: Scalp) -> Skull:
        triangles, owner = triangulate(assets.faces)
        if "ears" in assets.regions:
            ear = assets.regions["ears"][triangles].min(1) > 0.3
        else:
            ear = np.zeros(len(triangles), bool)
        skin = assets.face_part[owner] == assets.part_names.index("skin") if "skin" in assets.part_names else ~ear
        return Skull(assets, scalp, triangles, triangles[skin & ~ear])


@dataclass(frozen=True)
class Sight:
    """The head in one photo. posed: as there; directions and up: as posed. eyes: the point between them, posed.

    colours: what is hair. counts: 1 where the person's edge counts as hair's.
    """

    skull: Skull
    view: HairView
    posed: Float[np.ndarray, "V 3"]
    directions: Float[np.ndarray, "N 3"]
    up: Float[np.ndarray, "3"]
    eyes: Float[np.ndarray, "3"]
    colours: HairColours
    counts: Float[np.ndarray, "h w"]

    def lifted(self, lift: Float[np.ndarray, " N"]) -> Float[np.ndarray, "V 3"]:
        out = self.posed.copy()
        out[self.skull.scalp.ids] += lift[:, None] * self.directions
        return out

    def outline(self, scalp: Scalp, lift: Float[np.ndarray, " N"], most_rows: int) -> OutlineRows:
        """What the person's edge says of the lift, where it is now `lift`; nothing without a mask."""
        if not self.view.masked:
            return OutlineRows.none()
        lifted = self.lifted(lift)
        drawn = draw(self.view, lifted, self.skull.earless)
        return read_outline(self.view, scalp, lift, (lifted, self.directions), (drawn, self.counts), most_rows)

    def hair_seen(self, lift: Float[np.ndarray, " N"]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """How well the photo shows each scalp vertex, 0..1, and how likely it shows hair there."""
        view, lifted = self.view, self.lifted(lift)
        drawn = draw(view, lifted, self.skull.triangles)
        points = lifted[self.skull.scalp.ids]
        pixels, depth = project(view, points)
        front = sample(np.where(drawn.covered, drawn.depth_z, 1e3).astype(np.float64), pixels, outside=0.0)
        camera = -view.cameras.viewmats[:3, :3].double().numpy().T @ view.cameras.viewmats[:3, 3].double().numpy()
        to_camera = camera - points
        cosine = (to_camera * self.directions).sum(1) / np.linalg.norm(to_camera, axis=1)
        seen = smooth_step(cosine, 0.15, 0.4) * (depth < front + 0.006)
        return seen, sample(self.colours.mask.astype(np.float64), pixels, outside=0.0)

    def mask_in_picture(self, picture: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        """How likely each pixel of the photo (height, width) is hair."""
        from PIL import Image

        x0, y0, x1, y1 = self.view.box
        out = np.zeros(picture, np.float32)
        small = Image.fromarray(self.colours.mask.astype(np.float32))
        grown = small.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)
        out[y0:y1, x0:x1] = np.clip(np.asarray(grown), 0.0, 1.0)
        return out


def see(
    model: HeadModel, params: HeadParams, photo: Photo, skull: Skull, base: Float[np.ndarray, "V 3"] | None
) -> Sight | None:
    """The head in a photo. base: offsets that the head has before any hair. None where it is outside or too small."""
    assets, scalp = skull.assets, skull.scalp
    offsets = np.zeros((assets.num_vertices, 3)) if base is None else base
    found = model(params, torch.as_tensor(offsets))
    posed = found.vertices[0].double().cpu().numpy()
    view = hair_view(photo, posed)
    if view is None:
        return None
    arrows, upwards = np.zeros((2, assets.num_vertices, 3))
    arrows[scalp.ids] = scalp.directions
    upwards[:, 1] = 1.0
    # Skinning is linear in offsets, so what they add is what the pose makes of them.
    turned, high = (
        (model(params, torch.as_tensor(offsets + v)).vertices[0].double().cpu().numpy() - posed)[scalp.ids]
        for v in (arrows, upwards)
    )
    colours = HairColours(np.zeros((view.size[1], view.size[0]), np.float32), 0.0, 0.0, known=False)
    eyes = found.joints[0, 3:5].mean(0).double().cpu().numpy()
    sight = Sight(skull, view, posed, turned, high.mean(0), eyes, colours, np.zeros(view.person.shape))
    return _with_colours(sight)


def _with_colours(sight: Sight) -> Sight:
    drawn = draw(sight.view, sight.posed, sight.skull.triangles)
    places, above_eyes, ears = _places(sight, drawn)
    colours = find_hair(sight.view, drawn, places)
    if colours.long == 0.0:
        places, near_ears = _with_ears(sight, places, drawn, ears)
        above_eyes = above_eyes * (1 - near_ears)
        colours = find_hair(sight.view, drawn, places)
    counts = np.maximum(smooth_step(colours.mask.astype(np.float64), 0.35, 0.75), above_eyes)
    return replace(sight, colours=colours, counts=counts)


def _places(sight: Sight, drawn: Drawn) -> tuple[Places, Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """What each pixel may be by where it lies; 1 above the eyes, where only a head has an outline; the model's ears."""
    assets = sight.skull.assets
    zone = np.zeros(assets.num_vertices)
    zone[sight.skull.scalp.ids] = sight.skull.scalp.zone
    inland = np.zeros(assets.num_vertices)
    inland[sight.skull.scalp.ids] = sight.skull.scalp.inland
    ears = np.asarray(assets.regions.get("ears", np.zeros(assets.num_vertices)), dtype=np.float64)
    lips = np.asarray(assets.regions.get("lips", np.zeros(assets.num_vertices)), dtype=np.float64)
    template = assets.v_template.astype(np.float64) - eyes_of(assets)
    inner = np.zeros(assets.num_vertices)
    for part in assets.part_names:
        if part != "skin":
            faces = assets.faces[assets.faces_of(part)]
            inner[faces[faces >= 0]] = 1.0
    per_vertex = np.column_stack([template, zone, inland, ears, lips, inner])
    x, y, z, zone, inland, ear, lip, inner = np.moveaxis(drawn.of_vertices(per_vertex), -1, 0)
    covered = drawn.covered
    up, side = _axes_beyond(sight)
    # Skin below the brows is never hair, whatever its colour; foreheads and temples may be covered by some.
    bare = _NEVER + (-_NEVER - 1.5) * smooth_step(y, 0.036, 0.055)
    bare = np.maximum(bare, _NEVER + (-_NEVER - 1.0) * smooth_step(y, 0.0, 0.02) * smooth_step(np.abs(x), 0.040, 0.055))
    bare = np.where(inner > 0.2, 2 * _NEVER, np.where(y < -0.12, 0.5 * _NEVER, bare))
    on_head = np.where(ear > 0.3, _ON_EAR, bare * (1 - zone) + 2.5 * zone)
    beyond = -2.0 + 2.5 * smooth_step(up, -0.15, -0.11) + 2.5 * smooth_step(up, -0.01, 0.02)
    cheeks = (y > -0.042) & (y < -0.010) & (np.abs(x) < 0.045) & (z > -0.06) & (lip < 0.05) & (inner < 0.05)
    places = Places(
        odds=np.where(covered, on_head, beyond),
        above=np.where(covered, (zone > 0.95) & (inland > 0.015), (up > 0.03) & (np.abs(side) < 0.16)),
        skin=covered & cheeks,
        clothed=~covered & (up < -0.17),
        beside=np.where(~covered & (np.abs(side) < 0.14), np.maximum(-up, 0.0), 0.0),
    )
    above_ears = smooth_step(up, 0.012, 0.030) * ~(covered & (ear > 0.1))
    return places, np.maximum(above_ears, 0.0), np.asarray(covered & (ear > 0.3))


def _with_ears(
    sight: Sight, places: Places, drawn: Drawn, ears: Bool[np.ndarray, "h w"]
) -> tuple[Places, Float[np.ndarray, "h w"]]:
    """The same places for short hair, where what stands out beside the model's ears is the person's own ear.

    The second is 1 there, and 0 farther away.
    """
    if not ears.any():
        return places, np.zeros(ears.shape)
    from scipy.ndimage import distance_transform_edt

    away = np.asarray(distance_transform_edt(~ears)) * sight.view.metres_per_px
    near = (1 - smooth_step(away, *_EAR_REACH_M)) * ~drawn.covered
    return replace(places, odds=places.odds + near * (_ON_EAR - places.odds)), near


def _axes_beyond(sight: Sight) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Metres above the eyes and beside the middle of the skull for every pixel, on a plane at the head's distance."""
    view = sight.view
    skull = sight.posed[sight.skull.scalp.ids].mean(0)
    pixels, _ = project(view, np.stack([sight.eyes, sight.eyes + 0.05 * sight.up, skull]))
    arrow = pixels[1] - pixels[0]
    arrow = arrow / max(float(np.linalg.norm(arrow)), 1e-9)
    width, height = view.size
    dx = np.arange(width)[None, :] + 0.5 - pixels[0, 0]
    dy = np.arange(height)[:, None] + 0.5 - pixels[0, 1]
    scale = view.metres_per_px
    beside = (pixels[2] - pixels[0]) @ (-arrow[1], arrow[0])
    return (dx * arrow[0] + dy * arrow[1]) * scale, (dx * -arrow[1] + dy * arrow[0] - beside) * scale
