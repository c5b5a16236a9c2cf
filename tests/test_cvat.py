"""CVAT's segmentation masks: the table of colours, lists, names and what is refused."""

import hashlib
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import Label, open_dataset
from edgeinc.data._check import check
from edgeinc.data.cvat import Cvat
from edgeinc.errors import DataError, UsageError

TABLE = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n"
COLORS = {"background": (0, 0, 0), "road": (128, 64, 128), "car": (0, 0, 142)}


def make(root: Path, *names: str, lists=None, table: str = TABLE, images="JPEGImages") -> Path:
    """An export whose masks have one row of each class of COLORS."""
    mask = np.array(list(COLORS.values()), np.uint8)[:, None].repeat(5, axis=1)
    for name in names:
        for path, pixels in (
            (root / "SegmentationClass" / f"{name}.png", mask),
            (root / images / f"{name}.jpg", np.full((3, 5, 3), 90, np.uint8)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(path.suffix, pixels[..., ::-1])[1].tobytes())
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    for stem, listed in (lists or {"default": names}).items():
        (folder / f"{stem}.txt").write_text("".join(f"{n}\n" for n in listed), encoding="utf-8")
    (root / "SegmentationClass").mkdir(exist_ok=True)
    (root / "labelmap.txt").write_text(table, encoding="utf-8")
    return root


def test_reads_classes_masks_and_images(tmp_path):
    data = open_dataset(make(tmp_path / "x", "a"))
    assert data.ref.name == "cvat"
    assert data.labels == tuple(Label(i, n, c) for i, (n, c) in enumerate(COLORS.items()))
    assert data.background == "real"
    assert data.mask("a").tolist() == [[0] * 5, [1] * 5, [2] * 5]
    assert data.image("a").shape == (3, 5, 3)
    assert data.default_size == (3, 5)


def test_the_background_comes_first_wherever_it_stands(tmp_path):
    first, *rest = TABLE.splitlines()[1:]
    data = Cvat(make(tmp_path / "x", "a", table="\n".join([*rest, first])))
    assert [label.name for label in data.labels] == ["background", "road", "car"]
    assert data.mask("a").tolist() == [[0] * 5, [1] * 5, [2] * 5]


def test_without_a_background_every_pixel_needs_a_class(tmp_path):
    data = Cvat(make(tmp_path / "x", "a", table=TABLE.replace("background:0,0,0::\n", "")))
    assert data.background == "none"
    assert [label.id for label in data.labels] == [0, 1]
    with pytest.raises(DataError, match=r"a\.png .*\(0, 0, 0\)"):
        data.mask("a")


def test_black_under_another_name_is_a_class(tmp_path):
    data = Cvat(make(tmp_path / "x", "a", table=TABLE.replace("background", "unlabelled")))
    assert (data.background, data.labels[0].name) == ("none", "unlabelled")
    assert data.mask("a").tolist() == [[0] * 5, [1] * 5, [2] * 5]


def test_palette_masks_are_read_by_their_colours(tmp_path):
    root = make(tmp_path / "x", "a")
    _write_palette_png(root / "SegmentationClass" / "a.png", [COLORS["car"], COLORS["road"]])
    assert Cvat(root).mask("a").tolist() == [[2, 1]]


def _write_palette_png(path: Path, palette) -> None:
    """One row that shows every colour of the palette once."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = bytes([0, *range(len(palette))])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", len(palette), 1, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes(value for color in palette for value in color))
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("images", ["JPEGImages", "images", "."])
def test_names_may_have_spaces_letters_and_folders(tmp_path, images):
    names = ("a/b c", "straße", "x.y")
    data = Cvat(make(tmp_path / "x", *names, images=images))
    assert {i for split in data.splits() for i in data.ids(split)} == set(names)
    for name in names:
        assert data.image(name).shape == (3, 5, 3)
        assert data.mask(name).shape == (3, 5)
        assert data.mask_files(name) == (tmp_path / "x" / "SegmentationClass" / f"{name}.png",)


def test_names_match_however_their_letters_are_stored(tmp_path):
    one_sign, two_signs = "stra\u00dfe \u00e4", "stra\u00dfe a\u0308"
    root = make(tmp_path / "x", two_signs, lists={"default": [one_sign]})
    data = Cvat(root)
    assert data.ids("train") == (one_sign,)
    assert data.image(one_sign).shape == (3, 5, 3)
    assert data.mask(one_sign).shape == (3, 5)
    assert data.strays() == ()


def test_capital_endings_are_images_too(tmp_path):
    root = make(tmp_path / "x", "a")
    (root / "JPEGImages" / "a.jpg").rename(root / "JPEGImages" / "a.JPG")
    assert Cvat(root).image("a").shape == (3, 5, 3)


def test_lists_are_the_splits(tmp_path):
    lists = {"Train": ["a"], "Validation": ["b"], "Test": ["c"]}
    data = Cvat(make(tmp_path / "x", "a", "b", "c", lists=lists))
    assert data.splits() == ("train", "val", "test")
    assert [data.ids(s) for s in data.splits()] == [("a",), ("b",), ("c",)]
    with pytest.raises(UsageError, match="no split 'Train'"):
        data.ids("Train")


@pytest.mark.parametrize("name", ["default", "val"])
def test_a_single_list_is_divided_by_a_hash_of_the_names(tmp_path, name):
    listed = [f"frame {i}" for i in range(60)]
    data = Cvat(make(tmp_path / "x", *listed, lists={name: listed}))
    held_out = [n for n in listed if hashlib.sha256(n.encode()).digest()[0] < 51]
    assert data.ids("val") == tuple(held_out)
    assert len(data.ids("train")) == 60 - len(held_out)


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"default": ["a"], "train": ["b"]}, r"default\.txt and .*train\.txt both describe 'tra"),
        ({"val": ["a"], "test": ["b"]}, "none of them describes 'train'"),
        ({"train": ["a"], "val": ["a"]}, r"'a' is in .*train\.txt and in .*val\.txt"),
        ({"train": ["a", "a"]}, r"'a' stands twice in .*train\.txt"),
        ({"train": ["../a"]}, r"train\.txt names the file '\.\./a'"),
        ({"train": ["/a"]}, "outside the data"),
        ({"train": [""]}, r"train\.txt lists no image"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, lists, says):
    with pytest.raises(DataError, match=says):
        Cvat(make(tmp_path / "x", "a", "b", lists=lists)).splits()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("bus:0,0,142::", "has the color of 'car'"),
        ("car:1,2,3::", "has the name of 'car'"),
        ("bus:1,2::", "is not a class"),
        ("bus:1,2,3,4::", "is not a class"),
        ("bus:1,2,256::", "is not a class"),
        ("bus:1,2,-3::", "is not a class"),
        ("bus:::", "is not a class"),
        ("bus", "is not a class"),
        (":1,2,3::", "is not a class"),
        ("a, b:1,2,3::", "'a, b'"),
    ],
)
def test_a_wrong_line_of_the_table_is_refused(tmp_path, line, says):
    with pytest.raises(DataError, match=says) as caught:
        Cvat(make(tmp_path / "x", "a", table=TABLE + line + "\n"))
    assert str(tmp_path / "x" / "labelmap.txt") in caught.value.message
    assert line.split(":")[0] in caught.value.message
    assert caught.value.hint


def test_the_table_may_have_spaces_and_names_with_colons(tmp_path):
    table = TABLE.replace("car:0,0,142::", "car: fast:0, 0, 142:door,wheel:drive\r")
    data = Cvat(make(tmp_path / "x", "a", table=table))
    assert data.labels[2] == Label(2, "car: fast", (0, 0, 142))


def test_a_table_without_classes_or_with_too_many_is_refused(tmp_path):
    with pytest.raises(DataError, match="names no class"):
        Cvat(make(tmp_path / "x", "a", table="# nothing\n"))
    many = "".join(f"c{i}:{i},0,1::\n" for i in range(256))
    with pytest.raises(DataError, match="names 256 classes"):
        Cvat(make(tmp_path / "y", "a", table=many))
    (tmp_path / "y" / "labelmap.txt").write_bytes(b"caf\xe9:1,2,3::\n")
    with pytest.raises(DataError, match="not UTF-8"):
        Cvat(tmp_path / "y")


def test_an_unknown_colour_names_the_mask(tmp_path):
    root = make(tmp_path / "x", "a", table=TABLE.replace("0,0,142", "0,0,143"))
    with pytest.raises(DataError, match=r"a\.png .*\(0, 0, 142\)"):
        Cvat(root).mask("a")


def test_an_export_without_images_says_how_to_get_them(tmp_path):
    root = make(tmp_path / "x", "a")
    (root / "JPEGImages" / "a.jpg").unlink()
    data = Cvat(root)
    assert data.mask("a").shape == (3, 5)
    with pytest.raises(DataError, match=r"default\.txt lists 'a', which has no image") as caught:
        data.image("a")
    assert "Save images" in caught.value.hint


def test_images_that_nothing_was_drawn_in_are_left_out_and_told(tmp_path):
    """CVAT lists them and writes no mask: nobody knows whether they were looked at."""
    root = make(tmp_path / "x", "a", "b", "c")
    path = root / "SegmentationClass" / "a.png"
    path.unlink()
    data = Cvat(root)
    assert {i for split in data.splits() for i in data.ids(split)} == {"b", "c"}
    (note,) = data.notes()
    assert "1 images are left out, such as 'a'" in note
    assert note in check(str(root)).warnings
    with pytest.raises(DataError, match="missing") as caught:
        data.mask("a")
    assert str(path) in caught.value.message
    for name in "bc":
        (root / "SegmentationClass" / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"default\.txt lists no image with a mask"):
        Cvat(root).ids("train")


def test_masks_that_no_list_names_are_found(tmp_path):
    root = make(tmp_path / "x", "a", "b", lists={"default": ["a"]})
    assert Cvat(root).strays() == (root / "SegmentationClass" / "b.png",)


def test_two_images_of_one_name_are_refused(tmp_path):
    root = make(tmp_path / "x", "a")
    (root / "JPEGImages" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png .*share one name"):
        Cvat(root).image("a")


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DataError, match=r"labelmap\.txt is missing"):
        Cvat(tmp_path)
    root = make(tmp_path / "x", "a")
    (root / "ImageSets" / "Segmentation" / "default.txt").unlink()
    with pytest.raises(DataError, match="has no list of images"):
        Cvat(root).splits()
