"""Several data sets as one."""

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data._index import count_pixels
from edgeinc.data._labels import evaluation_remap, extend_table, first_table, training_remap
from edgeinc.data._select import held_out
from edgeinc.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "cache"))


def write(root, classes, mask, background="none", stems=("x", "y")):
    """A folder data set whose images all have one mask; `classes` are id -> name."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    text = f'background = "{background}"\n'
    for i, name in classes.items():
        text += f'[[class]]\nid = {i}\nname = "{name}"\ncolor = [{i}, 1, 2]\n'
    (root / "classes.toml").write_text(text)
    mask = np.array(mask, np.uint8)
    for stem in stems:
        cv2.imwrite(str(root / "images" / f"{stem}.png"), np.full((*mask.shape, 3), 7, np.uint8))
        cv2.imwrite(str(root / "masks" / f"{stem}.png"), mask)
    (root / "train.txt").write_text("\n".join(stems))
    return root


@pytest.fixture
def cars(tmp_path):
    return write(tmp_path / "cars", {0: "rest", 5: "car"}, [[0, 5, 255]], background="real")


@pytest.fixture
def both(tmp_path):
    return write(tmp_path / "both", {0: "rest", 1: "bus", 2: "car"}, [[0, 1, 2]], background="real")


def test_classes_join_by_name_and_images_keep_their_source(cars, both):
    data = open_dataset([cars, both])
    assert [label.name for label in data.labels] == ["rest", "car", "bus"]
    assert [label.id for label in data.labels] == [0, 1, 2]
    assert data.background == "real"
    assert data.ids("train") == ("0/x", "0/y", "1/x", "1/y")
    assert data.mask("0/x").tolist() == [[0, 1, 255]]
    assert data.mask("1/y").tolist() == [[0, 2, 1]]
    assert data.image("1/x").shape == (1, 3, 3)
    assert open_dataset(data.ref).ids("train") == data.ids("train")


def test_what_a_source_does_not_declare_is_unlabelled_there_not_background(cars, both):
    data = open_dataset([cars, both])
    table = extend_table(first_table(open_dataset(both), []), data, ["car", "bus"])
    remap = training_remap(data, table, ["car", "bus"])
    # In the first source a pixel without a label may be a bus.
    assert remap("0/x")[data.mask("0/x")].tolist() == [[255, 1, 255]]
    assert remap("1/x")[data.mask("1/x")].tolist() == [[0, 2, 1]]
    # For cars alone both are complete.
    table = extend_table(first_table(open_dataset(both), []), data, ["car"])
    remap = training_remap(data, table, ["car"])
    assert remap("0/x")[data.mask("0/x")].tolist() == [[0, 1, 255]]
    assert remap("1/x")[data.mask("1/x")].tolist() == [[0, 0, 1]]


def test_labels_reach_a_class_only_in_images_whose_source_declares_it(cars, both):
    data = open_dataset([cars, both])
    table = extend_table(first_table(open_dataset(both), ["bus"]), data, ["car"])
    remap = evaluation_remap(data, table)
    assert table.names == ("rest", "bus", "car")
    # What is neither a car nor anything labelled may be a bus: no truth for the background.
    assert remap.reached(["0/x", "0/y"]) == {2}
    assert remap.reached(["1/x"]) == {0, 1, 2}
    assert remap.reached(data.ids("train")) == {0, 1, 2}
    assert remap.reached([]) == set()


def test_a_source_without_background_beside_one_with_it(tmp_path, cars):
    roads = write(tmp_path / "roads", {0: "road", 1: "car"}, [[0, 1, 255]])
    data = open_dataset([roads, cars])
    assert [label.name for label in data.labels] == ["rest", "road", "car"]
    assert data.mask("0/x").tolist() == [[1, 2, 255]]
    assert data.mask("1/x").tolist() == [[0, 2, 255]]


def test_the_same_bytes_mean_other_classes_in_another_source(tmp_path):
    a = write(tmp_path / "a", {0: "road", 1: "car"}, [[0, 1, 1]])
    b = write(tmp_path / "b", {0: "car", 1: "road"}, [[0, 1, 1]])
    data = open_dataset([a, b])
    for _ in range(2):  # read, and from the cache
        counts = count_pixels(data, data.ids("train"))
        assert counts[:, :2].tolist() == [[1, 2], [1, 2], [2, 1], [2, 1]]


def test_an_image_is_held_out_wherever_its_source_stands(cars, both):
    one, other = open_dataset([cars, both]), open_dataset([both, cars])
    alone = open_dataset(cars)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        side = held_out(alone, "x", share)
        assert held_out(one, "0/x", share) == held_out(other, "1/x", share) == side


def test_unknown_things_are_refused(cars, both):
    data = open_dataset([cars, both])
    for image_id in ("x", "2/x", "-1/x", "0/nosuch"):
        with pytest.raises(DataError, match="no image"):
            data.image(image_id)
    with pytest.raises(UsageError, match="no split 'nosuch'"):
        data.ids("nosuch")
    with pytest.raises(UsageError, match="no data was named"):
        open_dataset([])


def test_a_network_learns_from_two_sources(tmp_path, base_run, street_data):
    from edgeinc.data._synth import synth
    from edgeinc.training import extend

    synth(tmp_path / "more", n=8, size=(64, 96), seed=5)
    result = extend(
        base_run,
        new_classes=["car"],
        data=[street_data, tmp_path / "more"],
        method="cil",
        epochs=1,
        threads=1,
    )
    (step,) = result.steps
    assert [ref.root for ref in (step.data, *step.data.more)] == [
        str(street_data),
        str(tmp_path / "more"),
    ]
    assert step.command.count("--data ") == 2
    assert result.score is not None
    assert result.score.images == 4 + 1
