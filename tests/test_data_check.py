"""`data info`, `data check`, `data preview` and `data synth`: what they find, draw and write."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data._check import check, info
from edgeinc.data._copies import Pair, fingerprint, near_copies
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
    (images / "scene-0001.png").unlink()
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
        f"mask {masks / 'scene-0001.png'} has no image",
    ):
        assert sum(says in p for p in report.problems) == 1, says
    assert len(report.problems) == 7
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


def test_check_survives_links_to_themselves(toy):
    for folder, number in (("images", 0), ("masks", 1)):
        path = toy / folder / f"scene-{number:04d}.png"
        path.unlink()
        path.symlink_to(path)
    (toy / "images" / "inside").symlink_to(toy)
    report = check(str(toy))
    assert report.images == {"train": 8, "val": 2}
    assert len(report.problems) == 2
    assert "images/scene-0000.png cannot be read" in report.problems[0]
    assert "masks/scene-0001.png" in report.problems[1]


def _photo(seed: int) -> np.ndarray:
    """Smooth noise, as unlike another seed's as two photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(noise, (64, 48), interpolation=cv2.INTER_CUBIC)


def test_check_warns_of_copies_between_train_and_val(toy):
    for number in range(10):
        cv2.imwrite(str(toy / "images" / f"scene-{number:04d}.png"), _photo(number))
    assert not [w for w in check(str(toy)).warnings if "look" in w]
    small = cv2.resize(_photo(2), (56, 40), interpolation=cv2.INTER_AREA)
    copy = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)
    cv2.imwrite(str(toy / "images" / "scene-0004.png"), cv2.resize(copy, (64, 48)))
    report = check(str(toy), limit=4)
    assert report.ok
    assert report.warnings == (
        "1 image looks the same in val as in train: 'scene-0004' like 'scene-0002'",
    )


def test_images_without_anything_on_them_are_no_copies(toy):
    for number in range(10):
        cv2.imwrite(str(toy / "images" / f"scene-{number:04d}.png"), np.full((48, 64, 3), number))
    assert not [w for w in check(str(toy)).warnings if "look" in w]


def test_copies_are_found_by_comparing_bits():
    bits = np.random.default_rng(0).integers(0, 2, (30, 64)).astype(np.uint8)
    first = {str(i): np.packbits(row) for i, row in enumerate(bits[:20])}
    second = {str(i): np.packbits(row) for i, row in enumerate(bits[20:])}
    for name, source, flipped in (("three", 7, 3), ("four", 8, 4), ("five", 9, 5)):
        changed = bits[source].copy()
        changed[10 : 10 + flipped] ^= 1
        second[name] = np.packbits(changed)
    assert near_copies(first, second) == (Pair("7", "three", 3), Pair("8", "four", 4))
    assert near_copies({}, second) == near_copies(first, {}) == ()


def test_neighbouring_videos_are_no_copies(camvid_root):
    data = open_dataset("camvid", data_root=camvid_root)
    prints = {
        split: {i: fingerprint(data.image(i)) for i in data.ids(split)[::step]}
        for split, step in (("train", 8), ("val", 4))
    }
    assert near_copies(prints["train"], prints["val"]) == ()
    once_more = {i: fingerprint(data.image(i)[::2, ::2]) for i in prints["val"]}
    found = near_copies(prints["val"], once_more)
    assert [p.second for p in found] == list(once_more)


def test_check_warns_of_what_nobody_labelled(toy):
    for number in (0, 1, 4):
        cv2.imwrite(
            str(toy / "masks" / f"scene-{number:04d}.png"), np.full((48, 64), 255, np.uint8)
        )
    table = (toy / "classes.toml").read_text()
    first, second = open_dataset(toy).labels[:2]
    (toy / "classes.toml").write_text(
        table.replace(str(list(second.color)), str(list(first.color)), 1)
    )
    warnings = check(str(toy), limit=4).warnings
    assert "2 images of train without a labelled pixel" in warnings
    assert "1 image of val without a labelled pixel" in warnings
    color = list(first.color)
    assert f"classes '{first.name}' and '{second.name}' have one colour, {color}" in warnings


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
