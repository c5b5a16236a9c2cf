"""Which files of a repository no device can ask for any more."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from tuf.api.metadata import Metadata, Targets

from edgeinc.update._tree import Published, Tree
from edgeinc.update.roles import LIFETIME_DAYS


def garbage(tree: Tree, published: Published, now: datetime) -> list[Path]:
    """Files that no metadata in force names, and that are older than any of it can be.

    Metadata is in force while it is current or has not expired. Roots always stay: a device that
    was off for years walks through all of them.
    """
    keep = {tree.metadata / "timestamp.json", *tree.metadata.glob("*.root.json")}
    current = {tree.metadata / f"{published.snapshot.signed.version}.snapshot.json"} | {
        tree.metadata / f"{metadata.signed.version}.{name}.json"
        for name, metadata in published.roles.items()
    }
    for file in set(tree.metadata.glob("*.json")) - keep:
        signed = Metadata.from_file(str(file)).signed
        if file in current or signed.expires > now:
            keep.add(file)
            if isinstance(signed, Targets):
                keep.update(tree.target_file(target) for target in signed.targets.values())
    oldest = (now - timedelta(days=max(LIFETIME_DAYS.values()))).timestamp()
    return [
        file
        for folder in (tree.metadata, tree.targets)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file not in keep and file.stat().st_mtime < oldest
    ]
