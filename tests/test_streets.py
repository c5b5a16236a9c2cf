"""The built-in street scenes: the same everywhere, varied, and not to be told by colour alone."""

import hashlib

import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data.streets import LABELS, render
from edgeinc.errors import DataError, UsageError
from edgeinc.metrics import confusion, iou
from edgeinc.schema import VOID

NAMES = tuple(label.name for label in LABELS)
SMALL = (96, 128)


@pytest.fixture(scope="module")
def scenes():
    return [render(seed, SMALL) for seed in range(120)]


@pytest.mark.parametrize("size", [(32, 32), (96, 128), (65, 200), (200, 65)], ids=str)
def test_any_size(size):
    image, mask = render(3, size)
    assert image.shape == (*size, 3)
    assert mask.shape == size
    assert image.dtype == mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {*range(len(LABELS)), VOID}


def test_same_seed_same_bytes():
    first, again = render(11, SMALL), render(11, SMALL)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_seeds_differ(scenes):
    digests = {hashlib.sha256(image.tobytes() + mask.tobytes()).digest() for image, mask in scenes}
    assert len(digests) == len(scenes)


def test_a_seed_is_the_same_scene_at_every_size():
    for seed in range(5):
        small, large = render(seed, (96, 128))[1], render(seed, (192, 256))[1]
        assert (large[::2, ::2] == small).mean() > 0.9


def test_vehicles_are_frequent(scenes):
    shown = [np.bincount(mask.ravel(), minlength=256) > 0.003 * mask.size for _, mask in scenes]
    share = np.mean(shown, axis=0)
    assert 0.5 < share[NAMES.index("car")] < 0.9
    assert 0.3 < share[NAMES.index("bus")] < 0.65


def test_every_class_occurs_and_void_is_little(scenes):
    counts = sum(np.bincount(mask.ravel(), minlength=256) for _, mask in scenes)
    assert (counts[: len(LABELS)] > 0).all()
    assert 0 < counts[VOID] < 0.03 * counts.sum()


def test_only_the_own_hood_is_void(scenes):
    for _, mask in scenes:
        assert not (mask[: mask.shape[0] * 3 // 4] == VOID).any()


def test_sky_is_above_road(scenes):
    for _, mask in scenes:
        rows = [np.nonzero(mask == NAMES.index(n))[0].mean() for n in ("sky", "road")]
        assert rows[0] < rows[1]


def test_colour_alone_does_not_tell_the_classes(scenes):
    """The best lookup from colour to class, fitted on 90 scenes, fails on the other 30."""

    def cells(image):
        r, g, b = np.moveaxis(image.astype(int) >> 4, -1, 0)
        return (r << 8) + (g << 4) + b

    votes = np.zeros((4096, 256))
    for image, mask in scenes[:90]:
        np.add.at(votes, (cells(image).ravel(), mask.ravel()), 1)
    best = votes[:, : len(LABELS)].argmax(1).astype(np.uint8)
    total = sum(confusion(mask, best[cells(image)], len(LABELS)) for image, mask in scenes[90:])
    scores = dict(zip(NAMES, iou(total), strict=True))
    for name in ("sidewalk", "building", "pole", "car", "bus", "person", "bicycle"):
        assert (scores[name] or 0) < 35, name


def test_splits_do_not_overlap():
    data = open_dataset("streets")
    assert data.splits() == ("train", "val")
    assert (len(data.ids("train")), len(data.ids("val"))) == (240, 60)
    assert data.ids("train")[0] == "train-0000"
    train, val = (data.image(data.ids(split)[0]) for split in data.splits())
    assert train.shape == (*data.default_size, 3)
    assert (train != val).any()


def test_an_image_may_be_changed_without_changing_the_next():
    data = open_dataset("streets")
    before = data.image("train-0001")
    data.image("train-0001")[:] = 0
    data.mask("train-0001")[:] = 0
    assert (data.image("train-0001") == before).all()
    assert data.mask("train-0001").any()


@pytest.mark.parametrize(
    "image_id", ["train-0240", "val-0060", "test-0001", "train-x", "", "train--1"]
)
def test_unknown_image(image_id):
    with pytest.raises(DataError, match="no image"):
        open_dataset("streets").image(image_id)


def test_unknown_split():
    with pytest.raises(UsageError, match="no split 'test'"):
        open_dataset("streets").ids("test")
