"""A pickle interpreter that cannot call anything.

Python's unpickler, even with `find_class` restricted, still calls what the file names with arguments of the file's
choosing, and NumPy's own `__setstate__` trusts what it is given. This one only records: a name becomes a `Name`, a
call becomes a `Record` of the name, its arguments and its state. Names outside the allow-list end the reading at once.
What a record means is decided afterwards, by code that checks every value (`headrecon.models.safe_pickle`).

The opcodes are those documented in Python's `pickletools` (protocols 0 to 5).
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: A FLAME pickle needs about 500 operations; each costs at most about 100 bytes, so this bounds time and memory.
MAX_OPERATIONS = 100_000
_MAX_INTEGER_BYTES = 16
_HASHABLE = (str, bytes, int, float, type(None))


class PickleRefused(Exception):
    """The pickle asks for something that is not allowed; `args[0]` says what."""


class PickleBroken(Exception):
    """The bytes are not a complete pickle."""


@dataclass(frozen=True)
class Name:
    """A global that the pickle names. It is text: nothing is imported."""

    module: str
    name: str


@dataclass(eq=False, repr=False)
class Record:
    """A call that the pickle asks for and that does not happen."""

    target: Name
    args: tuple[Any, ...]
    state: Any = None
    extra: dict[str, Any] = field(default_factory=dict)


class _Mark:
    """Where a MARK opcode stands on the stack."""


_MARK = _Mark()


def read_pickle(data: bytes, allowed: frozenset[tuple[str, str]]) -> Any:
    """The tree of plain values, `Name`s and `Record`s that a pickle describes.

    `allowed` holds the exact (module, name) pairs that may be named. Python 2 strings are read as latin-1 text.
    Raises PickleRefused or PickleBroken; never runs anything that the file names.
    """
    machine = _Machine(data, allowed)
    try:
        return machine.run()
    except (IndexError, KeyError, ValueError, TypeError, struct.error, OverflowError) as error:
        raise PickleBroken(f"malformed or truncated near byte {machine.at:,}") from error


class _Machine:
    def __init__(self, data: bytes, allowed: frozenset[tuple[str, str]]) -> None:
        self.data, self.at, self.allowed = data, 0, allowed
        self.copied = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_OPERATIONS):
            opcode = self.take(1)
            if opcode == b".":
                result = self.pop()
                if self.stack:
                    raise PickleBroken("values are left over at the end")
                return result
            if opcode in _REFUSED:
                raise PickleRefused(_REFUSED[opcode])
            operation = _OPERATIONS.get(opcode)
            if operation is None:
                raise PickleBroken(f"byte {self.at - 1:,} is not a pickle operation")
            operation(self)
        raise PickleRefused(f"more than {MAX_OPERATIONS:,} operations")

    # Reading -----------------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise PickleBroken(f"ends early, at byte {len(self.data):,}")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise PickleBroken(f"ends early, at byte {len(self.data):,}")
        piece = self.data[self.at : end]
        self.at = end + 1
        return piece

    def integer(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    # The stack ---------------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleBroken("a mark stands where a value must be")
        return value

    def since_mark(self) -> list[Any]:
        """Pop and return everything above the topmost mark, and the mark."""
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise PickleBroken(f"expected a {kind.__name__} on the stack")
        return value

    # Operations --------------------------------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleBroken("a global must be named by text")
        if (module, name) not in self.allowed:
            raise PickleRefused(f"{module}.{name}"[:120])
        self.push(Name(module, name))

    def record(self, target: Any, args: Any) -> None:
        if not isinstance(target, Name) or not isinstance(args, tuple):
            raise PickleBroken("only a named global can be called, with a tuple")
        if target.name == "OrderedDict":
            self.push(self.ordered_dict(args[0] if args else []))
        elif target.name == "_reconstructor" and args and isinstance(args[0], Name):
            self.push(Record(args[0], ()))  # how protocols 0 and 1 make an object of a new-style class
        else:
            self.push(Record(target, args))

    def ordered_dict(self, pairs: Any) -> dict[Any, Any]:
        """What `OrderedDict(pairs)` would hold. The one operation that copies, so the copies are counted."""
        if not isinstance(pairs, list | tuple):
            raise PickleBroken("an OrderedDict must be made of pairs")
        self.copied += len(pairs)
        if self.copied > MAX_OPERATIONS:
            raise PickleRefused(f"more than {MAX_OPERATIONS:,} operations")
        result: dict[Any, Any] = {}
        for key, value in pairs:
            _fill(result, [key, value])
        return result

    def build(self) -> None:
        state = self.pop()
        self.top(Record).state = state

    def call(self) -> None:
        args = self.pop()
        self.record(self.pop(), args)

    def call_with_keywords(self) -> None:
        self.pop()
        self.call()

    def call_marked(self) -> None:
        """OBJ: the class and its arguments lie above the mark."""
        values = self.since_mark()
        self.record(values[0], tuple(values[1:]))

    def instance(self) -> None:
        """INST: the class is named in the text, its arguments lie above the mark."""
        args = tuple(self.since_mark())
        self.name(self.line().decode(), self.line().decode())
        self.record(self.pop(), args)

    def named_on_stack(self) -> None:
        name = self.pop()
        self.name(self.pop(), name)

    def extend(self, values: list[Any]) -> None:
        container = self.stack[-1]
        if isinstance(container, list):
            container.extend(values)
        elif not isinstance(container, Record):  # the contents of sets and unknown containers are not needed
            raise PickleBroken("expected a list on the stack")

    def set_items(self, values: list[Any]) -> None:
        container = self.stack[-1]
        if isinstance(container, dict):
            _fill(container, values)
        elif not isinstance(container, Record):
            raise PickleBroken("expected a dict on the stack")

    def set_item(self) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def dict_of_marked(self) -> None:
        values = self.since_mark()
        self.push({})
        self.set_items(values)

    def store(self, index: int) -> None:
        self.memo[index] = self.top(object)

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def quoted(self) -> None:
        """Python 2's STRING: a quoted literal with escapes."""
        text = self.line().strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise PickleBroken("a string is not quoted")
        self.push(codecs.escape_decode(text[1:-1])[0].decode("latin-1"))  # type: ignore[attr-defined]

    def decimal(self) -> None:
        text = self.line().rstrip(b"L")
        if len(text) > 3 * _MAX_INTEGER_BYTES:
            raise PickleRefused("an integer of more than 48 digits")
        self.push({b"00": False, b"01": True}.get(text, int(text)))

    def long(self, size: int) -> None:
        if not 0 <= size <= _MAX_INTEGER_BYTES:
            raise PickleRefused(f"an integer of more than {_MAX_INTEGER_BYTES} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))


def _fill(target: dict[Any, Any], values: list[Any]) -> None:
    """Set keys and values in turn. Keys other than plain values are dropped: nothing here needs them, and hashing a
    deeply nested tuple overflows the C stack."""
    pairs = zip(values[::2], values[1::2], strict=True)
    target.update((key, value) for key, value in pairs if isinstance(key, _HASHABLE))


_REFUSED = {
    b"\x82": "a copyreg extension",
    b"\x83": "a copyreg extension",
    b"\x84": "a copyreg extension",
    b"P": "a persistent object",
    b"Q": "a persistent object",
    b"\x97": "an out-of-band buffer",
}

_Operation = Callable[[_Machine], Any]


def _text(form: str, encoding: str) -> _Operation:
    errors = "surrogatepass" if encoding == "utf-8" else "strict"  # as Python's own pickles
    return lambda m: m.push(m.take(m.integer(form)).decode(encoding, errors))


def _constant(value: Any) -> _Operation:
    return lambda m: m.push(value)


_OPERATIONS: dict[bytes, _Operation] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"\x98": lambda m: None,  # READONLY_BUFFER
    b"(": _constant(_MARK),
    b"0": lambda m: m.stack.pop(),  # POP
    b"1": lambda m: m.since_mark(),  # POP_MARK
    b"2": lambda m: m.push(m.top(object)),  # DUP
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": _Machine.decimal,
    b"L": _Machine.decimal,
    b"J": lambda m: m.push(m.integer("<i")),
    b"K": lambda m: m.push(m.integer("<B")),
    b"M": lambda m: m.push(m.integer("<H")),
    b"\x8a": lambda m: m.long(m.integer("<B")),
    b"\x8b": lambda m: m.long(m.integer("<i")),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"S": _Machine.quoted,
    b"T": _text("<i", "latin-1"),
    b"U": _text("<B", "latin-1"),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": _text("<I", "utf-8"),
    b"\x8c": _text("<B", "utf-8"),
    b"\x8d": _text("<Q", "utf-8"),
    b"B": lambda m: m.push(m.take(m.integer("<I"))),
    b"C": lambda m: m.push(m.take(m.integer("<B"))),
    b"\x8e": lambda m: m.push(m.take(m.integer("<Q"))),
    b"\x96": lambda m: m.push(m.take(m.integer("<Q"))),  # BYTEARRAY8
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.since_mark()),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.since_mark()),
    b")": _constant(()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"}": lambda m: m.push({}),
    b"d": _Machine.dict_of_marked,
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.since_mark()),
    b"\x8f": lambda m: m.push([]),  # EMPTY_SET
    b"\x90": lambda m: m.extend(m.since_mark()),  # ADDITEMS
    b"\x91": lambda m: m.push(m.since_mark()),  # FROZENSET
    b"g": lambda m: m.push(m.memo[int(m.line())]),
    b"h": lambda m: m.push(m.memo[m.integer("<B")]),
    b"j": lambda m: m.push(m.memo[m.integer("<I")]),
    b"p": lambda m: m.store(int(m.line())),
    b"q": lambda m: m.store(m.integer("<B")),
    b"r": lambda m: m.store(m.integer("<I")),
    b"\x94": lambda m: m.store(len(m.memo)),
    b"c": lambda m: m.name(m.line().decode(), m.line().decode()),
    b"\x93": _Machine.named_on_stack,
    b"i": _Machine.instance,
    b"o": _Machine.call_marked,
    b"R": _Machine.call,
    b"\x81": _Machine.call,  # NEWOBJ
    b"\x92": _Machine.call_with_keywords,  # NEWOBJ_EX
    b"b": _Machine.build,
}
