"""Scores of a session, against IoU counted here in plain loops."""

import csv
import shutil
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgeinc
from edgeinc.data import Dataset, Label, open_dataset
from edgeinc.data._conventions import load_convention
from edgeinc.errors import DataError, MissingError, UsageError
from edgeinc.evaluation import evaluate, group_means, predict_native, score_session
from edgeinc.evaluation._history import gates
from edgeinc.runs import open_run
from edgeinc.runtimes import Session
from edgeinc.schema import ClassInfo, ClassTable

VOID = 255


def table(steps, background="none"):
    entries = [(n, s) for s, names in enumerate(steps) for n in names]
    return ClassTable(
        tuple(ClassInfo(i, n, (i, i, i), s) for i, (n, s) in enumerate(entries)), background
    )


class RedChannel(Session):
    """A session whose class is the image's red value: what it should say is what it is shown."""

    runtime, provider, precision, sha256, threads = "torch", "cpu", "fp32", "0" * 64, 1
    path = Path("memory")

    def __init__(self, classes, size=(4, 6), step=1):
        self.table, self.size, self.step = classes, size, step

    def run(self, images):
        self.check(images)
        return images[..., 0].copy()


class Fixed(RedChannel):
    """A session whose scores per class are given, the same for every image."""

    def __init__(self, classes, scores):
        super().__init__(classes, size=scores.shape[1:], step=classes.last_step)
        self.scores = scores.astype(np.float32)

    def run(self, images):
        return self.logits(images).argmax(1).astype(np.uint8)

    def logits(self, images):
        self.check(images)
        return np.repeat(self.scores[None], len(images), 0)


class Memory(Dataset):
    def __init__(self, pairs, names, background="none"):
        super().__init__(Path("memory"))
        self.pairs, self.names, self.background = pairs, names, background

    @property
    def labels(self):
        return tuple(Label(i, n, (i, i, i)) for i, n in enumerate(self.names))

    def splits(self):
        return ("val",)

    def ids(self, split):
        return tuple(map(str, range(len(self.pairs))))

    def image(self, image_id):
        return np.repeat(self.pairs[int(image_id)][0][..., None], 3, axis=2).astype(np.uint8)

    def mask(self, image_id):
        return self.pairs[int(image_id)][1].astype(np.uint8)


def slow_iou(pairs, classes):
    scores = []
    for c in range(classes):
        hit = miss = 0
        for predicted, truth in pairs:
            for p, t in zip(predicted.ravel(), truth.ravel(), strict=True):
                if t == VOID:
                    continue
                hit += p == c and t == c
                miss += (p == c) != (t == c)
        scores.append(100 * hit / (hit + miss) if hit + miss else None)
    return scores


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (3, 4, 6))
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 4, truth.shape))
    truth[rng.random(truth.shape) < 0.1] = VOID
    return list(zip(predicted, truth, strict=True))


def test_scores_are_pooled_iou_by_group(pairs):
    session = RedChannel(table([["a", "b"], ["c", "d"]]))
    result = score_session(session, Memory(pairs, ["a", "b", "c", "d"]))
    expected = slow_iou(pairs, 4)
    assert [c.iou for c in result.classes] == pytest.approx(expected)
    assert result.miou.all == pytest.approx(np.mean(expected))
    assert result.miou.old == pytest.approx(np.mean(expected[:2]))
    assert result.miou.new == pytest.approx(np.mean(expected[2:]))
    old, new = result.miou.old, result.miou.new
    assert result.hiou == pytest.approx(2 / (1 / old + 1 / new))
    assert [t.miou for t in result.tasks] == pytest.approx([old, new])
    assert result.images == 3


def test_pixels_of_classes_not_learned_yet_do_not_count(pairs):
    session = RedChannel(table([["a", "b"]]), step=0)
    known = [(np.minimum(p, 1), t) for p, t in pairs]
    result = score_session(session, Memory(known, ["a", "b", "c", "d"]))
    hidden = [(p, np.where(t > 1, VOID, t)) for p, t in known]
    assert [c.iou for c in result.classes] == pytest.approx(slow_iou(hidden, 2))


