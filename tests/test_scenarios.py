"""Plans of a benchmark, and the images of each of their steps."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinc.data import Dataset, Label
from edgeinc.data._index import count_pixels
from edgeinc.data._scenario import load_scenario, scenario_names
from edgeinc.data._select import (
    belongs,
    candidates,
    contiguous_part,
    held_out,
    read_index,
    step_images,
    training_images,
)
from edgeinc.errors import DataError, UsageError
from edgeinc.schema import Scenario, ScenarioStep

NAMES = ("background", "one", "two", "three", "four", "five")


class Given(Dataset):
    """Masks of one row that the test hands over; sequences are the first letter of the id."""

    background = "real"

    def __init__(self, masks):
        super().__init__(Path("memory"))
        self._masks = {k: np.asarray([m], np.uint8) for k, m in masks.items()}

    @property
    def labels(self):
        return tuple(Label(i, n, (i, 2 * i, 255 - i)) for i, n in enumerate(NAMES))

    def splits(self):
        return ("train",)

    def ids(self, split):
        return tuple(self._masks)

    def image(self, image_id):
        raise AssertionError("no image may be opened to decide who sees what")

    def mask(self, image_id):
        return self._masks[image_id]

    def sequence(self, image_id):
        return image_id[0]


def plan(*steps, selection="overlapped"):
    return Scenario("test", tuple(ScenarioStep(s) for s in steps), selection=selection)


# ---------------------------------------------------------------------------------- selections


@pytest.fixture(scope="module")
def voc_shown():
    """Which classes each image of train_aug shows; id 1 stands for any of 1 to 10."""
    root = Path(__file__).parents[2] / "shared" / "data"
    file = Path(os.environ.get("EDGEINC_TEST_DATA", root)) / "voc" / "image_classes_train_aug.csv"
    if not file.is_file():
        pytest.skip(f"{file} is absent; name the folder of voc/ in EDGEINC_TEST_DATA")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row["classes"].split() for row in csv.DictReader(lines)]
    shown = np.zeros((len(rows), 256), bool)
    for row, ids in zip(shown, rows, strict=True):
        row[[int(i) for i in ids]] = True
    return shown


@pytest.mark.parametrize(
    ("name", "selection", "expected"),
    [
        ("19-1", "overlapped", [10410, 548]),
        ("19-1", "disjoint", [10034, 548]),
        ("15-5", "overlapped", [9568, 2145]),
        ("15-5", "disjoint", [8437, 2145]),
        ("15-1", "overlapped", [9568, 487, 299, 491, 500, 548]),
        ("15-5s", "overlapped", [9568, 487, 299, 491, 500, 548]),
        ("15-1", "disjoint", [8437, 378, 299, 420, 500, 548]),
        ("10-10", "disjoint", [3706, 6876]),
        ("10-1", "overlapped", [6139, 528, 1177, 444, 482, 3898, 487, 299, 491, 500, 548]),
    ],
)
def test_the_published_counts_of_voc(voc_shown, name, selection, expected):
    scenario = load_scenario(name, dataset="voc")
    label = {n: i for i, n in enumerate(VOC)}
    steps = [[label[c] for c in step.classes] for step in scenario.steps]
    found = [belongs(voc_shown, steps, k, selection).sum() for k in range(len(steps))]
    assert found == expected
    if selection == "disjoint":
        assert sum(found) == 10582


VOC = ["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"]
VOC += ["chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"]
VOC += ["sheep", "sofa", "train", "tvmonitor"]

shows = st.lists(st.sets(st.integers(1, 5)), min_size=1, max_size=12)
orders = st.permutations([1, 2, 3, 4, 5])


@given(images=shows, order=orders, cut=st.integers(1, 4))
def test_how_the_selections_relate(images, order, cut):
    shown = np.zeros((len(images), 256), bool)
    for row, ids in zip(shown, images, strict=True):
        row[list(ids)] = True
        row[[0, 255]] = True
    steps = [order[:cut], *([i] for i in order[cut:])]
    names = [f"image {i}" for i in range(len(images))]
    by = {
        rule: np.array([belongs(shown, steps, k, rule, names) for k in range(len(steps))])
        for rule in ("overlapped", "disjoint", "partitioned")
    }
    any_class = np.array([bool(ids) for ids in images])
    # Disjoint and partitioned give every image that shows anything to exactly one step.
    assert (by["disjoint"].sum(0) == any_class).all()
    assert (by["partitioned"].sum(0) == any_class).all()
    assert (by["overlapped"] >= by["disjoint"]).all()
    assert (by["overlapped"] >= by["partitioned"]).all()
    for k, classes in enumerate(steps):
        expected = [bool(ids & set(classes)) for ids in images]
        assert by["overlapped"][k].tolist() == expected
        known = {i for step in steps[: k + 1] for i in step}
        assert by["disjoint"][k].tolist() == [
            e and s <= known for e, s in zip(expected, images, strict=True)
        ]


def test_partitioned_draws_among_the_classes_an_image_shows():
    shown = np.zeros((4000, 256), bool)
    shown[:, [1, 4]] = True
    shown[:2000, 2] = True
    names = [str(i) for i in range(4000)]
    steps = [[1], [2], [3], [4]]
    counts = [belongs(shown, steps, k, "partitioned", names) for k in range(4)]
    assert [c[:2000].sum() / 2000 for c in counts] == pytest.approx(
        [1 / 3, 1 / 3, 0, 1 / 3], abs=0.05
    )
    assert [c[2000:].sum() / 2000 for c in counts] == pytest.approx([0.5, 0, 0, 0.5], abs=0.05)
    # The side of an image depends on its id alone, not on what else is in the data set.
    alone = belongs(shown[:1], steps, 0, "partitioned", names[:1])
    assert alone[0] == counts[0][0]


def test_overlapped_takes_every_image_with_one_pixel_of_a_new_class():
    data = Given({"a": [0, 1], "b": [1, 2], "c": [4, 4], "d": [2, 2], "e": [255, 0]})
    ids, counts = step_images(data, plan(("one",), ("two",)), 1)
    assert ids == ("b", "d")
    assert counts[:, 2].tolist() == [1, 2]
    with pytest.raises(DataError, match="no pixel of class 'five' in the 2 images of step 0"):
        training_images(data, plan(("two", "five")), 0)


def test_a_selection_that_leaves_no_image_says_so():
    data = Given({"a": [1, 2]})
    nothing = plan(("one",), ("two",), selection="disjoint")
    assert step_images(data, nothing, 0)[0] == ()
    with pytest.raises(DataError, match="'one' in any image of step 0 under selection disjoint"):
        training_images(data, nothing, 0)


def test_new_data_need_not_know_the_old_classes():
    data = Given({"a": [1, 2]})
    assert step_images(data, plan(("elsewhere",), ("two",)), 1)[0] == ("a",)


def test_listed_images_are_taken_at_their_word_unless_a_selection_is_asked_for():
    data = Given({"a": [1], "b": [2], "c": [1]})
    steps = (ScenarioStep(("one",), images=("b", "c")),)
    assert step_images(data, Scenario("x", steps), 0)[0] == ("b", "c")
    assert step_images(data, Scenario("x", steps, selection="overlapped"), 0)[0] == ("c",)


@given(count=st.integers(1, 40), of=st.integers(1, 5))
def test_parts_are_contiguous_and_partition_every_sequence(count, of):
    data = Given({f"{'a' if i < 7 else 'b'}{i:03}": [1] for i in range(count)})
    ids = data.ids("train")
    parts = [contiguous_part(data, ids, i, of) for i in range(1, of + 1)]
    assert sorted(i for part in parts for i in part) == list(ids)
    for part in parts:
        for name in ("a", "b"):
            numbers = [int(i[1:]) for i in part if data.sequence(i) == name]
            assert not numbers or numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@given(st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=30), st.floats(0, 0.9))
def test_the_hold_out_is_the_same_whatever_else_there_is(ids, share):
    data = Given({i: [1] for i in ids})
    for image_id in ids:
        alone = Given({image_id: [1]})
        assert held_out(data, image_id, share) == held_out(alone, image_id, share)
        assert not held_out(data, image_id, 0)


def test_the_hold_out_has_the_share_asked_for():
    data = Given({str(i): [1] for i in range(5000)})
    out = sum(held_out(data, i, 0.2) for i in data.ids("train"))
    assert out / 5000 == pytest.approx(0.2, abs=0.02)


# ---------------------------------------------------------------------------------- presets


def test_the_cities_of_the_cityscapes_protocol():
    """Image counts per city as published; Erfurt is in no step."""
    cities = {
        **{"aachen": 174, "dusseldorf": 221, "hanover": 196, "strasbourg": 365},
        **{"bochum": 96, "hamburg": 248, "jena": 119, "monchengladbach": 94, "ulm": 95},
        **{"weimar": 142, "tubingen": 144, "bremen": 316, "cologne": 154, "stuttgart": 196},
        **{"darmstadt": 85, "krefeld": 99, "zurich": 122, "erfurt": 109},
    }

    class Cities(Given):
        def sequence(self, image_id):
            return image_id.split("_")[0]

    data = Cities({f"{city}_{i}": [1] for city, n in cities.items() for i in range(n)})
    steps = load_scenario("cityscapes:3-task").steps
    found = [candidates(data, step) for step in steps]
    assert [len(ids) for ids in found] == [956, 938, 972]
    unused = set(data.ids("train")) - {i for ids in found for i in ids}
    assert len(unused) == 109
    assert {data.sequence(i) for i in unused} == {"erfurt"}
    assert [len(step.classes) for step in steps] == [5, 6, 8]
    assert steps[0].classes == ("road", "sidewalk", "vegetation", "terrain", "sky")


@pytest.mark.parametrize("name", scenario_names())
def test_every_preset_names_classes_of_its_data_set_once(name):
    from edgeinc import registry

    scenario = load_scenario(name)
    known = {label.name for label in registry.load("datasets", name.split(":")[0]).fixed_labels}
    classes = [c for step in scenario.steps for c in step.classes]
    assert set(classes) <= known
    assert len(classes) == len(set(classes))
    assert all(step.classes for step in scenario.steps) or scenario.labels == "new-and-old"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("voc:19-1", [19, 1]),
        ("voc:10-5", [10, 5, 5]),
        ("voc:5-3", [5, 3, 3, 3, 3, 3]),
        ("ade20k:100-50", [100, 50]),
        ("ade20k:100-10", [100, 10, 10, 10, 10, 10]),
        ("ade20k:100-5", [100, *[5] * 10]),
        ("ade20k:50-50", [50, 50, 50]),
        ("cityscapes:14-1", [14, 1, 1, 1, 1, 1]),
        ("camvid:3-task", [4, 4, 3]),
    ],
)
def test_how_many_classes_the_steps_have(name, sizes):
    assert [len(step.classes) for step in load_scenario(name).steps] == sizes


def test_class_orders():
    steps = load_scenario("voc:15-1_b").steps
    assert [s.classes for s in steps[1:]] == [(VOC[i],) for i in (17, 3, 6, 18, 10)]
    assert len(steps[0].classes) == 15
    letters = [n[-1] for n in scenario_names() if n.startswith("voc:15-1_")]
    assert "".join(letters) == "bcdefghijklmnopqrstuvw"
    assert load_scenario("voc:19-1_b").steps[1].classes == ("bottle",)


def test_scenario_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'selection = "disjoint"\nlabels = "new-and-old"\n'
        '[[step]]\nclasses = ["one"]\nimages = ["a1"]\n[[step]]\nclasses = ["two"]\n'
        '[[step]]\nclasses = ["three"]\nsequences = ["b"]\n'
    )
    scenario = load_scenario(str(path))
    assert (scenario.name, scenario.selection, scenario.labels) == (
        "mine",
        "disjoint",
        "new-and-old",
    )
    data = Given({"a1": [1], "b1": [1], "b2": [2]})
    assert [candidates(data, s) for s in scenario.steps] == [
        ("a1",),
        ("a1", "b1", "b2"),
        ("b1", "b2"),
    ]
    with pytest.raises(UsageError, match="names image '999'"):
        candidates(data, ScenarioStep(("one",), images=("999",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step = 3", "is not a scenario"),
        ("[[step]]\n", "'classes'"),
        ('[[step]]\nclasses = "one"', "classes must be a list"),
        ('[[step]]\nclasses = ["one"]\npart = [4, 3]', r"part must be \[i, n\]"),
        ('[[step]]\nclasses = ["one"]\nparts = [1, 3]', "unknown key 'parts'"),
        ('[[step]]\nclasses = ["one"]\npart = [1, 3]\nimages = ["a"]', "takes one of part and"),
        ('selection = "all"\n[[step]]\nclasses = ["one"]', "selection is 'all', allowed are"),
        ("[[step]\n", "is not TOML"),
    ],
)
def test_broken_scenario_names_the_place(tmp_path, text, message):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_scenario(str(path))


def test_unknown_scenario_names_the_nearest():
    with pytest.raises(UsageError) as error:
        load_scenario("camvid:corse")
    assert "camvid:coarse" in error.value.hint


# ---------------------------------------------------------------------------------- index files


@pytest.fixture
def data():
    return Given({"a/x y": [1], "b": [2], "2007_000032": [3]})


def test_an_array_of_positions(tmp_path, data):
    file = tmp_path / "train-0.npy"
    np.save(file, np.array([2, 0], np.int64))
    assert read_index(file, data) == ("2007_000032", "a/x y")


def test_an_array_of_ids(tmp_path, data):
    file = tmp_path / "ids.npy"
    np.save(file, np.array(["b", "a/x y"]))
    assert read_index(file, data) == ("b", "a/x y")


def test_a_list_of_image_and_mask_paths(tmp_path, data):
    file = tmp_path / "train.txt"
    file.write_text(
        "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n\na/x y.jpg\nb\n",
        encoding="utf-8",
    )
    assert read_index(file, data) == ("2007_000032", "a/x y", "b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("i.txt", b"b\nnosuch.jpg mask.png\n", "names image 'nosuch.jpg mask.png', which"),
        ("i.txt", b"\n", "lists no image"),
        ("i.txt", b"\xff\xfe", "is not UTF-8"),
        ("i.npy", b"no array", "is not an array"),
        ("absent.npy", None, "no such index file"),
    ],
)
def test_an_index_that_cannot_be_used(tmp_path, data, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((UsageError, DataError), match=message) as error:
        read_index(tmp_path / name, data)
    assert "\n" not in error.value.message


def test_an_array_is_refused_when_it_points_nowhere_or_holds_objects(tmp_path, data):
    file = tmp_path / "i.npy"
    np.save(file, np.array([3]))
    with pytest.raises(DataError, match="names image number 3, memory has 3"):
        read_index(file, data)
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UsageError, match="is not an array of numbers or text"):
        read_index(file, data)


# ---------------------------------------------------------------------------------- counting


def test_counts_are_pixels_per_id():
    data = Given({"a": [0, 0, 3], "b": [255, 5, 5]})
    counts = count_pixels(data, data.ids("train"))
    assert counts[0, [0, 3]].tolist() == [2, 1]
    assert counts[1, [5, 255]].tolist() == [2, 1]
