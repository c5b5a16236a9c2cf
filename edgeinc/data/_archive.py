"""A .zip archive as a data set: unpacked once into the user's cache folder, by content.

Rules: archives are hostile. Nothing is written outside the cache folder: absolute paths, drive
letters, `..`, links and devices are refused before the first byte is written; so are archives with
a password and those that claim to grow without measure. What is unpacked appears all at once.

    folder = unpack(Path("export.zip"))        # ~/.cache/edgeinc/archives/SHA256
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zlib
from contextlib import suppress
from functools import lru_cache
from lzma import LZMAError
from pathlib import Path
from tempfile import mkdtemp
from zipfile import BadZipFile, ZipFile, ZipInfo

from edgeinc import host
from edgeinc.errors import DataError
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import disk_may_fill, sha256

__all__ = ["is_archive", "only_folder", "unpack"]

MOST_TIMES = 100
"""Photographs and masks are compressed already; what grows more than this is no data set."""
SMALL_BYTES = 1 << 30
"""An archive that stays below this when it is unpacked may grow as many times as it likes."""

_DAMAGED = (
    BadZipFile,
    zlib.error,
    LZMAError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)
_UTF8 = 0x800
_PASSWORD = 0x1
_BY_HAND = "unpack it yourself and give the folder"
_MAC_EXTRAS = "__MACOSX"


def is_archive(path: Path) -> bool:
    """Whether a path is taken for an archive: by its ending."""
    return path.suffix.lower() == ".zip" and path.is_file()


def unpack(path: Path, *, progress: Progress = SILENT) -> Path:
    """The folder an archive was unpacked into, now or earlier.

    Args:
        path: The .zip file.
        progress: Told about every file.

    Raises:
        DataError: It is no zip file, damaged, has a password, or would write where it must not.
        RunError: The disk is full.
    """
    try:
        state = path.stat()
        digest = _digest(path.absolute(), state.st_size, state.st_mtime_ns)
        folder = host.cache_folder() / "archives" / digest
        if not folder.is_dir():
            with ZipFile(path) as archive:
                _unpack(archive, path, folder, progress)
        return folder
    except _DAMAGED as err:
        raise DataError(
            f"{path} is not a zip archive, or it is damaged: {str(err) or 'it ends early'}",
            hint=f"copy it again from its source, or {_BY_HAND}",
        ) from err
    except OSError as err:
        raise DataError(
            f"{path} cannot be unpacked into {host.cache_folder()}: {err.strerror or err}",
            hint=f"set EDGEINC_CACHE to a folder you may write to, or {_BY_HAND}",
        ) from err


def only_folder(folder: Path) -> Path | None:
    """The one folder in a folder, or None: many tools pack everything into a single one."""
    inside = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return inside[0] if len(inside) == 1 else None


@lru_cache(maxsize=8)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    """The hash of a file; size and time of change are there to notice that it became another."""
    return sha256(path)


def _unpack(archive: ZipFile, path: Path, folder: Path, progress: Progress) -> None:
    members = _members(archive, path)
    _refuse_growth(sum(info.file_size for info in members.values()), path)
    with disk_may_fill(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=".unpacking-", dir=folder.parent))
        try:
            with progress.task(f"unpack {path.name}", len(members), "file") as task:
                for name, info in members.items():
                    target = partial / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as source, target.open("xb") as sink:
                        shutil.copyfileobj(source, sink, 1 << 20)
                    task.advance()
            if hasattr(os, "sync"):
                os.sync()  # a folder of that name is taken for complete, also after a power cut
            if not folder.is_dir():  # another process may have been faster
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _members(archive: ZipFile, path: Path) -> dict[str, ZipInfo]:
    """The files of an archive by their place in the folder, every one of them checked."""
    members: dict[str, ZipInfo] = {}
    for info in archive.infolist():
        name = _name(info)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in parts:
            raise _refused(path, f"holds {name!r}, a path that leads out of its folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a symbolic link" if kind == stat.S_IFLNK else "a device"
            raise _refused(path, f"holds {name!r}, which is {what}")
        if info.flag_bits & _PASSWORD:
            raise _refused(path, f"has a password, {name!r} cannot be read")
        if name.endswith("/") or not parts or parts[0] == _MAC_EXTRAS:
            continue
        place = "/".join(parts)
        if place in members:
            raise _refused(path, f"holds {place!r} twice")
        members[place] = info
    if not members:
        raise _refused(path, "is empty")
    return members


def _name(info: ZipInfo) -> str:
    """The name of a member as it was meant, with `/` between folders."""
    name = info.filename
    if not info.flag_bits & _UTF8:
        # Some systems write UTF-8 without saying so, and Python reads it as the DOS code page.
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _refuse_growth(total: int, path: Path) -> None:
    packed = path.stat().st_size
    if total > SMALL_BYTES and total > MOST_TIMES * packed:
        raise _refused(
            path, f"would grow from {_gigabytes(packed)} to {_gigabytes(total)} when unpacked"
        )
    place = host.cache_folder().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if total > free:
        raise DataError(
            f"{path} takes {_gigabytes(total)} when unpacked, {place} has {_gigabytes(free)} free",
            hint="set EDGEINC_CACHE to a folder on a larger disk",
        )


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.3g} GB"


def _refused(path: Path, reason: str) -> DataError:
    return DataError(
        f"archive {path} {reason}", hint=f"nothing was unpacked; if you trust it, {_BY_HAND}"
    )
