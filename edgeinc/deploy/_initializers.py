"""The names of an ONNX file's weights, read without onnx, which devices do not have.

An ONNX file is a protobuf message, of which three fields matter here: `ModelProto.graph` (7),
`GraphProto.initializer` (5) and `TensorProto.name` (8).
See https://protobuf.dev/programming-guides/encoding/ and onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeinc.errors import EdgeincError

_GRAPH, _INITIALIZER, _NAME = 7, 5, 8
_VARINT, _EIGHT_BYTES, _MESSAGE, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types: how long a field's value is."""


def initializer_names(content: bytes) -> tuple[str, ...]:
    """The names of all initializers, in the order of the file.

    Raises:
        EdgeincError: The content is not a protobuf message.
    """
    model = memoryview(content)
    try:
        return tuple(
            bytes(name).decode()
            for graph in _messages(model, _GRAPH)
            for tensor in _messages(graph, _INITIALIZER)
            for name in _messages(tensor, _NAME)
        )
    except (IndexError, ValueError) as err:
        raise EdgeincError(
            f"this is not an ONNX file: {err}", hint="restore the file from a copy"
        ) from err


def head_weights(content: bytes) -> tuple[str, ...]:
    """The names of the weights of the growing head: `head.weight`, `classifier.head.bias`.

    Raises:
        EdgeincError: The content is not a protobuf message.
    """
    return tuple(name for name in initializer_names(content) if "head" in name.split("."))


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The values of every field of one number."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == _MESSAGE:
            size, position = _varint(message, position)
        elif wire == _VARINT:
            start = position
            _, position = _varint(message, position)
            size, position = position - start, start
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if position + size > len(message):
            raise ValueError("it ends in the middle of a field")
        if number == wanted and wire == _MESSAGE:
            yield message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """(value, position behind it)."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
