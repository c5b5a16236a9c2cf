"""What happened on a device, one line each. Best effort: nothing is ever decided by it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import rfc8785

from edgeinc.errors import EdgeincError
from edgeinc.schema import DeviceEvent, DeviceHistory, from_json, to_dict
from edgeinc.update.disk import Disk

FILE, OLDER = "history.jsonl", "history.older.jsonl"
LIMIT_BYTES = 1 << 20
"""Above this a new file is begun; the one before it is kept, the one before that is not."""


def note(root: Path, event: DeviceEvent, disk: Disk) -> None:
    """Add an event; what the disk refuses is forgotten."""
    with suppress(OSError):
        file = root / FILE
        if file.exists() and file.stat().st_size > LIMIT_BYTES:
            disk.rename(file, root / OLDER)
        disk.append(file, rfc8785.dumps(to_dict(event)) + b"\n")


def newest(root: Path, count: int = 50) -> DeviceHistory:
    """The newest events; lines that a crash cut off are left out.

    Args:
        root: The device's folder.
        count: How many at most.
    """
    lines: list[bytes] = []
    for name in (OLDER, FILE):
        with suppress(OSError):
            lines += (root / name).read_bytes().splitlines()
    events: list[DeviceEvent] = []
    for line in reversed(lines):
        with suppress(EdgeincError, RecursionError):
            events.append(from_json(DeviceEvent, line, source=FILE))
        if len(events) == count:
            break
    return DeviceHistory(str(root), tuple(reversed(events)))
