"""Cutting a part out of a TensorFlow Lite network: the operators between some tensors and some others.

The face mesh network with attention holds three kinds of operators that no runtime but MediaPipe's own knows. They
are simple geometry, so we run the network up to them, compute them in numpy and run the rest. A `.tflite` file is a
FlatBuffer (schema: tensorflow/lite/schema/schema.fbs), whose vectors can be shortened and re-ordered in place; that
takes a millisecond where unpacking and repacking the file through generated classes takes a second.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headrecon.errors import AssetError

# Field numbers in schema.fbs.
_MODEL_OPERATOR_CODES, _MODEL_SUBGRAPHS = 1, 2
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 1, 2, 3
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_CUSTOM_OPTIONS = 0, 1, 2, 5
_CODE_CUSTOM_NAME, _TENSOR_NAME = 1, 3


@dataclass(frozen=True)
class Operator:
    """One operator of a network: its custom name if any, tensor indices, custom options as raw bytes."""

    position: int
    custom_name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom_options: bytes


class TfliteGraph:
    """Read-only view of the first subgraph of a `.tflite` file, and the means to cut a part out of it."""

    def __init__(self, content: bytes) -> None:
        if content[4:8] != b"TFL3":
            raise AssetError("the network is not a TensorFlow Lite file: expected the identifier TFL3 at byte 4")
        self._content = content
        try:
            self._graph = self._follow(self._element(self._vector(self._u32(0), _MODEL_SUBGRAPHS), 0))
            self.tensor_names = tuple(self._names(self._graph, _GRAPH_TENSORS, _TENSOR_NAME))
            self._input_ids = self._read_indices(self._graph, _GRAPH_INPUTS)
            self.input_names = tuple(self.tensor_names[k] for k in self._input_ids)
            codes = tuple(self._names(self._u32(0), _MODEL_OPERATOR_CODES, _CODE_CUSTOM_NAME))
            self.operators = tuple(self._read_operators(codes))
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise AssetError(f"the network is a damaged TensorFlow Lite file ({error}); fetch it again") from error

    def cut(self, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """A network that computes the named output tensors from the named input tensors.

        Raises:
            AssetError: a name is not in the network, or an output depends on something besides the inputs.
        """
        input_ids, output_ids = self._indices(inputs), self._indices(outputs)
        needed = self._needed_operators(input_ids, output_ids)
        patched = bytearray(self._content)
        operators = self._vector(self._graph, _GRAPH_OPERATORS)
        struct.pack_into("<I", patched, operators, len(needed))
        for slot, operator in enumerate(needed):
            place = self._element(operators, slot)
            # An offset only points forward. Tables lie behind the vector that lists them, so any order can be told.
            struct.pack_into("<I", patched, place, operator.position - place)
        self._write_indices(patched, _GRAPH_INPUTS, input_ids)
        self._write_indices(patched, _GRAPH_OUTPUTS, output_ids)
        return bytes(patched)

    def _needed_operators(self, inputs: Sequence[int], outputs: Sequence[int]) -> list[Operator]:
        wanted, needed = set(outputs) - set(inputs), []
        for operator in reversed(self.operators):  # the file lists operators in the order of execution
            if wanted.intersection(operator.outputs):
                if operator.custom_name:
                    raise AssetError(f"the part still holds the custom operator {operator.custom_name}; cut before it")
                needed.append(operator)
                wanted.difference_update(operator.outputs)
                wanted.update(set(operator.inputs) - set(inputs))
        unfed = wanted.intersection(self._input_ids) - set(inputs)
        if unfed:
            name = self.tensor_names[unfed.pop()]
            raise AssetError(f"the part also depends on the network's input {name!r}; cut at other tensors")
        return needed[::-1]

    def _write_indices(self, patched: bytearray, field: int, indices: Sequence[int]) -> None:
        """Point a vector field of the graph at a new vector behind the end of the file."""
        patched.extend(b"\0" * (-len(patched) % 4))
        place = self._field(self._graph, field)
        struct.pack_into("<I", patched, place, len(patched) - place)
        patched.extend(struct.pack(f"<I{len(indices)}i", len(indices), *indices))

    def _indices(self, names: Sequence[str]) -> list[int]:
        missing = [name for name in names if name not in self.tensor_names]
        if missing:
            raise AssetError(f"the network has no tensor named {missing[0]!r}; it is not the network expected here")
        return [self.tensor_names.index(name) for name in names]

    def _read_operators(self, codes: Sequence[str]) -> Iterator[Operator]:
        operators = self._vector(self._graph, _GRAPH_OPERATORS)
        for k in range(self._u32(operators)):
            table = self._follow(self._element(operators, k))
            code = self._field(table, _OPERATOR_CODE)
            options = self._vector(table, _OPERATOR_CUSTOM_OPTIONS)
            yield Operator(
                table,
                codes[self._u32(code) if code else 0],
                self._read_indices(table, _OPERATOR_INPUTS),
                self._read_indices(table, _OPERATOR_OUTPUTS),
                self._content[options + 4 : options + 4 + self._u32(options)] if options else b"",
            )

    def _read_indices(self, table: int, field: int) -> tuple[int, ...]:
        vector = self._vector(table, field)
        return struct.unpack_from(f"<{self._u32(vector)}i", self._content, vector + 4) if vector else ()

    def _names(self, table: int, list_field: int, name_field: int) -> Iterator[str]:
        vector = self._vector(table, list_field)
        for k in range(self._u32(vector)):
            name = self._vector(self._follow(self._element(vector, k)), name_field)
            yield self._content[name + 4 : name + 4 + self._u32(name)].decode() if name else ""

    # The four primitives of the FlatBuffer format; each takes and returns a position in the file.

    def _u32(self, position: int) -> int:
        return struct.unpack_from("<I", self._content, position)[0]

    def _follow(self, position: int) -> int:
        return position + self._u32(position)

    def _element(self, vector: int, index: int) -> int:
        return vector + 4 + 4 * index

    def _field(self, table: int, field: int) -> int:
        """Where a field of a table is stored; 0 where it is absent."""
        vtable = table - struct.unpack_from("<i", self._content, table)[0]
        if 4 + 2 * field >= struct.unpack_from("<H", self._content, vtable)[0]:
            return 0
        offset = struct.unpack_from("<H", self._content, vtable + 4 + 2 * field)[0]
        return table + offset if offset else 0

    def _vector(self, table: int, field: int) -> int:
        place = self._field(table, field)
        return self._follow(place) if place else 0
