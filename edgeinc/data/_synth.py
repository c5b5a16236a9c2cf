"""What `edgeinc data synth` writes: `streets` scenes of any size as a folder data set.

Scenes of one seed are always the same; those of another seed, and those of the built-in
`streets` set, are all different.

    synth(Path("toy"), n=50, size=(96, 128), seed=0)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeinc.data import Image, Mask
from edgeinc.data.folder import write_folder
from edgeinc.data.streets import LABELS, render
from edgeinc.errors import UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.schema import Size, WrittenFile

__all__ = ["synth"]

_SMALLEST = 32
_MOST = 1_000_000
_ENTRIES = {"images", "masks", "classes.toml", "train.txt", "val.txt"}


def synth(
    out: Path,
    *,
    n: int,
    size: Size,
    seed: int,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> WrittenFile:
    """Write `n` scenes; every fifth one belongs to `val`, the others to `train`.

    Args:
        out: Folder to write; made where it is absent.
        n: Number of scenes.
        size: (height, width) in pixels.
        seed: Not negative; chooses the scenes.
        overwrite: Replace what an earlier call wrote there.
        progress: Told about every scene.

    Raises:
        UsageError: `n`, `size` or `seed` is out of range, or `out` holds something already.
    """
    if not 1 <= n <= _MOST:
        raise UsageError(f"{n} scenes asked for", hint=f"1 to {_MOST} are possible")
    if min(size) < _SMALLEST:
        raise UsageError(
            f"size {size[0]}x{size[1]} is too small", hint=f"at least {_SMALLEST}x{_SMALLEST}"
        )
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", hint="use 0 or more")
    _make_room(out, overwrite=overwrite)
    written = write_folder(out, _scenes(n, size, seed), labels=LABELS, total=n, progress=progress)
    return WrittenFile(path=str(out), images=written)


def _scenes(n: int, size: Size, seed: int) -> Iterator[tuple[str, str, Image, Mask]]:
    for i in range(n):
        # The built-in set uses numbers below a million.
        image, mask = render((seed + 1) * _MOST + i, size)
        yield ("val" if i % 5 == 4 else "train"), f"scene-{i:04d}", image, mask


def _make_room(out: Path, *, overwrite: bool) -> None:
    """Remove what an earlier call wrote; anything else in the folder is refused."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", hint="name a folder")
    entries = sorted(out.iterdir()) if out.is_dir() else []
    if entries and not overwrite:
        raise UsageError(
            f"{out} is not empty", hint="name another folder, or overwrite it with --overwrite"
        )
    pictures = [p for name in ("images", "masks") for p in sorted((out / name).glob("*"))]
    foreign = [p for p in entries if p.name not in _ENTRIES]
    foreign += [p for p in pictures if not (p.stem.startswith("scene-") and p.suffix == ".png")]
    if foreign:
        raise UsageError(
            f"{foreign[0]} was not written by `edgeinc data synth`, {out} is left as it is",
            hint="name another folder",
        )
    # The class table goes first: without it a half removed folder is no data set.
    for path in (out / "classes.toml", out / "train.txt", out / "val.txt", *pictures):
        path.unlink(missing_ok=True)
