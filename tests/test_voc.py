"""Pascal VOC 2012 in its own layout, in miniature."""

import csv
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data._palette import palette_color
from edgeinc.errors import DataError, UsageError

MASK = np.array([[0, 1, 15, 20, 255]] * 3, np.uint8)
NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
)


def write_palette_png(path: Path, ids: np.ndarray) -> None:
    """An 8-bit PNG whose pixels index colours, as the masks of VOC do; grey where id is high."""
    height, width = ids.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    colors = bytes(v for i in range(256) for v in (i * 37 % 256, i * 91 % 256, i * 11 % 256))
    rows = b"".join(b"\0" + row.tobytes() for row in ids)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", header),
        (b"PLTE", colors),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        body = name + data
        content += struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(content)


def make(root: Path, *, train=("2007_000032", "2008_000002"), val=("2007_000033",)) -> Path:
    """A copy whose first training image and validation images are of VOC, the others of SBD."""
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for stem in (*train, *val):
        cv2.imwrite(str(root / "JPEGImages" / f"{stem}.jpg"), np.full((3, 5, 3), 77, np.uint8))
    for stem in (train[0], *val):
        write_palette_png(root / "SegmentationClass" / f"{stem}.png", MASK)
    for stem in train[1:]:
        cv2.imwrite(str(root / "SegmentationClassAug" / f"{stem}.png"), MASK)
    (lists / "train_aug.txt").write_text("".join(f"{s}\n" for s in train))
    (lists / "train.txt").write_text(f"{train[0]}\n")
    (lists / "val.txt").write_text("".join(f"{s}\n" for s in val))
    return root


