"""Scores against plain loops over pixels: what IoU, mIoU, hIoU and agreement must come out as."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeinc.metrics import agreement, confusion, harmonic, iou, mean

VOID = 255
TRUTH = np.array([[0, 0, 1], [1, 2, VOID]], np.uint8)
PREDICTED = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)


def iou_by_loops(truth, predicted, classes):
    scores = []
    for c in range(classes):
        hit = miss = 0
        for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
            if t == VOID:
                continue
            if t == c and p == c:
                hit += 1
            elif c in (t, p):
                miss += 1
        scores.append(100 * hit / (hit + miss) if hit + miss else None)
    return scores


@st.composite
def mask_pairs(draw, classes=4):
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=3, max_side=6))
    truth = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([*range(classes), VOID])))
    predicted = draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    return truth, predicted


def test_iou_of_a_hand_counted_example():
    # class 0: 1 hit, 1 missed, 1 wrongly claimed; class 1: 2, 0, 1; class 2: 0, 1, 0 (void skipped)
    scores = iou(confusion(TRUTH, PREDICTED, 3))
    assert scores == pytest.approx([100 / 3, 200 / 3, 0.0])


def test_confusion_counts_rows_by_truth_and_columns_by_prediction():
    assert confusion(TRUTH, PREDICTED, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


@given(mask_pairs())
def test_iou_is_what_a_loop_over_pixels_counts(pair):
    truth, predicted = pair
    assert iou(confusion(truth, predicted, 4)) == pytest.approx(iou_by_loops(truth, predicted, 4))


@given(mask_pairs())
def test_pooling_images_is_scoring_their_concatenation(pair):
    truth, predicted = pair
    rows = zip(truth, predicted, strict=True)
    pooled = sum(confusion(t, p, 4) for t, p in rows)
    assert np.array_equal(pooled, confusion(truth, predicted, 4))


@given(mask_pairs())
def test_a_perfect_prediction_scores_100_where_a_class_occurs(pair):
    truth, _ = pair
    predicted = np.where(truth == VOID, 0, truth).astype(np.uint8)
    present = set(truth[truth != VOID].tolist())
    expected = [100.0 if c in present else None for c in range(4)]
    assert iou(confusion(truth, predicted, 4)) == expected


def test_a_class_absent_from_truth_and_prediction_is_skipped():
    scores = iou(confusion(TRUTH, PREDICTED, 5))
    assert scores[3:] == [None, None]
    assert mean(scores, ids=range(5)) == pytest.approx((100 / 3 + 200 / 3 + 0) / 3)


def test_a_class_that_is_only_predicted_counts_as_zero():
    truth = np.zeros((2, 2), np.uint8)
    predicted = np.array([[0, 0], [0, 1]], np.uint8)
    assert iou(confusion(truth, predicted, 2)) == pytest.approx([75.0, 0.0])


def test_what_is_predicted_on_void_does_not_matter():
    other = np.where(TRUTH == VOID, 0, PREDICTED).astype(np.uint8)
    assert np.array_equal(confusion(TRUTH, PREDICTED, 3), confusion(TRUTH, other, 3))


def test_an_image_of_only_void_has_no_score():
    truth = np.full((3, 3), VOID, np.uint8)
    scores = iou(confusion(truth, np.zeros((3, 3), np.uint8), 2))
    assert scores == [None, None]
    assert mean(scores, ids=range(2)) is None


def test_an_absent_class_can_count_as_zero():
    scores = [60.0, None, 30.0, None]
    assert mean(scores, ids=[0, 1, 2], absent="zero") == pytest.approx(30)
    assert mean(scores, ids=[0, 1, 2]) == pytest.approx(45)
    assert mean(scores, ids=[1, 3], absent="zero") == 0
    assert mean(scores, ids=[], absent="zero") is None


def test_a_large_image_is_counted_to_the_last_pixel():
    """More pixels than are counted at once, of every id that a mask can hold."""
    truth = np.resize(np.arange(256, dtype=np.uint8), (1023, 517))
    predicted = np.where(truth == VOID, 7, truth).astype(np.uint8)
    counted = confusion(truth, predicted, 255)
    assert counted.sum() == (truth != VOID).sum()
    assert np.array_equal(np.diag(counted), np.bincount(truth.ravel(), minlength=256)[:255])


def test_mean_takes_only_the_ids_asked_for():
    assert mean([10.0, 20.0, 60.0, None], ids=[1, 2, 3]) == pytest.approx(40.0)


def test_the_counts_do_not_overflow_on_a_large_split():
    many = confusion(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), 2) * 10**12
    assert iou(many)[0] == 100.0
    assert many[0, 0] == 10**12


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        ([[0, 2]], [[0, 1]]),
        ([[0, 1]], [[0, 2]]),
        ([[0, 1]], [[0, VOID]]),
        ([[0, 1]], [[0]]),
    ],
    ids=["truth outside", "prediction outside", "prediction void", "other shape"],
)
def test_masks_that_cannot_be_scored_are_refused(truth, predicted):
    with pytest.raises(ValueError, match=r"not below 2|shape"):
        confusion(np.array(truth, np.uint8), np.array(predicted, np.uint8), 2)


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_hiou_is_the_harmonic_mean(old, new):
    assert harmonic(old, new) == pytest.approx(1 / ((1 / old + 1 / new) / 2))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [(0.0, 73.0, 0.0), (73.0, 0.0, 0.0), (0.0, 0.0, 0.0), (None, 73.0, None), (73.0, None, None)],
)
def test_hiou_at_its_edges(old, new, expected):
    assert harmonic(old, new) == expected


@given(mask_pairs())
def test_agreement_is_the_share_of_equal_pixels(pair):
    a, b = pair
    equal = sum(x == y for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    assert agreement(a, b) == pytest.approx(100 * equal / a.size)
