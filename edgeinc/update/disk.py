"""The only way the device's side changes files.

Rules: nothing is durable before its `fsync`; a name (of a new file, a renamed one, a removed one)
is not durable before `fsync_folder` of the folder it is in; a rename is atomic. Each public method
that changes something is one operation of the file system, or is made of such, so that a test can
record what was done, cut the power behind each of them, and look what comes back.

    disk = Disk()
    disk.write_atomic(folder / "state.json", content)      # old or new, whatever happens
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeinc.update.refusal import Refusal

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Disk:
    """The real file system. Every method raises `OSError` when the system refuses."""

    def write_new(self, path: Path, data: bytes) -> None:
        """Make a file that is not there yet; `FileExistsError` when it is. Not durable."""
        with path.open("xb") as file:
            file.write(data)

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file, which is made when it is not there. Not durable."""
        with path.open("ab") as file:
            file.write(data)

    def fsync(self, path: Path) -> None:
        """Make the content of a file durable, though not its name."""
        # Windows refuses to flush what is open for reading only.
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name; a file of the new name is replaced. Atomic."""
        old.replace(new)

    def fsync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        if os.name != "posix":  # Windows cannot open a folder
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file or link; one that is not there is no fault."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def make_folder(self, path: Path) -> None:
        """Make one folder; one that is there already is no fault."""
        path.mkdir(exist_ok=True)

    def make_link(self, path: Path, target: str) -> None:
        """Make a symbolic link where nothing is."""
        path.symlink_to(target)

    # ------------------------------------------------------------------- made of the above

    def write_atomic(self, path: Path, data: bytes) -> None:
        """Replace a file durably: a reader sees the old or the new content, whatever happens.

        Only one process at a time may write a file of that name. When the disk is full the old
        content stays and what was begun is removed.
        """
        new = self._beside(path)
        try:
            self.write_new(new, data)
            self.fsync(new)
            self.rename(new, path)
        except OSError:
            with suppress(OSError):
                self.remove(new)
            raise
        self.fsync_folder(path.parent)

    def link(self, path: Path, target: str) -> None:
        """Make a symbolic link, or turn one atomically."""
        new = self._beside(path)
        self.make_link(new, target)
        self.rename(new, path)
        self.fsync_folder(path.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder with all it holds; one that is not there is no fault."""
        if path.is_symlink() or not path.is_dir():
            self.remove(path)
            return
        for child in sorted(path.iterdir()):
            self.remove_tree(child)
        self.remove_folder(path)

    def _beside(self, path: Path) -> Path:
        """The name under which what will be `path` is made; what a crash left there goes."""
        new = path.with_name(f".{path.name}.new")
        if new.is_symlink() or new.exists():
            self.remove(new)
        return new


def as_owner(path: Path) -> str:
    """What to do where a file or folder belongs to another user."""
    place = path if os.access(path, os.F_OK) else path.parent
    try:
        owner = place.owner()
    except (OSError, KeyError):  # not to be seen, or a user without a name
        owner = "USER"
    return f"it belongs to {owner}; repeat as that user: sudo -u {owner} edgeinc ..."


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn a fault of the file system into one clear line.

    Args:
        what: What was being done: "fetch step 3".

    Raises:
        Refusal: `NO_SPACE` when the disk, the quota or the file-size limit is exhausted, `DISK`
            for any other fault.
    """
    try:
        yield
    except OSError as err:
        place = f" ({err.filename})" if err.filename else ""
        if err.errno in _FULL:
            raise Refusal(
                "NO_SPACE",
                f"no space left to {what}{place}",
                hint="free some space, then repeat; what is served stays served",
            ) from err
        hint = "look at the disk (mounted read-only? worn out?)"
        if isinstance(err, PermissionError) and err.filename:
            hint = as_owner(Path(err.filename))
        raise Refusal(
            "DISK",
            f"cannot {what}: {err.strerror or err}{place}",
            hint=f"{hint}; what is served stays served",
        ) from err
