"""Who may see which label, and which images belong to a step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinc.data import Dataset, Label
from edgeinc.data._labels import (
    count_pixels,
    evaluation_table,
    extend_table,
    first_table,
    remap_table,
)
from edgeinc.data._scenario import (
    candidates,
    contiguous_part,
    load_scenario,
    overlapped,
    scenario_names,
)
from edgeinc.errors import DataError, UsageError
from edgeinc.schema import VOID, ScenarioStep

NAMES = ("zero", "one", "two", "three", "four", "five")


class Given(Dataset):
    """A dataset of masks that the test hands over."""

    def __init__(self, masks, background="none", ids=(0, 1, 2, 3, 4, 5)):
        super().__init__("memory")
        self.background = background
        self._masks = {f"{i:03}": np.asarray(m, np.uint8) for i, m in enumerate(masks)}
        self._ids = tuple(ids)

    @property
    def labels(self):
        return tuple(
            Label(i, n, (i, 2 * i, 255 - i)) for i, n in zip(self._ids, NAMES, strict=True)
        )

    def splits(self):
        return ("train",)

    def ids(self, split):
        return tuple(self._masks)

    def image(self, image_id):
        raise AssertionError("no image may be opened to decide who sees what")

    def mask(self, image_id):
        return self._masks[image_id]


def test_ids_follow_the_order_asked_for_and_new_ones_append():
    data = Given([])
    base = first_table(data, ["three", "one"])
    assert [(c.id, c.name, c.step) for c in base.classes] == [(0, "three", 0), (1, "one", 0)]
    more = extend_table(base, data, ["zero"])
    assert more.classes[:2] == base.classes
    assert (more.classes[2].id, more.classes[2].step) == (2, 1)


def test_new_class_with_a_taken_colour_gets_another():
    class Same(Given):
        @property
        def labels(self):
            return tuple(Label(i, n, (9, 9, 9)) for i, n in enumerate(NAMES))

    table = first_table(Same([]), NAMES)
    assert len({c.color for c in table.classes}) == len(NAMES)


def test_real_background_is_always_id_zero_and_takes_what_is_hidden():
    data = Given([], background="real")
    table = first_table(data, ["two"])
    assert table.names == ("zero", "two")
    table = extend_table(table, data, ["four"])
    remap = remap_table(data, table, ["four"])
    assert remap[:6].tolist() == [0, 0, 0, 0, 2, 0]
    assert set(remap[6:].tolist()) == {VOID}


@given(
    order=st.permutations(NAMES),
    cut=st.integers(1, 5),
    mask=st.lists(st.one_of(st.integers(0, 5), st.just(VOID)), min_size=1, max_size=64),
)
def test_no_old_future_or_void_pixel_survives_in_a_new_only_target(order, cut, mask):
    data = Given([])
    base, new = order[:cut], order[cut : cut + 2]
    table = first_table(data, base)
    if new:
        table = extend_table(table, data, new)
    visible = new or base
    target = remap_table(data, table, visible)[np.array(mask, np.uint8)]
    for value, seen in zip(mask, target, strict=True):
        name = None if value == VOID else NAMES[value]
        expected = table.names.index(name) if name in visible else VOID
        assert seen == expected


@given(order=st.permutations(NAMES), cut=st.integers(1, 6))
def test_evaluation_shows_every_learned_class_and_voids_the_rest(order, cut):
    data = Given([])
    table = first_table(data, order[:cut])
    remap = evaluation_table(data, table)
    for value, name in enumerate(NAMES):
        assert remap[value] == (order.index(name) if name in order[:cut] else VOID)
    assert remap[VOID] == VOID


def test_mask_values_need_not_be_consecutive():
    data = Given([], ids=(7, 11, 13, 200, 201, 254))
    table = first_table(data, ["five", "zero"])
    remap = remap_table(data, table, table.names)
    assert (remap[254], remap[7], remap[11]) == (0, 1, VOID)


def test_counts_are_pixels_per_id():
    data = Given([[[0, 0, 3]], [[VOID, 5, 5]]])
    counts = count_pixels(data, data.ids("train"))
    assert counts[0, [0, 3]].tolist() == [2, 1]
    assert counts[1, [5, VOID]].tolist() == [2, 1]


def test_overlapped_takes_every_image_with_one_pixel_of_a_new_class():
    data = Given([[[0, 1]], [[1, 2]], [[4, 4]], [[2, 2]]])
    ids = data.ids("train")
    chosen, counts = overlapped(data, ids, count_pixels(data, ids), ["two"])
    assert chosen == ("001", "003")
    assert counts[:, 2].tolist() == [1, 2]
    with pytest.raises(DataError, match="no pixel of class 'five' in the 4 images"):
        overlapped(data, ids, count_pixels(data, ids), ["two", "five"])


class Sequences(Given):
    def sequence(self, image_id):
        return "a" if int(image_id) < 7 else "b"


@given(count=st.integers(1, 40), of=st.integers(1, 5))
def test_parts_are_contiguous_and_partition_every_sequence(count, of):
    data = Sequences([[[0]]] * count)
    ids = data.ids("train")
    parts = [contiguous_part(data, ids, i, of) for i in range(1, of + 1)]
    assert sorted(i for part in parts for i in part) == list(ids)
    for part in parts:
        for name in ("a", "b"):
            numbers = [int(i) for i in part if data.sequence(i) == name]
            assert (
                numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
            )


def test_scenario_file_and_presets(tmp_path):
    assert "camvid:coarse" in scenario_names()
    assert [s.part for s in load_scenario("camvid:full").steps] == [(1, 3), (2, 3), (3, 3)]
    path = tmp_path / "mine.toml"
    path.write_text('[[step]]\nclasses = ["one"]\nimages = ["001"]\n[[step]]\nclasses = ["two"]\n')
    scenario = load_scenario(str(path))
    assert scenario.name == "mine"
    data = Given([[[1]], [[1]], [[2]]])
    assert candidates(data, scenario.steps[0]) == ("001",)
    assert candidates(data, scenario.steps[1]) == ("000", "001", "002")
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
