"""Manifests and channels as signed files: canonical JSON, read strictly.

What is read is bounded in every length, and its bytes are the only ones that say the same (RFC
8785), so that the hash of a manifest names its content. Names and target paths are safe to become
file names. What a device installs also keeps the meaning of its ids: `refuse_other_classes`.

    content = write(manifest)
    bundle_id(content)                              # "5f2c..."
    read(content, "step-3.manifest.json") == manifest
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from edgeinc.errors import EdgeincError, UpdateError
from edgeinc.schema import Channel, DeviceGates, Manifest, from_json, to_dict
from edgeinc.update.roles import is_of_model

MAX_BYTES = 1 << 20
MAX_CLASSES = 255
"""Ids are one byte, and 255 is void."""
MAX_ITEMS, MAX_TEXT, MAX_NOTES, MAX_PATH = 64, 256, 10_000, 255
"""Entries of a list or table, and characters of a text, of notes and of a target path."""
MAX_FILE = 1 << 31
"""Bytes of a file; protobuf, which an artifact is, ends there."""
MAX_TRIAL_SECONDS, MAX_TRIAL_FRAMES = 7 * 86_400, 10_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
_HASH = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_HINT = "the publisher has to publish it again; what is served stays"
Document = TypeVar("Document", Manifest, Channel)


def read(content: bytes, source: str) -> Manifest:
    """Read a manifest.

    Args:
        content: Of the file.
        source: Its name, for messages.

    Raises:
        UpdateError: Too large, not canonical JSON of a manifest, or a value that cannot be right.
    """
    return _read(Manifest, content, source, _manifest_problems)


def read_channel(content: bytes, source: str) -> Channel:
    """Read a channel; see `read`.

    Raises:
        UpdateError: Too large, not canonical JSON of a channel, or a value that cannot be right.
    """
    return _read(Channel, content, source, _channel_problems)


def write(document: Manifest | Channel) -> bytes:
    """The one way to write it (RFC 8785).

    Raises:
        UpdateError: A value that `read` would refuse.
    """
    content = _canonical(to_dict(document))
    if isinstance(document, Manifest):
        read(content, "the manifest")
    else:
        read_channel(content, "the channel")
    return content


def bundle_id(content: bytes) -> str:
    """The name of a step: sha256 of its manifest, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def is_safe_target(path: str) -> bool:
    """Whether a target path can be a path in any file system and address, and leads nowhere else.

    Segments of letters, digits and `._+=-` that begin with a letter or digit, divided by `/`.
    """
    return len(path) <= MAX_PATH and all(_SEGMENT.fullmatch(part) for part in path.split("/"))


def refuse_other_classes(old: Manifest, new: Manifest) -> None:
    """Refuse a step by which the masks of callers would change their meaning.

    Args:
        old: Of the step that is served, or that the new one extends.
        new: Of the step that shall be. An older one, in a rollback, may lack classes.

    Raises:
        UpdateError: An id that both have has another name or colour, the kind of background
            differs, or a later step lacks a class.
    """
    hint = "ids, names and colours of older steps never change: publish from their run"
    if old.background != new.background:
        raise UpdateError(
            f"step {new.step} has background {new.background}, step {old.step} {old.background}",
            hint=hint,
        )
    for one, other in zip(old.classes, new.classes, strict=False):
        if (one.id, one.name, one.color) != (other.id, other.name, other.color):
            raise UpdateError(
                f"step {new.step} gives id {one.id} another meaning: "
                f"it was {one.name} {one.color} and is {other.name} {other.color}",
                hint=hint,
            )
    if new.step >= old.step and len(new.classes) < len(old.classes):
        gone = old.classes[len(new.classes)]
        raise UpdateError(f"step {new.step} lacks class {gone.id}, {gone.name}", hint=hint)


def _read(
    kind: type[Document],
    content: bytes,
    source: str,
    problems: Callable[[Document], Iterator[str]],
) -> Document:
    if len(content) > MAX_BYTES:
        raise UpdateError(
            f"{source} has {len(content)} bytes, more than the {MAX_BYTES} allowed", hint=_HINT
        )
    try:
        plain = json.loads(content)
        problem = _schema_problem(kind, plain) or next(text_problems(plain), "")
        if not problem and _canonical(plain) != content:
            problem = "it is not canonical JSON (RFC 8785)"
    except (ValueError, RecursionError) as err:
        raise UpdateError(f"{source} is not a JSON document: {err}", hint=_HINT) from err
    if problem:
        raise UpdateError(f"{source} is not a valid {kind.__name__}: {problem}", hint=_HINT)
    try:
        document = from_json(kind, content, source=source)
    except EdgeincError as err:
        raise UpdateError(err.message, hint=_HINT) from err
    problem = next(problems(document), "")
    if problem:
        raise UpdateError(f"{source} is not a valid {kind.__name__}: {problem}", hint=_HINT)
    return document


