"""The files of a repository: a static tree that any web server can offer.

    repo/
      metadata/  N.root.json  N.snapshot.json  N.targets.json  N.model-NAME.json ...  timestamp.json
      targets/   models/NAME/step-0003/SHA256.manifest.json  channels/FLEET/SHA256.stable.json ...
      pending/   root.json, only while a new root waits for signatures

Rules: `timestamp.json` is the one file that changes; it names a snapshot, which names the version
of everything else, so what it does not name does not exist. Every file is replaced atomically.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from filelock import FileLock, Timeout
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from edgeinc.errors import EdgeincError, UsageError
from edgeinc.runs import write_atomic
from edgeinc.update._undo import taken_back
from edgeinc.update.roles import kind_of

T = TypeVar("T", Root, Snapshot, Targets, Timestamp)
_LOCK = ".lock"
_METADATA = re.compile(r"([1-9][0-9]{0,9})\.([A-Za-z0-9_-]+)\.json")
_RESTORE = "restore the repository from a copy"


@dataclass
class Published:
    """What a repository says at one moment; `roles`: `targets` and every delegated role."""

    root: Metadata[Root]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    roles: dict[str, Metadata[Targets]]

    def delegator(self, role: str) -> tuple[str, Root | Targets]:
        """The role that names a role's keys, and its metadata.

        Raises:
            UsageError: No role delegates to it.
        """
        if role in self.root.signed.roles:
            return "root", self.root.signed
        for name, metadata in self.roles.items():
            delegations = metadata.signed.delegations
            if delegations is not None and role in (delegations.roles or {}):
                return name, metadata.signed
        raise UsageError(
            f"there is no role {role}", hint=f"roles: {', '.join(['root', *self.roles])}"
        )

    def parent(self, role: str, model: str) -> str:
        """The role that names the keys of a delegated one, which may be new.

        Args:
            role: model-NAME, channel-FLEET or site-NAME.
            model: The model of a site that is new, else "".

        Raises:
            UsageError: No such model, or it is not the role's.
        """
        if model and kind_of(role) != "site":
            raise UsageError(
                f"{role} lies below no model", hint="leave out --model: sites have one"
            )
        wanted = f"model-{model}" if model else "targets"
        if role in self.roles:
            held = self.delegator(role)[0]
            if model and held != wanted:
                raise UsageError(f"{role} belongs to {held}", hint="name the site differently")
            return held
        if wanted not in self.roles:
            raise UsageError(f"there is no model {model}", hint="see `edgeinc repo ls`")
        return wanted

    def versions(self) -> dict[str, int]:
        """Of `roles`."""
        return {name: metadata.signed.version for name, metadata in self.roles.items()}

    def refuse_changed(self, role: str, seen: Mapping[str, int] | None) -> None:
        """Refuse to sign what was decided on `seen` versions; None decided nothing.

        Raises:
            EdgeincError: Another publisher signed as this role since.
        """
        now = self.versions().get(role)
        if seen is None or now is None or now == seen.get(role):
            return
        raise EdgeincError(
            f"somebody else signed as {role} meanwhile: version {now} is there, "
            f"{seen.get(role, 0)} was looked at",
            hint="repeat the command: it looks again at what is there; nothing was changed",
        )


class Tree:
    """A repository's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self.pending = folder / "pending" / "root.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the repository for writing.

        Raises:
            EdgeincError: Another process holds it.
        """
        try:
            with FileLock(self.folder / _LOCK, timeout=0):
                yield
        except Timeout as err:
            raise EdgeincError(
                f"{self.folder} is being changed by another process", hint="repeat when it ended"
            ) from err

    def refuse_used(self) -> None:
        """Refuse a folder for a new repository that holds something; a lock is nothing.

        Raises:
            UsageError: It does.
        """
        if self.folder.exists() and any(f.name != _LOCK for f in self.folder.iterdir()):
            raise UsageError(f"{self.folder} is not empty", hint="name a new folder")

    @contextmanager
    def made(self, roles: Collection[str]) -> Iterator[None]:
        """Hold a new repository for writing its first metadata; nothing is left where that fails.

        Args:
            roles: Whose version 1 is written, beside the timestamp.

        Raises:
            UsageError: The folder holds something.
            EdgeincError: Another process holds it.
        """
        with taken_back(self.metadata) as files:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.lock():
                self.refuse_used()  # another process may have been faster
                files += (self.metadata / f"1.{role}.json" for role in roles)
                files += (self.metadata / "timestamp.json", self.folder / _LOCK)
                yield

    def read(self) -> Published:
        """What is published, every signature checked; expired metadata is read, too.

        Raises:
            UsageError: The folder is not a repository.
            EdgeincError: A file is missing, damaged, or not signed by the keys of its role.
        """
        root = self.root()
        timestamp = self._top(Timestamp, "timestamp.json", root)
        version = timestamp.signed.snapshot_meta.version
        snapshot = self._top(Snapshot, f"{version}.snapshot.json", root)
        found = Published(root, snapshot, timestamp, {})
        for name in ["targets", *sorted(_names(snapshot.signed) - {"targets"})]:
            version = snapshot.signed.meta[f"{name}.json"].version
            found.roles[name] = self.load(Targets, f"{version}.{name}.json")
        for name, metadata in found.roles.items():
            if name == "targets":
                self._verify_top(name, metadata, root)
            else:
                _verify(found.delegator(name)[1], name, metadata, self.metadata)
        return found

    def root(self, version: int | None = None) -> Metadata[Root]:
        """A root, the newest unless a version is given.

        Raises:
            UsageError: The folder is not a repository.
            EdgeincError: The file is damaged.
        """
        files = (file for file in self.metadata.glob("*.root.json") if file.is_file())
        names = [role_in(file.name) for file in files]
        versions = [found[0] for found in names if found and found[1] == "root"]
        if not versions:
            raise UsageError(
                f"{self.folder} is not a repository", hint="make one with `edgeinc repo init DIR`"
            )
        return self.load(Root, f"{version or max(versions)}.root.json")

    def waiting(self) -> Metadata[Root] | None:
        """The root that waits for signatures, if one does.

        Raises:
            EdgeincError: The file is damaged.
        """
        if not self.pending.is_file():
            return None
        try:
            new = self.load(Root, self.pending.name, self.pending.parent)
        except EdgeincError as err:
            raise EdgeincError(
                err.message, hint="remove the file and begin again: no device has seen it"
            ) from err
        # A publisher that ended right after it published a root left its copy here.
        return new if new.signed.version > self.root().signed.version else None

    def load(self, kind: type[T], name: str, folder: Path | None = None) -> Metadata[T]:
        """A file of metadata, unverified.

        Raises:
            EdgeincError: It is missing or damaged.
        """
        file = (folder or self.metadata) / name
        try:
            metadata = cast("Metadata[T]", Metadata.from_bytes(file.read_bytes()))
        except FileNotFoundError as err:
            raise EdgeincError(f"{file} is missing", hint=_RESTORE) from err
        except RepositoryError as err:
            raise EdgeincError(f"{file} is not metadata", hint=_RESTORE) from err
        if not isinstance(metadata.signed, kind):
            raise EdgeincError(f"{file} is metadata of another role", hint=_RESTORE)
        return metadata

    def _top(self, kind: type[T], name: str, root: Metadata[Root]) -> Metadata[T]:
        metadata = self.load(kind, name)
        self._verify_top(kind.type, metadata, root)
        return metadata

    def _verify_top(self, role: str, metadata: Metadata[Any], root: Metadata[Root]) -> None:
        """Check what root's keys sign; those of the root before count, too.

        A publisher that ended between a new root and the timestamp leaves it so.
        """
        try:
            _verify(root.signed, role, metadata, self.metadata)
        except EdgeincError:
            if root.signed.version == 1:
                raise
            _verify(self.root(root.signed.version - 1).signed, role, metadata, self.metadata)

    def target_file(self, target: TargetFile) -> Path:
        """Where the content of a target lies."""
        return self.targets / target.get_prefixed_paths()[0]

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the tree; one that holds these bytes already only becomes young again.

        Raises:
            RunError: The disk is full.
        """
        if path.is_file() and path.read_bytes() == content:
            os.utime(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)


def role_in(name: str) -> tuple[int, str] | None:
    """Version and role of which a file of metadata is by its name.

    None for what is not from here: a file manager or an editor leaves its own beside it.
    """
    found = _METADATA.fullmatch(name)
    try:
        return (int(found[1]), found[2]) if found and kind_of(found[2]) else None
    except UsageError:
        return None


def _names(snapshot: Snapshot) -> set[str]:
    return {name.removesuffix(".json") for name in snapshot.meta}


def _verify(delegator: Root | Targets, role: str, metadata: Metadata[Any], folder: Path) -> None:
    signed: Signed = metadata.signed
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as err:
        raise EdgeincError(
            f"{folder}: version {signed.version} of {role} is not signed by the keys of its role",
            hint=_RESTORE,
        ) from err
