"""Who may see which label: targets of a step, and the truth a network is compared with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinc.data import Dataset, Label
from edgeinc.data._conventions import load_convention
from edgeinc.data._labels import evaluation_remap, extend_table, first_table, training_remap
from edgeinc.errors import UsageError
from edgeinc.schema import VOID

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
    remap = training_remap(data, table, ["four"])("")
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
    target = training_remap(data, table, visible)("")[np.array(mask, np.uint8)]
    for value, seen in zip(mask, target, strict=True):
        name = None if value == VOID else NAMES[value]
        expected = table.names.index(name) if name in visible else VOID
        assert seen == expected


@given(order=st.permutations(NAMES), cut=st.integers(1, 6))
def test_evaluation_shows_every_learned_class_and_voids_the_rest(order, cut):
    data = Given([])
    table = first_table(data, order[:cut])
    remap = evaluation_remap(data, table)("")
    for value, name in enumerate(NAMES):
        assert remap[value] == (order.index(name) if name in order[:cut] else VOID)
    assert remap[VOID] == VOID


def test_mask_values_need_not_be_consecutive():
    data = Given([], ids=(7, 11, 13, 200, 201, 254))
    table = first_table(data, ["five", "zero"])
    remap = training_remap(data, table, table.names)("")
    assert (remap[254], remap[7], remap[11]) == (0, 1, VOID)


@given(
    order=st.permutations(NAMES[1:]),
    cut=st.integers(1, 5),
    mask=st.lists(st.one_of(st.integers(0, 5), st.just(VOID)), min_size=1, max_size=64),
    keep=st.booleans(),
)
def test_targets_with_a_real_background(order, cut, mask, keep):
    """What the step may not see is background, void stays void; old labels may be kept."""
    data = Given([], background="real")
    base, new = order[:cut], order[cut : cut + 2]
    table = first_table(data, base)
    if new:
        table = extend_table(table, data, new)
    visible = table.names if keep else (new or base)
    target = training_remap(data, table, visible)("")[np.array(mask, np.uint8)]
    for value, seen in zip(mask, target, strict=True):
        if value == VOID:
            assert seen == VOID
        else:
            name = NAMES[value]
            assert seen == (table.names.index(name) if name in visible and value else 0)


def test_a_virtual_background_takes_everything_else_void_included():
    data = Given([])
    table = first_table(data, ["three", "one"], "virtual")
    assert table.names == ("other", "three", "one")
    table = extend_table(table, data, ["four"])
    target = training_remap(data, table, ["four"])("")
    assert target[:6].tolist() == [0, 0, 0, 0, 3, 0]
    assert target[VOID] == 0
    truth = evaluation_remap(data, table)("")
    assert truth[:6].tolist() == [VOID, 2, VOID, 1, 3, VOID]


def test_a_class_never_becomes_background_by_accident():
    roads = Given([])
    assert first_table(roads, None).background == "none"
    with pytest.raises(UsageError, match="has no background: id 0 is 'zero'"):
        first_table(roads, None, "real")
    with pytest.raises(UsageError, match="has a real background, 'zero'"):
        first_table(Given([], background="real"), None, "virtual")
    with pytest.raises(UsageError, match="background 'some' is not known"):
        first_table(roads, None, "some")


def test_a_real_background_can_be_left_out():
    data = Given([], background="real")
    table = first_table(data, None, "none")
    assert table.names == NAMES[1:]
    assert training_remap(data, table, table.names)("")[:6].tolist() == [VOID, 0, 1, 2, 3, 4]


def test_the_background_is_no_class_to_add():
    data = Given([], background="real")
    with pytest.raises(UsageError, match="'zero' is the background"):
        extend_table(first_table(data, ["one"]), data, ["zero"])


# Rows of the table of published rules: source id -> truth, classes 1 and 2 learned, 3 and on not.
@pytest.mark.parametrize(
    ("name", "dataset", "future", "background"),
    [
        ("default", "voc", VOID, 0),
        ("mib", "voc", VOID, 0),
        ("mib", "ade20k", VOID, VOID),
        ("plop", "voc", 0, 0),
        ("ssul", "voc", 0, 0),
        ("dkd", "voc", 0, 0),
        ("dkd", "ade20k", VOID, 0),
        ("default,test_future=background", "voc", 0, 0),
        ("mib,test_other=scored,eval_size=full", "ade20k", VOID, 0),
    ],
)
def test_truth_by_convention(name, dataset, future, background):
    data = Given([], background="real")
    table = first_table(data, ["one", "two"])
    rules = load_convention(name, dataset=dataset)
    truth = evaluation_remap(data, table, rules)("")
    assert truth[:6].tolist() == [background, 1, 2, future, future, future]
    assert truth[VOID] == VOID


@pytest.mark.parametrize(
    ("name", "void"),
    [("default", VOID), ("mib", 0), ("plop", VOID), ("ssul", VOID), ("dkd", 0)],
)
def test_void_in_training_by_convention(name, void):
    data = Given([], background="real")
    table = first_table(data, ["one"])
    rules = load_convention(name, dataset="voc")
    target = training_remap(data, table, ["one"], train_void=rules.train_void)("")
    assert target[VOID] == void
    none = Given([])
    table = first_table(none, ["one"])
    target = training_remap(none, table, ["one"], train_void=rules.train_void)("")
    assert target[VOID] == VOID


class Partial(Given):
    """Labels two things where they occur, and nothing else."""

    def declared(self, image_id):
        return frozenset(("one", "two"))


def test_background_is_trusted_only_where_every_class_in_question_is_declared():
    data = Partial([], background="real")
    table = extend_table(first_table(data, ["one", "three"]), data, ["two"])
    assert training_remap(data, table, ["two"])("")[:4].tolist() == [0, 0, 3, 0]
    table = extend_table(table, data, ["four"])
    # A pixel without a label might be a four here.
    assert training_remap(data, table, ["two", "four"])("")[:4].tolist() == [VOID, VOID, 3, VOID]
    assert evaluation_remap(data, table)("")[:4].tolist() == [VOID, 1, 3, 2]


def test_rules_of_ones_own_are_checked():
    rules = load_convention("plop,absent=zero,eval_size=256x512", dataset="voc")
    assert (rules.absent, rules.eval_size, rules.test_future) == ("zero", "256x512", "background")
    assert rules.name == "plop,absent=zero,eval_size=256x512"
    with pytest.raises(UsageError, match="unknown rule 'futur'"):
        load_convention("plop,futur=void")
    with pytest.raises(UsageError, match="full512"):
        load_convention("plop,eval_size=full512")
    with pytest.raises(UsageError, match="absent cannot be 'one'"):
        load_convention("plop,absent=one")
