"""What an ONNX file says without its graph being loaded, and without onnx, which devices lack.

An ONNX file is a protobuf message. What matters here of it, by field number: `ModelProto.graph` (7)
and `.metadata_props` (14) with `.key` (1) and `.value` (2); `GraphProto.initializer` (5);
`TensorProto.data_type` (2), `.name` (8) and `.raw_data` (9).
See https://protobuf.dev/programming-guides/encoding/ and onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinc.errors import EdgeincError

_GRAPH, _METADATA, _KEY, _VALUE = 7, 14, 1, 2
_INITIALIZER, _TYPE, _NAME, _RAW = 5, 2, 8, 9
VARINT, _EIGHT_BYTES, MESSAGE, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types: how long a field's value is."""
_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
"""`TensorProto.DataType` -> numpy's."""


def metadata(content: bytes, name: str = "this") -> dict[str, str]:
    """The entries of a file's metadata; `name` is the file's, for the message.

    Raises:
        EdgeincError: The content is not a protobuf message.
    """
    with _reading(name):
        entries = _found(content, (_METADATA,))
        return {_text(entry, _KEY): _text(entry, _VALUE) for entry in entries}


def initializer_names(content: bytes) -> tuple[str, ...]:
    """The names of all initializers, in the order of the file.

    Raises:
        EdgeincError: The content is not a protobuf message.
    """
    with _reading():
        return tuple(_text(tensor, _NAME) for tensor in _found(content, (_GRAPH, _INITIALIZER)))


def float_weights(content: bytes) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Name and flat values of every initializer of floating point; nothing is copied.

    Raises:
        EdgeincError: The content is not a protobuf message.
    """
    with _reading():
        tensors = _found(content, (_GRAPH, _INITIALIZER))
    for tensor in tensors:
        with _reading():
            kind = _FLOATS.get(next((n for number, n in _numbers(tensor) if number == _TYPE), 0))
            raw = next(_messages(tensor, _RAW), None)
            values = None if kind is None or raw is None else np.frombuffer(raw, kind)
            name = _text(tensor, _NAME)
        if values is not None:
            yield name, values


def head_weights(content: bytes) -> tuple[str, ...]:
    """The names of the weights of the growing head: `head.weight`, `classifier.head.bias`.

    Raises:
        EdgeincError: The content is not a protobuf message.
    """
    return tuple(name for name in initializer_names(content) if "head" in name.split("."))


@contextmanager
def _reading(name: str = "this") -> Iterator[None]:
    """Say of which file it is that something in it cannot be read."""
    try:
        yield
    except (IndexError, ValueError) as err:  # a field that ends early, text that is no UTF-8
        raise EdgeincError(
            f"{name} is not an ONNX file: {err}", hint="restore the file from a copy"
        ) from err


def _found(content: bytes, path: tuple[int, ...]) -> list[memoryview]:
    """The messages at the end of a path of field numbers."""
    found = [memoryview(content)]
    for number in path:
        found = [part for message in found for part in _messages(message, number)]
    return found


def _text(message: memoryview, number: int) -> str:
    return bytes(next(_messages(message, number), b"")).decode()


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The values of every field of one number that are messages, text or bytes."""
    for number, wire, value in _fields(message):
        if number == wanted and wire == MESSAGE:
            yield value


def _numbers(message: memoryview) -> Iterator[tuple[int, int]]:
    """(field number, value) of every integer."""
    for number, wire, value in _fields(message):
        if wire == VARINT:
            yield number, _varint(value, 0)[0]


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(field number, wire type, bytes of the value) in the order of the message."""
    for number, wire, start, end in spans(message, 0, len(message)):
        yield number, wire, message[start:end]


def spans(
    content: bytes | memoryview, position: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Where the values of a message are: (field number, wire type, first byte, byte behind it).

    Args:
        content: What the message lies in.
        position: Its first byte.
        end: The byte behind it.

    Raises:
        IndexError: It ends in the middle of a number.
        ValueError: It is not a message.
    """
    while position < end:
        key, position = _varint(content, position)
        number, wire = key >> 3, key & 7
        if wire == MESSAGE:
            size, position = _varint(content, position)
        elif wire == VARINT:
            size = _varint(content, position)[1] - position
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if position + size > end:
            raise ValueError("it ends in the middle of a field")
        yield number, wire, position, position + size
        position += size


def numbers(content: bytes | memoryview, position: int, end: int) -> Iterator[int]:
    """Integers that stand one behind the other, as a packed list of them does.

    Raises:
        IndexError: They end in the middle of one.
        ValueError: One has more bytes than an integer can have.
    """
    while position < end:
        value, position = _varint(content, position)
        yield value


def _varint(message: bytes | memoryview, position: int) -> tuple[int, int]:
    """(value, position behind it)."""
    value = 0
    for shift in range(0, 70, 7):  # no longer: a damaged file may be nothing else
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("an integer of more than 10 bytes")
