"""ADE20K in the form of SceneParse150, in miniature."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.errors import DataError

MASK = np.array([[*range(151)]] * 2, np.uint8)


def make(root: Path, ids=(("train", 1), ("train", 2), ("val", 1)), folder: str = "") -> Path:
    for split, number in ids:
        part = {"train": "training", "val": "validation"}[split]
        stem = f"ADE_{split}_{number:08}"
        for kind in ("images", "annotations"):
            (root / folder / kind / part).mkdir(parents=True, exist_ok=True)
        image = root / folder / "images" / part / f"{stem}.jpg"
        cv2.imwrite(str(image), np.full((*MASK.shape, 3), 77, np.uint8))
        cv2.imwrite(str(root / folder / "annotations" / part / f"{stem}.png"), MASK)
    return root


@pytest.mark.parametrize("folder", ["", "ADEChallengeData2016"])
def test_reads_the_folder_and_what_the_archive_unpacks_to(tmp_path, folder):
    root = make(tmp_path / "x", folder=folder)
    (root / folder / "images" / "training" / "._ADE_train_00000001.jpg").write_text("")
    data = open_dataset(root)
    assert (data.ref.name, data.ref.root) == ("ade20k", str(root))
    assert data.splits() == ("train", "val")
    assert data.ids("train") == ("ADE_train_00000001", "ADE_train_00000002")
    assert data.ids("val") == ("ADE_val_00000001",)
    assert data.image("ADE_val_00000001").shape == (*MASK.shape, 3)
    assert (data.mask("ADE_train_00000002") == MASK).all()
    assert data.default_size == (512, 512)


def test_labels_are_other_and_the_official_150():
    data = open_dataset("ade20k", data_root="nowhere")
    assert data.background == "real"
    assert [label.id for label in data.labels] == list(range(151))
    assert len({label.name for label in data.labels}) == 151
    assert len({label.color for label in data.labels}) == 151
    assert data.fixed_labels == data.labels
    # Lines of objectInfo150.txt, one of every ten and those with several words.
    known = {
        0: "other", 1: "wall", 10: "grass", 20: "chair", 30: "field", 40: "cushion",
        45: "chest of drawers", 50: "fireplace", 60: "stairway", 65: "coffee table", 70: "bench",
        80: "hovel", 90: "television receiver", 100: "buffet", 106: "conveyer belt",
        110: "swimming pool", 120: "ball", 130: "dishwasher", 140: "fan", 142: "crt screen",
        150: "flag",
    }  # fmt: skip
    assert {i: data.labels[i].name for i in known} == known
    # The first name of all 150 lines, taken from the published file and joined by newlines.
    names = "\n".join(label.name for label in data.labels[1:])
    assert hashlib.sha256(names.encode()).hexdigest() == (
        "f9dbd8a75a0722c971d8c82db76dc205e06cb422d98153f4e5bbf90408ef5438"
    )
    assert data.labels[0].color == (0, 0, 0)
    assert data.labels[150].color == (0, 224, 128)  # bits 1, 4 and 7 are green, bit 2 is blue


def test_an_id_beyond_150_is_refused(tmp_path):
    root = make(tmp_path / "x")
    data = open_dataset(root)
    cv2.imwrite(str(data.mask_files("ADE_val_00000001")[0]), MASK + 1)
    with pytest.raises(DataError, match=r"ADE_val_00000001\.png has ids without a class: 151$"):
        data.mask("ADE_val_00000001")


def test_missing_files_name_their_path_and_the_download(tmp_path):
    root = make(tmp_path / "x")
    data = open_dataset(root)
    image = root / "images" / "validation" / "ADE_val_00000001.jpg"
    mask = root / "annotations" / "validation" / "ADE_val_00000001.png"
    assert data.mask_files("ADE_val_00000001") == (mask,)
    for path, read in ((image, data.image), (mask, data.mask)):
        path.unlink()
        with pytest.raises(DataError) as caught:
            read("ADE_val_00000001")
        assert f"{path} is missing" in caught.value.message
        assert data.homepage in caught.value.hint


def test_one_name_in_two_splits_is_refused(tmp_path):
    root = make(tmp_path / "x")
    image = root / "images" / "validation" / "ADE_val_00000001.jpg"
    image.rename(image.with_name("ADE_train_00000001.jpg"))
    with pytest.raises(DataError, match=r"'ADE_train_00000001' is in .*training and .*validation"):
        open_dataset(root).ids("train")