def test_absent_class_is_none_listed_and_left_out_of_the_mean():
    truth = np.array([[0, 0, 1, 1, 0, 0]] * 4)
    session = RedChannel(table([["a", "b"], ["c"]]))
    result = score_session(session, Memory([(truth, truth)], ["a", "b", "c"]))
    assert result.classes[2].iou is None
    assert result.absent == ("c",)
    assert result.miou.all == 100
    assert result.miou.new is None
    assert result.hiou is None


def test_background_is_in_one_mean_and_out_of_the_other():
    scores = [90.0, 60.0, 30.0]
    means = group_means(table([["background", "a"], ["b"]], "real"), scores)
    assert means.all == pytest.approx(60)
    assert means.all_without_background == pytest.approx(45)
    assert group_means(table([["x", "a"], ["b"]]), scores).all_without_background == pytest.approx(
        60
    )


@pytest.mark.parametrize("classes", [21, 151], ids=["voc", "ade20k"])
def test_both_means_of_all_classes_are_there(classes):
    """Half of the background is taken for class 1: IoU 50 for both, 100 for all others."""
    truth = np.repeat(np.arange(classes), 4)[None]
    predicted = truth.copy()
    predicted[0, :2] = 1  # 2 of 4 pixels of background; class 1 then has 4 of 6
    names = [str(i) for i in range(classes)]
    session = RedChannel(table([names[:-1], names[-1:]], "real"), size=truth.shape)
    miou = score_session(session, Memory([(predicted, truth)], names, "real")).miou
    background, first, rest = 50, 100 * 4 / 6, 100 * (classes - 2)
    assert miou.all == pytest.approx((background + first + rest) / classes)
    assert miou.all_without_background == pytest.approx((first + rest) / (classes - 1))
    old = rest - 100
    assert miou.old == pytest.approx((background + first + old) / (classes - 1))
    assert miou.old_without_background == pytest.approx((first + old) / (classes - 2))


def test_a_virtual_background_is_in_no_mean_but_misses_the_true_class():
    # a: 2 of 4 pixels found, b: 4 of 4; two pixels of a went to id 0
    truth, predicted = np.array([[0, 0, 0, 0, 1, 1, 1, 1]]), np.array([[1, 1, 0, 0, 2, 2, 2, 2]])
    session = RedChannel(table([["other", "a"], ["b"]], "virtual"), size=truth.shape)
    result = score_session(session, Memory([(predicted, truth)], ["a", "b"]))
    assert [c.iou for c in result.classes] == [None, 50, 100]
    assert [c.pixels_true for c in result.classes] == [0, 4, 4]
    assert [c.pixels_predicted for c in result.classes] == [2, 2, 4]
    assert (result.miou.all, result.miou.old, result.miou.new) == (75, 50, 100)
    assert [t.miou for t in result.tasks] == [50, 100]
    assert result.absent == ()


def test_ids_come_back_at_the_size_of_the_image_pixel_centre_on_pixel_centre():
    """Blocks of 3x3 equal pixels survive the way down to a third and back up unchanged."""
    small = np.random.default_rng(1).integers(0, 4, (4, 6)).astype(np.uint8)
    large = np.kron(small, np.ones((3, 3), np.uint8))
    image = np.repeat(large[..., None], 3, axis=2)
    assert np.array_equal(predict_native(RedChannel(table([["a", "b", "c", "d"]])), image), large)


def test_data_without_any_known_class_is_refused(pairs):
    with pytest.raises(UsageError, match="none of the classes a, b"):
        score_session(RedChannel(table([["a", "b"]])), Memory(pairs, ["x", "y", "z", "w"]))


# ------------------------------------------------------------------------------ not labelled


def test_a_class_that_the_data_does_not_label_has_no_score_and_is_in_no_mean():
    """c: 3 of 4 pixels found, one is called a; that is c's loss and says nothing of a."""
    truth, predicted = np.array([[0, 0, 0, 0, VOID, VOID]]), np.array([[2, 2, 2, 0, 2, 1]])
    session = RedChannel(table([["a", "b"], ["c"]]), size=truth.shape)
    result = score_session(session, Memory([(predicted, truth)], ["c"]))
    assert [c.iou for c in result.classes] == [None, None, 75]
    assert [c.pixels_predicted for c in result.classes] == [1, 0, 3]
    assert (result.miou.all, result.miou.old, result.miou.new, result.hiou) == (75, None, 75, None)
    assert result.miou.all_without_background == 75
    assert [t.miou for t in result.tasks] == [None, 75]
    assert (result.unlabelled, result.absent) == (("a", "b"), ())


