"""Small documents with their own hash, so that damage is seen before anything is believed.

The hash is over the bytes of the document as they lie in the file, so nothing is parsed that was
not written whole:

    {"sha256": "9f86d081...",
    "document": {...}}
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypeVar

import rfc8785

from edgeinc.errors import EdgeincError
from edgeinc.schema import SCHEMA_VERSION, from_json, to_dict
from edgeinc.update.disk import as_owner

T = TypeVar("T")

_BEFORE, _BETWEEN, _AFTER = b'{"sha256": "', b'",\n"document": ', b"}\n"
_HEX = 64
LIMIT_BYTES = 1 << 20
"""More than this is no such document."""


def seal(document: object) -> bytes:
    """The content of a file that holds a document."""
    body = rfc8785.dumps(to_dict(document))
    return _BEFORE + hashlib.sha256(body).hexdigest().encode() + _BETWEEN + body + _AFTER


def unseal(kind: type[T], content: bytes, *, source: str) -> T | None:
    """The document, or None when the content is damaged.

    Args:
        kind: The document expected.
        content: Of the file.
        source: The file's name, for the message.

    Raises:
        EdgeincError: It is sound and was written by a newer edgeinc.
    """
    start = len(_BEFORE) + _HEX
    body = content[start + len(_BETWEEN) : -len(_AFTER)]
    if len(content) > LIMIT_BYTES or content != b"".join(
        (_BEFORE, hashlib.sha256(body).hexdigest().encode(), _BETWEEN, body, _AFTER)
    ):
        return None
    try:
        version = json.loads(body)["schema_version"]
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise EdgeincError(
                f"{source} was written by a newer edgeinc (schema version {version}, "
                f"this one reads up to {SCHEMA_VERSION})",
                hint="pip install --upgrade edgeinc",
            )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    try:
        return from_json(kind, body, source=source)
    except EdgeincError:
        return None  # whole, and yet not of this kind: another file under this name


def read_sealed(kind: type[T], path: Path) -> T | None:
    """The document in a file, or None when there is none or it is damaged.

    Raises:
        EdgeincError: It was written by a newer edgeinc, or this user may not read it: what cannot
            be seen is not damaged, and must not be replaced by something older.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except PermissionError as err:
        raise EdgeincError(f"{path} may not be read by this user", hint=as_owner(path)) from err
    except OSError:
        return None
    return unseal(kind, content, source=str(path))
