"""What masks show, read once and kept by content."""

import os
import shutil

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data._index import count_pixels
from edgeinc.data.folder import Folder
from edgeinc.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch):
    """The masks that were decoded, in order."""
    seen = []
    original = Folder.mask

    def mask(self, image_id):
        seen.append(image_id)
        return original(self, image_id)

    monkeypatch.setattr(Folder, "mask", mask)
    return seen


def write(root, masks, names=("zero", "one", "two")):
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    lines = [
        f'[[class]]\nid = {i}\nname = "{n}"\ncolor = [{i}, 0, 0]\n' for i, n in enumerate(names)
    ]
    (root / "classes.toml").write_text("".join(lines))
    for stem, mask in masks.items():
        mask = np.array(mask, np.uint8)
        cv2.imwrite(str(root / "images" / f"{stem}.png"), np.zeros((*mask.shape, 3), np.uint8))
        cv2.imwrite(str(root / "masks" / f"{stem}.png"), mask)
    (root / "train.txt").write_text("\n".join(masks))
    return root


MASKS = {"a": [[0, 1], [1, 255]], "b": [[2, 2], [2, 0]], "c": [[1, 1], [1, 1]]}
PIXELS = [{0: 1, 1: 2, 255: 1}, {0: 1, 2: 3}, {1: 4}]


def count(root, ids=("a", "b", "c")):
    counts = count_pixels(open_dataset(root), ids)
    return [{int(i): int(row[i]) for i in np.flatnonzero(row)} for row in counts]


def test_a_mask_is_read_once_and_never_again(tmp_path, read):
    root = write(tmp_path / "d", MASKS)
    assert count(root) == PIXELS
    assert sorted(read) == ["a", "b", "c"]
    assert count(root) == PIXELS
    assert count(root, ("c", "a")) == [PIXELS[2], PIXELS[0]]
    assert sorted(read) == ["a", "b", "c"]


def test_a_changed_mask_is_read_again_even_with_its_old_date_and_size(tmp_path, read):
    root = write(tmp_path / "d", MASKS)
    count(root)
    file = root / "masks" / "b.png"
    before = file.stat()
    cv2.imwrite(str(file), np.array([[1, 1], [1, 0]], np.uint8))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    read.clear()
    assert count(root) == [PIXELS[0], {0: 1, 1: 3}, PIXELS[2]]
    assert read == ["b"]


def test_a_moved_data_set_is_not_read_again(tmp_path, read):
    root = write(tmp_path / "d", MASKS)
    count(root)
    shutil.move(root, tmp_path / "e")
    read.clear()
    assert count(tmp_path / "e") == PIXELS
    assert read == []


def test_another_class_table_is_another_reading(tmp_path, read):
    count(write(tmp_path / "d", MASKS))
    read.clear()
    write(tmp_path / "e", MASKS, names=("zero", "one"))
    with pytest.raises(DataError, match="ids without a class: 2"):
        count(tmp_path / "e")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut short"])
def test_a_damaged_cache_is_as_good_as_none(tmp_path, read, cache, content):
    root = write(tmp_path / "d", MASKS)
    count(root)
    (file,) = cache.rglob("*.npz")
    file.write_bytes(content)
    read.clear()
    assert count(root) == PIXELS
    assert sorted(read) == ["a", "b", "c"]
    read.clear()
    assert count(root) == PIXELS
    assert read == []


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, cache):
    root = write(tmp_path / "d", MASKS)
    cache.write_text("a file where the folder should be")
    assert count(root) == PIXELS


def test_a_missing_mask_is_one_line(tmp_path):
    root = write(tmp_path / "d", MASKS)
    (root / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png is missing"):
        count(root)


def test_progress_reaches_the_end(tmp_path):
    from contextlib import contextmanager

    from edgeinc.progress import SILENT

    steps = []

    class Task:
        def advance(self, n=1, **kwargs):
            steps.append(n)

    class Progress(type(SILENT)):
        @contextmanager
        def task(self, *args, **kwargs):
            yield Task()

    root = write(tmp_path / "d", {f"i{n:03}": [[0]] for n in range(150)})
    data = open_dataset(root)
    count_pixels(data, data.ids("train"), progress=Progress())
    assert sum(steps) == 150
    assert len(steps) > 1
