"""The native kernels of Gaussian splatting: against the twin, on every instruction set, with any number of threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native
from headrecon.ops import _native_calls_splat as calls
from headrecon.ops.reference.splat import SplatView
from headrecon.ops.reference.splat_composite import SplatInputs
from headrecon.ops.splat_gaussians import SplatOptions, SplatPictures
from headrecon.structures import Gaussians
from tests.ops.compare import Bounds, assert_alike
from tests.ops.splats import ALL_PICTURES, camera, gradients, random_gaussians

pytestmark = pytest.mark.native
#: Pixels at the rim of a Gaussian, where its alpha is 1/255, may fall on either side. In gradients such a pixel moves
#: one Gaussian's; where a sum nearly cancels it moves it visibly.
BOUNDS = Bounds(relative_l1=3e-4, relative_l2=1e-3, budget=0.004)
PICTURES = ("image", "alpha", "depth_z", "median_depth_z", "normals")


def compare(
    monkeypatch: pytest.MonkeyPatch,
    gaussians: Gaussians,
    options: SplatOptions,
    size: tuple[int, int, int] = (70, 53, 2),
    few: float = 0.004,
) -> None:
    """Pictures and gradients of the kernels against the twin's. size: width, height, cameras.

    few: budget of gradients.
    """
    channels = 3 if gaussians.colours is None else gaussians.colours.shape[-1]
    lead = gaussians.means.shape[:-2]
    cameras = camera(*size)
    if lead:
        cameras = replace(
            cameras, viewmats=cameras.viewmats.expand(*lead, -1, -1, -1), Ks=cameras.Ks.expand(*lead, -1, -1, -1)
        )
    generator = torch.Generator().manual_seed(1)
    background = torch.rand(*lead, size[2], channels, generator=generator)
    found = gradients(gaussians, cameras, options, background)
    monkeypatch.setattr(_native, "use_reference", lambda *_: True)
    wanted = gradients(gaussians, cameras, options, background)
    monkeypatch.undo()
    for name in PICTURES:
        assert_alike(getattr(found[0], name), getattr(wanted[0], name), name, BOUNDS)
    assert_alike(found[0].info.radii, wanted[0].info.radii, "radii")
    assert found[1].keys() == wanted[1].keys()
    for name, grad in wanted[1].items():
        assert_alike(found[1][name], grad, f"gradient of {name}", replace(BOUNDS, budget=few))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("antialiased", [False, True])
def test_random_gaussians(monkeypatch: pytest.MonkeyPatch, seed: int, antialiased: bool) -> None:
    options = replace(ALL_PICTURES, antialiased=antialiased, centre_gradients=True)
    compare(monkeypatch, random_gaussians(seed, 300), options)


def test_many_small_ones_that_hide_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = random_gaussians(11, 6000, log_scale=-3.0)  # lists longer than a batch, pixels that end early
    solid = replace(dense, means=dense.means * 0.3, opacities=dense.opacities.sqrt())
    compare(monkeypatch, solid, SplatOptions(), (40, 33, 1))


@pytest.mark.parametrize("channels", [1, 2, 4, 7, 9, 20, 33])
def test_any_number_of_channels(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    some = random_gaussians(20 + channels, 120, channels=channels)
    compare(monkeypatch, some, SplatOptions(centre_gradients=True), (37, 29, 2))
    compare(monkeypatch, some, ALL_PICTURES, (37, 29, 1))


@pytest.mark.parametrize("kind", ["depth", "median_depth", "normals"])
def test_single_pictures(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    compare(monkeypatch, random_gaussians(30, 150), SplatOptions(**{kind: True}), (37, 29, 1))


@pytest.mark.parametrize("sh", [1, 4, 9, 16])
def test_harmonics(monkeypatch: pytest.MonkeyPatch, sh: int) -> None:
    compare(monkeypatch, random_gaussians(40 + sh, 130, sh=sh), SplatOptions(), (37, 29, 3))


def test_batches_and_colours_per_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    some = random_gaussians(50, 60, lead=(2,))
    compare(monkeypatch, some, ALL_PICTURES, (37, 29, 3))
    colours = torch.rand(2, 3, 60, 3, generator=torch.Generator().manual_seed(0))
    compare(monkeypatch, replace(some, colours=colours), SplatOptions(), (37, 29, 3))


def test_large_ones_near_the_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    # Some behind the camera, some whose slope is held at the picture's rim; many cover the whole picture.
    # There are only 40, so that one rim that falls on the other side is more than the usual share of the gradients.
    some = random_gaussians(60, 40, log_scale=-0.5)
    compare(monkeypatch, some, SplatOptions(antialiased=True), (130, 70, 2), few=0.03)


class Steps:
    """All steps with their backward passes, on one instruction set."""

    def __init__(self, isa: str, tile_size: int = 16) -> None:
        some, cameras = random_gaussians(70, 5000), camera(150, 121, 2)
        sh = torch.randn(1, 5000, 9, 3, generator=torch.Generator().manual_seed(3)) * 0.3
        gaussians = tuple(t[None].contiguous() for t in (some.means, some.quats_wxyz, some.scales, some.opacities))
        seen = (cameras.viewmats[None], cameras.Ks[None])
        view = SplatView(150, 121, tile_size, 0.1, 9.0, 0.3, 0.0, True)
        splats, radii, normals, tiles, totals = calls.project(gaussians, seen, view, True, isa)
        centers = -cameras.viewmats[None, :, :3, 3].contiguous()
        shown = (gaussians[0], sh, centers, radii)
        colours = calls.harmonics(shown, 2, isa)
        offsets, ids, entries = calls.tiles((splats[0], radii[0], tiles[0]), totals[0], view, True)
        inputs = SplatInputs(
            splats[0], colours[0], normals[0], torch.rand(1, 3, generator=torch.Generator().manual_seed(4))
        )
        images = calls.composite(inputs, (offsets, ids), view, 2, (True, True, True), isa)
        generator = torch.Generator().manual_seed(5)
        grads = [torch.randn(t.shape, generator=generator) for t in images[:4]]
        by = calls.composite_backward(
            inputs,
            (offsets, ids, tiles[0], entries),
            view,
            2,
            (images.transmittance, images.last, *grads),
            (True,) * 4,
            isa,
        )
        back = calls.harmonics_backward(shown, 2, (colours, by.colours[None]), (True,) * 3, isa)
        end = calls.project_backward(
            gaussians, seen, view, (radii, by.splats[None], by.normals[None]), (True,) * 5, isa
        )
        self.results: list[Tensor | None] = [
            splats, radii, normals, tiles, totals, colours, offsets, ids, entries, *images, *by, *back, *end,
        ]  # fmt: skip


@pytest.mark.parametrize("isa", ["base", "avx512"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bits_on_every_instruction_set_and_thread_count(isa: str, threads: int) -> None:
    before, expected = torch.get_num_threads(), Steps("auto").results
    try:
        torch.set_num_threads(threads)
        found = Steps(isa).results
    finally:
        torch.set_num_threads(before)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a is not None and b is not None
        assert torch.equal(a, b), f"result {number} differs"


@pytest.mark.parametrize("tile_size", [4, 12, 32])
def test_the_size_of_tiles_does_not_matter(tile_size: int) -> None:
    found, expected = Steps("auto", tile_size).results, Steps("auto").results
    for number in (9, 10, 11, 12):  # the pictures, pixel by pixel in the same order
        a, b = found[number], expected[number]
        assert a is not None and b is not None and torch.equal(a, b)
    for number in (15, 16, 17, 18, 19):
        assert_alike(found[number], expected[number], f"gradient {number}", Bounds())


def test_lists_of_many_images_are_those_of_each() -> None:
    some = random_gaussians(80, 900)
    gaussians = tuple(t[None].contiguous() for t in (some.means, some.quats_wxyz, some.scales, some.opacities))
    cameras, view = camera(90, 60, 8), SplatView(90, 60, 16, 0.1, 9.0, 0.3, 0.0, False)
    splats, radii, _, tiles, totals = calls.project(gaussians, (cameras.viewmats[None], cameras.Ks[None]), view, False)
    offsets, ids, entries = calls.tiles((splats[0], radii[0], tiles[0]), totals[0], view, True)
    start, cells = 0, view.tiles[0] * view.tiles[1]
    for i in range(8):
        one = calls.tiles(
            (splats[0, i : i + 1], radii[0, i : i + 1], tiles[0, i : i + 1]), totals[0, i : i + 1], view, True
        )
        end = start + len(one[1])
        assert torch.equal(ids[start:end], one[1]) and torch.equal(entries[start:end], one[2] + start)
        assert torch.equal(offsets[i * cells : (i + 1) * cells + 1], one[0] + start)
        start = end
    assert start == len(ids)


def broken_lists() -> list[str]:
    return ["ids beyond", "ids negative", "offsets beyond", "entries beyond", "tiles wrong", "last beyond"]


@pytest.mark.parametrize("how", broken_lists())
def test_lists_that_point_nowhere_are_refused(how: str) -> None:
    some, cameras, view = random_gaussians(90, 50), camera(), SplatView(47, 39, 16, 0.1, 9.0, 0.3, 0.0, False)
    gaussians = tuple(t[None].contiguous() for t in (some.means, some.quats_wxyz, some.scales, some.opacities))
    splats, radii, _, tiles, totals = (
        t[0] for t in calls.project(gaussians, (cameras.viewmats[None], cameras.Ks[None]), view, True)
    )
    offsets, ids, entries = calls.tiles((splats, radii, tiles), totals, view, True)
    assert some.colours is not None
    inputs = SplatInputs(splats, some.colours[None], splats.new_empty(0), torch.zeros(1, 3))
    images = calls.composite(inputs, (offsets, ids), view, 1, (False, False, False))
    last = images.last.clone()
    ids[3] = {"ids beyond": 50, "ids negative": -1}.get(how, ids[3])
    if how == "offsets beyond":
        offsets[-1] += 1
    if how == "entries beyond":
        entries[2] = len(ids)
    if how == "tiles wrong":
        tiles = tiles.clone()
        tiles[0, int(tiles.argmax())] += 1
        with pytest.raises(ShapeError, match="lists of splats"):
            calls.tiles((splats, radii, tiles), totals, view, True)
    if how == "last beyond":
        last[0, 0, 0] = len(ids) + 1
    seen = (images.transmittance, last, torch.ones_like(images.image), None, None, None)
    with pytest.raises(ShapeError, match="lists of splats"):
        calls.composite_backward(inputs, (offsets, ids, tiles, entries), view, 1, seen, (True, False, False, False))
    if how.startswith(("ids", "offsets")):
        with pytest.raises(ShapeError, match="lists of splats"):
            calls.composite(inputs, (offsets, ids), view, 1, (False, False, False))


def test_nothing_is_asked_of_what_needs_no_gradient() -> None:
    some = random_gaussians(95, 30)
    pictures, grads = gradients(some, camera(), SplatOptions())
    assert isinstance(pictures, SplatPictures) and "centres" not in grads
    colours = some.colours
    assert colours is not None
    only = colours.clone().requires_grad_()
    from headrecon.ops.splat_gaussians import splat_gaussians

    splat_gaussians(replace(some, colours=only), camera()).image.sum().backward()
    assert only.grad is not None and some.means.grad is None
