"""Named rules of published work: what they do to scores, and what is said about them."""

from pathlib import Path

import numpy as np
import pytest

from edgeinc import catalogue
from edgeinc.cli import main
from edgeinc.data import Dataset, Label
from edgeinc.data._conventions import convention_names, in_words, load_convention
from edgeinc.errors import UsageError
from edgeinc.evaluation import score_session
from edgeinc.evaluation._history import gates
from edgeinc.runtimes import Session
from edgeinc.schema import (
    ClassInfo,
    ClassTable,
    ConventionDetails,
    DataRef,
    PluginDetails,
    ScenarioDetails,
    from_json,
)

NAMES = ("background", "a", "b", "c")
VOID = 255


class Answer(Session):
    """A session that answers with the red value of what it sees."""

    runtime, provider, precision, sha256, threads = "torch", "cpu", "fp32", "0" * 64, 1
    path, size = Path("memory"), (512, 512)

    def __init__(self, *steps):
        entries = [(name, i) for i, names in enumerate(steps) for name in names]
        self.table = ClassTable(
            tuple(ClassInfo(i, name, (i, 0, 0), step) for i, (name, step) in enumerate(entries)),
            "real",
        )
        self.step = len(steps) - 1

    def run(self, images):
        self.check(images)
        return images[..., 0].copy()


class Photos(Dataset):
    """Square images of four stripes: (predicted, true) id of each."""

    background = "real"
    labels = tuple(Label(i, name, (i, 0, 0)) for i, name in enumerate(NAMES))

    def __init__(self, *images, name="voc"):
        super().__init__(Path("memory"))
        self.images, self.name = images, name

    @property
    def ref(self):
        return DataRef(self.name, "memory")

    def splits(self):
        return ("val",)

    def ids(self, split):
        return tuple(map(str, range(len(self.images))))

    def _stripes(self, image_id, which):
        ids = [pair[which] for pair in self.images[int(image_id)]]
        return np.repeat(np.array(ids, np.uint8), 128)[None].repeat(512, 0)

    def image(self, image_id):
        return np.repeat(self._stripes(image_id, 0)[..., None], 3, axis=2)

    def mask(self, image_id):
        return self._stripes(image_id, 1)


def score(data, convention, *steps):
    return score_session(Answer(*steps), data, convention=convention)


BASE = (("background", "a"),)
FUTURE = [(0, 0), (1, 1), (1, 2), (0, 2)]
"""Stripes of background and a, found; then two of b, not learned: one is called a."""


@pytest.mark.parametrize(
    ("convention", "data", "expected"),
    [
        # Not scored: nothing is wrong.
        ("default", "voc", [100, 100]),
        ("mib", "voc", [100, 100]),
        ("dkd", "ade20k", [100, 100]),
        # Background: 3 stripes of it, 2 found; a: 1 of 1, and 1 too many.
        ("plop", "voc", [100 * 2 / 3, 50]),
        ("ssul", "voc", [100 * 2 / 3, 50]),
        ("dkd", "voc", [100 * 2 / 3, 50]),
    ],
)
def test_a_class_of_the_future_counts_as_the_convention_says(convention, data, expected):
    result = score(Photos(FUTURE, name=data), convention, *BASE)
    assert [c.iou for c in result.classes] == pytest.approx(expected)
    assert result.convention == convention


@pytest.mark.parametrize("convention", ["default", "mib", "plop", "dkd"])
def test_after_the_last_step_there_is_no_future_and_all_agree(convention):
    data = Photos([(0, 0), (1, 1), (2, 1), (3, 3)], [(2, 2), (2, 2), (0, 3), (3, VOID)])
    result = score(data, convention, *BASE, ("b", "c"))
    assert [c.iou for c in result.classes] == pytest.approx([50, 50, 100 * 2 / 3, 50])


def test_id_0_of_ade20k_is_void_for_mib_and_a_class_for_others():
    stripes = [(0, 0), (1, 0), (1, 1), (1, 1)]
    by_mib = score(Photos(stripes, name="ade20k"), "mib", *BASE)
    assert [c.iou for c in by_mib.classes] == [None, 100]
    assert by_mib.miou.all_without_background == 100
    by_dkd = score(Photos(stripes, name="ade20k"), "dkd", *BASE)
    assert [c.iou for c in by_dkd.classes] == pytest.approx([50, 100 * 2 / 3])


