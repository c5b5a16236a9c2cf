"""Scores of a session, against IoU counted here in plain loops."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import edgeinc
from edgeinc.data import Dataset, Label, open_dataset
from edgeinc.errors import UsageError
from edgeinc.evaluation import evaluate, group_means, predict_native, score_session
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


class Memory(Dataset):
    def __init__(self, pairs, names):
        super().__init__(Path("memory"))
        self.pairs, self.names = pairs, names

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


def test_ids_come_back_at_the_size_of_the_image_pixel_centre_on_pixel_centre():
    """Blocks of 3x3 equal pixels survive the way down to a third and back up unchanged."""
    small = np.random.default_rng(1).integers(0, 4, (4, 6)).astype(np.uint8)
    large = np.kron(small, np.ones((3, 3), np.uint8))
    image = np.repeat(large[..., None], 3, axis=2)
    assert np.array_equal(predict_native(RedChannel(table([["a", "b", "c", "d"]])), image), large)


def test_data_without_any_known_class_is_refused(pairs):
    with pytest.raises(UsageError, match="none of the classes a, b"):
        score_session(RedChannel(table([["a", "b"]])), Memory(pairs, ["x", "y", "z", "w"]))


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
