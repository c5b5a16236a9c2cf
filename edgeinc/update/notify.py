"""What systemd is told, over its socket: ready, alive, ending. Without a socket nothing is said.

tell = Systemd.of_environment()
tell.alive("step 2, 812 frames")       # READY=1 the first time, then WATCHDOG=1
"""

from __future__ import annotations

import logging
import os
import socket
import time

_log = logging.getLogger(__name__)
EVERY_S = 1.0


class Systemd:
    """The service manager that waits at a socket.

    Args:
        path: Of the socket; `@` begins an abstract one; "" says nothing to nobody.
    """

    def __init__(self, path: str) -> None:
        self._socket: socket.socket | None = None
        self._ready, self._last = False, 0.0
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)  # a manager that hangs must not hang the frames
            self._address = "\0" + path[1:] if path.startswith("@") else path

    @classmethod
    def of_environment(cls) -> Systemd:
        """The one that started this process, if one did."""
        return cls(os.environ.get("NOTIFY_SOCKET", ""))

    def alive(self, status: str) -> None:
        """A frame was answered; call it for every one, and from nowhere else."""
        now = time.monotonic()
        if self._ready and now - self._last < EVERY_S:
            return
        word = "WATCHDOG=1" if self._ready else "READY=1"
        self._ready, self._last = True, now
        self._send(f"{word}\nSTATUS={status}")

    def waits(self, status: str) -> None:
        """There is no frame to answer, and another start would bring none."""
        self._send(f"{'WATCHDOG=1' if self._ready else ''}\nSTATUS={status}".lstrip())

    def ending(self) -> None:
        """The server ends, as it was asked to."""
        self._send("STOPPING=1")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as err:
            _log.warning("systemd was not told: %s", err)