def test_it_counts_as_zero_nowhere_though_absent_classes_do():
    truth, predicted = np.array([[0, 0, 0, 0]]), np.array([[2, 2, 2, 0]])
    session = RedChannel(table([["a", "b"], ["c", "d"]]), size=truth.shape)
    result = score_session(
        session, Memory([(predicted, truth)], ["c", "d"]), convention="dkd,eval_size=full"
    )
    assert (result.miou.all, result.miou.old, result.miou.new) == (37.5, None, 37.5)
    assert (result.unlabelled, result.absent) == (("a", "b"), ("d",))


def test_a_class_that_is_labelled_but_not_shown_is_wrong_where_it_is_answered():
    truth, predicted = np.array([[1, 1, 1, 1]]), np.array([[2, 2, 2, 0]])
    session = RedChannel(table([["a", "b"], ["c"]]), size=truth.shape)
    result = score_session(session, Memory([(predicted, truth)], ["a", "c"]))
    assert [c.iou for c in result.classes] == [0, None, 75]
    assert (result.miou.all, result.miou.old, result.miou.new) == (37.5, 0, 75)
    assert (result.unlabelled, result.absent) == (("b",), ())


def test_among_some_classes_unlabelled_ones_have_no_score_either():
    session = Fixed(table([["a", "b"], ["c", "d"]]), SCORES)
    truth = np.where(TRUE == 2, 0, np.where(TRUE == 3, 1, VOID))  # ids of the data: c, d
    result = score_session(session, Memory([(truth, truth)], ["c", "d"]), per_task=True)
    # joint: c 0 of 2, both called a; d 1 of 2. Alone: c 1 of 2; d 2 of 3.
    alone = pytest.approx((100 * 1 / 2 + 100 * 2 / 3) / 2)
    assert [(t.miou, t.alone) for t in result.tasks] == [(None, None), (25, alone)]
    assert [u.miou for u in result.unions] == [25]


def test_a_background_that_may_be_an_unlabelled_class_has_no_score():
    """In data of c alone a pixel of the background may be an a: it is no truth for background."""
    truth, predicted = np.array([[0, 0, 1, 1, 1, 1]]), np.array([[0, 1, 2, 2, 2, 0]])
    session = RedChannel(table([["rest", "a"], ["c"]], "real"), size=truth.shape)
    result = score_session(session, Memory([(predicted, truth)], ["rest", "c"], "real"))
    assert [c.iou for c in result.classes] == [None, None, 75]
    assert (result.miou.all, result.miou.all_without_background) == (75, 75)
    assert (result.miou.old, result.miou.old_without_background) == (None, None)
    assert result.unlabelled == ("rest", "a")
    whole = score_session(session, Memory([(predicted, truth)], ["rest", "c", "a"], "real"))
    # rest: 1 of 3; a: 0 of 1; c: 3 of 4
    assert [c.iou for c in whole.classes] == pytest.approx([100 / 3, 0, 75])
    assert whole.unlabelled == ()


def test_a_class_without_a_score_meets_no_gate_and_misses_none():
    truth, predicted = np.array([[0, 0, 0, 0]]), np.array([[2, 2, 2, 0]])
    session = RedChannel(table([["a", "b"], ["c"]]), size=truth.shape)
    result = score_session(session, Memory([(predicted, truth)], ["c"]))
    rules = load_convention("default")
    assert gates(result, rules, min_miou=70, max_drop=None) == ()
    with pytest.raises(UsageError, match="labels no older class") as caught:
        gates(result, rules, min_miou=None, max_drop=5)
    assert "drop --max-drop" in caught.value.hint


# ------------------------------------------------------------------------------ among some classes


