"""Bytes from a web server or a folder, from any offset, and no slower than a limit.

`open_at` answers with what the other side offers; what is wrong is one of two: `Broken` may go
better the next time, `Absent` will not. In a folder nothing does. Nothing here trusts anything it
reads.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Timer
from typing import Any
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from edgeinc.update.refusal import Refusal

STILL = "what is served stays served"
_CHUNK_BYTES = 65_536
_AGAIN = {408, 425, 429}
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Broken(Exception):
    """The transfer failed in a way that may pass: a cut, a timeout, a 5xx."""


class Absent(Exception):
    """The other side has no such file, or does not give it: a 4xx."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Lacking(Absent):
    """A folder has no such file."""


@dataclass(frozen=True)
class Limits:
    """What a transfer may take.

    Attributes:
        silence_s: Seconds without a byte, to connect, and for all headers together.
        window_s: Seconds over which the rate is averaged.
        least_bytes_per_s: The rate below which the other side counts as stalling.
        attempts: How often a transfer that makes no progress is tried.
        backoff_s: Seconds before the second try, doubled each time, up to a minute.
    """

    silence_s: float = 20.0
    window_s: float = 30.0
    least_bytes_per_s: float = 500.0
    attempts: int = 5
    backoff_s: float = 1.0


@dataclass(frozen=True)
class Reply:
    """What is offered: bytes from `start`; `length` of them where that was said."""

    start: int
    length: int | None
    etag: str
    chunks: Iterator[bytes]


class Web:
    """Files behind http or https, through the proxy that the environment names."""

    def __init__(self, limits: Limits, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._pools: dict[str, urllib3.PoolManager] = {}

    def open_at(self, url: str, start: int = 0, etag: str = "") -> Reply:
        """Ask for a file from an offset.

        Args:
            url: Where it is.
            start: Bytes that are here already.
            etag: What the server called the file when these came; "" when that is not known.

        Raises:
            Broken, Absent: See there.
        """
        headers = {"Accept-Encoding": "identity", "User-Agent": "edgeinc"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if etag:
                headers["If-Range"] = etag
        try:
            response = self._pool(url).request(
                "GET",
                url,
                headers=headers,
                preload_content=False,
                decode_content=False,
                timeout=self._limits.silence_s,
                retries=urllib3.Retry(0, redirect=3, status=0),
            )
        except (HTTPError, OSError) as err:
            raise Broken(f"{url}: {_reason(err)}") from err
        status = response.status
        if status not in (200, 206):
            response.close()
            message = f"{url}: HTTP status {status}"
            raise Broken(message) if status >= 500 or status in _AGAIN else Absent(message, status)
        offset = 0
        if status == 206:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                response.close()
                raise Broken(f"{url}: answered with another range than was asked for")
            offset = start
        length = response.headers.get("Content-Length", "")
        return Reply(
            offset,
            int(length) if length.isascii() and length.isdigit() else None,
            response.headers.get("ETag", ""),
            self._chunks(response, url),
        )

    def _chunks(self, response: urllib3.BaseHTTPResponse, url: str) -> Iterator[bytes]:
        """The body as it comes; `read1` returns what is there, so that a drip can be measured."""
        since, received = self._monotonic(), 0
        try:
            while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
                received += len(chunk)
                yield chunk
                seconds = self._monotonic() - since
                if seconds >= self._limits.window_s:
                    if received < seconds * self._limits.least_bytes_per_s:
                        raise Broken(f"{url}: {received / seconds:.0f} bytes/s is too slow")
                    since, received = self._monotonic(), 0
        except (HTTPError, OSError) as err:
            raise Broken(f"{url}: {_reason(err)}") from err
        finally:
            response.close()

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urllib3.util.parse_url(url)
        proxy = getproxies().get(parts.scheme or "", "")
        if proxy_bypass(parts.host or ""):
            proxy = ""
        if proxy not in self._pools:
            pool = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
            pool.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}
            self._pools[proxy] = pool
        return self._pools[proxy]


class Files:
    """Files of a folder, such as a stick that carries a copy of the repository."""

    def open_at(self, url: str, start: int = 0, etag: str = "") -> Reply:
        """Open a file at an offset; `etag` has no meaning here.

        Raises:
            Lacking: There is no such file.
            Refusal: `DISK`, it cannot be read.
        """
        path = Path(url)
        with _readable(path):
            size = path.stat().st_size if path.is_file() else -1
        if size < 0:
            raise Lacking(f"{url}: no such file", 404)
        start = start if start <= size else 0
        return Reply(start, size - start, "", self._chunks(path, start))

    def _chunks(self, path: Path, start: int) -> Iterator[bytes]:
        with _readable(path), path.open("rb") as file:
            file.seek(start)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say at once that a file of a folder cannot be read: waiting changes no permission."""
    try:
        yield
    except OSError as err:
        raise Refusal(
            "DISK",
            f"{path} cannot be read: {err.strerror}",
            hint=f"check the folder and who may read it, or copy the repository again; {STILL}",
        ) from err


def _reason(err: BaseException) -> str:
    """The innermost cause, without the addresses of objects."""
    text = str(getattr(err, "reason", None) or err)
    return re.sub(r"<[^>]*>:? ?", "", text)


def _in_time(connection: Any, read: Callable[[], Any]) -> Any:
    """Read all headers within the timeout; the socket's own starts again with every byte."""
    sock, late = connection.sock, Event()

    def cut() -> None:
        late.set()
        with suppress(OSError):  # it ended by itself
            sock.shutdown(socket.SHUT_RDWR)

    timer = Timer(connection.timeout, cut)
    timer.daemon = True
    timer.start()
    try:
        return read()
    finally:
        timer.cancel()
        if late.is_set():  # what was cut off may look like an answer
            raise TimeoutError("the headers took too long")


class _Connection(HTTPConnection):
    def getresponse(self) -> Any:
        return _in_time(self, super().getresponse)


class _SafeConnection(HTTPSConnection):
    def getresponse(self) -> Any:
        return _in_time(self, super().getresponse)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SafePool(HTTPSConnectionPool):
    ConnectionCls = _SafeConnection
