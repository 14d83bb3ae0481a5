"""Marching cubes: against scikit-image, against its twin, and against what a closed surface has to be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from skimage.measure import marching_cubes
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, isosurface
from headrecon.ops._native_calls_isosurface import isosurface as native_isosurface
from headrecon.ops.isosurface import IsoLevel, IsoSurface, extract_mesh, extract_mesh_sparse
from headrecon.ops.reference.isosurface import faces_of_cases, isosurface_reference
from tests.ops.compare import assert_alike

PLACEMENT = (0.1, (0.5, -1.0, 2.0), (0.01, 0.02, 0.03))
AT = IsoLevel(PLACEMENT[0], "above", PLACEMENT[1], PLACEMENT[2])


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def sphere(*size: int, radius: float = 0.8) -> Tensor:
    """Signed distance to a sphere in a box from -1 to 1."""
    axes = [torch.linspace(-1, 1, n) for n in size]
    return sum(x.square() for x in torch.meshgrid(*axes, indexing="ij")).sqrt() - radius  # type: ignore[union-attr]


def spacing(*size: int) -> tuple[float, float, float]:
    return 2 / (size[0] - 1), 2 / (size[1] - 1), 2 / (size[2] - 1)


def closed(field: Tensor) -> Tensor:
    return torch.nn.functional.pad(field, (1,) * 6, value=-9.0)


def edge_uses(faces: Tensor) -> Counter[tuple[int, int]]:
    return Counter((int(f[i]), int(f[(i + 1) % 3])) for f in faces for i in range(3))


def euler(surface: IsoSurface) -> int:
    edges = {frozenset(e) for e in edge_uses(surface.faces)}
    return len(surface.vertices) - len(edges) + len(surface.faces)


def volume(surface: IsoSurface) -> float:
    a, b, c = (surface.vertices[surface.faces[:, k].long()].double() for k in range(3))
    return float((torch.linalg.cross(a, b) * c).sum() / 6)


FIELDS = {
    "noise": closed(noise(12, 9, 70)),
    "many ambiguous sides": closed(torch.where(noise(10, 11, 12) > 0, 1.0, -1.0)),
    "smooth": closed(-sphere(20, 23, 31)),
    "open at the border": noise(7, 6, 5),
    "one cell": noise(2, 2, 2, seed=3),
    "rows of exactly one word": noise(3, 3, 64),
    "rows of one word and a sample": noise(3, 3, 65),
}


@pytest.mark.parametrize("name", FIELDS)
def test_topology_is_scikit_images(name: str) -> None:
    """method="lorensen" decides ambiguous sides as we do. Its vertices are the same, too."""
    field = FIELDS[name]
    found = extract_mesh(field)
    vertices, faces, _, _ = marching_cubes(field.numpy(), 0.0, method="lorensen")
    vertices, faces = vertices.copy(), faces.copy()  # they come with negative strides, which torch does not take
    assert (len(found.vertices), len(found.faces)) == (len(vertices), len(faces))
    assert euler(found) == euler(IsoSurface(torch.from_numpy(vertices), torch.from_numpy(faces), None, found.edges))
    ours = found.vertices.numpy().astype(np.float64)
    gaps = np.linalg.norm(ours[:, None] - vertices[None], axis=-1).min(1) if len(ours) < 3000 else np.zeros(1)
    assert gaps.max() < 1e-4  # scikit-image weights with 1 / (epsilon + |value|)


@pytest.mark.parametrize("name", ["noise", "many ambiguous sides", "smooth"])
def test_closed_fields_give_watertight_meshes(name: str) -> None:
    found = extract_mesh(FIELDS[name])
    uses = edge_uses(found.faces)
    assert uses and all(n == 1 and uses[b, a] == 1 for (a, b), n in uses.items()), "every edge once each way"
    assert sorted(set(found.faces.flatten().tolist())) == list(range(len(found.vertices))), "no vertex without a face"
    places = {tuple(e) for e in found.edges.tolist()}
    assert len(places) == len(found.vertices), "no vertex twice"


@pytest.mark.parametrize("inside", ["above", "below"])
def test_normals_point_out_of_what_is_inside(inside: str) -> None:
    size = (33, 30, 41)
    field = sphere(*size) if inside == "below" else -sphere(*size)
    at = IsoLevel(0.0, inside, (-1.0, -1.0, -1.0), spacing(*size))  # type: ignore[arg-type]
    found = extract_mesh(field, at)
    assert euler(found) == 2
    assert volume(found) == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.01)
    assert torch.linalg.norm(found.vertices, dim=1).numpy() == pytest.approx(0.8, abs=2e-3)
    assert volume(extract_mesh(-field, at)) < 0, "the other side"


def test_below_is_above_of_the_negated_field() -> None:
    field = noise(9, 8, 7)
    above, below = extract_mesh(-field, IsoLevel(-0.2)), extract_mesh(field, IsoLevel(0.2, "below"))
    assert torch.equal(above.vertices, below.vertices)
    assert torch.equal(above.faces, below.faces)


@pytest.mark.native
@pytest.mark.parametrize("size", [(2, 2, 2), (5, 3, 64), (3, 7, 65), (4, 4, 129), (9, 17, 20)])
@pytest.mark.parametrize("below", [False, True])
def test_native_is_its_twin(size: tuple[int, int, int], below: bool) -> None:
    """Vertex by vertex, in the same order; numbers but for the last places."""
    values, colours = noise(*size), noise(*size, 4, seed=1)
    found = native_isosurface((values, colours, None), size, PLACEMENT, below)
    expected = isosurface_reference((values, colours, None), size, PLACEMENT, below)
    assert torch.equal(found[2], expected[2])
    assert torch.equal(found[3], expected[3])
    assert_alike(found[0], expected[0], "vertices")
    assert_alike(found[1], expected[1], "colours")


@pytest.mark.native
@pytest.mark.parametrize("seed", range(3))
def test_native_is_its_twin_with_absent_blocks(seed: int) -> None:
    size = (20, 17, 70)
    values = noise(*size, seed=seed)
    blocks = (torch.rand(3, 3, 9, generator=torch.Generator().manual_seed(seed)) < 0.6).int() - 1
    found = native_isosurface((values, None, blocks), size, PLACEMENT, False)
    expected = isosurface_reference((values, None, blocks), size, PLACEMENT, False)
    assert len(found[0]) > 0
    assert torch.equal(found[2], expected[2])
    assert torch.equal(found[3], expected[3])
    assert_alike(found[0], expected[0], "vertices")
    whole = extract_mesh(values, AT)
    assert len(found[3]) < len(whole.faces)
    kept = {tuple(e) for e in whole.edges.tolist()}
    assert all(tuple(e) in kept for e in found[2].tolist()), "a part of the whole"


def as_blocks(field: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks of a dense grid for which keep is set, shuffled."""
    padded = field.reshape(*(s for n in keep.shape for s in (n, 8)), *field.shape[3:])
    tiles = padded.movedim((0, 2, 4), (0, 1, 2))
    places = keep.nonzero()
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    return tiles[tuple(places.T)].contiguous(), places


