"""The card of an exported file: what is in it, and the hash that proves it is that file.

The card lies beside the file (`NAME.json`); what belongs to the network is also inside the file
as metadata, so that a file that was copied without its card still describes itself.

    card = read_card(Path("runs/a/export/step-0.fp32.onnx"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgeinc.errors import EdgeincError
from edgeinc.runs import sha256
from edgeinc.runtimes._onnx_file import metadata
from edgeinc.schema import ArtifactCard, from_json, to_dict

BESIDE = ("file", "sha256", "bytes", "created", "versions", "parity", "recipe", "schema_version")
"""Fields that only the card beside the file has: the file itself, or its making, tells them."""

IMAGES, CLASSES, LOGITS = "images", "classes", "logits"
"""Names of a graph's inputs and outputs, beside those of `_head`."""

_JSON = (
    *("step", "classes", "size", "mean", "std", "opset", "head_shape", "batch"),
    *("excluded", "calibration"),
)
"""Fields that are JSON in the metadata; the others are text as it is."""


def card_path(path: Path) -> Path:
    """Where the card of an exported file lies."""
    return path.with_suffix(".json")


def to_metadata(card: ArtifactCard) -> dict[str, str]:
    """What a file says about itself.

    `palette` repeats the colours of the classes in id order, for readers that want only those.
    """
    content = {k: v for k, v in to_dict(card).items() if k not in BESIDE}
    return {
        **{k: json.dumps(v) if k in _JSON else v for k, v in content.items()},
        "palette": json.dumps([c.color for c in card.classes]),
        "edgeinc": card.versions["edgeinc"],
    }


def from_metadata(path: Path, entries: Mapping[str, str], digest: str = "") -> ArtifactCard:
    """The card as far as the file itself tells; `created` is "" and there is no parity.

    Args:
        path: The file.
        entries: Of its metadata.
        digest: Its hash, where that is known already.

    Raises:
        EdgeincError: The file was not made by edgeinc, or its metadata is damaged.
    """
    if "edgeinc" not in entries:
        raise EdgeincError(
            f"{path} was not exported by edgeinc: it carries no class table",
            hint="make one with `edgeinc export RUN`",
        )
    content: dict[str, Any] = {
        "file": path.name,
        "sha256": digest or sha256(path),
        "bytes": path.stat().st_size,
        "created": "",
        "versions": {"edgeinc": entries["edgeinc"]},
    }
    for field in fields(ArtifactCard):
        if field.name in BESIDE or field.name not in entries:
            continue
        text = entries[field.name]
        try:
            content[field.name] = json.loads(text) if field.name in _JSON else text
        except ValueError as err:
            raise EdgeincError(
                f"the metadata of {path} is damaged: {field.name} is {text[:40]!r}",
                hint="restore the file from a copy, or export it again",
            ) from err
    return from_json(ArtifactCard, json.dumps(content), source=str(path))


def read_card(path: Path) -> ArtifactCard:
    """The card beside an exported file, or, where that is gone, what the file itself tells.

    The hash in the card is not compared here; `verified` does that when a file is opened.

    Raises:
        EdgeincError: The card is damaged, or there is none and the file is not one of ours.
    """
    card = card_path(path)
    if card.exists():
        return from_json(ArtifactCard, card.read_bytes(), source=str(card))
    return from_metadata(path, metadata(path.read_bytes(), str(path)))


def verified(path: Path, card: ArtifactCard, digest: str = "") -> ArtifactCard:
    """The same card, once the file is known to be the one it describes.

    Args:
        path: The file.
        card: What lies beside it.
        digest: The file's hash, where that is known already.

    Raises:
        EdgeincError: The file was changed after its card was written.
    """
    found = digest or sha256(path)
    if found != card.sha256:
        raise EdgeincError(
            f"{path} is not the file its card describes: sha256 {found[:12]}, "
            f"recorded {card.sha256[:12]}",
            hint="restore the file from a copy, or export it again",
        )
    return card
