"""What makes the bytes of a new artifact from those of one that a device holds: codec `ezd1`.

Every tensor has a plan. `same`: the older file's bytes. `exact`: its own. `difference`, of integers
of one byte: what has to be added, modulo 256. `scaled`, of matrices and filters of floating point:
one integer a value and one scale for each index of the first axis, `new = old + integer * scale`
in float32, multiplied and added apart, then rounded to the tensor's type: the same bytes on every
machine. Vectors stay exact: they are few, and each of their values acts on a whole channel. What
lies around the tensors, the frame, is packed against the older file's.

A blob, little-endian: `_HEADER` (magic, sha256 of the older and of the new file, length of the new
file and of its frame, number of tensors, lengths of the next four parts), the plan, the frame,
scales (the upper halves of float32), exact bytes, and the integers of every tensor, each of these
a zstd frame. Integers take a byte each before they are packed: that packs smaller than bits do.

    blob, content = encode(old, new, bits=6, keep=head_weights(new))
    decode(old, blob, expected_sha256=sha256(content), limit_bytes=len(content)) == content
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinc.errors import UpdateError, UsageError
from edgeinc.update._frame import Frame, Tensor, assembled, join, split
from edgeinc.update._zstd import compress, decompress

BITS = (8, 6, 4)
EXACT_ONLY = 0
LEVEL = 19
MAX_TENSORS = 1 << 16
_MAGIC = b"EZD1"
_HEADER = struct.Struct("<4s32s32sQQ5I")
_SAME, _EXACT, _DIFFERENCE, _SCALED = range(4)
_PLAN = (
    *(("kind", "u1"), ("width", "u1"), ("before", "<u4")),
    *(("length", "<u4"), ("source", "<u4"), ("packed", "<u4")),
)
"""Columns of the plan: how, bytes of a value, kept bytes since the tensor before, bytes of the
tensor, its number in the older file, packed bytes of its integers."""
_ROW = sum(np.dtype(kind).itemsize for _, kind in _PLAN)
_LEAST, _MOST = np.float32(2.0**-100), np.float32(2.0**100)
"""A scale is zero or between: sums then never become subnormal, which some processes round off."""
_HINT = "take the full file instead"
Finish = Callable[[bytes], bytes]
Plan = dict[str, npt.NDArray[Any]]


def codec(bits: int) -> str:
    """Name of the codec in a manifest: `ezd1-int6`, `ezd1-exact`."""
    return f"ezd1-int{bits}" if bits else "ezd1-exact"


def encode(
    old: bytes,
    new: bytes,
    *,
    bits: int,
    keep: Collection[str] = (),
    finish: Finish | None = None,
) -> tuple[bytes, bytes]:
    """Make a delta, and the file that it leads to, which is what has to be published.

    Args:
        old: The artifact that devices hold.
        new: What was exported.
        bits: 8, 6 or 4 of the integers of scaled tensors; 0 keeps every tensor exact.
        keep: Names of tensors that stay exact.
        finish: Is given the file with the reconstructed tensors and returns it with what depends
            on them in its metadata; see `_frame.rebuilt`. None: nothing does.

    Returns:
        (blob, the new file as it will be on the device)

    Raises:
        UsageError: A number of bits that there is not.
        UpdateError: One of both is not an ONNX file, or `finish` changed a tensor.
    """
    if bits not in (*BITS, EXACT_ONLY):
        raise UsageError(f"a delta cannot have {bits} bits", hint="8, 6, 4, or 0 for exact")
    before, after = split(old), split(new)
    sources = {t.name: number for number, t in enumerate(before.tensors)}
    coded = []
    for tensor in after.tensors:
        number = sources.get(tensor.name)
        source = None if number is None else before.tensors[number]
        steps = 0 if tensor.name in keep else bits
        coded.append((_coded(_bytes(new, tensor), tensor, old, source, steps), number or 0))
    content = join(after, (one.result for one, _ in coded))
    if finish is not None:
        content = finish(content)
        after = split(content)
        if [_bytes(content, t) for t in after.tensors] != [one.result for one, _ in coded]:
            raise UpdateError(
                "the finished file has other weights than the reconstruction",
                hint="change nothing but its metadata",
            )
    plan = _plan(after, [one.kind for one, _ in coded], [n for _, n in coded])
    plan["packed"][:] = [len(one.integers) for one, _ in coded]
    scales = b"".join(one.scales for one, _ in coded)
    parts = (
        compress(_flat(plan), LEVEL, prefix=_flat(_plan_of_same(before))),
        compress(after.kept, LEVEL, prefix=before.kept),
        compress(_planes(np.frombuffer(scales, "<u2")), LEVEL),
        compress(b"".join(one.exact for one, _ in coded), LEVEL),
    )
    header = _HEADER.pack(
        _MAGIC,
        hashlib.sha256(old).digest(),
        hashlib.sha256(content).digest(),
        len(content),
        len(after.kept),
        len(coded),
        *map(len, parts),
    )
    return b"".join([header, *parts, *(one.integers for one, _ in coded)]), content


def decode(old: bytes, blob: bytes, *, expected_sha256: str, limit_bytes: int) -> bytes:
    """The new file. What a blob says of lengths is checked before anything is made of it.

    Args:
        old: The artifact that the delta starts from.
        blob: What `encode` made.
        expected_sha256: Hash of the new file, from a signed manifest.
        limit_bytes: Its length, from there too.

    Raises:
        UpdateError: The blob is damaged, starts from another file, or leads to another one.
    """
    head, parts, values = _taken_apart(blob)
    _, base, result, length, kept_length, count, *_ = head
    if hashlib.sha256(old).digest() != base:
        raise UpdateError(f"the delta starts from another file, {base.hex()[:12]}", hint=_HINT)
    if result.hex() != expected_sha256:
        raise UpdateError(
            f"the delta leads to {result.hex()[:12]} and not to {expected_sha256[:12]}", hint=_HINT
        )
    if length > limit_bytes or kept_length > length or count > min(MAX_TENSORS, kept_length):
        raise _damaged(f"it leads to {length} bytes with {count} tensors")
    before = split(old)
    prefix = _flat(_plan_of_same(before))
    plan = _columns(decompress(parts[0], limit=count * _ROW, prefix=prefix), count)
    _check(plan, before, length, kept_length, len(values))
    kept = decompress(parts[1], limit=kept_length, prefix=before.kept)
    if len(kept) != kept_length:
        raise _damaged("its frame is too short")
    sources = [before.tensors[n] for n in plan["source"][plan["kind"] == _SCALED]]
    channels = sum(t.shape[0] for t in sources)
    exact_length = int(plan["length"][plan["kind"] == _EXACT].sum(dtype=np.int64))
    scales = _scales(decompress(parts[2], limit=2 * channels), channels)
    exact = decompress(parts[3], limit=exact_length)
    if len(exact) != exact_length:
        raise _damaged("its exact tensors are too short")
    gaps = list(zip(plan["before"].tolist(), plan["length"].tolist(), strict=True))
    content = assembled(kept, gaps, _tensors(plan, old, before, scales, exact, values))
    if hashlib.sha256(content).hexdigest() != expected_sha256:
        raise _damaged("it does not lead to the file that it names")
    return content


# ------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class _Coded:
    """A tensor as it is transferred, and what it will be."""

    kind: int
    result: bytes
    exact: bytes = b""
    scales: bytes = b""
    integers: bytes = b""


def _coded(values: bytes, tensor: Tensor, old: bytes, source: Tensor | None, bits: int) -> _Coded:
    alone = np.frombuffer(values, tensor.dtype)
    exact = _Coded(_EXACT, values, _planes(alone))
    if source is None or (source.dtype, source.shape) != (tensor.dtype, tensor.shape):
        return exact
    base = _bytes(old, source)
    if base == values:
        return _Coded(_SAME, values)
    if tensor.dtype.itemsize == 1:
        change = alone.view("u1") - np.frombuffer(base, "u1")
        packed = compress(change.tobytes(), LEVEL)
        smaller = len(packed) < len(compress(values, LEVEL))
        return _Coded(_DIFFERENCE, values, integers=packed) if smaller else exact
    if bits and _is_scaled(tensor):
        return _quantised(alone, base, tensor, bits) or exact
    return exact


def _is_scaled(tensor: Tensor) -> bool:
    """Whether it is floating point with several values for each index of its first axis."""
    rows = tensor.shape[0] if tensor.shape else 0
    return tensor.dtype.str in ("<f4", "<f2") and 0 < 2 * rows * tensor.dtype.itemsize <= (
        tensor.length
    )


def _quantised(new: npt.NDArray[Any], base: bytes, tensor: Tensor, bits: int) -> _Coded | None:
    """None where values are not finite, or too far away."""
    rows, most = tensor.shape[0], 2 ** (bits - 1) - 1
    with np.errstate(over="ignore", invalid="ignore"):
        change = new.astype("f4") - np.frombuffer(base, tensor.dtype).astype("f4")
        change = change.reshape(rows, -1)
        wanted = np.abs(change).max(axis=1) / np.float32(most)
    if not (np.isfinite(new).all() and (wanted <= _MOST / 2).all()):
        return None
    wanted = np.where(wanted < _LEAST, np.float32(0), wanted).astype("<f4")
    # Rounded up, so that the farthest value is still within the integers.
    scales = ((wanted.view("<u4") + np.uint32(0xFFFF)) >> 16).astype("<u2")
    divisor = _floats(scales)[:, None]
    steps = np.divide(change, divisor, out=np.zeros_like(change), where=divisor > 0)
    integers = _rounded(steps).astype("i1")
    result = _moved(base, tensor, integers.reshape(-1), _floats(scales))
    if not np.isfinite(np.frombuffer(result, tensor.dtype)).all():
        return None
    packed = compress(integers.tobytes(), LEVEL)
    return _Coded(_SCALED, result, scales=scales.tobytes(), integers=packed)


def _rounded(steps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Integers whose sum in each row is that of the row, as nearly as it can be.

    What goes into a layer is mostly not negative, so errors that do not cancel in a row shift all
    of its answers. As many values as that takes are rounded to the other side: those nearest to
    the middle. After Guo et al., SQuant (ICLR 2022), of which this is one of three parts.
    """
    integers = np.rint(steps)
    errors = integers - steps
    surplus = np.rint(errors.sum(axis=1, keepdims=True))
    side = np.sign(surplus)
    ranks = np.argsort(np.argsort(-side * errors, axis=1, kind="stable"), axis=1, kind="stable")
    rounded: npt.NDArray[Any] = integers - side * (ranks < np.abs(surplus))
    return rounded