def test_sparse_grids_are_dense_ones_without_what_is_absent() -> None:
    field, colours = noise(24, 16, 72), noise(24, 16, 72, 3, seed=1)
    keep = torch.rand(3, 2, 9, generator=torch.Generator().manual_seed(5)) < 0.7
    keep[0] = keep[-1] = keep[1, 0, 0] = keep[1, 1, -1] = True  # the box around the blocks is the whole grid
    dense = extract_mesh(field, AT, colours, active=keep)
    (tiles, places), (painted, _) = as_blocks(field, keep), as_blocks(colours, keep)
    sparse = extract_mesh_sparse(tiles, places, AT, painted)
    assert len(dense.faces) > 0
    assert torch.equal(dense.faces, sparse.faces)
    assert torch.equal(dense.edges, sparse.edges)
    assert torch.equal(dense.vertices, sparse.vertices)
    assert dense.colours is not None and sparse.colours is not None
    assert torch.equal(dense.colours, sparse.colours)


def test_blocks_may_lie_anywhere() -> None:
    tiles, places = as_blocks(FIELDS["smooth"][:16, :24, :32], torch.ones(2, 3, 4, dtype=torch.bool))
    here, there = extract_mesh_sparse(tiles, places, AT), extract_mesh_sparse(tiles, places - 7, AT)
    moved = here.vertices - 7 * 8 * torch.tensor(PLACEMENT[2])
    assert torch.equal(here.faces, there.faces)
    torch.testing.assert_close(there.vertices, moved, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(0, 0, 0), (1, 1, 1), (1, 5, 5), (5, 1, 5), (5, 5, 1), (0, 4, 4)])
