"""Which files of a repository no device can ask for any more."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets

from edgeinc.update._tree import Published, Tree, role_in
from edgeinc.update.roles import LIFETIME_DAYS

_TARGET = re.compile(r"[0-9a-f]{64}\..+")
_UNFINISHED = re.compile(r"\.(.+)\.[a-z0-9_]{8}")
"""What a publisher that was killed left of a file."""


def garbage(tree: Tree, published: Published, now: datetime) -> list[Path]:
    """Files that no metadata in force names, and that are older than any of it can be.

    Metadata is in force while it is current or has not expired. Roots always stay: a device that
    was off for years walks through all of them. So does everything whose name is not one that
    edgeinc gives: it is somebody else's.
    """
    keep = {tree.metadata / "timestamp.json"}
    current = {tree.metadata / f"{published.snapshot.signed.version}.snapshot.json"} | {
        tree.metadata / f"{metadata.signed.version}.{name}.json"
        for name, metadata in published.roles.items()
    }
    for file in tree.metadata.glob("*.json"):
        found = role_in(file.name)
        if found is None or found[1] == "root" or not file.is_file():
            keep.add(file)
            continue
        signed = _read(file)
        if file in current or (signed is not None and signed.expires > now):
            keep.add(file)
            if isinstance(signed, Targets):
                keep.update(tree.target_file(target) for target in signed.targets.values())
    oldest = (now - timedelta(days=max(LIFETIME_DAYS.values()))).timestamp()
    return [
        file
        for folder in (tree.metadata, tree.targets)
        for file in sorted(folder.rglob("*"))
        if file not in keep
        and _is_ours(file.name)
        and file.is_file()
        and file.stat().st_mtime < oldest
    ]


def _is_ours(name: str) -> bool:
    left = _UNFINISHED.fullmatch(name)
    name = left[1] if left else name
    ours = name == "timestamp.json" or role_in(name) is not None
    return ours or _TARGET.fullmatch(name) is not None


def _read(file: Path) -> Any:
    """What is signed in old metadata; None where it is damaged, so that no device takes it."""
    try:
        return Metadata.from_file(str(file)).signed
    except RepositoryError:
        return None
