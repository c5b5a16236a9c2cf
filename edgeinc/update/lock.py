"""One process at a time: a file that is locked while a block runs, and freed by any end of it.

with alone(root / "lock", "another update of it is running"):
    ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from edgeinc.update.refusal import Refusal

if sys.platform != "win32":
    import fcntl

LOCK, SERVER = "lock", "serving.lock"
"""Held by what changes a device, and by what serves it."""


@contextmanager
def alone(file: Path, busy: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock.

    Args:
        file: What is locked; it is made where it is not there, and stays.
        busy: What to say where another process holds it.
        wait_s: Seconds to wait for it.

    Raises:
        Refusal: `BUSY`.
        OSError: The file cannot be written.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout as err:
        raise Refusal("BUSY", busy, hint="wait until it ends, or end it") from err
    try:
        yield
    finally:
        lock.release()


def is_held(file: Path) -> bool:
    """Whether a process, of this user or another, in this container or another, holds a lock."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it cannot be told
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return sys.platform == "win32"