def test_grids_without_cells_give_empty_meshes(size: tuple[int, int, int]) -> None:
    found = extract_mesh(torch.ones(size), IsoLevel(), torch.ones(*size, 3))
    assert found.vertices.shape == (0, 3)
    assert found.faces.shape == (0, 3)
    assert found.colours is not None and found.colours.shape == (0, 3)
    assert len(extract_mesh_sparse(torch.ones(0, 8, 8, 8), torch.zeros(0, 3, dtype=torch.long)).faces) == 0


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0, float("inf"), float("nan")])
def test_grids_without_a_surface_give_empty_meshes(value: float) -> None:
    found = extract_mesh(torch.full((5, 6, 70), value), IsoLevel(level=0.0))
    assert len(found.vertices) == len(found.faces) == 0


def test_samples_that_are_not_finite() -> None:
    """NaN and minus infinity are outside, plus infinity inside; vertices beside them stay on their edges."""
    field = closed(-sphere(14, 15, 16))
    field[7, 7, 7], field[4, 8, 8], field[1, 1, 1] = float("nan"), float("inf"), float("inf")
    field[8, 9, 8], field[8, 9, 9] = float("-inf"), 3.4e38
    found = extract_mesh(field)
    assert torch.isfinite(found.vertices).all()
    uses = edge_uses(found.faces)
    assert all(n == 1 and uses[b, a] == 1 for (a, b), n in uses.items()), "closed all the same"
    sample = (7 * field.shape[1] + 7) * field.shape[2] + 7
    beside = (found.edges[:, 0] == sample).nonzero().flatten()
    assert len(beside) == 3
    for vertex in beside.tolist():
        expected = torch.full((3,), 7.0)
        expected[found.edges[vertex, 1]] += 0.5
        assert torch.equal(found.vertices[vertex], expected)


def test_a_hand_worked_corner() -> None:
    """One inside corner of a cell of 1 x 2 x 4 metres: a triangle, cut where the values say, facing the outside."""
    field = torch.full((2, 2, 2), -1.0)
    field[0, 0, 0] = 3.0
    colours = torch.arange(8.0).reshape(2, 2, 2, 1)
    found = extract_mesh(field, IsoLevel(0.0, "above", (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)), colours)
    assert found.vertices.tolist() == [[10.75, 20.0, 30.0], [10.0, 21.5, 30.0], [10.0, 20.0, 33.0]]
    assert found.colours is not None and found.colours.flatten().tolist() == [3.0, 1.5, 0.75]
    assert found.edges.tolist() == [[0, 0], [0, 1], [0, 2]]
    assert found.faces.tolist() == [[0, 1, 2]]


def test_every_case_has_its_complements_outline_or_more_and_no_face_lies_on_a_side() -> None:
    table = faces_of_cases()
    assert table[0] == table[255] == []
    assert sum(len(faces) for faces in table) == 820
    assert max(len(faces) for faces in table) == 5


@pytest.mark.native
def test_any_number_of_threads_gives_the_same_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrecon.ops import _native_calls_isosurface as calls

    field, colours = closed(noise(40, 31, 66)), closed(noise(40, 31, 66))[..., None].repeat(1, 1, 1, 3)
    meshes = []
    for threads in (1, 2, 5, 64):
        monkeypatch.setattr(calls, "num_threads", lambda threads=threads: threads)
        meshes.append(extract_mesh(field, AT, colours))
    for mesh in meshes[1:]:
        assert torch.equal(mesh.vertices, meshes[0].vertices)
        assert torch.equal(mesh.faces, meshes[0].faces)
        assert mesh.colours is not None and meshes[0].colours is not None
        assert torch.equal(mesh.colours, meshes[0].colours)


