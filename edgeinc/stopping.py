"""Ctrl-C as a request: work that can be gone on with ends at a place where it can be saved.

The first Ctrl-C asks, the second one stops at once.

    with interruptible() as asked:
        while ...:
            one_iteration()
            if asked.is_set():
                save()
                raise Interrupted("interrupted; the state is saved")
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request that a loop honours after its iteration."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals belong to the main thread; whoever started us must stop us
        return
    before = signal.getsignal(signal.SIGINT)

    def request(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)  # the second one stops at once

    signal.signal(signal.SIGINT, request)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
