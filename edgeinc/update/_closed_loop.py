"""One file that full download and every delta lead to, fixed before anything is said about it.

A lossy delta leads to other weights than those that were exported. So the file is fixed once: as
what the delta from the newest published step leads to. Everything that depends on the weights is
written into it anew, it is scored, and it is what a full download brings. Devices that hold an
older step get a delta that is exact relative to that file, where it is small; deltas are never
chained. The integers have as few bits as lose no more than the gate; where that is none, or the
delta saves little, the file stays as it was exported.

    fixed = close(candidate, [Base(0, content)], judge, bits=6, max_loss=0.1)
    fixed.content                    # what devices will serve
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from edgeinc.errors import UpdateError
from edgeinc.progress import SILENT, Progress
from edgeinc.runtimes import _golden
from edgeinc.runtimes._head import HEAD_BIAS, HEAD_WEIGHT
from edgeinc.runtimes._onnx_file import head_weights, metadata
from edgeinc.runtimes._topology import body_sha256
from edgeinc.runtimes._update import Candidate
from edgeinc.schema import Attempt
from edgeinc.update._evidence import Judge, opened
from edgeinc.update._frame import rebuilt, split
from edgeinc.update._zstd import compress, decompress
from edgeinc.update.delta import BITS, EXACT_ONLY, LEVEL, codec, decode, encode

BASES = 3
"""How many of the newest published steps a delta may start from."""
LARGEST = 0.7
"""A delta that is larger than this share of the full file is not offered: it saves too little."""
MAX_LOSS = 0.1
"""Points of mIoU that a delta may cost, unless told."""
EXPORTED = "exported"
"""Entry of a published file's metadata: the beginnings of the hashes of its weights as they were
exported, in the order of the file."""
_DIGEST = 8


@dataclass(frozen=True)
class Base:
    """An artifact that devices hold, and the step it was published as."""

    step: int
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Delta:
    """A blob that leads from a base to the fixed file."""

    base: Base
    codec: str
    blob: bytes


@dataclass(frozen=True)
class Fixed:
    """The file that is published. `full`: it, packed; `deltas`: ways to it from older ones."""

    content: bytes
    full: bytes
    deltas: tuple[Delta, ...]
    attempts: tuple[Attempt, ...]


def close(
    candidate: Candidate,
    bases: Sequence[Base],
    judge: Judge | None,
    *,
    bits: int = 6,
    max_loss: float = MAX_LOSS,
    progress: Progress = SILENT,
) -> Fixed:
    """Fix the file of a step.

    Args:
        candidate: What was exported.
        bases: What devices may hold, the newest first; none for a first step.
        judge: Scores what deltas lead to; None allows only deltas that change nothing.
        bits: Of the integers that are tried first, 8, 6 or 4; more follow. 0 changes nothing.
        max_loss: Points of mIoU that a delta may cost.
        progress: Told about every file that is coded.

    Returns:
        The file, and its ways. Each was unpacked again and led to the file.

    Raises:
        UpdateError: A way leads to another file, which is a fault of this code or this machine.
        EdgeincError: A file cannot be loaded or scored.
    """
    new = candidate.content
    with progress.task("pack and code", None, "file") as task:
        full = compress(new, LEVEL)
        task.advance(note="full")
        attempts: list[Attempt] = []
        content = new
        stayed = with_held(new, bases[0].content) if bases else new
        for width in _ladder(bits, judge) if bases else []:
            blob, made = encode(
                bases[0].content,
                new if width == EXACT_ONLY else stayed,
                bits=width,
                keep=head_weights(new),
                finish=None if width == EXACT_ONLY else lambda c: described(c, candidate),
            )
            task.advance(note=codec(width))
            attempt = _attempt(width, blob, full, made, judge, max_loss)
            attempts.append(attempt)
            if not attempt.why_not:
                content = made
                break
            if len(blob) > LARGEST * len(full):
                break  # more bits only make it larger
        if content != new:
            full = compress(content, LEVEL)
        deltas = []
        if attempts and not attempts[-1].why_not:
            deltas.append(Delta(bases[0], attempts[-1].codec, blob))
        for base in bases[1:]:
            blob, _ = encode(base.content, content, bits=EXACT_ONLY)
            task.advance(note=f"from step {base.step}")
            if len(blob) <= LARGEST * len(full):
                deltas.append(Delta(base, codec(EXACT_ONLY), blob))
    fixed = Fixed(content, full, tuple(deltas), tuple(attempts))
    _verify(fixed)
    return fixed


def described(content: bytes, candidate: Candidate) -> bytes:
    """A file whose weights were changed, with what its metadata says of them made right again.

    That is the hashes of the weights and of the body, and the golden answer. What the weights were
    when they were exported is added; see `with_held`.
    """
    import onnx

    body = body_sha256(onnx.load_model_from_string(content))
    entries = {k: v for k, v in metadata(content).items() if k != _golden.GOLDEN}
    rows = "".join(entries.get(name, "") for name in (HEAD_WEIGHT, HEAD_BIAS))
    entries["body_sha256"] = body
    digests = _digests(candidate.content)
    entries[EXPORTED] = base64.b64encode(b"".join(digests.values())).decode()
    entries["weights_sha256"] = hashlib.sha256((body + rows).encode()).hexdigest()
    content = rebuilt(content, metadata=entries)
    with opened(content, candidate.card) as session:
        entries |= _golden.ask(session.run, session.size)
    return rebuilt(content, metadata=entries)


def with_held(new: bytes, held: bytes) -> bytes:
    """An exported file with the held weights where both were made from the same exported ones."""
    old, exported = split(held), _digests(new)
    entry = base64.b64decode(metadata(held).get(EXPORTED, ""))
    said = [entry[i : i + _DIGEST] for i in range(0, len(entry), _DIGEST)]
    if len(said) != len(old.tensors):  # published as it was exported: nothing differs
        return new
    same = {
        t.name: held[t.offset : t.offset + t.length]
        for t, digest in zip(old.tensors, said, strict=True)
        if exported.get(t.name) == digest
    }
    return rebuilt(new, weights=same)


def _digests(content: bytes) -> dict[str, bytes]:
    """The beginning of the hash of every tensor, by name."""
    return {
        t.name: hashlib.sha256(content[t.offset : t.offset + t.length]).digest()[:_DIGEST]
        for t in split(content).tensors
    }


def _ladder(bits: int, judge: Judge | None) -> list[int]:
    if judge is None or bits == EXACT_ONLY:
        return [EXACT_ONLY]
    return [*sorted(b for b in BITS if b >= bits), EXACT_ONLY]


def _attempt(
    width: int, blob: bytes, full: bytes, made: bytes, judge: Judge | None, max_loss: float
) -> Attempt:
    percent = 100 * len(blob) / len(full)
    if percent > 100 * LARGEST:
        why = f"more than {100 * LARGEST:.0f} % of the full file"
        return Attempt(codec(width), len(blob), percent, None, None, why)
    if judge is None:
        return Attempt(codec(width), len(blob), percent, None, None, "")
    miou, exact = judge.score(made).miou.all, judge.exported.miou.all
    loss = None if miou is None or exact is None else exact - miou
    why = ""
    if loss is None or loss > max_loss:
        why = "it was not scored" if loss is None else f"the gate is {max_loss:g} points"
    return Attempt(codec(width), len(blob), percent, miou, loss, why)


def _verify(fixed: Fixed) -> None:
    digest, length = hashlib.sha256(fixed.content).hexdigest(), len(fixed.content)
    ways = [decompress(fixed.full, limit=length)]
    for way in fixed.deltas:
        ways.append(decode(way.base.content, way.blob, expected_sha256=digest, limit_bytes=length))
    if any(way != fixed.content for way in ways):
        raise UpdateError(
            "a download would not lead to the file that was scored",
            hint="publish with --bits 0, and report it",
        )