def _canonical(plain: Any) -> bytes:
    """RFC 8785.

    Raises:
        ValueError: A value that JSON cannot hold exactly.
    """
    import rfc8785

    content: bytes = rfc8785.dumps(plain)
    return content


def _schema_problem(kind: type[Document], plain: Any) -> str:
    known = kind.__dataclass_fields__["schema"].default
    said = plain.get("schema") if isinstance(plain, dict) else None
    if said == known:
        return ""
    return f"schema is {str(said)[:40]!r}, this edgeinc reads {known!r}"


def text_problems(plain: Any, place: str = "") -> Iterator[str]:
    """Lists and texts that are too long, and texts that could hide something.

    Args:
        plain: What a document is made of.
        place: Of it in the document, such as `notes`; "" for all of it.
    """
    if isinstance(plain, str):
        limit = MAX_NOTES if place == "notes" else MAX_TEXT
        if len(plain) > limit:
            yield f"{place} has {len(plain)} characters, more than {limit}"
        shown = plain.replace("\n", "") if place == "notes" else plain
        if _CONTROL.search(shown):
            yield f"{place} holds a control character: {plain[:40]!r}"
    elif isinstance(plain, dict | list):
        limit = MAX_CLASSES if place in ("classes", "metrics.per_class") else MAX_ITEMS
        if len(plain) > limit:
            yield f"{place or 'top level'} has {len(plain)} entries, more than {limit}"
        items = plain.items() if isinstance(plain, dict) else enumerate(plain)
        for key, value in items:
            if isinstance(key, str):
                yield from text_problems(key, f"a key of {place or 'top level'}")
            yield from text_problems(value, f"{place}.{key}" if place else str(key))


def _manifest_problems(m: Manifest) -> Iterator[str]:
    """What the types of the fields cannot say."""
    yield from _names(model=m.model, **{"method.name": m.method.name})
    yield from _hashes(
        **{
            "artifact.sha256": m.artifact.sha256,
            "artifact.topology_sha256": m.artifact.topology_sha256,
            "artifact.weights_sha256": m.artifact.weights_sha256,
        }
    )
    yield from _time("created", m.created)
    yield from _within("step", m.step, 0, MAX_FILE)
    yield from _within("method.exemplars", m.method.exemplars, 0, MAX_FILE)
    yield from _within("artifact.bytes", m.artifact.bytes, 1, MAX_FILE)
    yield from _within("artifact.size", min(m.artifact.size), 1, 1 << 16)
    yield from _within("artifact.size", max(m.artifact.size), 1, 1 << 16)
    name = m.artifact.file_name
    if not (_NAME.fullmatch(name) and name.endswith(".onnx")):
        yield f"artifact.file_name is {name!r}, not the plain name of an .onnx file"
    if "edgeinc" not in m.producer:
        yield "producer does not say which edgeinc"
    if m.parent is not None:
        yield from _hashes(
            **{
                "parent.bundle_id": m.parent.bundle_id,
                "parent.artifact_sha256": m.parent.artifact_sha256,
            }
        )
        yield from _within("parent.step", m.parent.step, 0, m.step - 1)
    yield from _class_problems(m)
    yield from _blob_problems(m)
    yield from _score_problems(m)
    yield from gate_problems(m.gates)
    yield from _within("requires.free_bytes", m.requires.free_bytes, 0, 1 << 50)


def gate_problems(gates: DeviceGates) -> Iterator[str]:
    """Values that no device could be held to.

    Which providers there are is not asked here: a device may have a runtime of its own.
    """
    for what, percent in (
        ("golden_percent", gates.golden_percent),
        ("max_single_class_percent", gates.max_single_class_percent),
        ("min_agreement_old_percent", gates.min_agreement_old_percent),
    ):
        yield from _within(f"gates.{what}", percent, 0, 100)
    yield from _within("gates.max_p95_ms", gates.max_p95_ms, 0, 1e6)
    yield from _within("gates.trial_seconds", gates.trial_seconds, 0, MAX_TRIAL_SECONDS)
    yield from _within("gates.trial_frames", gates.trial_frames, 0, MAX_TRIAL_FRAMES)


