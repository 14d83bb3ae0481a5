"""Hash grids, small networks and neural points, beside plain torch and SciPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headrecon.benchmarks.cases import Case, Peer, Prepared, Work, peer
from headrecon.ops.field_specs import HashGridSpec, MlpSpec
from headrecon.ops.hashgrid import encode_hashgrid
from headrecon.ops.mlp import fused_mlp
from headrecon.ops.points import blend_points, build_point_index, query_points
from headrecon.ops.reference.hashgrid import encode_hashgrid_reference
from headrecon.ops.reference.points import blend_points_reference

#: L16 F2 T2^19, 16 to about 4,000 corners a side.
GRID = HashGridSpec(per_level_scale=1.447)
SMALL_GRID = HashGridSpec(levels=4, log2_table_size=10, base_resolution=4, per_level_scale=1.7)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _backward(output: Tensor | tuple[Tensor, ...], inputs: list[Tensor]) -> Work:
    """A backward pass that can be run again and again, with ones as gradients."""
    outputs = output if isinstance(output, tuple) else (output,)
    grads = [torch.ones_like(t) for t in outputs]
    return lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)


def _hashgrid(device: str, spec: HashGridSpec, count: int, what: str) -> Prepared:
    """what: forward, table (its gradient), positions (theirs)."""
    generator = _generator()
    positions = torch.rand(count, spec.dims, generator=generator).to(device)
    table = torch.randn(spec.num_entries, spec.features, generator=generator).to(device)
    if what == "forward":
        torch_way = Peer("torch", lambda: encode_hashgrid_reference(positions, table, spec))
        return Prepared(lambda: encode_hashgrid(positions, table, spec), (torch_way,))
    leaf = (table if what == "table" else positions).requires_grad_()
    torch_way = Peer("torch", _backward(encode_hashgrid_reference(positions, table, spec), [leaf]))
    return Prepared(_backward(encode_hashgrid(positions, table, spec), [leaf]), (torch_way,))


def _sequential(spec: MlpSpec, weights: Tensor) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for matrix in spec.matrices(weights.detach()):
        linear = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, device=matrix.device)
        linear.weight.data = matrix.clone()
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _mlp(device: str, spec: MlpSpec, count: int, backward: bool) -> Prepared:
    generator = _generator()
    inputs = torch.randn(count, spec.inputs, generator=generator).to(device)
    weights = (0.2 * torch.randn(spec.num_weights, generator=generator)).to(device)
    network = _sequential(spec, weights)
    if not backward:
        network.requires_grad_(False)
        return Prepared(
            lambda: fused_mlp(inputs, weights, spec), (Peer("torch.nn.Sequential", lambda: network(inputs)),)
        )
    leaves = [inputs.requires_grad_(), weights.requires_grad_()]
    torch_way = Peer("torch.nn.Sequential", _backward(network(inputs), [inputs, *network.parameters()]))
    return Prepared(_backward(fused_mlp(inputs, weights, spec), leaves), (torch_way,))


def _cloud(device: str, points: int, queries: int) -> tuple[Tensor, Tensor]:
    generator = _generator()
    return torch.rand(points, 3, generator=generator).to(device), torch.rand(queries, 3, generator=generator).to(device)


def _query(device: str, points: int, queries: int, radius: float) -> Prepared:
    """Index and search together, as for points that move at every step."""
    cloud, asked = _cloud(device, points, queries)

    def run() -> tuple[Tensor, Tensor]:
        found = query_points(cloud, asked, radius, 8)
        return found.index, found.distance.nan_to_num(posinf=0.0)  # infinities cannot be compared

    if device != "cpu":
        return Prepared(run)
    held, wanted, threads = cloud.numpy(), asked.numpy(), torch.get_num_threads()

    def tree(spatial: Any) -> Callable[[], Any]:
        return lambda: spatial.cKDTree(held).query(wanted, 8, distance_upper_bound=radius, workers=threads)

    return Prepared(run, (peer("scipy.cKDTree", "scipy.spatial", tree),))


def _query_again(device: str, points: int, queries: int, radius: float) -> Prepared:
    cloud, asked = _cloud(device, points, queries)
    index = build_point_index(cloud, radius)
    return Prepared(lambda: index.query(asked, 8).index)


def _blend(device: str, points: int, queries: int, radius: float, backward: bool) -> Prepared:
    cloud, asked = _cloud(device, points, queries)
    features = torch.randn(points, 32, generator=_generator()).to(device)
    index = query_points(cloud, asked, radius, 8).index

    def batched() -> tuple[Tensor, Tensor]:
        return blend_points_reference(cloud[None], features[None], asked[None], index[None], 1e-4)

    if not backward:
        return Prepared(lambda: blend_points(cloud, features, asked, index), (Peer("torch", batched),))
    leaves = [t.requires_grad_() for t in (cloud, features, asked)]
    return Prepared(
        _backward(blend_points(cloud, features, asked, index), leaves), (Peer("torch", _backward(batched(), leaves)),)
    )


_SAMPLES = 262_144
_POINTS = {"points": 20_000, "queries": 16_384, "radius": 0.05}
_FEW_POINTS = {"points": 300, "queries": 200, "radius": 0.2}
_NETWORKS = {
    "32-64-64-16": MlpSpec(32, 16, 64, 2),
    "32-32-32-4": MlpSpec(32, 4, 32, 2),
    "32-128-128-16": MlpSpec(32, 16, 128, 2),
}

CASES = (
    Case(
        "encode_hashgrid",
        "L16 F2 T2^19, 262k samples",
        partial(_hashgrid, spec=GRID, count=_SAMPLES, what="forward"),
        goal_ms=120.0,
    ),
    Case(
        "encode_hashgrid",
        "L16 F2 T2^19, 262k samples, backward to the table",
        partial(_hashgrid, spec=GRID, count=_SAMPLES, what="table"),
    ),
    Case(
        "encode_hashgrid",
        "L16 F2 T2^19, 262k samples, backward to positions",
        partial(_hashgrid, spec=GRID, count=_SAMPLES, what="positions"),
    ),
    *(
        Case(
            "encode_hashgrid",
            f"L4 F2 T2^10, 500 samples, {what}",
            partial(_hashgrid, spec=SMALL_GRID, count=500, what=what),
            small=True,
        )
        for what in ("forward", "table", "positions")
    ),
    *(
        Case(
            "fused_mlp",
            f"{name}, 262k samples{', backward' if backward else ''}",
            partial(_mlp, spec=spec, count=_SAMPLES, backward=backward),
        )
        for name, spec in _NETWORKS.items()
        for backward in (False, True)
    ),
    *(
        Case(
            "fused_mlp",
            f"32-32-32-4, 300 samples{', backward' if backward else ''}",
            partial(_mlp, spec=_NETWORKS["32-32-32-4"], count=300, backward=backward),
            small=True,
        )
        for backward in (False, True)
    ),
    Case("query_points", "20k points, 16k queries, K = 8, with index", partial(_query, **_POINTS), goal_ms=8.0),
    Case("query_points", "20k points, 16k queries, K = 8, index kept", partial(_query_again, **_POINTS)),
    Case("query_points", "300 points, 200 queries, K = 8", partial(_query, **_FEW_POINTS), small=True),
    *(
        Case(
            "blend_points",
            f"{label}{', backward' if backward else ''}",
            partial(_blend, **sizes, backward=backward),
            small=few,
        )
        for label, sizes, few in (
            ("16k queries, K = 8, 32 channels", _POINTS, False),
            ("200 queries, K = 8, 32 channels", _FEW_POINTS, True),
        )
        for backward in (False, True)
    ),
)