@pytest.mark.parametrize("inner", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_reads_the_folder_and_what_the_archives_unpack_to(tmp_path, inner):
    make(tmp_path / "x" / inner)
    data = open_dataset(tmp_path / "x")
    assert (data.ref.name, data.ref.root) == ("voc", str(tmp_path / "x"))
    assert data.splits() == ("train", "val")
    assert data.ids("train") == ("2007_000032", "2008_000002")
    assert data.ids("val") == ("2007_000033",)
    assert data.image("2008_000002").shape == (3, 5, 3)
    assert data.default_size == (512, 512)


def test_labels_and_colors():
    data = open_dataset("voc", data_root="nowhere")
    assert data.background == "real"
    assert " ".join(label.name for label in data.labels) == NAMES
    assert [label.id for label in data.labels] == list(range(21))
    assert data.fixed_labels == data.labels
    colors = {label.name: label.color for label in data.labels}
    assert colors["background"] == (0, 0, 0)
    assert colors["aeroplane"] == (128, 0, 0)
    assert colors["cat"] == (64, 0, 0)
    assert colors["person"] == (192, 128, 128)
    assert colors["tvmonitor"] == (0, 64, 128)


def test_palette_deals_bits_to_channels():
    """0b10110101: red takes bits 0, 3, 6, green 1, 4, 7, blue 2, 5, each from the top down."""
    assert palette_color(0b10110101) == (0b10000000, 0b01100000, 0b11000000)
    assert len({palette_color(i) for i in range(256)}) == 256


def test_palette_masks_keep_their_ids(tmp_path):
    data = open_dataset(make(tmp_path / "x"))
    for image_id in ("2007_000032", "2008_000002", "2007_000033"):
        assert (data.mask(image_id) == MASK).all()


def test_the_augmented_mask_comes_first(tmp_path):
    root = make(tmp_path / "x")
    cv2.imwrite(str(root / "SegmentationClassAug" / "2007_000032.png"), MASK * 0)
    data = open_dataset(root)
    assert not data.mask("2007_000032").any()
    assert data.mask_files("2007_000032") == (root / "SegmentationClassAug" / "2007_000032.png",)
    assert data.mask_files("2007_000033") == (root / "SegmentationClass" / "2007_000033.png",)


@pytest.mark.parametrize("place", ["ImageSets/Segmentation", "ImageSets/SegmentationAug", ""])
@pytest.mark.parametrize("name", ["train_aug.txt", "trainaug.txt"])
def test_the_training_list_in_every_place(tmp_path, place, name):
    root = make(tmp_path / "x")
    (root / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
    (root / place).mkdir(exist_ok=True)
    (root / place / name).write_text("2008_000002\n")
    assert open_dataset(root).ids("train") == ("2008_000002",)


def test_the_training_list_above_the_unpacked_archive(tmp_path):
    lists = make(tmp_path / "x" / "VOCdevkit" / "VOC2012") / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").rename(tmp_path / "x" / "train_aug.txt")
    assert open_dataset(tmp_path / "x").ids("train") == ("2007_000032", "2008_000002")


def test_list_lines_in_every_form(tmp_path):
    root = make(tmp_path / "x", train=("a", "b", "c", "d"))
    (root / "ImageSets" / "Segmentation" / "train_aug.txt").write_text(
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\r\n"
        "JPEGImages/b.jpg SegmentationClassAug/b.png\n\n"
        "D:\\VOC2012\\JPEGImages\\c.jpg\n"
        "d"
    )
    assert open_dataset(root).ids("train") == ("a", "b", "c", "d")


def test_the_small_list_is_never_taken_for_the_augmented_one(tmp_path):
    root = make(tmp_path / "x")
    wanted = root / "ImageSets" / "Segmentation" / "train_aug.txt"
    wanted.unlink()
    data = open_dataset(root)
    with pytest.raises(DataError) as caught:
        data.ids("train")
    assert caught.value.message == f"{wanted} is missing"
    assert "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/" in caught.value.hint
    assert data.splits() == ("val",)
    assert (data.mask("2007_000033") == MASK).all()


def test_missing_files_name_their_path_and_the_download(tmp_path):
    root = make(tmp_path / "x")
    image, mask = root / "JPEGImages/2007_000032.jpg", root / "SegmentationClassAug/2008_000002.png"
    image.unlink()
    mask.unlink()
    data = open_dataset(root)
    for path, read, image_id in (
        (image, data.image, "2007_000032"),
        (mask, data.mask, "2008_000002"),
    ):
        with pytest.raises(DataError) as caught:
            read(image_id)
        assert f"{path} is missing" in caught.value.message
        assert data.homepage in caught.value.hint


def test_faults_are_refused(tmp_path):
    root = make(tmp_path / "x")
    lists = root / "ImageSets" / "Segmentation"
    cv2.imwrite(str(root / "SegmentationClassAug" / "2008_000002.png"), MASK + 20)
    data = open_dataset(root)
    with pytest.raises(DataError, match=r"2008_000002\.png has ids without a class: 21, 35, 40"):
        data.mask("2008_000002")
    with pytest.raises(UsageError, match="voc has no split 'trian'") as caught:
        data.ids("trian")
    assert "'train'" in caught.value.hint
    (lists / "val.txt").write_text("2008_000002\n")
    with pytest.raises(DataError, match=r"'2008_000002' is in .*train_aug\.txt and in .*val\.txt"):
        open_dataset(root).ids("train")
    (lists / "train_aug.txt").write_text("a\nb\na\n")
    with pytest.raises(DataError, match="lists 'a' twice"):
        open_dataset(root).ids("train")
    (lists / "train_aug.txt").write_text("\n")
    with pytest.raises(DataError, match=r"train_aug\.txt has no image of 'train'"):
        open_dataset(root).ids("train")
    (lists / "train_aug.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train_aug\.txt is not UTF-8 text"):
        open_dataset(root).ids("train")


def test_an_export_with_a_table_of_its_own_is_another_format(tmp_path):
    root = make(tmp_path / "x")
    (root / "labelmap.txt").write_text("background:0,0,0::\n")
    from edgeinc.data.voc import Voc

    assert not Voc.recognises(root)


def test_listing_the_real_training_list_opens_no_image(camvid_root, tmp_path):
    """The 10,582 ids of the published list, in a copy that has no image at all."""
    table = camvid_root / "voc" / "image_classes_train_aug.csv"
    if not table.is_file():
        pytest.skip(f"{table} is not here")
    with table.open(newline="") as file:
        stems = [row["image_id"] for row in csv.DictReader(file)]
    root = make(tmp_path / "x")
    lines = "".join(f"/JPEGImages/{s}.jpg /SegmentationClassAug/{s}.png\n" for s in stems)
    (root / "ImageSets" / "Segmentation" / "train_aug.txt").write_text(lines)
    data = open_dataset(root)
    assert data.ids("train") == tuple(stems)
    assert len(data.ids("train")) == 10582