def test_images_without_a_learned_class_are_left_out_where_the_convention_says_so():
    shows, does_not = [(0, 0), (1, 1), (1, 1), (0, 0)], [(1, 0), (0, 2), (0, 2), (0, VOID)]
    data = Photos(shows, does_not)
    assert [score(data, name, *BASE).images for name in ("mib", "plop", "dkd")] == [1, 1, 1]
    assert [score(data, name, *BASE).images for name in ("default", "ssul")] == [2, 2]
    assert score(data, "mib", *BASE, ("b",)).images == 2
    with pytest.raises(UsageError, match="none of the 1 images shows a"):
        score(Photos(does_not), "mib", *BASE)


def test_an_absent_class_is_skipped_or_zero():
    data = Photos([(0, 0), (1, 1), (0, 0), (1, 1)])
    skipped, zero = (score(data, name, *BASE, ("b",)) for name in ("plop", "dkd"))
    assert (skipped.absent, zero.absent) == (("b",), ("b",))
    assert (skipped.classes[2].iou, zero.classes[2].iou) == (None, None)
    assert (skipped.miou.all, zero.miou.all) == (100, pytest.approx(200 / 3))
    assert (skipped.miou.new, zero.miou.new) == (None, 0)
    assert (skipped.hiou, zero.hiou) == (None, 0)
    assert [t.miou for t in zero.tasks] == [100, 0]


def test_the_central_crop_is_the_grid_where_the_convention_says_so():
    data = Photos([(0, 0), (1, 1), (0, 0), (1, 1)])
    assert "central 512x512" in score(data, "plop", *BASE).grid
    assert "own size" in score(data, "default", *BASE).grid
    by_hand = score_session(Answer(*BASE), data, convention="plop", eval_size="full")
    assert by_hand.grid == score(data, "default", *BASE).grid


def test_hiou_and_gates_take_the_mean_that_the_convention_prints():
    # background 1 of 2 stripes, a 1 of 2 (one too many), b 2 of 2
    data = Photos([(0, 0), (1, 0), (1, 1), (2, 2)], [(2, 2), (2, 2), (2, 2), (0, VOID)])
    mib, plop = (score(data, name, *BASE, ("b",)) for name in ("mib", "plop"))
    assert [c.iou for c in mib.classes] == [50, 50, 100]
    assert mib.miou == plop.miou
    assert (plop.miou.all, plop.miou.all_without_background) == pytest.approx((200 / 3, 75))

    def failed(result, least):
        rules = load_convention(result.convention, dataset="voc")
        return gates(result, rules, min_miou=least, max_drop=None)

    assert failed(mib, 70) == ()
    assert failed(plop, 70) == ("mIoU 66.7 is below 70",)
    assert failed(mib, 80) == ("mIoU without background 75.0 is below 80",)


def test_hiou_leaves_background_out_with_the_mean():
    # background 1 of 4 stripes; a 1 of 1; b 1 of 4
    data = Photos([(0, 0), (2, 0), (2, 0), (1, 1)], [(2, 0), (2, 2), (0, VOID), (0, VOID)])
    mib, plop = (score(data, name, *BASE, ("b",)) for name in ("mib", "plop"))
    assert [c.iou for c in mib.classes] == [25, 100, 25]
    assert mib.hiou == pytest.approx(2 / (1 / 100 + 1 / 25))
    assert plop.hiou == pytest.approx(2 / (1 / 62.5 + 1 / 25))


def test_an_unknown_convention_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="unknown convention 'mibb'") as caught:
        score(Photos(FUTURE), "mibb", *BASE)
    assert "mib" in caught.value.hint


# ---------------------------------------------------------------------------------- in words


@pytest.fixture
def edgeinc(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder, exit code 0: what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(words))
        assert end.value.code == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", convention_names())
