"""Cutting a network: by hand on a tiny FlatBuffer made here, and on the real one against the whole."""

from __future__ import annotations

import flatbuffers
import numpy as np
import pytest

from headrecon.errors import AssetError
from headrecon.perception.networks import NETWORK_FILES, Network, Networks
from headrecon.perception.tflite_cut import TfliteGraph

ADD = 0  # BuiltinOperator in schema.fbs
CUSTOM = 32


def vector_of_ints(builder: flatbuffers.Builder, values: list[int]) -> int:
    return builder.CreateNumpyVector(np.array(values, np.int32))


def vector_of_tables(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()


def table(builder: flatbuffers.Builder, offsets: dict[int, int], scalars: dict[int, int] | None = None) -> int:
    builder.StartObject(12)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in (scalars or {}).items():
        builder.PrependUint32Slot(slot, value, 0)
    return builder.EndObject()


def small_network() -> bytes:
    """Four scalars: b = a + a, c = Magic(b), d = c + b."""
    b = flatbuffers.Builder(1024)
    tensors = []
    for name in ("a", "b", "c", "d"):
        text = b.CreateString(name)
        shape = vector_of_ints(b, [1])
        tensors.append(table(b, {0: shape, 3: text}))
    operators = []
    options = b.CreateByteVector(b"magic options")
    for inputs, outputs, code in (([0, 0], [1], 0), ([1], [2], 1), ([2, 1], [3], 0)):
        fields = {1: vector_of_ints(b, inputs), 2: vector_of_ints(b, outputs)}
        if code:
            fields[5] = options
        operators.append(table(b, fields, {0: code}))
    graph_fields = {
        0: vector_of_tables(b, tensors),
        1: vector_of_ints(b, [0]),
        2: vector_of_ints(b, [3]),
        3: vector_of_tables(b, operators),
    }
    graph = table(b, graph_fields)
    magic = b.CreateString("Magic")
    codes = vector_of_tables(b, [table(b, {}), table(b, {1: magic})])
    model = table(b, {1: codes, 2: vector_of_tables(b, [graph]), 4: vector_of_tables(b, [table(b, {})])}, {0: 3})
    b.Finish(model, file_identifier=b"TFL3")
    return bytes(b.Output())


def test_reading() -> None:
    graph = TfliteGraph(small_network())
    assert graph.tensor_names == ("a", "b", "c", "d")
    assert graph.input_names == ("a",)
    assert [(o.custom_name, o.inputs, o.outputs) for o in graph.operators] == [
        ("", (0, 0), (1,)),
        ("Magic", (1,), (2,)),
        ("", (2, 1), (3,)),
    ]
    assert graph.operators[1].custom_options == b"magic options"


@pytest.mark.parametrize(("inputs", "outputs", "kept"), [(["a"], ["b"], [0]), (["c", "b"], ["d"], [2])])
def test_cut_keeps_what_is_needed(inputs: list[str], outputs: list[str], kept: list[int]) -> None:
    whole = TfliteGraph(small_network())
    part = TfliteGraph(whole.cut(inputs, outputs))
    assert part.input_names == tuple(inputs)
    assert [o.outputs for o in part.operators] == [whole.operators[k].outputs for k in kept]


def test_cut_refuses_custom_operators_and_unknown_names() -> None:
    graph = TfliteGraph(small_network())
    with pytest.raises(AssetError, match="Magic"):
        graph.cut(["a"], ["d"])
    with pytest.raises(AssetError, match="depends on the network's input 'a'"):
        graph.cut(["c"], ["d"])
    with pytest.raises(AssetError, match="no tensor named 'z'"):
        graph.cut(["a"], ["z"])


@pytest.mark.parametrize("content", [b"", b"no network", b"\x10\0\0\0TFL3" + bytes(40), small_network()[:100]])
def test_broken_files_are_refused(content: bytes) -> None:
    with pytest.raises(AssetError):
        TfliteGraph(content)


def clean_cut(graph: TfliteGraph, outputs: list[str]) -> tuple[str, bytes]:
    """The first tensor after a third of the operators through which everything must pass, and the part behind it."""
    for operator in graph.operators[len(graph.operators) // 3 :]:
        name = graph.tensor_names[operator.outputs[0]]
        try:
            return name, graph.cut([name], outputs)
        except AssetError:  # a branch goes around this tensor
            continue
    raise AssertionError("the network has no single tensor through which everything passes")


def test_two_halves_of_a_real_network_give_what_the_whole_gives(networks: Networks) -> None:
    content = (networks._directory / NETWORK_FILES["iris"][0]).read_bytes()
    graph = TfliteGraph(content)
    crop = np.random.default_rng(0).random((1, 64, 64, 3), dtype=np.float32)
    whole = Network(content)
    middle, second = clean_cut(graph, list(whole.outputs))
    halves = Network(second)(Network(graph.cut(graph.input_names, [middle]))(crop))
    for name, expected in whole(crop).items():
        np.testing.assert_allclose(halves[name], expected, rtol=1e-4, atol=1e-3)