def _plan(frame: Frame, kinds: list[int], sources: list[int]) -> Plan:
    gaps = frame.gaps
    widths = [t.dtype.itemsize for t in frame.tensors]
    columns = (kinds, widths, *([g[i] for g in gaps] for i in (0, 1)), sources, [0] * len(gaps))
    return {name: np.array(c, kind) for (name, kind), c in zip(_PLAN, columns, strict=True)}


def _plan_of_same(frame: Frame) -> Plan:
    """What both sides know: the plan that would give the older file."""
    count = len(frame.tensors)
    return _plan(frame, [_SAME] * count, list(range(count)))


def _flat(plan: Plan) -> bytes:
    return b"".join(plan[name].tobytes() for name, _ in _PLAN)


def _planes(values: npt.NDArray[Any]) -> bytes:
    """First bytes of all values, then second ones: alike stands beside alike, and packs better."""
    return values.view("u1").reshape(-1, values.dtype.itemsize).T.tobytes()


# ------------------------------------------------------------------------------------- decoding


def _taken_apart(blob: bytes) -> tuple[tuple[Any, ...], list[memoryview], memoryview]:
    """Header, the four parts, and the integers of all tensors."""
    if len(blob) < _HEADER.size or not blob.startswith(_MAGIC):
        raise _damaged("it does not begin like one that this edgeinc reads")
    head = _HEADER.unpack_from(blob)
    view, parts, position = memoryview(blob), [], _HEADER.size
    for size in head[-4:]:
        parts.append(view[position : position + size])
        position += size
    if position > len(blob):
        raise _damaged("it ends too early")
    return head, parts, view[position:]