# Scores by class (rows) and pixel. The joint decision takes the largest of each column.
#            true class:  a  a  b  b  c  c  d  d
SCORES = np.array(
    [
        [9, 9, 1, 1, 8, 8, 0, 0],  # a
        [1, 1, 9, 9, 0, 0, 8, 0],  # b
        [0, 0, 0, 0, 7, 1, 1, 1],  # c
        [0, 0, 0, 0, 1, 2, 7, 9],  # d
    ]
)[:, None]
TRUE = np.array([[0, 0, 1, 1, 2, 2, 3, 3]])


def test_each_step_alone_hides_what_is_confused_between_steps():
    """Joint: c is called a twice, d is called b once. Among c and d one pixel of c is wrong."""
    session = Fixed(table([["a", "b"], ["c", "d"]]), SCORES)
    data = Memory([(TRUE, TRUE)], ["a", "b", "c", "d"])
    result = score_session(session, data, per_task=True)
    # a: 2 of 4, b: 2 of 3, c: 0 of 2, d: 1 of 2
    joint = [100 * 2 / 4, 100 * 2 / 3, 0, 100 * 1 / 2]
    assert [c.iou for c in result.classes] == pytest.approx(joint)
    first, second = result.tasks
    assert first.miou == pytest.approx(np.mean(joint[:2]))
    assert second.miou == pytest.approx(np.mean(joint[2:]))
    # Alone: a and b are never mistaken for each other. c: 1 of 2; d: 2 of 3.
    assert first.alone == 100
    assert second.alone == pytest.approx((100 * 1 / 2 + 100 * 2 / 3) / 2)
    (union,) = result.unions
    assert (union.steps, union.miou) == ((0, 1), pytest.approx(np.mean(joint)))


def test_a_union_of_steps_ignores_classes_and_pixels_of_later_ones():
    session = Fixed(table([["a"], ["b"], ["c", "d"]]), SCORES)
    data = Memory([(TRUE, TRUE)], ["a", "b", "c", "d"])
    result = score_session(session, data, per_task=True)
    assert [(u.steps, u.miou) for u in result.unions] == [
        ((0, 1), 100),
        ((0, 1, 2), pytest.approx(result.miou.all)),
    ]


def test_nothing_is_scored_among_some_classes_unless_asked_for(pairs):
    result = score_session(RedChannel(table([list("abcd")])), Memory(pairs, list("abcd")))
    assert (result.tasks[0].alone, result.unions, result.miou_ignoring_background) == (
        None,
        (),
        None,
    )


def test_a_virtual_background_can_be_left_out_of_the_decision():
    """What went to id 0 goes to the next best class: right for one pixel, wrong for another."""
    scores = np.array([[9, 9, 0, 0], [8, 1, 8, 1], [1, 8, 1, 8]])[:, None]
    session = Fixed(table([["other", "a"], ["b"]], "virtual"), scores)
    data = Memory([(np.zeros((1, 4)), np.array([[0, 0, 0, 1]]))], ["a", "b"])
    result = score_session(session, data, ignore_background=True)
    assert [c.iou for c in result.classes] == pytest.approx([None, 100 / 3, 100])
    # Now a has 2 of 3 pixels, b 1 of 2.
    ignoring = result.miou_ignoring_background
    assert (ignoring.old, ignoring.new) == pytest.approx((200 / 3, 50))
    by_class = [c.iou_ignoring_background for c in result.classes]
    assert by_class == [None, pytest.approx(200 / 3), pytest.approx(50)]
    assert ignoring.all == pytest.approx((200 / 3 + 50) / 2)
    assert result.miou.all == pytest.approx((100 / 3 + 100) / 2)


def test_a_background_with_pixels_of_its_own_cannot_be_left_out(pairs):
    session = RedChannel(table([["background", "a", "b", "c"]], "real"))
    data = Memory(pairs, ["background", "a", "b", "c"], "real")
    with pytest.raises(UsageError, match="no virtual background"):
        score_session(session, data, ignore_background=True)


def test_a_file_that_gives_no_logits_is_named_with_the_way_out(pairs):
    session = RedChannel(table([list("abcd")]))
    with pytest.raises(MissingError, match="memory decides inside its graph") as caught:
        score_session(session, Memory(pairs, list("abcd")), per_task=True)
    assert "edgeinc eval RUN --per-task" in caught.value.hint


