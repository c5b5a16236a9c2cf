"""`data convert`: the same classes, splits, pixels and ids as a folder."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data._convert import convert, safe_stems
from edgeinc.data._synth import synth
from edgeinc.errors import DataError, UsageError


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder with three splits, JPEG and PNG images, a background and another void."""
    root = tmp_path / "source"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.toml").write_text(
        'background = "real"\nvoid = 9\n'
        '[[class]]\nid = 0\nname = "background"\ncolor = [0, 0, 0]\n'
        '[[class]]\nid = 7\nname = "straße"\ncolor = [1, 2, 3]\n',
        encoding="utf-8",
    )
    rng = np.random.default_rng(0)
    for split, stem, suffix in (
        ("train", "a b", ".jpg"),
        ("train", "c.d", ".png"),
        ("val", "é", ".jpeg"),
        ("test", "z", ".png"),
    ):
        image = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        content = cv2.imencode(suffix, image)[1].tobytes()
        (root / "images" / f"{stem}{suffix}").write_bytes(content)
        mask = rng.choice(np.array([0, 7, 9], np.uint8), (12, 16))
        cv2.imwrite(str(root / "masks" / f"{stem}.png"), mask)
        with (root / f"{split}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{stem}\n")
    return root


def _contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_nothing_is_lost(tmp_path, source):
    written = convert(str(source), out=tmp_path / "deep" / "new")
    assert (written.path, written.images) == (str(tmp_path / "deep" / "new"), 4)
    assert written.note == "image files copied as they are"
    old, new = open_dataset(source), open_dataset(tmp_path / "deep" / "new")
    assert (new.labels, new.background) == (old.labels, "real")
    assert {s: new.ids(s) for s in new.splits()} == {
        "train": ("a b", "c.d"),
        "val": ("é",),
        "test": ("z",),
    }
    for stem in ("a b", "c.d", "é", "z"):
        assert new.image_file(stem).read_bytes() == old.image_file(stem).read_bytes()
        assert (new.mask(stem) == old.mask(stem)).all()
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["new"]


def test_what_has_no_files_becomes_png(tmp_path):
    written = convert("streets", out=tmp_path / "new", limit=3)
    assert written.images == 6
    assert written.note == "images written as PNG"
    old, new = open_dataset("streets"), open_dataset(tmp_path / "new")
    assert new.ids("val") == old.ids("val")[:3]
    for stem in new.ids("train"):
        assert (new.image(stem) == old.image(stem)).all()
        assert (new.mask(stem) == old.mask(stem)).all()


def test_a_turned_image_fits_its_mask_afterwards(tmp_path, source):
    """The copied file is turned by its tag; so the mask must be the one of the turned image."""
    stored = cv2.imread(str(source / "masks" / "a b.png"), cv2.IMREAD_UNCHANGED)
    path = source / "images" / "a b.jpg"
    content, block = path.read_bytes(), b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06"
    segment = b"Exif\0\0" + block + bytes(6)
    length = (len(segment) + 2).to_bytes(2, "big")
    path.write_bytes(content[:2] + b"\xff\xe1" + length + segment + content[2:])
    convert(str(source), out=tmp_path / "new")
    new = open_dataset(tmp_path / "new")
    assert new.image("a b").shape == (16, 12, 3)
    shown = np.rot90(np.where(stored == 9, 255, stored), -1)
    assert (new.mask("a b") == shown).all()


def test_a_folder_in_use_is_left_alone(tmp_path, source):
    synth(tmp_path / "mine", n=2, size=(32, 40), seed=0)
    before = _contents(tmp_path / "mine")
    with pytest.raises(UsageError, match="mine is not empty") as caught:
        convert(str(source), out=tmp_path / "mine")
    assert "--overwrite" in caught.value.hint
    with pytest.raises(UsageError, match="was not written by `edgeinc data convert`"):
        convert(str(source), out=tmp_path / "mine", overwrite=True)
    assert _contents(tmp_path / "mine") == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="file is a file"):
        convert(str(source), out=tmp_path / "file", overwrite=True)


def test_its_own_folder_is_replaced(tmp_path, source):
    convert("streets", out=tmp_path / "new", limit=2)
    convert(str(source), out=tmp_path / "new", overwrite=True)
    convert(str(source), out=tmp_path / "fresh")
    assert _contents(tmp_path / "new") == _contents(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["notes.txt", "images/holiday.png", "masks/extra/a.png"])
def test_what_others_wrote_is_never_removed(tmp_path, source, name):
    convert(str(source), out=tmp_path / "new")
    (tmp_path / "new" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "new" / name).write_bytes(b"mine")
    before = _contents(tmp_path / "new")
    with pytest.raises(UsageError, match="was not written by"):
        convert("streets", out=tmp_path / "new", limit=1, overwrite=True)
    assert _contents(tmp_path / "new") == before


def test_a_fault_leaves_nothing_behind(tmp_path, source):
    convert(str(source), out=tmp_path / "new")
    before = _contents(tmp_path / "new")
    (source / "masks" / "z.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"z\.png"):
        convert(str(source), out=tmp_path / "new", overwrite=True)
    with pytest.raises(DataError, match=r"z\.png"):
        convert(str(source), out=tmp_path / "other")
    assert _contents(tmp_path / "new") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "source"]


def test_only_a_folder_can_be_written(tmp_path, source):
    with pytest.raises(UsageError, match="cannot write the format 'coco'") as caught:
        convert(str(source), out=tmp_path / "new", to="coco")
    assert "folder" in caught.value.hint


def test_an_archive_can_be_converted(tmp_path, source, monkeypatch):
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "cache"))
    shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path, "source")
    convert(str(tmp_path / "export.zip"), out=tmp_path / "new")
    assert open_dataset(tmp_path / "new").ids("test") == ("z",)


def test_stems_are_names_on_every_system():
    ids = ["a/b", "a-b", "A-B", 'x:"y"?', "..", " . ", "train/.hidden", "e\u0301", "\u00e9", "n\nm"]
    assert safe_stems(ids) == [
        *("a-b", "a-b-2", "A-B-3", "x-y-", "image", "image-2", "train-.hidden"),
        *("\u00e9", "\u00e9-2", "n-m"),
    ]
    long = safe_stems(["街" * 200, "街" * 200 + "x"])
    assert all(len(stem.encode()) < 200 for stem in long)
    assert len(set(long)) == 2
    assert safe_stems(["caf\udce9"]) == ["caf-"]
