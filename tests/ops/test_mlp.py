"""Small fully connected networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_fields
from headrecon.ops import mlp as ops
from headrecon.ops.field_specs import ACTIVATIONS, MlpSpec
from headrecon.ops.mlp import fused_mlp
from headrecon.ops.reference.mlp import fused_mlp_reference
from tests.ops.compare import Bounds, assert_alike
from tests.ops.meshes import as_users_call_it
from tests.ops.threads import threads

ISAS = ["base", "avx512"]
#: A unit within rounding of 0 may be on in one and off in the other: its share of the gradients then differs.
BOUNDS = Bounds(relative_l1=1e-3, relative_l2=1e-3, atol=1e-2, budget=2e-3)


def parameters(spec: MlpSpec, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, weights, biases, and gradients of the outputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weights = torch.cat([(normal(*size) / size[1] ** 0.5).flatten() for size in spec.layer_sizes])
    return normal(count, spec.inputs), weights, 0.3 * normal(spec.num_biases), normal(count, spec.outputs)


def twin(spec: MlpSpec, tensors: tuple[Tensor | None, ...], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [t.clone().requires_grad_() for t in tensors if t is not None]
    outputs = fused_mlp_reference(*leaves, *[None] * (3 - len(leaves)), spec)  # type: ignore[arg-type]
    return (outputs.detach(), *torch.autograd.grad(outputs, leaves, grad))


def native(spec: MlpSpec, tensors: tuple[Tensor, Tensor, Tensor | None], grad: Tensor, isa: str) -> list[Tensor]:
    found = _native_calls_fields.mlp_backward(tensors, spec, grad, (True, True, True), isa=isa)
    return [_native_calls_fields.mlp(*tensors, spec, isa=isa), *(g for g in found if g is not None)]


@pytest.mark.parametrize("available", [True, False])
def test_by_hand(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(_native, "available", lambda: available)
    spec = MlpSpec(2, 1, width=2, hidden_layers=1)
    weights = torch.tensor([1.0, 2.0, -1.0, 1.0, 3.0, 5.0])  # [[1, 2], [-1, 1]] and [[3, 5]]
    inputs = torch.tensor([[1.0, 1.0], [1.0, 3.0], [-5.0, 1.0]])
    # hidden (3, 0), (7, 2), (-3 and so 0, 6)
    assert fused_mlp(inputs, weights, spec)[:, 0].tolist() == [9.0, 31.0, 30.0]
    biased = fused_mlp(inputs, weights, spec, biases=torch.tensor([-1.0, 1.0, 0.5]))
    assert biased[:, 0].tolist() == [3 * 2 + 5 * 1 + 0.5, 3 * 6 + 5 * 3 + 0.5, 5 * 7 + 0.5]


def test_no_hidden_layer_is_a_matrix() -> None:
    spec = MlpSpec(3, 2, hidden_layers=0)
    inputs, weights, biases, _ = parameters(spec, 5)
    found = fused_mlp(inputs, weights, spec, biases=biases)
    torch.testing.assert_close(found, inputs @ weights.view(2, 3).T + biases)


def test_agrees_with_torch_modules() -> None:
    spec = MlpSpec(10, 4, width=32, hidden_layers=2, activation="softplus", output_activation="sigmoid")
    inputs, weights, biases, _ = parameters(spec, 100)
    layers: list[torch.nn.Module] = []
    for k, (matrix, bias) in enumerate(zip(spec.matrices(weights), spec.bias_vectors(biases), strict=True)):
        linear = torch.nn.Linear(*reversed(matrix.shape))
        linear.weight.data, linear.bias.data = matrix, bias
        layers += [linear, torch.nn.Softplus() if k < 2 else torch.nn.Sigmoid()]
    expected = torch.nn.Sequential(*layers)(inputs)
    assert_alike(fused_mlp(inputs, weights, spec, biases=biases), expected, "Sequential")


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("with_biases", [False, True])
@pytest.mark.parametrize(
    "spec",
    [
        MlpSpec(32, 16, 64, 2),
        MlpSpec(3, 1, 16, 1, "softplus", "exp"),
        MlpSpec(5, 4, 128, 3, "relu", "sigmoid"),
        MlpSpec(40, 128, 48, 1, "softplus", "relu", 10.0),
        MlpSpec(7, 3, 16, 0, "relu", "softplus"),
        MlpSpec(256, 5, 100, 2, "none"),
        MlpSpec(1, 17, 33, 15),
        MlpSpec(2, 20, 80, 2, "sigmoid", "relu"),
        MlpSpec(16, 33, 112, 1, "exp"),
    ],
    ids=str,
)
def test_agrees_with_the_twin(spec: MlpSpec, with_biases: bool, isa: str) -> None:
    inputs, weights, biases, grad = parameters(spec, 203)
    tensors = (0.3 * inputs, weights, biases if with_biases else None)
    found, expected = native(spec, tensors, grad, isa), twin(spec, tensors, grad)
    for name, a, b in zip(("outputs", "inputs", "weights", "biases"), found, expected, strict=False):
        assert_alike(a, b, name, BOUNDS)
    assert len(found) == len(expected) == 3 + with_biases


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_gradients_of_the_twin_by_finite_differences(kind) -> None:
    spec = MlpSpec(3, 2, 5, 2, kind, kind, 2.0)
    # halved, for e^(e^(e^x)) soon leaves the range where finite differences mean something
    leaves = [(0.5 * t.double()).requires_grad_() for t in parameters(spec, 4)[:3]]
    assert torch.autograd.gradcheck(lambda x, w, b: fused_mlp_reference(x, w, b, spec), leaves)


@pytest.mark.native
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_far_out(kind) -> None:
    """Huge, infinite and missing numbers: as torch, and a sample does not disturb its neighbours."""
    spec = MlpSpec(1, 1, hidden_layers=0, output_activation=kind, softplus_beta=1.5)
    inf, nan = float("inf"), float("nan")
    inputs = torch.tensor(
        [[0.0], [-0.0], [1e-20], [-30.0], [30.0], [-87.0], [88.0], [200.0], [-200.0], [1e30], [-1e30]]
    )
    inputs = torch.cat([inputs, torch.tensor([[inf], [-inf], [nan], [1.0]])])
    found = native(spec, (inputs, torch.ones(1), None), torch.ones(len(inputs), 1), "auto")
    doubled = tuple(t.double() for t in (inputs, torch.ones(1), torch.ones(len(inputs), 1)))
    expected = [t.float() for t in twin(spec, doubled[:2], doubled[2])]
    # e^x is 0 below -87.3 where torch goes on with denormal numbers
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-37, equal_nan=True)
    # the twin's y (1 - y) of the sigmoid loses digits where y is nearly 1, and ours does not
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-15, equal_nan=True)


@pytest.mark.native
def test_a_sample_that_is_not_finite_stays_alone() -> None:
    spec = MlpSpec(5, 3, 20, 2)
    inputs, weights, biases, grad = parameters(spec, 97)
    spoilt = inputs.clone()
    spoilt[50, 2] = float("nan")
    clean = native(spec, (inputs, weights, biases), grad, "auto")
    found = native(spec, (spoilt, weights, biases), grad, "auto")
    others = torch.arange(97) != 50
    assert found[0][50].isnan().all()
    assert torch.equal(found[0][others], clean[0][others]) and torch.equal(found[1][others], clean[1][others])


@pytest.mark.native
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_same_bits_for_any_threads_and_instructions(activation) -> None:
    spec = MlpSpec(9, 5, 40, 2, activation, "sigmoid")
    *tensors, grad = parameters(spec, 30_001)  # several strips
    with threads(1):
        expected = native(spec, tuple(tensors), grad, "base")
    for number in (2, 5):
        with threads(number):
            for isa in ISAS:
                for a, b in zip(native(spec, tuple(tensors), grad, isa), expected, strict=True):
                    assert torch.equal(a, b), (number, isa)
    for a, b in zip(expected, twin(spec, tuple(tensors), grad), strict=True):
        assert_alike(a, b, "several strips", BOUNDS)


@pytest.mark.parametrize("count", [0, 1, 95, 96, 97])
def test_sizes(count: int) -> None:
    spec = MlpSpec(3, 2, 24, 1, "softplus")
    inputs, weights, biases, grad = parameters(spec, count)
    leaves = [t.requires_grad_() for t in (inputs, weights, biases)]
    outputs = fused_mlp(inputs, weights, spec, biases=biases)
    assert outputs.shape == (count, 2)
    outputs.backward(grad)
    expected = twin(spec, tuple(t.detach() for t in leaves), grad)
    for found, other in zip((outputs, *(t.grad for t in leaves)), expected, strict=True):
        assert_alike(found, other, "sizes")
    assert fused_mlp(inputs.reshape(1, count, 3), weights, spec).shape == (1, count, 2)


@pytest.mark.parametrize("with_biases", [False, True])
def test_operator_is_registered_properly(with_biases: bool) -> None:
    spec = MlpSpec(3, 2, 8, 1, "softplus")
    inputs, weights, biases, grad = parameters(spec, 4)
    leaves = [t.requires_grad_() for t in (inputs, weights, biases)]
    layout = (2, 8, 1, 2, 0, 1.0, False)
    given = (*leaves[:2], leaves[2] if with_biases else None)
    torch.library.opcheck(torch.ops.headrecon.mlp, (*given, *layout))
    held = tuple(None if t is None else t.detach() for t in given)
    torch.library.opcheck(torch.ops.headrecon.mlp_backward, (*held, *layout, grad, True, True, with_biases))


@pytest.mark.parametrize("with_biases", [False, True])
def test_without_the_library_the_twin_gives_the_same(monkeypatch: pytest.MonkeyPatch, with_biases: bool) -> None:
    spec = MlpSpec(3, 2, 8, 1, "softplus")

    def run() -> list[Tensor | None]:
        inputs, weights, biases, grad = parameters(spec, 20)
        leaves = [t.requires_grad_() for t in (inputs, weights, biases)]
        outputs = fused_mlp(inputs, weights, spec, biases=biases if with_biases else None)
        outputs.backward(grad)
        return [outputs.detach(), *(t.grad for t in leaves)]

    expected = run()
    monkeypatch.setattr(_native, "available", lambda: False)
    for a, b in zip(run(), expected, strict=True):
        assert_alike(a, b, "reference")


def test_only_what_is_asked_for_is_worked_out() -> None:
    spec = MlpSpec(3, 2, 8, 1)
    inputs, weights, biases, grad = parameters(spec, 20)
    expected = twin(spec, (inputs, weights, biases), grad)
    for which in range(3):
        leaves = [t.clone().requires_grad_(k == which) for k, t in enumerate((inputs, weights, biases))]
        fused_mlp(leaves[0], leaves[1], spec, biases=leaves[2]).backward(grad)
        assert [t.grad is not None for t in leaves] == [k == which for k in range(3)]
        assert_alike(leaves[which].grad, expected[1 + which], f"gradient {which} alone")


def test_weights_of_tiny_cuda_nn_lose_their_padding() -> None:
    spec = MlpSpec(3, 1, 16, 2)
    padded = torch.arange(16 * 16 + 16 * 16 + 16 * 16, dtype=torch.float16)
    weights = spec.unpad_tiny_cuda_nn(padded)
    first, second, last = spec.matrices(weights)
    assert weights.dtype == torch.float16
    assert first.tolist() == padded[:256].view(16, 16)[:, :3].tolist()
    assert second.tolist() == padded[256:512].view(16, 16).tolist()
    assert last.tolist() == [padded[512:528].tolist()]
    with pytest.raises(ShapeError, match=r"has 768 parameters when padded to 16, found \(700,\)"):
        spec.unpad_tiny_cuda_nn(padded[:700])


def test_bad_input_is_named() -> None:
    spec = MlpSpec(3, 2, 8, 1)
    inputs, weights, biases, _ = parameters(spec, 4)
    run = as_users_call_it(ops.fused_mlp)
    with pytest.raises(ShapeError, match=r"inputs must be float32 \[...,3\]"):
        run(inputs[:, :2], weights, spec)
    with pytest.raises(ShapeError, match=r"weights of this network are float32 \[40\], found torch.float32 \(39,\)"):
        run(inputs, weights[1:], spec)
    with pytest.raises(ShapeError, match=r"biases of this network are float32 \[10\], found torch.float64"):
        run(inputs, weights, spec, biases=biases.double())
    with pytest.raises(ShapeError, match="width must be 1 to 128; found"):
        MlpSpec(3, 2, width=256)
