"""Where a device gets signed files from, whatever brings them: a server, a folder, a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from edgeinc.errors import UsageError
from edgeinc.schema import Floor
from edgeinc.update.disk import Disk
from edgeinc.update.fetch import Source as Place
from edgeinc.update.fetch import Trusted
from edgeinc.update.identity import CACHE, read_config, read_trust


class SignedFiles(Protocol):
    """A repository as far as it can be trusted; see `edgeinc.update.fetch.Trusted`."""

    @property
    def received_bytes(self) -> int:
        """Bytes that were transferred so far, wasted ones included."""

    @property
    def metered(self) -> bool:
        """Whether bytes cost something, as those of a network do and those of a folder do not."""

    def refresh(self) -> Mapping[str, Floor]:
        """Take the newest metadata, and say below which versions this device never goes again.

        Nothing that follows from it may be used before those are durable.

        Raises:
            UpdateError: It is expired, older than a floor, not signed as it must be, or cannot be
                had.
            OSError: The disk refused.
        """

    def target(self, path: str) -> bytes:
        """A small file.

        Raises:
            UpdateError: Nobody signed it, it is not what was signed, or it cannot be had.
        """

    def download(self, path: str, to: Path, *, budget_bytes: int) -> None:
        """A file of any size. `to` appears when it is whole, durable and what was signed.

        What an interrupted call left, in `to` with a suffix, is gone on with.

        Raises:
            UpdateError: Nobody signed it, it is not what was signed, it cannot be had, or more
                than `budget_bytes` were received for it.
            OSError: The disk refused.
        """


Connect = Callable[[Mapping[str, Floor], float], SignedFiles]
"""(floors, time of the last refresh or 0) -> the repository. It is called under the device's lock,
so that the floors are those that hold."""


def repository(root: Path, *, place: str | None = None) -> Connect:
    """The repository of a device.

    Args:
        root: The device's folder.
        place: A URL, or a folder that was brought here; None takes the device's own.

    Raises:
        UsageError: The folder is no device, its root metadata is gone, or there is no such place.
    """
    read_config(root), read_trust(root)  # says at once what is missing
    if place is not None and "://" not in place and not Path(place).is_dir():
        raise UsageError(f"there is no folder {place}", hint="name one that holds metadata/")

    def connect(floors: Mapping[str, Floor], checked: float) -> SignedFiles:
        return Trusted(
            root / CACHE,
            Place.at(place or read_config(root).repository),
            root=read_trust(root),
            disk=Disk(),
            floors=floors,
            checked=datetime.fromtimestamp(checked, timezone.utc) if checked else None,
        )

    return connect
