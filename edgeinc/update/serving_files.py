"""A web server for a repository, to try it out: one folder, read only, with ranges.

What it says about caching is what a server in earnest should say: `timestamp.json` is asked for
every time, every other file never changes.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from edgeinc.errors import EdgeincError, UsageError

_OFFERED = ("metadata", "targets")
_CHUNK_BYTES = 65_536
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the files of `folder`."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a file, or the range of it that was asked for."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Send the headers of a file."""
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: only the command line prints."""

    def _answer(self, *, body: bool) -> None:
        path = self._path()
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            size = path.stat().st_size
            tag = f'"{path.stat().st_mtime_ns:x}-{size:x}"'
            first, last = self._range(size, tag)
            if first > last and size:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            whole = (first, last) == (0, size - 1)
            self.send_response(HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT)
            if not whole:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last - first + 1))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", tag)
            changes = path.name == "timestamp.json"
            self.send_header(
                "Cache-Control", "no-cache" if changes else "public, max-age=31536000, immutable"
            )
            self.end_headers()
            if body:
                self._send(file, first, last - first + 1)

    def _path(self) -> Path | None:
        """The file that was asked for, if it is one that is offered."""
        parts = unquote(urlsplit(self.path).path).split("/")[1:]
        if parts[0] not in _OFFERED or not {"", ".", ".."}.isdisjoint(parts):
            return None
        path = self.folder.joinpath(*parts)
        # A link in the folder may lead out of it.
        inside = path.resolve().is_relative_to(self.folder.resolve())
        return path if inside and path.is_file() else None

    def _range(self, size: int, tag: str) -> tuple[int, int]:
        """First and last byte to send: what was asked for, everything where that is no range."""
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        if found is None or self.headers.get("If-Range", tag) != tag:
            return 0, size - 1
        return int(found[1]), min(int(found[2] or size - 1), size - 1)

    def _send(self, file: BinaryIO, first: int, length: int) -> None:
        file.seek(first)
        while length > 0 and (chunk := file.read(min(_CHUNK_BYTES, length))):
            self.wfile.write(chunk)
            length -= len(chunk)


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
        return ThreadingHTTPServer((bind, port), handler)
    except OSError as err:
        raise EdgeincError(
            f"cannot listen at {bind}:{port}: {err.strerror}", hint="choose another --port"
        ) from err
