"""Normals, areas and connectivity on shapes whose answers are known."""

from __future__ import annotations

import numpy as np
import torch

from headrecon.geometry import mesh

CUBE = torch.tensor([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)], dtype=torch.float64)
CUBE_TRIANGLES = torch.tensor(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip


def _sphere() -> tuple[np.ndarray, np.ndarray]:
    import trimesh

    made = trimesh.creation.icosphere(subdivisions=3)
    return np.asarray(made.vertices), np.asarray(made.faces)


def test_cube() -> None:
    normals = mesh.face_normals(CUBE, CUBE_TRIANGLES)
    centers = CUBE[CUBE_TRIANGLES].mean(1) - 0.5
    assert bool(((normals * centers).sum(-1) > 0).all())  # outward, as the table is counter-clockwise
    torch.testing.assert_close(mesh.face_areas(CUBE, CUBE_TRIANGLES).sum(), torch.tensor(6.0, dtype=torch.float64))
    torch.testing.assert_close(mesh.vertex_areas(CUBE, CUBE_TRIANGLES).sum(), torch.tensor(6.0, dtype=torch.float64))
    corner = mesh.vertex_normals(CUBE, CUBE_TRIANGLES)[7]
    assert bool((corner > 0).all())


def test_sphere_normals_point_outwards() -> None:
    vertices, triangles = _sphere()
    normals = mesh.vertex_normals(torch.from_numpy(vertices), torch.from_numpy(triangles)).numpy()
    assert np.sum(normals * vertices, axis=1).min() > 0.999  # area weighting on an icosphere is that good


def test_batches_and_gradients() -> None:
    batch = torch.stack([CUBE, CUBE * 2]).requires_grad_()
    torch.testing.assert_close(mesh.vertex_normals(batch, CUBE_TRIANGLES)[1], mesh.vertex_normals(CUBE, CUBE_TRIANGLES))
    assert torch.autograd.gradcheck(lambda v: mesh.vertex_normals(v, CUBE_TRIANGLES), batch)
    flat = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    mesh.vertex_normals(flat, torch.tensor([[0, 1, 2]])).sum().backward()
    assert flat.grad is not None and bool(torch.isfinite(flat.grad).all())


def test_edges_of_a_closed_mesh_follow_euler() -> None:
    vertices, triangles = _sphere()
    edges, beside = mesh.edge_faces(triangles)
    assert len(vertices) - len(edges) + len(triangles) == 2
    assert np.array_equal(edges, mesh.unique_edges(triangles))
    assert (beside >= 0).all()
    for e in (0, 17, len(edges) - 1):
        for f in beside[e]:
            assert set(edges[e]) <= set(triangles[f])
    _, border = mesh.edge_faces(triangles[1:])
    assert int((border < 0).sum()) == 3  # one triangle missing leaves three border edges


def test_laplacians() -> None:
    vertices, triangles = _sphere()
    uniform = mesh.uniform_laplacian(triangles, len(vertices) + 1)
    np.testing.assert_allclose(np.asarray(uniform.sum(1)).ravel(), 0, atol=1e-12)
    assert uniform[len(vertices)].nnz == 0 or not uniform[len(vertices)].toarray().any()  # lone vertex
    stiffness = mesh.cotangent_laplacian(vertices, triangles)
    assert abs(stiffness - stiffness.T).max() < 1e-12
    np.testing.assert_allclose(np.asarray(stiffness.sum(1)).ravel(), 0, atol=1e-12)
    # On the unit sphere the coordinate functions are eigenfunctions of the Laplacian with eigenvalue 2; tested in the
    # weak sense, because pointwise the barycentric areas are off where five triangles meet.
    areas = mesh.vertex_areas(torch.from_numpy(vertices), torch.from_numpy(triangles)).numpy()
    rayleigh = np.einsum("vc,vc->c", vertices, stiffness @ vertices) / (areas @ vertices**2)
    np.testing.assert_allclose(rayleigh, 2, rtol=0.01)  # 642 vertices: under a per cent of discretisation
    dense = mesh.adjacency(triangles, len(vertices)).toarray()
    assert np.array_equal(dense, dense.T)
    assert dense.sum() == 2 * len(mesh.unique_edges(triangles))


def test_numpy_meshes_give_what_torch_meshes_give() -> None:
    vertices, triangles = _sphere()
    batch = np.stack([vertices, vertices * [1.0, 2.0, 0.5]])
    for name in ("face_normals", "face_areas", "vertex_normals", "vertex_areas"):
        found = getattr(mesh, name)(batch, triangles)
        assert isinstance(found, np.ndarray)
        expected = getattr(mesh, name)(torch.from_numpy(batch), torch.from_numpy(triangles))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=1e-14, err_msg=name)
