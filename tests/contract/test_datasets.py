"""What every data set plug-in promises. A new format adds a tiny copy of itself to `COPIES`."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc import registry
from edgeinc.data import Dataset, open_dataset
from edgeinc.errors import DataError, EdgeincError, UsageError
from edgeinc.schema import VOID


def _camvid(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        stems = [f"0001TP_{split}{i}" for i in range(3)]
        for stem in stems:
            cv2.imwrite(str(root / split / f"{stem}.png"), np.full((24, 32, 3), 90, np.uint8))
            mask = np.arange(24 * 32, dtype=np.int64).reshape(24, 32) % 12
            cv2.imwrite(str(root / f"{split}annot" / f"{stem}.png"), mask.astype(np.uint8))
        lines = [
            f"/SegNet/CamVid/{split}/{s}.png /SegNet/CamVid/{split}annot/{s}.png" for s in stems
        ]
        (root / f"{split}.txt").write_text("\n".join(lines))


def _folder(root: Path) -> None:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.toml").write_text(
        '[[class]]\nid = 0\nname = "ground"\ncolor = [1, 2, 3]\n'
        '[[class]]\nid = 7\nname = "thing"\ncolor = [9, 8, 7]\n'
    )
    for i in range(20):
        cv2.imwrite(str(root / "images" / f"{i}.png"), np.full((24, 32, 3), i, np.uint8))
        mask = np.where(np.eye(24, 32) > 0, 7, 0).astype(np.uint8)
        cv2.imwrite(str(root / "masks" / f"{i}.png"), mask)


def _voc(root: Path) -> None:
    lists = root / "ImageSets" / "Segmentation"
    for folder in (lists, root / "JPEGImages", root / "SegmentationClassAug"):
        folder.mkdir(parents=True)
    mask = np.arange(24 * 32, dtype=np.int64).reshape(24, 32) % 22
    mask[mask == 21] = VOID
    for name, stems in (("train_aug", ("2007_1", "2007_2")), ("val", ("2007_3",))):
        (lists / f"{name}.txt").write_text("\n".join(stems))
        for stem in stems:
            image = np.full((24, 32, 3), 90, np.uint8)
            cv2.imwrite(str(root / "JPEGImages" / f"{stem}.jpg"), image)
            path = root / "SegmentationClassAug" / f"{stem}.png"
            cv2.imwrite(str(path), mask.astype(np.uint8))


def _cityscapes(root: Path) -> None:
    mask = (np.arange(24 * 32, dtype=np.int64).reshape(24, 32) % 34).astype(np.uint8)
    for place in ("train/ulm/ulm_000000", "train/ulm/ulm_000001", "val/lindau/lindau_000000"):
        image_path = root / "leftImg8bit" / f"{place}_000019_leftImg8bit.png"
        mask_path = root / "gtFine" / f"{place}_000019_gtFine_labelIds.png"
        for path, pixels in ((image_path, np.full((24, 32, 3), 90, np.uint8)), (mask_path, mask)):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)


def _ade20k(root: Path) -> None:
    mask = (np.arange(24 * 32, dtype=np.int64).reshape(24, 32) % 151).astype(np.uint8)
    for place in ("training/ADE_train_1", "training/ADE_train_2", "validation/ADE_val_1"):
        image_path = root / "images" / f"{place}.jpg"
        mask_path = root / "annotations" / f"{place}.png"
        for path, pixels in ((image_path, np.full((24, 32, 3), 90, np.uint8)), (mask_path, mask)):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)


def _camvid32(root: Path) -> None:
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (root / folder).mkdir(parents=True)
    road_and_void = np.where(np.eye(24, 32)[..., None] > 0, (128, 64, 128), (0, 0, 0))
    for stem in ("0001TP_006690", "0016E5_07959", "Seq05VD_f00000"):
        image = np.full((24, 32, 3), 90, np.uint8)
        cv2.imwrite(str(root / "701_StillsRaw_full" / f"{stem}.png"), image)
        path = root / "LabeledApproved_full" / f"{stem}_L.png"
        cv2.imwrite(str(path), road_and_void.astype(np.uint8))


def _coco(root: Path) -> None:
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        names = [f"{split} {i}.png" for i in range(3)]
        for name in names:
            cv2.imwrite(str(root / "images" / split / name), np.full((24, 32, 3), 90, np.uint8))
        content = {
            "images": [
                {"id": i, "file_name": name, "width": 32, "height": 24}
                for i, name in enumerate(names)
            ],
            "categories": [{"id": 3, "name": "bus"}, {"id": 90, "name": "car"}],
            "annotations": [
                {
                    "id": 10 * i + category,
                    "image_id": i,
                    "category_id": category,
                    "segmentation": [[category / 9, 2, 20, 2, 20, 20]],
                    "iscrowd": 0,
                }
                for i in range(3)
                for category in (3, 90)
            ],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _cvat(root: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:128,0,0::\n"
    )
    for split in ("train", "val"):
        names = [f"{split} {i}" for i in range(3)]
        for name in names:
            image, mask = np.full((24, 32, 3), 90, np.uint8), np.zeros((24, 32, 3), np.uint8)
            mask[4:9, 7:] = (0, 0, 128)
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image)
            cv2.imwrite(str(root / "SegmentationClass" / f"{name}.png"), mask)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))


def _labelme(root: Path) -> None:
    root.mkdir(parents=True)
    for i in range(20):
        cv2.imwrite(str(root / f"{i}.png"), np.full((24, 32, 3), i, np.uint8))
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [{"label": "car", "points": [[1, 1], [9, 1], [9, 7]], "shape_type": None}],
            "imagePath": f"{i}.png",
            "imageData": None,
            "imageHeight": 24,
            "imageWidth": 32,
        }
        (root / f"{i}.json").write_text(json.dumps(content))


COPIES: dict[str, Callable[[Path], None]] = {
    "ade20k": _ade20k,
    "camvid": _camvid,
    "camvid32": _camvid32,
    "cityscapes": _cityscapes,
    "coco": _coco,
    "cvat": _cvat,
    "folder": _folder,
    "labelme": _labelme,
    "streets": lambda root: None,
    "voc": _voc,
}


@pytest.fixture(params=registry.names("datasets"))
def name(request) -> str:
    return request.param


@pytest.fixture
def data(name, tmp_path) -> Dataset:
    assert name in COPIES, f"add a tiny copy of the format '{name}' to COPIES"
    COPIES[name](tmp_path / name)
    return open_dataset(name, data_root=tmp_path)


def test_labels_are_well_formed(data):
    ids = [label.id for label in data.labels]
    assert ids == sorted(set(ids))
    assert all(0 <= i < VOID for i in ids)
    names = [label.name for label in data.labels]
    assert len(set(names)) == len(names)
    assert all(name and name == name.strip() and "," not in name for name in names)
    colors = [label.color for label in data.labels]
    assert len(set(colors)) == len(colors)
    assert all(len(c) == 3 and all(0 <= v <= 255 for v in c) for c in colors)
    assert data.background in ("none", "real")
    if data.background == "real":
        assert ids[0] == 0


def test_splits_hold_each_image_once(data):
    assert data.splits()[0] == "train"
    everything = [i for split in data.splits() for i in data.ids(split)]
    assert everything
    assert len(set(everything)) == len(everything)


def test_a_fresh_object_lists_the_same(data):
    again = open_dataset(data.ref)
    assert again.splits() == data.splits()
    assert all(again.ids(s) == data.ids(s) for s in data.splits())
    assert again.labels == data.labels


def test_images_and_masks_fit_together(data):
    known = {label.id for label in data.labels} | {VOID}
    for split in data.splits():
        for image_id in data.ids(split)[:3]:
            image, mask = data.image(image_id), data.mask(image_id)
            assert image.dtype == mask.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape == (*mask.shape, 3)
            assert image.flags.c_contiguous
            assert mask.flags.c_contiguous
            assert set(np.unique(mask).tolist()) <= known
            assert (data.image(image_id) == image).all()
            assert isinstance(data.sequence(image_id), str)


def test_what_is_read_may_be_changed(data):
    first = data.ids("train")[0]
    image, mask = data.image(first), data.mask(first)
    kept = image.copy(), mask.copy()
    image[:], mask[:] = 0, 0
    assert (data.image(first) == kept[0]).all()
    assert (data.mask(first) == kept[1]).all()


def test_unknown_things_are_refused(data):
    with pytest.raises(UsageError, match="no split 'nosuch'"):
        data.ids("nosuch")
    for image_id in ("nosuch", "../nosuch", ""):
        with pytest.raises(DataError, match="no image"):
            data.image(image_id)
        with pytest.raises(DataError, match="no image"):
            data.mask(image_id)
    with pytest.raises(UsageError, match="unknown class 'nosuch'"):
        data.label("nosuch")


def test_absent_files_are_one_line_with_a_way_out(name, tmp_path):
    """Generated data is never absent; everything else names the path it misses."""
    if name == "streets":
        assert open_dataset(name, data_root=tmp_path).ids("train")
        return
    with pytest.raises(EdgeincError) as caught:
        open_dataset(name, data_root=tmp_path).ids("train")
    assert str(tmp_path / name) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    homepage = registry.load("datasets", name).homepage
    assert homepage in caught.value.hint


def test_a_path_is_recognised(name, data):
    if name == "streets":
        pytest.skip("streets has no folder")
    assert open_dataset(data.root).ref == data.ref


def test_the_data_root_may_be_the_data_set_itself(name, data):
    if name == "streets":
        pytest.skip("streets has no folder")
    assert open_dataset(name, data_root=data.root).ids("train") == data.ids("train")


def test_no_other_format_claims_it(name, data):
    claims = [
        n for n in registry.names("datasets") if registry.load("datasets", n).recognises(data.root)
    ]
    assert claims == ([] if name == "streets" else [name])


def test_summary_is_one_line(name):
    summary = registry.summary("datasets", name)
    assert 10 < len(summary) <= 100