# ------------------------------------------------------------------------------ where and how much


def test_the_central_crop_compares_nothing_outside_it():
    """1024 x 1536 shrinks to 512 x 768; columns 256 to 1280 of the original are its middle."""
    truth = np.zeros((1024, 1536), np.uint8)
    truth[::4] = truth[1::4] = 1
    session = RedChannel(table([["a", "b"]]), size=(512, 512), step=0)

    def score(wrong, size):
        predicted = truth.copy()
        predicted[:, wrong] ^= 1
        return score_session(session, Memory([(predicted, truth)], ["a", "b"]), eval_size=size)

    outside = score(np.r_[0:256, 1280:1536], "center512")
    assert outside.miou.all == 100
    assert sum(c.pixels_true for c in outside.classes) == 512 * 512
    assert "central 512x512" in outside.grid
    for edge in (slice(256, 258), slice(1278, 1280)):
        # One of 512 columns is wrong for both classes.
        assert score(edge, "center512").miou.all == pytest.approx(100 * 511 / 513)
    full = score_session(session, Memory([(truth, truth)], ["a", "b"]))
    assert sum(c.pixels_true for c in full.classes) == truth.size


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (512, 515), (512, 512)])
def test_the_central_crop_takes_each_id_under_the_centre_of_its_pixel(shape):
    from edgeinc.evaluation._grid import load_grid

    mask = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    image = np.repeat(mask[..., None], 3, axis=2)
    cut_image, cut = load_grid("center512").place(image, mask)
    # The longer side is rounded down and the margin to even, as in torchvision.
    rows, columns = (int(512 * side / min(shape)) for side in shape)
    top, left = round((rows - 512) / 2), round((columns - 512) / 2)
    y = np.floor((np.arange(top, top + 512) + 0.5) * shape[0] / rows).astype(int)
    x = np.floor((np.arange(left, left + 512) + 0.5) * shape[1] / columns).astype(int)
    assert np.array_equal(cut, mask[np.ix_(y, x)])
    assert cut_image.shape == (512, 512, 3)


def test_a_size_of_ones_own_is_where_pixels_are_compared(pairs):
    session = RedChannel(table([list("abcd")]))
    result = score_session(session, Memory(pairs, list("abcd")), eval_size="8x12")
    assert result.grid.startswith("8x12, to which image and mask are resized")
    valid = sum(int((truth != VOID).sum()) for _, truth in pairs)
    assert sum(c.pixels_true for c in result.classes) == 4 * valid


@pytest.mark.parametrize("size", ["half", "512", "0x4", "center", "99999x99999"])
def test_a_size_that_means_nothing_is_refused(pairs, size):
    with pytest.raises(UsageError, match=size):
        score_session(
            RedChannel(table([list("abcd")])), Memory(pairs, list("abcd")), eval_size=size
        )


class Endless(Memory):
    """Images made when they are read."""

    def __init__(self, count):
        super().__init__([None] * count, ["a", "b"])

    def image(self, image_id):
        return np.full((96, 128, 3), int(image_id) % 2, np.uint8)

    def mask(self, image_id):
        return np.full((96, 128), int(image_id) % 2, np.uint8)


def test_memory_does_not_grow_with_the_number_of_images():
    session = RedChannel(table([["a", "b"]]), size=(96, 128), step=0)

    def peak(count):
        tracemalloc.start()
        try:
            assert score_session(session, Endless(count)).miou.all == 100
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    pair = 4 * 96 * 128
    peak(40)  # what is imported and cached on first use
    assert peak(400) - peak(40) < 10 * pair


# ------------------------------------------------------------------------------ a real run


@pytest.fixture
def extended(base_run):
    edgeinc.extend(base_run, new_classes=["car"], method="cil")
    return base_run