def _columns(content: bytes, count: int) -> Plan:
    if len(content) != count * _ROW:
        raise _damaged("its plan is too short")
    plan, position = {}, 0
    for name, kind in _PLAN:
        plan[name] = np.frombuffer(content, kind, count, position)
        position += plan[name].nbytes
    return plan


def _check(plan: Plan, before: Frame, length: int, kept: int, packed: int) -> None:
    """Lengths that do not fit together, and tensors that the older file does not have so."""
    total = {name: int(plan[name].sum(dtype=np.int64)) for name in ("before", "length", "packed")}
    if total["before"] > kept or total["length"] + kept != length or total["packed"] != packed:
        raise _damaged("its lengths do not fit together")
    for kind, width, _, size, number, _ in _rows(plan):
        if kind == _EXACT:
            if width not in (1, 2, 4, 8) or size % width:
                raise _damaged(f"a tensor has values of {width} bytes")
            continue
        if kind > _SCALED or number >= len(before.tensors):
            raise _damaged(f"its plan has kind {kind} from tensor {number}")
        source = before.tensors[number]
        fits = {
            _SAME: True,
            _DIFFERENCE: source.dtype.itemsize == 1,
            _SCALED: _is_scaled(source),
        }[kind]
        if source.length != size or not fits:
            raise _damaged(f"tensor {source.name} is another one in the older file")


