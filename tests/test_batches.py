"""Batches are a function of the iteration and of nothing else."""

import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data._batches import Batches
from edgeinc.data._labels import first_table, training_remap


@pytest.fixture
def make(street_data):
    data = open_dataset(street_data)
    table = first_table(data, ["road", "sky"])

    def build(**changes):
        settings = {
            "batch_size": 4,
            "seed": 0,
            "step": 0,
            "workers": 0,
            "size": (32, 48),
            **changes,
        }
        remap = training_remap(data, table, table.names)
        return Batches(data, changes.pop("ids", data.ids("train")), remap=remap, **settings)

    return build


def same(a, b):
    return np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)


def test_epoch_shows_every_image_once_in_an_order_of_its_own(make):
    batches = make()
    assert batches.per_epoch == 4
    assert sorted(batches.order(0)) == list(range(16))
    assert batches.order(0) != batches.order(1)
    assert make(seed=1).order(0) != batches.order(0)
    assert make(step=1).order(0) != batches.order(0)


def test_stream_from_the_middle_is_the_rest_of_the_stream(make):
    whole = list(make().stream(0, 10))
    rest = list(make().stream(6, 10))
    assert len(rest) == 4
    assert all(same(a, b) for a, b in zip(whole[6:], rest, strict=True))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_the_speed_only(make, workers):
    alone, helped = list(make().stream(0, 9)), list(make(workers=workers).stream(0, 9))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_shapes_and_labels(make):
    batch = next(make().stream(0, 1))
    assert batch.images.shape == (4, 32, 48, 3)
    assert batch.labels.shape == (4, 32, 48)
    assert set(np.unique(batch.labels)) <= {0, 1, 255}


def test_augmentation_differs_between_epochs(make):
    batches = make(batch_size=16)
    first, second = (batches.make(i)[0] for i in (0, 1))
    for epoch, images in ((0, first), (1, second)):
        assert images.shape[0] == len(batches.order(epoch))
    position = batches.order(0).index(3), batches.order(1).index(3)
    assert not np.array_equal(first[position[0]], second[position[1]])


def test_fewer_images_than_a_batch_still_train(make, street_data):
    ids = open_dataset(street_data).ids("train")[:3]
    data = open_dataset(street_data)
    table = first_table(data, ["road"])
    batches = Batches(
        data,
        ids,
        remap=training_remap(data, table, table.names),
        size=(32, 48),
        batch_size=8,
        seed=0,
        step=0,
        workers=0,
    )
    assert batches.per_epoch == 1
    assert next(batches.stream(0, 1)).images.shape[0] == 3


def test_unreadable_image_stops_the_stream_and_its_threads(make, street_data, tmp_path):
    import shutil
    import threading

    from edgeinc.errors import DataError

    broken = tmp_path / "broken"
    shutil.copytree(street_data, broken)
    data = open_dataset(broken)
    table = first_table(data, ["road"])
    for path in (broken / "images").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    batches = Batches(
        data,
        data.ids("train"),
        remap=training_remap(data, table, table.names),
        size=(32, 48),
        batch_size=4,
        seed=0,
        step=0,
        workers=2,
    )
    before = threading.active_count()
    with pytest.raises(DataError):
        list(batches.stream(0, 4))
    assert threading.active_count() == before