def test_every_convention_says_all_its_rules(name, edgeinc):
    rules = load_convention(name)
    spoken = in_words(name)
    own = [sentence for sentence in spoken if not sentence.startswith("On ")]
    assert len(own) == 7  # one for each rule
    crop = "central 512 x 512" in " ".join(own)
    assert crop == (rules.eval_size == "center512")
    shown = edgeinc("show", f"convention:{name}")
    assert shown.startswith(f"{name} (convention)\n{rules.summary}\n")
    assert all(sentence in shown.splitlines() for sentence in spoken)
    document = edgeinc("show", f"convention:{name}", "--json")
    assert from_json(ConventionDetails, document, source="show") == ConventionDetails(rules, spoken)


def test_two_conventions_that_differ_are_said_differently():
    said = {in_words(name) for name in convention_names() if name not in ("default", "cil")}
    assert len(said) == len(convention_names()) - 2


def test_a_plugin_of_the_same_name_comes_first_and_names_the_convention(edgeinc):
    lines = edgeinc("show", "cil").splitlines()
    assert lines[0] == "cil (method)"
    assert lines[-1] == "the convention of that name: edgeinc show convention:cil"
    from_json(PluginDetails, edgeinc("show", "cil", "--json"), source="show")
    assert "convention" not in edgeinc("show", "erfnet").splitlines()[-1]


def test_a_name_that_no_plugin_has_needs_no_prefix(edgeinc):
    assert edgeinc("show", "default") == edgeinc("show", "convention:default")


def test_conventions_are_listed_with_their_summaries(edgeinc):
    items = catalogue.listing("conventions").items
    assert [(i.name, i.summary) for i in items] == [
        (name, load_convention(name).summary) for name in convention_names()
    ]
    assert edgeinc("ls", "conventions", "-q").split() == list(convention_names())


def test_an_unknown_convention_is_not_shown():
    with pytest.raises(UsageError, match="unknown convention 'mibb'"):
        catalogue.details("convention:mibb")
    with pytest.raises(UsageError, match="'mibb' is neither") as caught:
        catalogue.details("mibb")
    assert "'mib'" in caught.value.hint


# ---------------------------------------------------------------------------------- plans


def test_a_plan_is_shown_step_by_step(edgeinc):
    shown = [" ".join(line.split()) for line in edgeinc("show", "camvid:coarse").splitlines()]
    assert shown[0] == "camvid:coarse (scenario)"
    assert "0 sky, road, pavement part 1 of 3 of every sequence" in shown
    assert "2 car part 3 of 3 of every sequence" in shown
    assert "labels new-only: only the classes of the step are labelled" in shown
    document = edgeinc("show", "camvid:coarse", "--json")
    details = from_json(ScenarioDetails, document, source="show")
    assert details.scenario.steps[1].part == (2, 3)
    assert len(details.images) == 3


@pytest.mark.parametrize("item", catalogue.listing("scenarios").items, ids=lambda i: i.name)
def test_every_plan_there_is_can_be_shown(item):
    details = catalogue.details(item.name)
    assert len(details.images) == len(details.scenario.steps)
    assert all((*details.images, details.labels, details.background, item.summary))


@pytest.mark.parametrize(
    ("head", "step", "expected"),
    [
        ("", "", "images that show a class of the step"),
        ('selection = "disjoint"', "", "images that show a class of the step and none of a later"),
        ('selection = "partitioned"', "", "each for one class it shows"),
        ("", 'sequences = ["x", "y"]', "every image of x, y"),
        ("", 'images = ["1", "2"]', "the 2 images of the plan"),
        ('selection = "disjoint"', "part = [1, 2]", "none of a later step, of part 1 of 2"),
    ],
)
def test_a_plan_of_ones_own_says_which_images_it_takes(tmp_path, head, step, expected):
    file = tmp_path / "plan.toml"
    file.write_text(f'{head}\n[[step]]\nclasses = ["a"]\n{step}\n', encoding="utf-8")
    assert expected in catalogue.details(str(file)).images[0]


def test_an_unknown_plan_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="unknown scenario 'camvid:corse'") as caught:
        catalogue.details("camvid:corse")
    assert "camvid:coarse" in caught.value.hint