def _rows(plan: Plan) -> Iterator[tuple[int, ...]]:
    """The plan of one tensor after the other."""
    return zip(*(plan[name].tolist() for name, _ in _PLAN), strict=True)


def _scales(content: bytes, count: int) -> npt.NDArray[Any]:
    if len(content) != 2 * count:
        raise _damaged("its scales are too few")
    planes = np.frombuffer(content, "u1").reshape(2, count)
    scales = _floats(np.frombuffer(planes.T.tobytes(), "<u2"))
    if not ((scales == 0) | ((scales >= _LEAST) & (scales <= _MOST))).all():
        raise _damaged("a scale is out of range")
    return scales


def _tensors(
    plan: Plan,
    old: bytes,
    before: Frame,
    scales: npt.NDArray[Any],
    exact: bytes,
    values: memoryview,
) -> Iterator[bytes]:
    """The bytes of every tensor, one after the other."""
    at_scale = at_exact = at_value = 0
    for kind, width, _, length, number, packed in _rows(plan):
        stream = values[at_value : at_value + packed]
        at_value += packed
        if kind == _EXACT:
            planes = np.frombuffer(exact, "u1", length, at_exact).reshape(width, -1)
            yield planes.T.tobytes()
            at_exact += length
            continue
        source = before.tensors[number]
        if kind == _SAME:
            yield _bytes(old, source)
            continue
        count = length // source.dtype.itemsize
        integers = np.frombuffer(decompress(stream, limit=count), "i1")
        if len(integers) != count:
            raise _damaged(f"it has too few values of {source.name}")
        if kind == _DIFFERENCE:
            base = np.frombuffer(_bytes(old, source), "u1")
            yield (base + integers.view("u1")).tobytes()
        else:
            rows = source.shape[0]
            yield _moved(_bytes(old, source), source, integers, scales[at_scale : at_scale + rows])
            at_scale += rows


# ----------------------------------------------------------------------------- what both sides do


def _moved(
    base: bytes, tensor: Tensor, integers: npt.NDArray[Any], scales: npt.NDArray[Any]
) -> bytes:
    """`base + integers * scales`, as bytes of the tensor's type; what does not move stays as is.

    Multiplied and added in two calls: in one expression of another language or library the two
    could become one operation with one rounding, and other bytes.
    """
    old = np.frombuffer(base, tensor.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        new = integers.reshape(len(scales), -1).astype("f4")
        np.multiply(new, scales[:, None], out=new)
        np.add(new, old.astype("f4").reshape(new.shape), out=new)
        rounded = new.reshape(-1).astype(tensor.dtype)
    return np.where(integers == 0, old, rounded).astype(tensor.dtype).tobytes()


def _floats(halves: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """float32 of their upper halves."""
    return (halves.astype("u4") << 16).view("f4")


def _bytes(content: bytes, tensor: Tensor) -> bytes:
    return content[tensor.offset : tensor.offset + tensor.length]


def _damaged(what: str) -> UpdateError:
    return UpdateError(f"the delta is damaged: {what}", hint=_HINT)
