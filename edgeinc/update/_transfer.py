"""The loop that brings a file here: it resumes, waits, is bounded, and ends in a hash."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface

from edgeinc.update._transport import STILL, Absent, Broken, Files, Lacking, Limits, Web
from edgeinc.update.disk import Disk
from edgeinc.update.refusal import Refusal

__all__ = ["STILL", "Gone", "Transfer", "is_target"]

_COPY = f"the copy is not whole: copy the repository again; {STILL}"
_SYNC_BYTES = 4 << 20
_PROGRESS_BYTES = 65_536
_LONGEST_WAIT_S = 60.0


class Gone(Refusal):
    """A file that is signed is not there, or is not given: no use to ask again."""

    @classmethod
    def of(cls, err: Exception) -> Gone:
        """The refusal for what a server answered, or a folder lacks."""
        if isinstance(err, Lacking) or isinstance(err.__cause__, Lacking):
            return cls("CORRUPT", str(err), hint=_COPY)
        return cls("NETWORK", str(err), hint=f"check the repository's address; {STILL}")


class Transfer(FetcherInterface):
    """Small files whole, and the waiting between tries; python-tuf fetches metadata through it."""

    def __init__(
        self, web: bool, limits: Limits, sleep: Callable[[float], None], disk: Disk
    ) -> None:
        self.received = 0
        self._web = web
        self._limits, self._sleep, self._disk = limits, sleep, disk
        self._transport: Web | Files = Web(limits) if web else Files()
        self.open_at = self._transport.open_at

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self.open_at(url).chunks

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """The content of a small file.

        Raises:
            DownloadHTTPError: A 4xx.
            Refusal: `CORRUPT` when it is longer, `NETWORK` when the last try failed, `DISK` when a
                folder cannot be read.
        """
        failures = 0
        while True:
            content = bytearray()
            try:
                for chunk in self.open_at(url).chunks:
                    self.received += len(chunk)
                    content += chunk
                    if len(content) > max_length:
                        raise Refusal(
                            "CORRUPT",
                            f"{url} has more than the {max_length} bytes that it may have",
                            hint=self._blame("something else answers for the repository"),
                        )
                return bytes(content)
            except Absent as err:
                raise tuf_errors.DownloadHTTPError(str(err), err.status) from err
            except Broken as err:
                failures += 1
                self._wait(failures, err)

    def _wait(self, failures: int, err: Broken) -> None:
        """Wait before the next try, at random around a time that doubles.

        Raises:
            Refusal: `NETWORK`, when that was the last try; `CORRUPT` for a file of a folder, which
                does not grow while one waits.
        """
        if not self._web:
            raise Refusal("CORRUPT", str(err), hint=_COPY) from err
        if failures >= self._limits.attempts:
            raise Refusal(
                "NETWORK", str(err), hint=f"repeat when the network is better; {STILL}"
            ) from err
        seconds = self._limits.backoff_s * 2.0 ** max(0, failures - 1)
        self._sleep(min(seconds, _LONGEST_WAIT_S) * random.uniform(0.5, 1.5))

    def _blame(self, text: str) -> str:
        """The way out, where what came is not what was signed."""
        return f"{text}; {STILL}" if self._web else _COPY

    def download(self, place: str, wanted: TargetFile, to: Path, *, budget_bytes: int) -> None:
        """Bring a file to `to`, through `to`.part.

        Raises:
            Refusal: `BUDGET`, `CORRUPT` or `NETWORK`, or `DISK` when a folder cannot be read.
            Gone: The other side does not give it.
            OSError: The disk is full, or does not work.
        """
        if is_target(to, wanted):
            return
        part = to.with_name(f"{to.name}.part")
        last = self.received + budget_bytes
        resumed = part.exists()
        self._fill(part, place, wanted, last)
        if not is_target(part, wanted) and resumed:
            # What lay here was not the beginning of this file.
            self._disk.remove(part)
            self._fill(part, place, wanted, last)
        if not is_target(part, wanted):
            self._disk.remove(part)
            raise Refusal(
                "CORRUPT",
                f"{wanted.path} is not the file that was signed",
                hint=self._blame("the server, or something on the way, changed it"),
            )
        self._disk.rename(part, to)
        self._disk.fsync_folder(to.parent)

    def _fill(self, part: Path, place: str, wanted: TargetFile, last: int) -> None:
        """Append to `part` until it has the length that was signed."""
        etag, failures = "", 0
        have = _size(part)
        if have > wanted.length:
            self._disk.remove(part)
            have = 0
        if wanted.length == 0 and not part.exists():
            self._disk.write_new(part, b"")
        while have < wanted.length:
            begun = have
            try:
                reply = self.open_at(place, have, etag)
                if reply.length not in (None, wanted.length - reply.start):
                    raise Broken(f"{place}: offers {reply.length} bytes, not what was signed")
                if reply.start != have:  # it begins anew
                    self._disk.remove(part)
                    begun = 0
                etag = reply.etag
                self._append(part, reply.chunks, wanted.length - begun, last)
                if _size(part) < wanted.length:
                    raise Broken(f"{place}: ended after {_size(part)} of {wanted.length} bytes")
            except Broken as err:
                failures = 0 if _size(part) - begun >= _PROGRESS_BYTES else failures + 1
                self._wait(failures, err)
            except Absent as err:
                if err.status != 416:
                    raise Gone.of(err) from err
                # The server's file is shorter than what is here.
                self._disk.remove(part)
                failures += 1
                self._wait(failures, Broken(str(err)))
            have = _size(part)

    def _append(self, part: Path, chunks: Iterator[bytes], room: int, last: int) -> None:
        """Write what comes, durable every 4 MB and however it ends."""
        held = bytearray()

        def flush() -> None:
            data = bytes(held)
            held.clear()
            if data:
                self._disk.append(part, data)
                self._disk.fsync(part)

        try:
            for chunk in chunks:
                self.received += len(chunk)
                room -= len(chunk)
                if room < 0:
                    raise Refusal(
                        "CORRUPT",
                        f"{part.name} gets more bytes than were signed",
                        hint=self._blame("something else answers for the repository"),
                    )
                held += chunk
                if self.received > last:
                    raise Refusal(
                        "BUDGET",
                        f"fetching {part.name} took more than it may",
                        hint=f"the connection loses too much, or the server restarts; {STILL}",
                    )
                if len(held) >= _SYNC_BYTES:
                    flush()
        finally:
            flush()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def is_target(path: Path, wanted: TargetFile) -> bool:
    """Whether a file is what was signed."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            wanted.verify_length_and_hashes(file)
        except tuf_errors.LengthOrHashMismatchError:
            return False
    return True