def test_vertices_and_colours_follow_the_samples() -> None:
    """Gradients against the twin's autograd, and the twin's against float64 finite differences."""
    size = (4, 3, 5)
    values, colours = noise(*size).requires_grad_(), noise(*size, 2, seed=1).requires_grad_()
    found = extract_mesh(values, AT, colours)
    detached = extract_mesh(values.detach(), AT, colours.detach())
    assert found.colours is not None and detached.colours is not None
    assert_alike(found.vertices, detached.vertices, "vertices with gradients")
    weights = noise(*found.vertices.shape, seed=2), noise(*found.colours.shape, seed=3)
    wanted = torch.autograd.grad((found.vertices, found.colours), (values, colours), weights)
    twin = isosurface_reference((values, colours, None), size, PLACEMENT, False)
    expected = torch.autograd.grad((twin[0], twin[1]), (values, colours), weights)
    for name, got, want in zip(("values", "colours"), wanted, expected, strict=True):
        assert float(want.abs().max()) > 0
        assert_alike(got, want, f"gradient of {name}")

    def outputs(v: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return isosurface_reference((v, c, None), size, PLACEMENT, False)[:2]

    assert torch.autograd.gradcheck(outputs, (values.detach().double().requires_grad_(), colours.detach().double()))


def test_gradients_of_sparse_grids() -> None:
    tiles, places = as_blocks(noise(16, 8, 8), torch.ones(2, 1, 1, dtype=torch.bool))
    tiles.requires_grad_()
    found = extract_mesh_sparse(tiles, places, AT)
    (sparse,) = torch.autograd.grad(found.vertices.square().sum(), tiles)
    dense = noise(16, 8, 8).requires_grad_()
    (expected,) = torch.autograd.grad(extract_mesh(dense, AT).vertices.square().sum(), dense)
    assert_alike(as_blocks(expected, torch.ones(2, 1, 1, dtype=torch.bool))[0], sparse, "gradient")


def test_operator_is_registered_as_torch_wants_it() -> None:
    blocks = torch.tensor([[[0, -1]]], dtype=torch.int32)
    for colours, there in ((None, None), (noise(5, 6, 10, 3), None), (None, blocks)):
        arguments = (noise(5, 6, 10), colours, there, [5, 6, 10], [0.0] * 4 + [1.0] * 3, False)
        torch.library.opcheck(isosurface._isosurface, arguments)


@pytest.mark.native
def test_without_the_native_library_the_twin_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    field = noise(6, 7, 8)
    native = extract_mesh(field)
    monkeypatch.setattr(_native, "available", lambda: False)
    twin = extract_mesh(field)
    assert torch.equal(native.faces, twin.faces)
    assert_alike(native.vertices, twin.vertices, "vertices")


def test_what_does_not_fit_is_refused() -> None:
    field = torch.zeros(9, 8, 8)
    with pytest.raises(ShapeError, match=r"values must be float32 \[X,Y,Z\], found torch\.float64"):
        extract_mesh(field.double())
    with pytest.raises(ShapeError, match=r"colours must be float32 \(9, 8, 8, 'D'\)"):
        extract_mesh(field, colours=torch.zeros(9, 8, 8, 3).double())
    with pytest.raises(ShapeError, match=r"active must be bool \(2, 1, 1\)"):
        extract_mesh(field, active=torch.ones(1, 1, 1, dtype=torch.bool))
    with pytest.raises(ShapeError, match="each place once"):
        extract_mesh_sparse(torch.zeros(2, 8, 8, 8), torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ShapeError, match="at most 2147483647 samples"):
        extract_mesh_sparse(torch.zeros(2, 8, 8, 8), torch.tensor([[0, 0, 0], [200, 200, 200]]))


@pytest.mark.native
def test_blocks_that_are_not_there_are_refused() -> None:
    blocks = torch.tensor([[[0, 5]]], dtype=torch.int32)
    with pytest.raises(ShapeError, match="blocks must number the blocks of values"):
        native_isosurface((torch.zeros(2, 8, 8, 8), None, blocks), (8, 8, 16), PLACEMENT, False)
