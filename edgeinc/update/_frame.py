"""An ONNX file as its weights and the frame around them, taken apart and put together bit by bit.

The frame is the file without the `raw_data` of its initializers: graph, names, shapes, metadata.
Two steps of a run with the same topology have nearly the same frame, and one much smaller than the
weights. Field numbers as in `runtimes._onnx_file`: `TensorProto.dims` (1), `.data_type` (2),
`.name` (8), `.raw_data` (9).

    frame = split(content)
    join(frame, (content[t.offset : t.offset + t.length] for t in frame.tensors)) == content
    rebuilt(content, metadata={**metadata(content), "weights_sha256": digest})
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from edgeinc.errors import UpdateError
from edgeinc.runtimes._onnx_file import MESSAGE, VARINT, numbers, spans

_GRAPH, _METADATA, _KEY, _VALUE = 7, 14, 1, 2
_INITIALIZER, _DIMS, _TYPE, _NAME, _RAW = 5, 1, 2, 8, 9
TYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(name)
    for number, name in (
        (1, "<f4"),
        (2, "u1"),
        (3, "i1"),
        (4, "<u2"),
        (5, "<i2"),
        (6, "<i4"),
        (7, "<i8"),
        (9, "?"),
        (10, "<f2"),
        (11, "<f8"),
        (12, "<u4"),
        (13, "<u8"),
    )
}
"""`TensorProto.DataType` -> numpy's, of those that hold one value in whole bytes."""
MAX_DIMENSIONS = 16


@dataclass(frozen=True)
class Tensor:
    """The raw content of an initializer.

    Attributes:
        name: Of the initializer.
        dtype: Of its values; one byte each where the type is not in `TYPES` or does not fit.
        shape: Of its values.
        offset: Of its first byte in the file.
        length: In bytes.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class Frame:
    """A file without its weights.

    Attributes:
        kept: Every other byte, in the order of the file.
        tensors: What is missing, in the order of the file.
    """

    kept: bytes
    tensors: tuple[Tensor, ...]

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """(kept bytes since the gap before, missing bytes) of every tensor."""
        ends = [0, *(t.offset + t.length for t in self.tensors)]
        return tuple((t.offset - end, t.length) for t, end in zip(self.tensors, ends, strict=False))


def split(content: bytes) -> Frame:
    """Take an ONNX file apart.

    Raises:
        UpdateError: The content is not an ONNX file.
    """
    try:
        tensors = tuple(_tensors(content))
    except (IndexError, ValueError) as err:
        raise UpdateError(
            f"this is not an ONNX file: {err}", hint="restore the file from a copy"
        ) from err
    view, parts, position = memoryview(content), [], 0
    for tensor in tensors:
        parts.append(view[position : tensor.offset])
        position = tensor.offset + tensor.length
    return Frame(b"".join([*parts, view[position:]]), tensors)


def join(frame: Frame, weights: Iterable[bytes | memoryview]) -> bytes:
    """Put a file together.

    Args:
        frame: What `split` gave.
        weights: The bytes of its tensors, in its order, each as long as it was.

    Raises:
        UpdateError: Too few or too many tensors, or one of another length.
    """
    return assembled(frame.kept, frame.gaps, weights)


def assembled(
    kept: bytes, gaps: Iterable[tuple[int, int]], weights: Iterable[bytes | memoryview]
) -> bytes:
    """A file of its kept bytes with the weights in their gaps; see `Frame.gaps`.

    Raises:
        UpdateError: Too few or too many weights, or some of another length.
    """
    view, gaps = memoryview(kept), list(gaps)
    content, position, filled = bytearray(), 0, 0
    for values in weights:
        before, length = gaps[filled] if filled < len(gaps) else (0, 0)
        if len(values) != length or filled == len(gaps):
            raise UpdateError(
                f"tensor {filled} of {len(gaps)} has {len(values)} bytes and its gap {length}",
                hint="tensors keep their order, type and shape; export the file again",
            )
        content += view[position : position + before]
        content += values
        position, filled = position + before, filled + 1
    if filled < len(gaps):
        raise UpdateError(
            f"{filled} tensors for a file with {len(gaps)}", hint="give every tensor of the file"
        )
    content += view[position:]
    return bytes(content)


def rebuilt(
    content: bytes,
    *,
    weights: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The same graph with other weights, other metadata, or both.

    Args:
        content: An ONNX file.
        weights: Raw little-endian values by name of the initializer, each as long as before; those
            that are not named stay.
        metadata: All entries of the new file in their order; None leaves them.

    Raises:
        UpdateError: The content is not an ONNX file, has no such tensor, or one of another length.
    """
    frame, weights = split(content), weights or {}
    unknown = sorted(set(weights) - {t.name for t in frame.tensors})
    if unknown:
        raise UpdateError(
            f"the file has no weights named {unknown[0]}", hint="names are those of its graph"
        )
    view = memoryview(content)
    content = join(
        frame,
        (weights.get(t.name, view[t.offset : t.offset + t.length]) for t in frame.tensors),
    )
    return content if metadata is None else _with_metadata(content, metadata)


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Entries stand where the first one stood, or at the end of the file."""
    parts, at, before = [], None, 0
    for number, _, _, end in spans(content, 0, len(content)):
        if number != _METADATA:
            parts.append(content[before:end])
        elif at is None:
            at = len(parts)
        before = end
    at = len(parts) if at is None else at
    entries = [
        _field(_METADATA, _field(_KEY, key.encode()) + _field(_VALUE, value.encode()))
        for key, value in metadata.items()
    ]
    return b"".join([*parts[:at], *entries, *parts[at:]])


def _tensors(content: bytes) -> Iterator[Tensor]:
    for number, wire, start, end in spans(content, 0, len(content)):
        if (number, wire) == (_GRAPH, MESSAGE):
            for number, wire, first, last in spans(content, start, end):
                if (number, wire) == (_INITIALIZER, MESSAGE):
                    yield from _tensor(content, first, last)


def _tensor(content: bytes, position: int, end: int) -> Iterator[Tensor]:
    """The tensor, if it has raw content."""
    name, dtype, raw = "", None, None
    shape: list[int] = []
    for number, wire, start, stop in spans(content, position, end):
        if number == _DIMS and wire in (VARINT, MESSAGE):
            shape += islice(numbers(content, start, stop), MAX_DIMENSIONS)
            if len(shape) > MAX_DIMENSIONS:
                raise ValueError(f"tensor {name} has more than {MAX_DIMENSIONS} dimensions")
        elif (number, wire) == (_TYPE, VARINT):
            dtype = TYPES.get(next(numbers(content, start, stop)))
        elif (number, wire) == (_NAME, MESSAGE):
            name = content[start:stop].decode()
        elif (number, wire) == (_RAW, MESSAGE):
            if raw is not None:
                raise ValueError(f"tensor {name} has its content twice")
            raw = (start, stop - start)
    if raw is None:
        return
    offset, length = raw
    if dtype is None or prod(shape) * dtype.itemsize != length:
        dtype, shape = np.dtype("u1"), [length]
    yield Tensor(name, dtype, tuple(shape), offset, length)


def _field(number: int, value: bytes) -> bytes:
    """A field of a message, text or bytes, as protobuf writes it."""
    return _number(number << 3 | MESSAGE) + _number(len(value)) + value


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
