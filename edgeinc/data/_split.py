"""Which images are for training and which for scoring, for data that says it loosely or not at all.

Data without lists is divided 80/20 by a hash of each image's name, so that an image keeps its side
when others are added. Files that each describe one split say so in their names.

    hashed_split(("a", "b", "c"))          # {"train": (...), "val": (...)}
    split_of("instances_val2017")          # "val"
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from edgeinc.data._official import read_lines
from edgeinc.errors import DataError

__all__ = ["by_split", "hashed_split", "read_lists", "split_of"]


def hashed_split(stems: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """80/20 by hash.

    Args:
        stems: Image ids; their order is kept.

    Returns:
        Ids of `train` and `val`, or of `train` alone where one of the two would be empty.
    """
    held_out = {s for s in stems if hashlib.sha256(s.encode()).digest()[0] < 51}  # 51 / 256
    if not held_out or len(held_out) == len(stems):
        return {"train": stems}
    return {
        "train": tuple(s for s in stems if s not in held_out),
        "val": tuple(s for s in stems if s in held_out),
    }


def split_of(name: str) -> str:
    """The split a file of that name describes: `val`, `test`, and `train` for all others.

    The name is cut into words, so that `latest` is not `test` and `interval` is not `val`.
    """
    for word in re.findall("[a-z]+", name.lower()):
        if word.startswith("val") or word == "minival":
            return "val"
        if word.startswith("test"):
            return "test"
    return "train"


def by_split(files: Mapping[Path, str]) -> dict[str, Path]:
    """The file of each split, in the order `train`, `val`, `test`.

    Args:
        files: Path -> the name that says its split. A single file is `train` whatever it says:
            the caller divides it.

    Raises:
        DataError: Two files describe one split, or none describes `train`.
    """
    if len(files) == 1:
        return {"train": next(iter(files))}
    found: dict[str, Path] = {}
    for path, name in sorted(files.items()):
        split = split_of(name)
        if split in found:
            raise DataError(
                f"{found[split]} and {path} both describe '{split}'",
                hint="take one of them away, or put train, val or test into their names",
            )
        found[split] = path
    if "train" not in found:
        listed = " and ".join(map(str, found.values()))
        raise DataError(f"{listed}: none of them describes 'train'", hint="add the one that does")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def read_lists(paths: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """Image ids per split from text files with one id per line.

    Raises:
        DataError: A file is missing, empty or not UTF-8, or an id stands in two places.
    """
    lists: dict[str, tuple[str, ...]] = {}
    home: dict[str, Path] = {}
    for split, path in paths.items():
        lines = read_lines(path, hint="write one image per line into it")
        if not lines:
            raise DataError(f"{path} lists no image", hint="write one image per line into it")
        lists[split] = tuple(line.strip() for line in lines)
        for image_id in lists[split]:
            if image_id in home:
                where = f"{home[image_id]} and in {path}" if home[image_id] != path else f"{path}"
                twice = "is in" if home[image_id] != path else "stands twice in"
                raise DataError(
                    f"'{image_id}' {twice} {where}", hint="every image belongs to one split, once"
                )
            home[image_id] = path
    return lists
