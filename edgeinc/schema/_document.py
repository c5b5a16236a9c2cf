"""What makes a class a document: frozen, strict when it is read, plain JSON when it is written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

from typing_extensions import dataclass_transform

from edgeinc.errors import EdgeincError

SCHEMA_VERSION = 1
VOID = 255
"""The label without loss and without metric, in every mask edgeinc reads, trains on or writes."""

IMPORT = "import"
"""The method of a step 0 that was made from published weights, see `StepInfo.method`."""

Background = Literal["none", "real", "virtual"]
Color = tuple[int, int, int]
Size = tuple[int, int]
T = TypeVar("T")


class Normalisation(NamedTuple):
    """What is subtracted from an image and what it is divided by, per RGB channel, for 0 to 255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""The statistics of ImageNet: what edgeinc trains with."""


@dataclass_transform(frozen_default=True)
def document(kind: type[T]) -> type[T]:
    """Make a class a frozen dataclass that refuses unknown keys and numbers that are not finite."""
    kind.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return dataclass(frozen=True)(kind)


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_dict(document: Any) -> dict[str, Any]:
    """The document as plain dictionaries, lists and scalars.

    Raises:
        TypeError: `document` is not one of this module's dataclasses.
    """
    if not is_dataclass(document) or isinstance(document, type):
        raise TypeError(f"{type(document).__name__} is not a document of edgeinc.schema")
    return asdict(document)


def to_json(document: Any) -> str:
    """The document as indented JSON with a final newline; NaN is refused."""
    return json.dumps(to_dict(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def from_json(kind: type[T], text: str | bytes, *, source: str) -> T:
    """Read a document strictly.

    Args:
        kind: The dataclass expected.
        text: JSON text.
        source: File the text came from, named in the error.

    Raises:
        EdgeincError: Not JSON, written by a newer edgeinc, or not of this shape; the message
            names the file and the place.
    """
    from pydantic import ValidationError

    try:
        version = json.loads(text).get("schema_version", SCHEMA_VERSION)
    except (ValueError, AttributeError) as err:
        raise EdgeincError(
            f"{source} is not a JSON document: {err}", hint="restore the file from a copy"
        ) from err
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise EdgeincError(
            f"{source} has schema version {version}, this edgeinc reads up to {SCHEMA_VERSION}",
            hint="pip install --upgrade edgeinc",
        )
    adapter: Any = _adapter(kind)  # type: ignore[arg-type]  # classes are hashable
    try:
        document: T = adapter.validate_json(text, strict=True)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        raise EdgeincError(
            f"{source} is not a valid {kind.__name__}: {place}: {first['msg']}",
            hint="the file was edited or damaged; restore it from a copy",
        ) from err
    return document
