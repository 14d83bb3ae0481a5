"""The head model against its own definition written out plainly, and the point model against the head model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.geometry import so3
from headrecon.models.head_model import HeadModel, embed
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.structures import POSE_FIELDS, HeadAssets, HeadParams
from tests.synthetic_assets import make_tiny_assets


def with_posedirs(assets: HeadAssets) -> HeadAssets:
    rng = np.random.default_rng(5)
    posedirs = 1e-3 * rng.normal(size=(9 * (len(assets.parents) - 1), 3 * assets.num_vertices))
    return replace(assets, posedirs=posedirs.astype(np.float32))


def random_params(assets: HeadAssets, batch: int = 1, seed: int = 0) -> HeadParams:
    g = torch.Generator().manual_seed(seed)

    def normal(n: int, scale: float) -> torch.Tensor:
        return scale * torch.randn(batch, n, generator=g, dtype=torch.float64)

    poses = [normal(3, 0.4) for _ in POSE_FIELDS]
    return HeadParams(normal(assets.num_betas, 1.0), normal(assets.num_expressions, 0.3).abs(), *poses, normal(3, 0.1))


def plain_skinning(assets: HeadAssets, params: HeadParams) -> np.ndarray:
    """One head by 4x4 matrices, joint by joint, as SMPL's paper writes it (equations 2 to 4)."""
    betas, expression = params.betas[0].numpy(), params.expression[0].numpy()
    pose = params.full_pose[0].numpy()
    shaped = assets.v_template + assets.shapedirs @ betas
    joints = assets.J_regressor @ shaped
    rotations = [so3.exp(p) for p in pose]
    rest = shaped + assets.exprdirs @ expression
    if assets.posedirs is not None:
        feature = np.concatenate([(r - np.eye(3)).reshape(-1) for r in rotations[1:]])
        rest = rest + (feature @ assets.posedirs).reshape(-1, 3)
    world = []
    for j, parent in enumerate(assets.parents):
        local = np.eye(4)
        local[:3, :3] = rotations[j]
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    out = np.zeros_like(rest)
    for j, g in enumerate(world):
        away = np.eye(4)
        away[:3, 3] = -joints[j]
        moved = (g @ away @ np.c_[rest, np.ones(len(rest))].T).T[:, :3]
        out += assets.lbs_weights[:, j : j + 1] * moved
    return out + params.transl[0].numpy()


@pytest.fixture(params=["plain", "pose correctives"])
def assets(request: pytest.FixtureRequest) -> HeadAssets:
    tiny = make_tiny_assets()
    return tiny if request.param == "plain" else with_posedirs(tiny)


def test_agrees_with_the_definition(assets: HeadAssets) -> None:
    params = random_params(assets)
    found = HeadModel(assets, dtype=torch.float64)(params).vertices[0].numpy()
    np.testing.assert_allclose(found, plain_skinning(assets, params), atol=1e-12)  # float64 round-off


def test_batches_are_independent(assets: HeadAssets) -> None:
    model, params = HeadModel(assets, dtype=torch.float64), random_params(assets, batch=3)
    whole = model(params)
    for b in range(3):
        one = HeadParams(**{k: getattr(params, k)[b : b + 1] for k in params.__dataclass_fields__})
        torch.testing.assert_close(model(one).vertices[0], whole.vertices[b])
    assert HeadModel(assets)(HeadParams.zeros(assets.num_betas, assets.num_expressions, 0)).vertices.shape[0] == 0


def test_gradients_reach_every_parameter(assets: HeadAssets) -> None:
    model, params = HeadModel(assets, dtype=torch.float64), random_params(assets)
    fields = list(params.__dataclass_fields__)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return model(HeadParams(*values)).landmarks["ibug68"].sin().sum()

    values = tuple(getattr(params, f).clone().requires_grad_() for f in fields)
    assert torch.autograd.gradcheck(loss, values)


def test_zero_pose_has_finite_gradients(assets: HeadAssets) -> None:
    zero = HeadParams.zeros(assets.num_betas, assets.num_expressions, dtype=torch.float64)
    pose = zero.jaw_pose.clone().requires_grad_()
    HeadModel(assets, dtype=torch.float64)(replace(zero, jaw_pose=pose)).vertices.square().sum().backward()
    assert pose.grad is not None and pose.grad.isfinite().all()


def test_point_model_is_the_head_model_at_its_points(assets: HeadAssets) -> None:
    embedding = assets.landmarks["mediapipe478"]
    points, params = PointModel(assets, embedding), random_params(assets, seed=2)
    x = points.layout.pack(params)
    head = HeadModel(assets, dtype=torch.float64)(params)
    np.testing.assert_allclose(points.evaluate(x), embed(head.vertices[0].numpy(), embedding), atol=1e-9)
    np.testing.assert_allclose(points.joints(x), head.joints[0].numpy(), atol=1e-9)
    unpacked = points.layout.unpack(x)
    torch.testing.assert_close(unpacked.jaw_pose.double(), params.jaw_pose, atol=1e-6, rtol=1e-6)


def test_posed_vertices_are_the_head_model_in_numpy(assets: HeadAssets) -> None:
    points, params = PointModel(assets, assets.landmarks["ibug68"]), random_params(assets, seed=4)
    offsets = 0.01 * np.random.default_rng(4).normal(size=(assets.num_vertices, 3))
    head = HeadModel(assets, dtype=torch.float64)
    for extra in (None, offsets):
        expected = head(params, None if extra is None else torch.from_numpy(extra)).vertices[0].numpy()
        found = posed_vertices(assets, points, points.layout.pack(params), extra)
        np.testing.assert_allclose(found, expected, atol=1e-6)  # the shape terms are summed in float32


@pytest.mark.parametrize("scale", [0.0, 0.4, 2.5])
def test_point_jacobian_is_the_derivative(assets: HeadAssets, scale: float) -> None:
    """Central differences in float64: steps of 1e-6 leave errors near 1e-9 of metres per unit."""
    points = PointModel(assets, assets.landmarks["ibug68"])
    x = points.layout.pack(random_params(assets, seed=3)) * scale
    value, jac = points.jacobian(x)
    np.testing.assert_allclose(value, points.evaluate(x), atol=1e-14)
    step = 1e-6
    for k in range(points.layout.size):
        e = np.zeros_like(x)
        e[k] = step
        numeric = (points.evaluate(x + e) - points.evaluate(x - e)) / (2 * step)
        np.testing.assert_allclose(jac[:, :, k], numeric, atol=2e-8)


def test_too_many_betas_are_named() -> None:
    assets = make_tiny_assets()
    params = HeadParams.zeros(assets.num_betas + 1, assets.num_expressions)
    with pytest.raises(ShapeError, match="betas"):
        HeadModel(assets)(params)
    fewer = HeadParams.zeros(assets.num_betas - 3, 0)
    torch.testing.assert_close(HeadModel(assets)(fewer).vertices, HeadModel(assets)(HeadModel(assets).zeros()).vertices)


def test_no_points_give_empty_arrays() -> None:
    points = PointModel(make_tiny_assets(), np.zeros(0, dtype=int))
    value, jac = points.jacobian(points.layout.zeros())
    assert value.shape == (0, 3) and jac.shape == (0, 3, points.layout.size)
