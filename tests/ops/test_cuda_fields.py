"""The CUDA kernels of fields (hash grids, small networks, neural points) against the CPU's: emulated, and on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.ops import _native_calls_fields as calls
from headrecon.ops.field_specs import HashGridSpec, MlpSpec
from tests.ops.compare import Bounds, assert_alike
from tests.ops.conftest import CudaKernels
from tests.ops.test_cuda_ops import determinism

NAN, INF = float("nan"), float("inf")
#: Sums in another order, and products that are fused on one side only.
CLOSE = Bounds(relative_l1=1e-5, relative_l2=1e-5, rtol=1e-4, atol=1e-4)


def positions_of(count: int, dims: int, generator: torch.Generator) -> Tensor:
    """In and around the unit cube, at its corners, and nowhere."""
    positions = torch.rand(count, dims, generator=generator) * 1.2 - 0.1
    special = [0.0, 1.0, -INF, INF, NAN, 0.5, 1e-30, 3e38]
    for row, value in enumerate(special[:count]):
        positions[row] = value
    return positions


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_hashgrid(cuda: CudaKernels, dims: int, features: int, interpolation: str, deterministic: bool) -> None:
    spec = HashGridSpec(dims, 7, features, 9, 3, 1.7, interpolation)  # type: ignore[arg-type]
    assert {level.hashed for level in spec.level_table} == {False, True}
    generator = torch.Generator().manual_seed(dims + features)
    for count in (0, 1, 300):
        positions = positions_of(count, dims, generator)
        table = torch.randn(spec.num_entries, features, generator=generator)
        found = cuda.run(calls.hashgrid, positions, table, spec)
        assert_alike(found, calls.hashgrid(positions, table, spec), "values", CLOSE)
        grad = torch.randn(found.shape, generator=generator)
        with determinism(deterministic):
            for needs in ((True, True), (True, False), (False, True)):
                got = cuda.run(calls.hashgrid_backward, (positions, table), spec, grad, needs)
                wanted = calls.hashgrid_backward((positions, table), spec, grad, needs)
                for name, one, other in zip(("table", "positions"), got, wanted, strict=True):
                    assert_alike(one, other, name, CLOSE)


def test_hashgrid_sums_are_the_same_on_every_run(cuda: CudaKernels) -> None:
    spec = HashGridSpec(3, 4, 2, 6, 2, 2.0)
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.rand(700, 3, generator=generator), torch.randn(spec.num_entries, 2, generator=generator))
    grad = torch.randn(700, 8, generator=generator)
    with determinism(True):
        runs = [cuda.run(calls.hashgrid_backward, inputs, spec, grad, (True, False))[0] for _ in range(4)]
    assert all(torch.equal(other, runs[0]) for other in runs[1:])


NETWORKS = [
    MlpSpec(3, 4, 16, 1, "relu", "none"),
    MlpSpec(32, 16, 64, 2, "relu", "sigmoid"),
    MlpSpec(37, 3, 33, 3, "softplus", "exp", 10.0),
    MlpSpec(256, 128, 128, 1, "softplus", "softplus"),
    MlpSpec(5, 100, 7, 0, "relu", "none"),
    MlpSpec(1, 1, 1, 15, "sigmoid", "none"),
    MlpSpec(130, 65, 20, 2, "relu", "none"),
]


@pytest.mark.parametrize("spec", NETWORKS, ids=str)
@pytest.mark.parametrize("count", [0, 1, 64, 131])
@pytest.mark.parametrize("biased", [False, True])
def test_mlp(cuda: CudaKernels, spec: MlpSpec, count: int, biased: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    scale = (2.0 / spec.inputs) ** 0.5
    weights = torch.randn(spec.num_weights, generator=generator) * scale
    biases = torch.randn(spec.num_biases, generator=generator) if biased else None
    inputs = torch.randn(count, spec.inputs, generator=generator)
    found = cuda.run(calls.mlp, inputs, weights, biases, spec)
    assert_alike(found, calls.mlp(inputs, weights, biases, spec), "outputs", CLOSE)
    grad = torch.randn(found.shape, generator=generator)
    for needs in ((True, True, biased), (True, False, False), (False, False, biased), (False, True, False)):
        got = cuda.run(calls.mlp_backward, (inputs, weights, biases), spec, grad, needs)
        wanted = calls.mlp_backward((inputs, weights, biases), spec, grad, needs)
        for name, one, other in zip(("inputs", "weights", "biases"), got, wanted, strict=True):
            assert_alike(one, other, name, CLOSE)


def test_a_sample_of_nan_stays_alone(cuda: CudaKernels) -> None:
    spec = MlpSpec(20, 5, 16, 2, "relu", "none")
    generator = torch.Generator().manual_seed(0)
    weights, inputs = torch.randn(spec.num_weights, generator=generator), torch.randn(70, 20, generator=generator)
    inputs[3, 4], inputs[69, 0] = NAN, INF
    found = cuda.run(calls.mlp, inputs, weights, None, spec)
    broken = ~found.isfinite().all(1)
    assert set(broken.nonzero().flatten().tolist()) <= {3, 69} and broken[3]
    assert_alike(found[~broken], calls.mlp(inputs, weights, None, spec)[~broken], "outputs", CLOSE)


def test_gradients_of_many_samples_come_out_the_same_on_every_run(cuda: CudaKernels) -> None:
    """More tiles of samples than blocks: each block takes several."""
    spec = MlpSpec(20, 10, 40, 2, "relu", "none")
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(spec.num_weights, generator=generator) * 0.2
    inputs = torch.randn(64 * (5 if cuda.emulated else 1000) + 5, 20, generator=generator)
    grad = torch.randn(len(inputs), 10, generator=generator)
    arguments = ((inputs, weights, None), spec, grad, (False, True, False))
    runs = [cuda.run(calls.mlp_backward, *arguments)[1] for _ in range(2)]
    assert torch.equal(runs[0], runs[1])
    assert_alike(runs[0], calls.mlp_backward(*arguments)[1], "weights", CLOSE)
