"""What `edgeinc data convert` writes: any data set as a `folder` of images, masks and classes.toml.

Rules: the folder appears when it is complete, and replaces only what an earlier call wrote; image
files are copied byte for byte, and become PNG where a format has no file per image; masks become
PNGs of class ids with void as 255. Splits, class ids, colours and the background stay; what a
`folder` has no place for (recordings, classes that are declared per image) is lost.

    convert("voc", data_root="/data", out=Path("voc-folder"))
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from edgeinc import host, registry
from edgeinc.data import Dataset, Image, Mask, open_dataset
from edgeinc.data._files import IMAGE_SUFFIXES, named, read_pair
from edgeinc.data.folder import SPLITS, TABLE, Folder, write_folder
from edgeinc.errors import DataError, UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.schema import WrittenFile

__all__ = ["FORMATS", "convert", "safe_stems"]

FORMATS = ("folder",)
"""What can be written."""

_ORIGIN = "Written by `edgeinc data convert`"
_LONGEST_STEM = 180
_NOT_IN_NAMES = re.compile(r'[/\\<>:"|?*\x00-\x1f\x7f]+')


def convert(
    data: str,
    *,
    out: Path,
    to: str = "folder",
    data_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> WrittenFile:
    """Write a data set in another format.

    Args:
        data: Name of a data set, or path of data in a known format.
        out: Folder to write; made where it is absent.
        to: The format, one of `FORMATS`.
        data_root: Folder that holds data sets by name.
        limit: Take only the first images of each split.
        overwrite: Replace what an earlier call wrote there.
        progress: Told about every image.

    Raises:
        UsageError: No such data set or format, or `out` holds something already.
        DataError: An image or a mask cannot be read; nothing is written then.
        RunError: The disk is full.
    """
    if to not in FORMATS:
        raise UsageError(f"cannot write the format '{to}'", hint=registry.suggest(to, FORMATS))
    out = Path(os.path.realpath(out))
    _refuse_foreign(out, overwrite=overwrite)
    dataset = open_dataset(data, data_root=data_root, progress=progress)
    pictures = _pictures(dataset, limit)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        write_folder(
            partial,
            _samples(dataset, pictures),
            labels=dataset.labels,
            background=dataset.background,
            origin=f"{_ORIGIN} from {dataset.ref.name}.",
            total=len(pictures),
            progress=progress,
        )
        _replace(out, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    copied = sum(picture.file is not None for picture in pictures)
    return WrittenFile(path=str(out), images=len(pictures), note=_note(copied, len(pictures)))


class _Picture(NamedTuple):
    """One image of the data set: where it goes, and its file where it can be copied."""

    split: str
    image_id: str
    stem: str
    file: Path | None


def _pictures(dataset: Dataset, limit: int | None) -> list[_Picture]:
    unknown = [split for split in dataset.splits() if split not in SPLITS]
    if unknown:
        raise DataError(f"a folder has no split '{unknown[0]}'", hint=f"it has {', '.join(SPLITS)}")
    chosen = [(s, i) for s in dataset.splits() for i in dataset.ids(s)[:limit]]
    stems = safe_stems(image_id for _, image_id in chosen)
    pictures = []
    for (split, image_id), stem in zip(chosen, stems, strict=True):
        file = dataset.image_file(image_id)
        copied = file is not None and file.suffix.lower() in IMAGE_SUFFIXES
        pictures.append(_Picture(split, image_id, stem, file if copied else None))
    return pictures


def _samples(
    dataset: Dataset, pictures: list[_Picture]
) -> Iterator[tuple[str, str, Image | Path, Mask]]:
    """The pairs in order, read by several threads but never many ahead."""

    def read(picture: _Picture) -> tuple[str, str, Image | Path, Mask]:
        # Also an image that is copied is read: a folder with a damaged image helps nobody.
        image, mask = read_pair(dataset, picture.image_id)
        return picture.split, picture.stem, picture.file or image, mask

    ahead = 4 * host.cores()
    with ThreadPoolExecutor(host.cores()) as pool:
        for first in range(0, len(pictures), ahead):
            yield from pool.map(read, pictures[first : first + ahead])


def safe_stems(ids: Iterable[str]) -> list[str]:
    """A file name without ending for each image id: usable on every system, each one once.

    Folders in an id become part of the name, `a/b` is `a-b`. Names that differ only in upper and
    lower case are one name on some systems, so the later of them gets a number.
    """
    stems, taken = [], set()
    for image_id in ids:
        text = named(image_id.encode("utf-8", "replace").decode())
        stem = _NOT_IN_NAMES.sub("-", text).strip(" .") or "image"
        if len(stem.encode()) > _LONGEST_STEM:
            digest = hashlib.sha256(image_id.encode("utf-8", "replace")).hexdigest()[:8]
            cut = stem.encode()[:_LONGEST_STEM].decode("utf-8", "ignore")
            stem = f"{cut}-{digest}"
        plain, number = stem, 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def _note(copied: int, images: int) -> str:
    if copied == images:
        return "image files copied as they are"
    if not copied:
        return "images written as PNG"
    return f"{copied} image files copied as they are, {images - copied} written as PNG"


# ------------------------------------------------------------------------------ the folder


def _refuse_foreign(out: Path, *, overwrite: bool) -> None:
    """Raise unless `out` is absent, empty, or holds only what an earlier call wrote."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", hint="name a folder")
    entries = sorted(out.iterdir()) if out.is_dir() else []
    if entries and not overwrite:
        raise UsageError(
            f"{out} is not empty", hint="name another folder, or overwrite it with --overwrite"
        )
    if entries:
        foreign = _foreign(out, entries)
        if foreign:
            raise UsageError(
                f"{foreign} was not written by `edgeinc data convert`, {out} is left as it is",
                hint="name another folder",
            )


def _foreign(out: Path, entries: list[Path]) -> Path | None:
    """The first file that no earlier call wrote."""
    table = out / TABLE
    if not table.is_file() or not table.read_bytes().startswith(f"# {_ORIGIN}".encode()):
        return entries[0]
    data = Folder(out)
    known = {stem for split in data.splits() for stem in data.ids(split)}
    lists = {out / f"{split}.txt" for split in SPLITS}
    for entry in entries:
        if entry.name in ("images", "masks") and not entry.is_symlink():
            inside = (p for p in sorted(entry.iterdir()) if named(p.stem) not in known)
            found = next(inside, None)
            if found:
                return found
        elif entry not in {table, *lists}:
            return entry
    return None


def _replace(out: Path, new: Path) -> None:
    """Put `new` in the place of `out`."""
    if not out.exists():
        new.rename(out)
        return
    old = new.with_name(f"{new.name}.old")
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)
