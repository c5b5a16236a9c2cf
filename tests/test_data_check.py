"""`data info`, `data check`, `data preview` and `data synth`: what they find, draw and write."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data._check import check, info
from edgeinc.data._preview import preview
from edgeinc.data._synth import synth
from edgeinc.errors import DataError, UsageError


@pytest.fixture
def toy(tmp_path) -> Path:
    synth(tmp_path / "toy", n=10, size=(48, 64), seed=0)
    return tmp_path / "toy"


def _contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_synth_writes_a_folder_data_set(toy):
    data = open_dataset(toy)
    assert data.ref.name == "folder"
    assert data.ids("val") == ("scene-0004", "scene-0009")
    assert len(data.ids("train")) == 8
    assert data.image("scene-0003").shape == (48, 64, 3)
    names = [label.name for label in data.labels]
    assert names == [label.name for label in open_dataset("streets").labels]
    stored = cv2.imread(str(toy / "masks" / "scene-0003.png"), cv2.IMREAD_UNCHANGED)
    assert (stored == data.mask("scene-0003")).all()


def test_synth_is_decided_by_its_seed(toy, tmp_path):
    synth(tmp_path / "again", n=10, size=(48, 64), seed=0)
    synth(tmp_path / "other", n=10, size=(48, 64), seed=1)
    assert _contents(toy) == _contents(tmp_path / "again")
    first, second = open_dataset(toy), open_dataset(tmp_path / "other")
    assert all((first.image(i) != second.image(i)).any() for i in first.ids("train"))


def test_synth_leaves_what_is_there(toy):
    before = _contents(toy)
    with pytest.raises(UsageError, match="toy is not empty") as caught:
        synth(toy, n=2, size=(48, 64), seed=3)
    assert "--overwrite" in caught.value.hint
    assert _contents(toy) == before


def test_synth_replaces_its_own(toy, tmp_path):
    synth(toy, n=2, size=(32, 40), seed=3, overwrite=True)
    synth(tmp_path / "fresh", n=2, size=(32, 40), seed=3)
    assert _contents(toy) == _contents(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["notes.txt", "images/holiday.png", "masks/scene-0000.bmp"])
def test_synth_never_removes_what_others_wrote(toy, name):
    (toy / name).write_bytes(b"mine")
    before = _contents(toy)
    with pytest.raises(UsageError, match=f"{name} was not written by"):
        synth(toy, n=2, size=(48, 64), seed=3, overwrite=True)
    assert _contents(toy) == before


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"n": 0}, "0 scenes"), ({"size": (16, 64)}, "16x64"), ({"seed": -1}, "seed -1")],
)
def test_synth_checks_its_numbers(tmp_path, wrong, says):
    with pytest.raises(UsageError, match=says):
        synth(tmp_path / "toy", **{"n": 1, "size": (48, 64), "seed": 0, **wrong})
    assert not (tmp_path / "toy").exists()


def test_info_counts(toy):
    found = info(str(toy))
    assert found.splits == {"train": 8, "val": 2}
    assert found.size == (48, 64)
    assert found.classes[0] == "road"
    assert (found.name, found.root) == ("folder", str(toy))


def test_info_of_what_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="neither a dataset nor a folder"):
        info(str(tmp_path / "none"))


def test_check_counts_classes(toy):
    report = check(str(toy))
    assert report.ok
    assert report.problems == ()
    assert report.images == {"train": 8, "val": 2}
    masks = [cv2.imread(str(toy / "masks" / f"scene-{i:04d}.png"), -1) for i in (4, 9)]
    for entry in report.counts["val"]:
        assert entry.pixels == sum(int((m == entry.id).sum()) for m in masks)
        assert entry.images == sum(bool((m == entry.id).any()) for m in masks)


def test_check_lists_every_problem_at_once(toy):
    images, masks = toy / "images", toy / "masks"
    (masks / "scene-0000.png").unlink()
    (images / "scene-0001.png").unlink()  # the list still names it: a fault of the list
    (toy / "train.txt").write_text("".join(f"scene-{i:04d}\n" for i in (0, 2, 3, 5, 6, 7)))
    cv2.imwrite(str(masks / "scene-0002.png"), np.zeros((48, 64, 3), np.uint8))
    cv2.imwrite(str(masks / "scene-0003.png"), np.full((48, 64), 77, np.uint8))
    cv2.imwrite(str(masks / "scene-0005.png"), np.zeros((40, 64), np.uint8))
    whole = (images / "scene-0006.png").read_bytes()
    (images / "scene-0006.png").write_bytes(whole[:-40])
    cv2.imwrite(str(masks / "scene-0006.png"), np.zeros((48, 64), np.uint16))
    report = check(str(toy))
    assert not report.ok
    for says in (
        "scene-0000.png is missing",
        "scene-0002.png has 3 channels",
        "scene-0003.png has ids without a class: 77",
        "image 'scene-0005' is 64 x 48, its mask 64 x 40",
        "scene-0006.png is truncated",
        "scene-0006.png has 16 bits",
    ):
        assert sum(says in p for p in report.problems) == 1, says
    assert len(report.problems) == 6
    assert report.images == {"train": 6, "val": 2}


def test_check_reads_only_as_many_as_asked(toy):
    (toy / "masks" / "scene-0008.png").unlink()
    report = check(str(toy), limit=2)
    assert report.ok
    assert report.images == {"train": 2, "val": 2}
    assert not check(str(toy)).ok


def test_check_warns_of_absent_and_rare_classes(toy):
    data = open_dataset(toy)
    car = data.label("car").id
    for number in range(10):
        mask = np.zeros((48, 64), np.uint8)
        mask[number == 0, :] = car
        cv2.imwrite(str(toy / "masks" / f"scene-{number:04d}.png"), mask)
    report = check(str(toy))
    assert report.ok
    assert "class 'bus' does not occur in train" in report.warnings
    assert "class 'bus' does not occur in val" in report.warnings
    assert "class 'car' is in 1 images of train only" in report.warnings
    assert not any("'road'" in w for w in report.warnings)


def test_check_of_a_wrong_class_table(toy):
    (toy / "classes.toml").write_text("[[class]]\nid = 0\n")
    with pytest.raises(DataError, match="key 'name' is missing"):
        check(str(toy))


def test_preview_shows_images_and_labels(toy, tmp_path):
    out = tmp_path / "deep" / "sheet.png"
    written = preview(str(toy), out=out, n=4)
    assert (written.path, written.images) == (str(out), 4)
    sheet = cv2.imread(str(out))[..., ::-1]
    assert sheet.shape[1] > 1000
    data = open_dataset(toy)
    legend = sheet[-60:].reshape(-1, 3).tolist()
    assert all(list(label.color) in legend for label in data.labels)


def test_preview_takes_what_there_is(toy, tmp_path):
    assert preview(str(toy), out=tmp_path / "a.png", split="val", n=50).images == 2
    assert preview(str(toy), out=tmp_path / "a.png", n=1).images == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"n": 0}, "0 images"), ({"out": Path("a.jpg")}, "a.jpg"), ({"split": "tset"}, "tset")],
)
def test_preview_checks_what_is_asked(toy, tmp_path, wrong, says):
    with pytest.raises(UsageError, match=says):
        preview(str(toy), **{"out": tmp_path / "a.png", "n": 2, **wrong})
    assert not (tmp_path / "a.png").exists()
