"""`data split`: which images every step of a plan trains on."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edgeinc.cli import app
from edgeinc.data._protocol import split
from edgeinc.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "cache"))


def voc(root, train, val=()):
    """VOC's layout with masks of one row; every image is a set of ids."""
    lists = root / "ImageSets" / "Segmentation"
    for folder in (lists, root / "JPEGImages", root / "SegmentationClassAug"):
        folder.mkdir(parents=True)
    for name, images in (("train_aug", train), ("val", val)):
        stems = [f"{name}_{i:05}" for i in range(len(images))]
        if stems:
            (lists / f"{name}.txt").write_text("\n".join(stems))
        for stem, ids in zip(stems, images, strict=True):
            mask = np.array([[0, 255, *sorted(ids)]], np.uint8)
            cv2.imwrite(str(root / "SegmentationClassAug" / f"{stem}.png"), mask)
            (root / "JPEGImages" / f"{stem}.jpg").touch()
    return root


def images(result):
    return [step.images for step in result.steps]


def test_counts_and_ids_by_hand(tmp_path):
    train = [{1}, {1, 16}, {16}, {17, 20}, {20}, set(), {18}, {19}]
    voc(tmp_path / "voc", train, [{1}, {20}, {16, 2}, set()])
    plan = {"scenario": "15-1", "data_root": tmp_path}
    result = split("voc", **plan)
    assert (result.selection, result.labels, result.background) == (
        "overlapped",
        "new-only",
        "real",
    )
    assert images(result) == [2, 2, 1, 1, 1, 2]
    assert [step.test for step in result.steps] == [2, 2, 2, 2, 2, 3]
    assert (result.total, result.unused) == (8, 1)
    assert result.steps[0].ids is None
    assert images(split("voc", **plan, selection="disjoint")) == [1, 2, 0, 1, 1, 2]
    listed = split("voc", **plan, selection="disjoint", list_ids=True)
    assert listed.steps[1].ids == ("train_aug_00001", "train_aug_00002")
    partitioned = split("voc", **plan, selection="partitioned", list_ids=True)
    everyone = [i for step in partitioned.steps for i in step.ids]
    assert sorted(everyone) == [f"train_aug_{i:05}" for i in range(8) if i != 5]


def test_the_hold_out_takes_its_share_from_every_step(tmp_path):
    voc(tmp_path / "voc", [{1, 20}] * 60)
    plan = {"scenario": "19-1", "data_root": tmp_path, "list_ids": True}
    whole, cut = split("voc", **plan), split("voc", **plan, hold_out=0.2)
    for before, after in zip(whole.steps, cut.steps, strict=True):
        assert after.images + after.held_out == before.images == 60
        assert set(after.ids) < set(before.ids)
    assert cut.steps[0].ids == cut.steps[1].ids
    assert 4 <= cut.steps[0].held_out <= 20


def test_index_files_of_another_repository(tmp_path):
    voc(tmp_path / "voc", [{1}, {20}, {20, 1}])
    np.save(tmp_path / "0.npy", np.array([2, 0]))
    (tmp_path / "1.txt").write_text("/JPEGImages/train_aug_00001.jpg /x/train_aug_00001.png\n")
    files = [tmp_path / "0.npy", tmp_path / "1.txt"]
    plan = {"scenario": "19-1", "data_root": tmp_path, "list_ids": True}
    result = split("voc", **plan, index=files)
    assert result.selection == "listed"
    assert [step.ids for step in result.steps] == [
        ("train_aug_00002", "train_aug_00000"),
        ("train_aug_00001",),
    ]
    with pytest.raises(UsageError, match="1 index files for the 2 steps of 'voc:19-1'"):
        split("voc", **plan, index=files[:1])
    np.save(tmp_path / "0.npy", np.array([7]))
    with pytest.raises(DataError, match="names image number 7"):
        split("voc", **plan, index=files)


def test_unknown_words_are_refused(tmp_path):
    voc(tmp_path / "voc", [{1}])
    for words in ({"selection": "overlaped"}, {"labels": "new"}, {"scenario": "15-11"}):
        with pytest.raises(UsageError, match=next(iter(words.values()))) as error:
            split("voc", **{"scenario": "15-1", "data_root": tmp_path, **words})
        assert error.value.hint


def test_the_command(tmp_path):
    voc(tmp_path / "voc", [{1}, {1, 20}])
    words = ["data", "split", "voc", "--scenario", "19-1", "--data-root", str(tmp_path)]
    printed = CliRunner().invoke(app, words)
    assert printed.exit_code == 0, printed.output
    assert "voc:19-1 on voc: overlapped" in printed.output
    document = json.loads(CliRunner().invoke(app, [*words, "--json", "--list"]).stdout)
    assert [step["images"] for step in document["steps"]] == [2, 1]
    assert document["steps"][1]["classes"] == ["tvmonitor"]
    assert document["steps"][1]["ids"] == ["train_aug_00001"]


def test_the_published_counts_from_a_data_set_of_full_size(tmp_path):
    """Every mask of train_aug with the classes it is known to show, through the command."""
    root = Path(__file__).parents[2] / "shared" / "data"
    file = Path(os.environ.get("EDGEINC_TEST_DATA", root)) / "voc" / "image_classes_train_aug.csv"
    if not file.is_file():
        pytest.skip(f"{file} is absent; name the folder of voc/ in EDGEINC_TEST_DATA")
    lines = file.read_text(encoding="utf-8").splitlines()[1:]
    voc(tmp_path / "voc", [{int(i) for i in line.partition(",")[2].split()} for line in lines])
    for selection, expected in (
        ("overlapped", [9568, 487, 299, 491, 500, 548]),
        ("disjoint", [8437, 378, 299, 420, 500, 548]),
    ):
        result = split("voc", scenario="15-1", selection=selection, data_root=tmp_path)
        assert images(result) == expected
        assert (result.total, result.unused) == (10582, 0)