def _class_problems(m: Manifest) -> Iterator[str]:
    if not m.classes:
        yield "there are no classes"
    for index, one in enumerate(m.classes):
        if one.id != index:
            yield f"classes.{index} has id {one.id}; ids count from 0 in their order"
        if not one.name.strip():
            yield f"classes.{index} has no name"
        yield from _within(f"classes.{index}.color", min(one.color), 0, 255)
        yield from _within(f"classes.{index}.color", max(one.color), 0, 255)
        yield from _within(f"classes.{index}.step", one.step, 0, m.step)
    names = [c.name for c in m.classes]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        yield f"two classes are named {twice}"


def _blob_problems(m: Manifest) -> Iterator[str]:
    for index, blob in enumerate(m.blobs):
        place = f"blobs.{index}"
        yield from _hashes(**{f"{place}.sha256": blob.sha256})
        yield from _names(**{f"{place}.codec": blob.codec})
        yield from _within(f"{place}.bytes", blob.bytes, 1, MAX_FILE)
        if not (is_safe_target(blob.target) and is_of_model(blob.target, m.model)):
            yield f"{place}.target is {blob.target!r}, not a file of a release of {m.model}"
        if blob.kind == "delta":
            yield from _hashes(**{f"{place}.base_sha256": blob.base_sha256})
        elif blob.base_sha256:
            yield f"{place}.base_sha256 is set, and only a delta has a base"
    kinds = [b.kind for b in m.blobs]
    if kinds.count("full") != 1 or kinds.count("golden") > 1:
        yield f"blobs are {kinds}; there is one full, and at most one golden"
    targets = [b.target for b in m.blobs]
    bases = [b.base_sha256 for b in m.blobs if b.kind == "delta"]
    if len(set(targets)) < len(targets) or len(set(bases)) < len(bases):
        yield "two blobs have one target, or start from one artifact"


def _score_problems(m: Manifest) -> Iterator[str]:
    if m.metrics is None:
        return
    percents = {
        "miou_all": m.metrics.miou_all,
        "miou_old": m.metrics.miou_old,
        "miou_new": m.metrics.miou_new,
        **{f"per_class.{name}": value for name, value in m.metrics.per_class.items()},
    }
    for what, percent in percents.items():
        yield from _within(f"metrics.{what}", percent, 0, 100)
    yield from _within("metrics.forgetting", m.metrics.forgetting, -100, 100)
    yield from _within("metrics.images", m.metrics.images, 1, MAX_FILE)
    if m.metrics.evaluated_on != m.artifact.sha256:
        yield "metrics.evaluated_on is another file than the artifact"


def _channel_problems(c: Channel) -> Iterator[str]:
    yield from _names(fleet=c.fleet, model=c.model)
    yield from _hashes(bundle_id=c.bundle_id)
    yield from _time("updated", c.updated)
    yield from _within("step", c.step, 0, MAX_FILE)
    yield from _within("revoke_below", c.revoke_below, 0, c.step)
    yield from _within("percent", c.percent, 0, 100)
    # Below the model, where the fleet's keys cannot sign: they say who gets a step, not what it is.
    if not (is_safe_target(c.manifest) and is_of_model(c.manifest, c.model)):
        yield f"manifest is {c.manifest!r}, not a file of a release of {c.model}"


def _names(**values: str) -> Iterator[str]:
    for place, value in values.items():
        if not _NAME.fullmatch(value):
            yield f"{place} is {value[:80]!r}; a name is 1 to 64 letters, digits and ._+-"


def _hashes(**values: str) -> Iterator[str]:
    for place, value in values.items():
        if not _HASH.fullmatch(value):
            yield f"{place} is {value[:80]!r}, not a sha256 in lower case"


def _within(place: str, value: float | None, low: float, high: float) -> Iterator[str]:
    if value is not None and not low <= value <= high:
        yield f"{place} is {value}, not within {low} and {high}"


def _time(place: str, value: str) -> Iterator[str]:
    try:
        # What else is taken depends on the version of Python.
        right = datetime.fromisoformat(value).isoformat(timespec="seconds") == value
    except ValueError:
        right = False
    if not (right and value.endswith("+00:00")):
        yield f"{place} is {value[:80]!r}, not a time in UTC such as 2026-01-31T12:00:00+00:00"
