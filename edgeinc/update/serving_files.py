"""A web server for a repository, to try it out: one folder, read only, with ranges.

What it says about caching is what a server in earnest should say: `timestamp.json` is asked for
every time, every other file never changes. A client that is slow, gone or odd costs its own
connection, and only for a while.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from edgeinc.errors import EdgeincError, UsageError

_OFFERED = ("metadata", "targets")
_CHUNK_BYTES = 16_384
"""Sent or given up within `Handler.timeout`: a device gives up below 500 bytes/s, too."""
_CONNECTIONS = 64
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the files of `folder`."""

    folder: Path
    protocol_version = "HTTP/1.1"
    timeout = 30
    """Seconds without a byte after which a connection is closed."""

    def handle(self) -> None:
        """Answer what is asked on a connection, until the client has gone."""
        with suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        """Send a file, or the range of it that was asked for."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Send the headers of a file."""
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: only the command line prints."""

    def _answer(self, *, body: bool) -> None:
        file = self._opened()
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            about = os.fstat(file.fileno())
            size = about.st_size
            tag = f'"{about.st_mtime_ns:x}-{size:x}"'
            part = self._range(size, tag) if body else None  # HEAD knows no ranges
            first, last = part or (0, size - 1)
            if part and first > last:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK)
            if part:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last - first + 1))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", tag)
            changes = Path(file.name).name == "timestamp.json"
            self.send_header(
                "Cache-Control", "no-cache" if changes else "public, max-age=31536000, immutable"
            )
            self.end_headers()
            if body:
                self._send(file, first, last - first + 1)

    def _opened(self) -> BinaryIO | None:
        """The file that was asked for, if it is one that is offered."""
        try:
            parts = unquote(urlsplit(self.path).path).split("/")[1:] or [""]
            if parts[0] not in _OFFERED or not {"", ".", ".."}.isdisjoint(parts):
                return None
            path = self.folder.joinpath(*parts)
            # A link in the folder may lead out of it.
            inside = path.resolve().is_relative_to(self.folder.resolve())
            return path.open("rb") if inside and path.is_file() else None
        except (OSError, ValueError, RuntimeError):
            # Gone meanwhile, not to be read, a name that no file can have, a link to itself.
            return None

    def _range(self, size: int, tag: str) -> tuple[int, int] | None:
        """First and last byte that were asked for; None for the whole file.

        By RFC 9110, section 14: several ranges may be ignored, and what is no range is; a first
        byte behind the last one of the answer means that there is no such byte.
        """
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        if found is None or not size or self.headers.get("If-Range", tag) != tag:
            return None
        first, last = _number(found[1]), _number(found[2])
        if first is None:  # the last so many
            return None if last is None else (max(0, size - last), size - 1)
        if last is None:
            return first, size - 1
        return (first, min(last, size - 1)) if first <= last else None

    def _send(self, file: BinaryIO, first: int, length: int) -> None:
        file.seek(first)
        while length > 0 and (chunk := file.read(min(_CHUNK_BYTES, length))):
            self.wfile.write(chunk)
            length -= len(chunk)
        if (
            length > 0
        ):  # the file is shorter than it was: the client has to see that it is not whole
            self.close_connection = True


def _number(digits: str) -> int | None:
    digits = digits.lstrip("0") or digits[:1]
    # Python reads no number of thousands of digits; no file is that long.
    return (int(digits) if len(digits) < 19 else sys.maxsize) if digits else None


class _Server(ThreadingHTTPServer):
    """A thread for each connection, for so many at once; others are told to come again."""

    def __init__(self, *given: Any) -> None:
        self._free = BoundedSemaphore(_CONNECTIONS)
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            request.sendall(_BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def server_of(folder: Path, *, bind: str = "127.0.0.1", port: int = 8000) -> ThreadingHTTPServer:
    """A server for a repository, listening but not yet answering: `serve_forever` does that.

    Args:
        folder: The repository.
        bind: The address; the default is reached from this machine only.
        port: The port; 0 takes a free one.

    Raises:
        UsageError: The folder is not a repository.
        EdgeincError: The address cannot be listened at.
    """
    if not (folder / "metadata" / "timestamp.json").is_file():
        raise UsageError(f"{folder} is not a repository", hint="make one with `edgeinc repo init`")
    handler = type("RepositoryHandler", (Handler,), {"folder": folder})
    try:
        return _Server((bind, port), handler)
    except (OSError, OverflowError, UnicodeError) as err:  # a port or a name that cannot be
        why = getattr(err, "strerror", None) or err
        raise EdgeincError(
            f"cannot listen at {bind}:{port}: {why}", hint="choose another --port or --bind"
        ) from err
