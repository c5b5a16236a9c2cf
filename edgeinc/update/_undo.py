"""What a command made is taken back when it fails, so that the same command can be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def taken_back(*folders: Path) -> Iterator[list[Path]]:
    """Remove the files that the block lists, and the folders that it made, when it fails.

    Args:
        folders: Where it makes files. Those that are there already stay, and so does one in which
            somebody else put something.
    """
    new = {p for folder in folders for p in (folder, *folder.parents) if not p.exists()}
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        for path in made:
            with suppress(OSError):  # the first error is the one to tell
                path.unlink(missing_ok=True)
        for folder in sorted(new, reverse=True):
            with suppress(OSError):
                folder.rmdir()
        raise
