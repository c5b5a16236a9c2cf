"""Cityscapes as its archives unpack, in miniature."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.errors import DataError, UsageError

# The official table: id in the files -> training id. Every id that is not here is void.
TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10,
    24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
MASK = np.array([[*range(34), 255, 255]] * 2, np.uint8)
IDS = {
    "train": ("aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"),
    "val": ("lindau_000000_000019",),
}


def make(root: Path, ids=IDS) -> Path:
    for split, listed in ids.items():
        for image_id in listed:
            place = Path(split) / image_id.split("_")[0]
            image, mask = root / "leftImg8bit" / place, root / "gtFine" / place
            image.mkdir(parents=True, exist_ok=True)
            mask.mkdir(parents=True, exist_ok=True)
            pixels = np.full((*MASK.shape, 3), 77, np.uint8)
            cv2.imwrite(str(image / f"{image_id}_leftImg8bit.png"), pixels)
            cv2.imwrite(str(mask / f"{image_id}_gtFine_labelIds.png"), MASK)
            cv2.imwrite(str(mask / f"{image_id}_gtFine_instanceIds.png"), MASK)
    return root


def test_lists_images_by_city(tmp_path):
    root = make(tmp_path / "x", {**IDS, "test": ("berlin_000000_000019",)})
    for noise in ("train/.DS_Store", "train/readme.txt", "train/ulm/._x_leftImg8bit.png"):
        (root / "leftImg8bit" / noise).write_text("")
    data = open_dataset(root)
    assert data.ref.name == "cityscapes"
    assert data.splits() == ("train", "val")
    assert data.ids("train") == IDS["train"]
    assert data.ids("val") == IDS["val"]
    assert [data.sequence(i) for i in data.ids("train")] == ["aachen", "aachen", "ulm"]
    assert data.image("ulm_000000_000019").shape == (2, 36, 3)
    assert data.default_size == (512, 1024)
    with pytest.raises(UsageError, match="no split 'test'"):
        data.ids("test")


def test_every_file_id_becomes_its_training_id_or_void(tmp_path):
    mask = open_dataset(make(tmp_path / "x")).mask("ulm_000000_000019")
    assert mask.dtype == np.uint8
    assert mask[0].tolist() == [TRAIN_IDS.get(i, 255) for i in MASK[0].tolist()]


def test_labels_are_the_official_19():
    data = open_dataset("cityscapes", data_root="nowhere")
    names = (
        "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, "
        "terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle"
    )
    assert ", ".join(label.name for label in data.labels) == names
    assert [label.id for label in data.labels] == list(range(19))
    assert data.fixed_labels == data.labels
    assert data.background == "none"
    assert data.label("terrain").color == (152, 251, 152)
    assert data.label("bicycle").color == (119, 11, 32)


def test_ids_that_no_such_file_has_are_refused(tmp_path):
    root = make(tmp_path / "x")
    path = root / "gtFine" / "train" / "ulm" / "ulm_000000_000019_gtFine_labelIds.png"
    cv2.imwrite(str(path), MASK[:, :34] + 1)
    with pytest.raises(DataError, match=r"labelIds\.png has ids without a class: 34$"):
        open_dataset(root).mask("ulm_000000_000019")


def test_training_ids_are_not_read_in_place_of_label_ids(tmp_path):
    root = make(tmp_path / "x")
    path = root / "gtFine" / "train" / "ulm" / "ulm_000000_000019_gtFine_labelIds.png"
    path.rename(path.with_name("ulm_000000_000019_gtFine_labelTrainIds.png"))
    data = open_dataset(root)
    with pytest.raises(DataError) as caught:
        data.mask("ulm_000000_000019")
    assert f"{path} is missing" in caught.value.message
    assert "ulm_000000_000019_gtFine_labelTrainIds.png" in caught.value.message
    assert data.homepage in caught.value.hint


def test_missing_files_name_their_path_and_the_download(tmp_path):
    root = make(tmp_path / "x")
    data = open_dataset(root)
    (mask,) = data.mask_files("aachen_000001_000019")
    image = root / "leftImg8bit" / "train" / "aachen" / "aachen_000001_000019_leftImg8bit.png"
    assert mask == (
        root / "gtFine" / "train" / "aachen" / "aachen_000001_000019_gtFine_labelIds.png"
    )
    for path, read in ((image, data.image), (mask, data.mask)):
        path.unlink()
        with pytest.raises(DataError) as caught:
            read("aachen_000001_000019")
        assert f"{path} is missing" in caught.value.message
        assert data.homepage in caught.value.hint


def test_a_part_of_the_cities_is_a_copy(tmp_path):
    data = open_dataset(make(tmp_path / "x", {"train": ("ulm_000000_000019",)}))
    assert data.splits() == ("train",)
    assert data.mask(data.ids("train")[0]).shape == MASK.shape
    with pytest.raises(DataError) as caught:
        data.ids("val")
    assert caught.value.message == f"{tmp_path / 'x' / 'leftImg8bit' / 'val'} is missing"


def test_folders_that_are_not_what_they_should_be(tmp_path):
    root = make(tmp_path / "x")
    cities = root / "leftImg8bit" / "train"
    (cities / "ulm" / "ulm_000000_000019_leftImg8bit.png").rename(
        cities / "ulm" / "jena_000000_000019_leftImg8bit.png"
    )
    with pytest.raises(DataError, match=r"jena_000000_000019_leftImg8bit.png is not of the city"):
        open_dataset(root).ids("train")
    (cities / "loop").symlink_to(cities / "loop")
    (cities / "ulm" / "jena_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(DataError, match="loop cannot be read") as caught:
        open_dataset(root).ids("train")
    assert "\n" not in caught.value.message
