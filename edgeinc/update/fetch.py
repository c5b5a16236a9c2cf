"""The device's side of trust: nothing is used that the repository's roles do not vouch for.

python-tuf decides what is signed, current and consistent. It keeps what it saw in a cache that a
power cut may empty, and an empty cache would take an old repository for new. So three things are
held here beside it: the bootstrap root, which came with the device; *floors*, the versions seen,
which the caller keeps in a sealed journal; and the time of the last check. Files are fetched in a
loop of our own that resumes, is bounded, and ends in a hash.

    trusted = Trusted(cache, Source.at(url), root=root, disk=disk, floors=journal.floors)
    floors = trusted.refresh()            # store them durably before anything else
    manifest = trusted.target(path)
    trusted.download(path, folder / sha256, budget_bytes=3 * size)
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater

from edgeinc.clock import utc_now
from edgeinc.errors import UsageError
from edgeinc.schema import Floor
from edgeinc.update._transfer import STILL, Gone, Transfer, is_target
from edgeinc.update._transport import Limits
from edgeinc.update.disk import Disk
from edgeinc.update.refusal import Refusal

__all__ = ["EARLIEST", "Gone", "Limits", "Source", "Trusted"]

EARLIEST = datetime(2026, 11, 1, tzinfo=timezone.utc)
"""This code is younger: a clock that shows less is not set."""

SMALL, KEPT = "small", 4
"""Folder of the cache for small targets, and how many of them stay: channel and manifests."""
_CLOCK_SLACK = timedelta(hours=24)


@dataclass(frozen=True)
class Source:
    """Where metadata and targets are: two URLs, or two folders."""

    metadata: str
    targets: str

    @classmethod
    def at(cls, place: str) -> Source:
        """A repository by the URL or folder that holds `metadata` and `targets`.

        Raises:
            UsageError: A URL that is neither http nor https.
        """
        if "://" in place and not _is_web(place):
            raise UsageError(f"'{place}' is no source of updates", hint="http://, https:// or DIR")
        return cls(f"{place.rstrip('/')}/metadata", f"{place.rstrip('/')}/targets")


class Trusted:
    """A repository as far as it can be trusted. One at a time may use a cache folder.

    Args:
        cache: Folder for what was fetched of the metadata. It may vanish or be damaged.
        source: The repository.
        root: Bytes of the root that the device came with.
        disk: What changes files.
        floors: What the last `refresh` returned; {} before the first.
        checked: When that was; None before the first.
        limits: What a transfer may take.
        now: The clock.
        earliest: A clock that shows less is not set.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        cache: Path,
        source: Source,
        *,
        root: bytes,
        disk: Disk,
        floors: Mapping[str, Floor],
        checked: datetime | None = None,
        limits: Limits | None = None,
        now: Callable[[], datetime] = utc_now,
        earliest: datetime = EARLIEST,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cache, self._source, self._bootstrap = cache, source, root
        self._disk, self._now = disk, now
        self._floors, self._checked, self._first = floors, checked, earliest
        self._transfer = Transfer(_is_web(source.metadata), limits or Limits(), sleep, disk)
        self._updater: Updater | None = None

    @property
    def received_bytes(self) -> int:
        """Bytes that were transferred since this object was made, wasted ones included."""
        return self._transfer.received

    @property
    def metered(self) -> bool:
        """Whether they came over a network."""
        return _is_web(self._source.targets)

    def refresh(self) -> dict[str, Floor]:
        """Bring root, timestamp, snapshot and targets up to date.

        Returns:
            The new floors. Store them durably, with the time, before anything else is used.

        Raises:
            Refusal: `CLOCK`, `TRUST` (a signature, threshold, expiry or role is not right),
                `REPLAY` (older than what was seen), `CORRUPT` (not what was signed, or endless),
                `NETWORK`. Nothing of what was fetched is used.
            OSError: The cache cannot be written.
        """
        now = self._now()
        self._check_clock(now)
        if not _is_web(self._source.metadata) and not Path(self._source.metadata).is_dir():
            raise Refusal(
                "NETWORK",
                f"there is no {self._source.metadata}",
                hint=f"plug it in, mount it, or name another folder; {STILL}",
            )
        with _refusing(self._source.metadata):
            updater = self._opened()
            # python-tuf offers neither its clock nor the versions that it holds.
            trusted: Any = updater._trusted_set
            trusted.reference_time = now
            try:
                updater.refresh()
            finally:
                self._make_durable()
        floors = _floors_of(trusted, self._bootstrap)
        self._check_floors(floors)
        self._updater = updater
        return floors

    def expiries(self) -> dict[str, datetime]:
        """When what `refresh` found expires, by role.

        Raises:
            RuntimeError: `refresh` did not succeed before.
        """
        trusted: Any = self._refreshed()._trusted_set
        return {
            role: trusted[role].expires for role in ("root", "timestamp", "snapshot", "targets")
        }

    def signs(self, path: str) -> bool:
        """Whether a role vouches for a target.

        Raises:
            Refusal: As `refresh`.
        """
        return self._found(path) is not None

    def target(self, path: str, *, limit_bytes: int = 1 << 20) -> bytes:
        """The content of a small target; one that was fetched lately is not fetched again.

        Raises:
            Refusal: As `refresh`; `TRUST` where no role vouches for the path, `CORRUPT` where the
                file is larger than `limit_bytes` or not what was signed.
            Gone: The server does not give the file.
        """
        wanted = self._vouched(path)
        if wanted.length > limit_bytes:
            raise Refusal(
                "CORRUPT",
                f"{path} has {wanted.length} bytes, at most {limit_bytes} are read",
                hint=f"tell the publisher; {STILL}",
            )
        kept = self._cache / SMALL / hashlib.sha256(path.encode()).hexdigest()
        if is_target(kept, wanted):
            return kept.read_bytes()
        with _refusing(self._source.targets):
            content = self._transfer.download_bytes(self._place(wanted), wanted.length)
            wanted.verify_length_and_hashes(content)
        self._keep(kept, content)
        return content

    def _keep(self, kept: Path, content: bytes) -> None:
        """Keep a small target beside the newest others; nothing depends on it."""
        with suppress(OSError):
            self._disk.make_folder(kept.parent)
            self._disk.write_atomic(kept, content)
            files = sorted(kept.parent.iterdir(), key=lambda file: file.stat().st_mtime)
            for old in files[:-KEPT]:
                self._disk.remove(old)

    def download(self, path: str, to: Path, *, budget_bytes: int) -> None:
        """Bring a target into a file, from where an earlier try ended in `to`.part.

        Args:
            path: The target.
            to: The file; when it already is the target nothing is fetched.
            budget_bytes: What this call may receive, wasted bytes included.

        Raises:
            Refusal: As `refresh`; `TRUST` where no role vouches for the path, `BUDGET`, `CORRUPT`.
            Gone: The server does not give the file.
            OSError: The disk is full, or does not work.
        """
        wanted = self._vouched(path)
        self._transfer.download(self._place(wanted), wanted, to, budget_bytes=budget_bytes)

    # ------------------------------------------------------------------------------- metadata

    def _check_clock(self, now: datetime) -> None:
        earliest = max(self._first, (self._checked or self._first) - _CLOCK_SLACK)
        if now < earliest:
            raise Refusal(
                "CLOCK",
                f"the clock says {now:%Y-%m-%d %H:%M} UTC, it was {earliest:%Y-%m-%d %H:%M} before",
                hint=f"set the clock: expiry means nothing without it; {STILL}",
            )

    def _opened(self) -> Updater:
        """python-tuf on the cache, which is begun anew when it cannot be used."""
        try:
            return self._open()
        except OSError:
            self._disk.remove_tree(self._cache)
            return self._open()

    def _open(self) -> Updater:
        self._cache.mkdir(parents=True, exist_ok=True)
        for file in self._cache.rglob("*"):  # of another user, and of no use to this one
            if not os.access(file, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        for left in self._cache.glob("tmp*"):  # of a refresh that was cut off
            left.unlink()
        return Updater(
            str(self._cache),
            self._source.metadata,
            fetcher=self._transfer,
            bootstrap=self._bootstrap,
        )

    def _make_durable(self) -> None:
        for folder in (self._cache / "root_history", self._cache):
            for file in folder.glob("*.json"):
                if file.is_file() and not file.is_symlink():
                    self._disk.fsync(file)
            self._disk.fsync_folder(folder)

    def _check_floors(self, found: Mapping[str, Floor]) -> None:
        for role, floor in self._floors.items():
            now = found.get(role)
            if _is_of_others(role, floor, found):
                continue
            if now is None or now.version < floor.version:
                what = f"version {now.version}" if now else "nothing"
                raise Refusal(
                    "REPLAY",
                    f"{self._source.metadata} has {what} of {role}, this device saw version "
                    f"{floor.version}",
                    hint=f"an old copy of the repository is offered; {STILL}",
                )

    # ------------------------------------------------------------------------------- targets

    def _refreshed(self) -> Updater:
        if self._updater is None:
            raise RuntimeError("refresh() comes first")
        return self._updater

    def _vouched(self, path: str) -> TargetFile:
        found = self._found(path)
        if found is None:
            raise Refusal(
                "TRUST",
                f"no role vouches for {path!r}",
                hint=f"the publisher has to sign it; {STILL}",
            )
        return found

    def _found(self, path: str) -> TargetFile | None:
        updater = self._refreshed()
        tricky = not path.isprintable() or "\\" in path
        if tricky or not {"", ".", ".."}.isdisjoint(path.split("/")):
            return None
        with _refusing(self._source.metadata):
            return updater.get_targetinfo(path)

    def _place(self, wanted: TargetFile) -> str:
        trusted: Any = self._refreshed()._trusted_set
        name = wanted.get_prefixed_paths()[0] if trusted.root.consistent_snapshot else wanted.path
        return f"{self._source.targets.rstrip('/')}/{name}"


def refuse_no_root(content: bytes) -> None:
    """Refuse what no device can begin with.

    Raises:
        UsageError: It is no root metadata that its own keys signed.
    """
    hint = "1.root.json, from the metadata folder of the repository"
    try:
        metadata = Metadata.from_bytes(content)
        signed = metadata.signed
        if not isinstance(signed, Root):
            raise UsageError(
                f"this is the metadata of {signed.type}, and a device begins with a root", hint=hint
            )
        signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except (tuf_errors.RepositoryError, ValueError) as err:
        raise UsageError(
            f"this is no root metadata that its own keys signed: {err}", hint=hint
        ) from err


def _is_web(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _floors_of(trusted: Any, bootstrap: bytes) -> dict[str, Floor]:
    """The versions of a refresh, each with the keys that vouch for it.

    Snapshot's keys vouch for the version of every role that it lists: that is where a stolen key
    runs versions up, and which keys have to be replaced before they may go down again. Root is
    vouched for by its own keys, those that the device began with and those of now.
    """
    roles = trusted.root.roles
    keys = tuple(sorted(roles["snapshot"].keyids))
    first: Any = Metadata.from_bytes(bootstrap).signed
    lineage = {*first.roles["root"].keyids, *roles["root"].keyids}
    floors = {
        "root": Floor(trusted.root.version, tuple(sorted(lineage))),
        "timestamp": Floor(trusted.timestamp.version, tuple(sorted(roles["timestamp"].keyids))),
        "snapshot": Floor(trusted.snapshot.version, keys),
    }
    for name, meta in trusted.snapshot.meta.items():
        floors[name.removesuffix(".json")] = Floor(meta.version, keys)
    return floors


def _is_of_others(role: str, floor: Floor, found: Mapping[str, Floor]) -> bool:
    """Whether a floor says nothing of what was found.

    A role's says nothing once its keys were replaced. Root's says nothing of another repository,
    one that shares no key of root with the one it is of.
    """
    if role == "root":
        return bool(floor.keys) and set(floor.keys).isdisjoint(found["root"].keys)
    return not set(floor.keys) <= set(_keys_of(role, found))


def _keys_of(role: str, found: Mapping[str, Floor]) -> tuple[str, ...]:
    return found["timestamp" if role == "timestamp" else "snapshot"].keys


@contextmanager
def _refusing(place: str) -> Iterator[None]:
    """Say why python-tuf refused, in a word and a line."""
    try:
        yield
    except tuf_errors.DownloadHTTPError as err:
        raise Gone.of(err) from err
    except tuf_errors.ExpiredMetadataError as err:
        raise Refusal(
            "TRUST",
            f"{place}: {err}",
            hint=f"the publisher runs `edgeinc repo resign`, or the clock is ahead; {STILL}",
        ) from err
    except tuf_errors.BadVersionNumberError as err:
        raise Refusal(
            "REPLAY", f"{place}: {err}", hint=f"an old copy of a file is offered; {STILL}"
        ) from err
    except tuf_errors.LengthOrHashMismatchError as err:
        raise Refusal(
            "CORRUPT", f"{place}: {err}", hint=f"files of different versions are offered; {STILL}"
        ) from err
    except DeserializationError as err:
        why = "a login page of the network, or a wrong address"
        if not _is_web(place):
            why = "a damaged copy, or a wrong folder"
        raise Refusal(
            "CORRUPT", f"{place} gives something that is not metadata", hint=f"{why}; {STILL}"
        ) from err
    except (tuf_errors.RepositoryError, ValueError) as err:
        raise Refusal(
            "TRUST", f"{place}: {err}", hint=f"not signed as it has to be; {STILL}"
        ) from err