def test_run_scores_as_an_independent_loop_over_its_predictions(extended, street_data):
    result = evaluate(extended)
    data = open_dataset(street_data)
    names = [c.name for c in result.classes]
    pairs = []
    with edgeinc.open_artifact(extended) as session:
        for image_id in data.ids("val"):
            mask = data.mask(image_id)
            truth = np.full_like(mask, VOID)
            for i, name in enumerate(names):
                truth[mask == data.label(name).id] = i
            image = cv2.resize(data.image(image_id), session.size[::-1])
            pairs.append((session.run(image[None])[0], truth))
    assert [c.iou for c in result.classes] == pytest.approx(slow_iou(pairs, len(names)))


def test_data_that_was_moved_is_asked_for(base_run, street_data, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(street_data, moved)
    document = base_run / "step-0" / "step.json"
    text = document.read_text(encoding="utf-8")
    gone = str(tmp_path / "gone")
    document.write_text(text.replace(str(street_data), gone), encoding="utf-8")
    with pytest.raises(DataError, match=r"not at .*gone any more") as caught:
        edgeinc.evaluate(base_run)
    assert "--data PATH" in caught.value.hint
    assert edgeinc.evaluate(base_run, data=moved).images


def test_data_of_the_new_class_alone_scores_that_one_alone(base_run, labelled_alone):
    """Old classes are answered in these images, wrongly or rightly: nobody can tell."""
    score = edgeinc.extend(
        base_run, new_classes=["car"], data=labelled_alone("car"), method="finetune"
    ).score
    old, car = score.classes[:-1], score.classes[-1]
    assert score.unlabelled == ("road", "sky", "building")
    assert [c.iou for c in old] == [None, None, None]
    assert car.iou is not None
    assert (score.miou.all, score.miou.old, score.miou.new) == (car.iou, None, car.iou)
    assert open_run(base_run).score(1) == score
    weak = evaluate(base_run, step=0, limit=4)  # what does know the old classes still scores them
    assert (weak.unlabelled, weak.miou.old) == ((), None)
    kept = edgeinc.evaluate(base_run)
    assert kept.unlabelled == ()
    assert kept.miou.old is not None


def test_it_is_said_which_classes_were_not_scored(base_run, labelled_alone, monkeypatch, capsys):
    from edgeinc.cli import main

    monkeypatch.setenv("NO_COLOR", "1")
    words = [
        "--new-classes",
        "car",
        "--data",
        str(labelled_alone("car")),
        "-m",
        "finetune",
        "--epochs",
        "1",
    ]
    for command in (["extend", str(base_run), *words], ["eval", str(base_run), *words[2:4]]):
        with pytest.raises(SystemExit) as end:
            main(command)
        said = capsys.readouterr().out
        assert end.value.code == 0
        assert "not labelled in this data, so in no score: road, sky, building" in said
        assert "mean over 1 classes" in said
        assert "only car is labelled: its IoU is the share of it that was found" in said
    with pytest.raises(SystemExit) as end:
        main(["eval", str(base_run), *words[2:4], "--max-drop", "5"])
    assert end.value.code == 2
    assert "labels no older class" in capsys.readouterr().err


def test_held_out_images_score_old_classes_by_the_step_before_though_unlabelled(
    base_run, labelled_alone
):
    edgeinc.extend(
        base_run,
        new_classes=["car"],
        data=labelled_alone("car"),
        method="finetune",
        epochs=1,
        hold_out=0.3,
    )
    result = evaluate(base_run, split="hold-out")
    assert result.unlabelled == ()
    assert result.miou.old is not None


def test_forgetting_is_the_iou_after_its_own_step_minus_now(extended):
    first, now = open_run(extended).score(0), evaluate(extended)
    for before, after in zip(first.classes, now.classes, strict=False):
        assert after.forgetting == pytest.approx(before.iou - after.iou)
    assert now.classes[-1].forgetting == 0
    assert [h.step for h in now.history] == [0, 1]


def test_step_all_scores_every_step_on_the_same_images(extended):
    result = evaluate(extended, step="all", limit=2)
    assert result.images == 2
    assert [h.step for h in result.history] == [0, 1]
    assert set(result.history[0].iou) < set(result.history[1].iou)
    assert result.history[0].miou.all == pytest.approx(evaluate(extended, step=0, limit=2).miou.all)


def test_history_of_other_images_is_not_mixed_in(extended):
    result = evaluate(extended, limit=2)
    assert [h.step for h in result.history] == [1]
    assert all(c.forgetting is None for c in result.classes if c.step == 0)


def test_history_compared_elsewhere_or_by_other_rules_is_not_mixed_in(extended):
    assert [h.step for h in evaluate(extended, eval_size="64x96").history] == [1]
    assert [h.step for h in evaluate(extended, convention="cil").history] == [1]
    both = evaluate(extended, eval_size="64x96", step="all")
    assert [h.step for h in both.history] == [0, 1]


def test_logits_of_a_trained_network_decide_as_it_does(extended):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    with edgeinc.open_artifact(extended) as session:
        logits = session.logits(images)
        assert (logits.dtype, logits.shape) == (np.float32, (2, 4, 64, 96))
        assert np.array_equal(logits.argmax(1), session.run(images))


def test_steps_of_a_run_are_scored_alone_and_together(extended):
    plain, result = evaluate(extended), evaluate(extended, per_task=True)
    assert result.miou == plain.miou
    assert [u.steps for u in result.unions] == [(0, 1)]
    assert result.unions[0].miou == pytest.approx(result.miou.all)
    assert result.tasks[1].alone == 100  # its only class
    assert result.tasks[0].alone >= result.tasks[0].miou


def test_classes_are_written_as_csv(extended, tmp_path):
    file = tmp_path / "classes.csv"
    result = evaluate(extended, csv=file)
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == [
        *("id", "name", "step", "iou", "forgetting", "pixels_true", "pixels_predicted")
    ]
    for row, score in zip(rows, result.classes, strict=True):
        assert (int(row["id"]), row["name"], int(row["step"])) == (score.id, score.name, score.step)
        assert (float(row["iou"]) if row["iou"] else None) == score.iou
        assert (float(row["forgetting"]) if row["forgetting"] else None) == score.forgetting
        assert int(row["pixels_true"]) == score.pixels_true
    valid = sum(int(row["pixels_true"]) for row in rows)
    assert valid == sum(int(row["pixels_predicted"]) for row in rows)


def test_a_file_for_the_classes_that_cannot_be_written_is_refused_at_once(extended, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        evaluate(extended, csv=tmp_path / "gone" / "classes.csv", split="not asked for yet")
    with pytest.raises(UsageError, match="is a folder"):
        evaluate(extended, csv=tmp_path, split="not asked for yet")


def test_the_command_says_what_was_compared_and_what_is_absent(
    extended, tmp_path, monkeypatch, capsys
):
    from edgeinc.cli import main

    monkeypatch.setenv("NO_COLOR", "1")
    file = tmp_path / "classes.csv"
    words = ["--per-task", "--convention", "dkd", "--eval-size", "32x48", "--csv", str(file)]
    with pytest.raises(SystemExit) as end:
        main(["eval", str(extended), *words])
    out, err = capsys.readouterr()
    assert end.value.code == 0
    assert f"wrote {file}" in err
    assert file.is_file()
    assert "compared at 32x48, to which image and mask are resized" in out
    assert "convention dkd: its mIoU is the one with background" in out
    assert "alone" in out
    assert "0+1" in out


def test_gates_are_named_when_they_are_not_met(extended):
    result = evaluate(extended)
    assert evaluate(extended, min_miou=0, max_drop=100).gates == ()
    failed = evaluate(extended, min_miou=99.9, max_drop=-100).gates
    assert failed[0] == f"mIoU {result.miou.all:.1f} is below 99.9"
    assert "older classes lost" in failed[1]
    with pytest.raises(UsageError, match="--max-drop needs"):
        evaluate(extended, limit=2, max_drop=5)


def test_bad_targets_are_one_clear_line(extended, tmp_path):
    with pytest.raises(UsageError, match="has no step 7"):
        evaluate(extended, step=7)
    with pytest.raises(UsageError, match="does not say which data"):
        evaluate(tmp_path)
    with pytest.raises(UsageError, match="split"):
        evaluate(extended, split="test")


def test_result_is_the_same_after_json(extended):
    from edgeinc.schema import EvalResult, from_json, to_json

    result = evaluate(extended)
    assert from_json(EvalResult, to_json(result), source="memory") == result
