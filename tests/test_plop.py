"""PLOP: pseudo-labels, their thresholds and pooled distillation against slow references."""

import math

import numpy as np
import pytest
import torch

from edgeinc.methods import StepContext, Survey, registry
from edgeinc.methods.plop import (
    BINS,
    local_pod,
    median,
    pseudo_labels,
    published_median,
    shared_cross_entropy,
    uncertainty,
)
from edgeinc.models import Output
from edgeinc.schema import VOID

OLD, NEW = 3, 2


def softmax(values):
    top = max(values)
    e = [math.exp(v - top) for v in values]
    return [v / sum(e) for v in e]


def plop(background="real", weights=None, **options):
    plugin = registry.load("methods", "plop")
    return plugin(plugin.Config(**options), StepContext(OLD, OLD + NEW, background, weights))


@pytest.fixture
def case():
    torch.manual_seed(5)
    student, teacher = torch.randn(3, OLD + NEW, 4, 6) * 3, torch.randn(3, OLD, 4, 6) * 3
    labels = torch.randint(OLD, OLD + NEW, (3, 4, 6))
    labels[torch.rand(labels.shape) < 0.6] = 0
    labels[torch.rand(labels.shape) < 0.2] = VOID
    labels[2] = OLD  # an image that hides nothing
    return student, teacher, labels


def slow_pseudo(labels, teacher, thresholds):
    known, shares = labels.clone(), []
    for b in range(labels.shape[0]):
        hidden = taken = 0
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                label = int(labels[b, y, x])
                if label == VOID or label >= OLD:
                    continue
                q = softmax(teacher[b, :, y, x].double().tolist())
                u = -sum(v * math.log(v) for v in q) / math.log(OLD)
                best = q.index(max(q))
                sure = u < thresholds[best]
                known[b, y, x] = best if sure else VOID
                hidden, taken = hidden + 1, taken + sure
        shares.append(taken / hidden if hidden else 1.0)
    return known, shares


def slow_cross_entropy(student, known, shares, valid):
    total = 0.0
    for b, y, x in (known != VOID).nonzero().tolist():
        label = int(known[b, y, x])
        p = softmax(student[b, :, y, x].double().tolist())
        total -= shares[b] * math.log(p[label])
    count = int(valid.sum())
    return total / count if count else 0.0


def slow_pod(array):
    """One image (D, h, w) whose sides all scales divide, to a list."""
    strips, (channels, height, width) = [], array.shape
    for scale in (1, 2, 4):
        h, w = height // scale, width // scale
        for i in range(scale):
            for j in range(scale):
                cell = array[:, i * h : (i + 1) * h, j * w : (j + 1) * w]
                strips += [cell[c, y].mean() for c in range(channels) for y in range(h)]
                strips += [cell[c, :, x].mean() for c in range(channels) for x in range(w)]
    return np.array(strips)


def test_pseudo_labels_take_the_sure_answers_of_the_old_network(case):
    _, teacher, labels = case
    thresholds, kept = torch.tensor([0.9, 0.5, 0.2]), labels.clone()
    known, share = pseudo_labels(labels, teacher, thresholds, OLD)
    expected, shares = slow_pseudo(labels, teacher, thresholds.tolist())
    assert torch.equal(known, expected)
    assert share.tolist() == pytest.approx(shares)
    assert shares[2] == 1.0
    assert 0 < shares[0] < 1
    assert torch.equal(labels, kept)


def test_uncertainty_is_one_for_equal_answers_and_zero_for_a_sure_one():
    logits = torch.tensor([[0.0, 0, 0], [200.0, 0, 0]]).T.reshape(1, 3, 1, 2)
    entropy, says = uncertainty(logits)
    assert entropy.flatten().tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert int(says[0, 0, 1]) == 0


def test_cross_entropy_is_shared_per_image_and_averaged_over_what_is_not_void(case):
    student, teacher, labels = case
    known, share = pseudo_labels(labels, teacher, torch.tensor([0.9, 0.5, 0.2]), OLD)
    valid = labels != VOID
    found = shared_cross_entropy(student, known, share, valid)
    expected = slow_cross_entropy(student, known, share.tolist(), valid)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_class_weights_of_labels_do_not_weigh_pseudo_labels(case):
    student, teacher, labels = case
    ready = {"thresholds": torch.tensor([0.9, 0.5, 0.2])}
    plain, weighted = plop(), plop(weights=torch.tensor([0.5, 1.0, 1.0, 4.0, 0.25]))
    for method in (plain, weighted):
        method.ready(ready)
    answers = [m.terms(Output(student), labels, Output(teacher))["ce"] for m in (plain, weighted)]
    assert float(answers[0]) == float(answers[1])
    at_start = [m.terms(Output(student), labels, None)["ce"] for m in (plain, weighted)]
    assert float(at_start[0]) != float(at_start[1])


def test_void_alone_and_doubt_alone_give_zero():
    method = plop()
    method.ready({"thresholds": torch.zeros(OLD)})
    for label in (VOID, 0):
        student = torch.randn(1, OLD + NEW, 2, 2, requires_grad=True)
        labels = torch.full((1, 2, 2), label)
        terms = method.terms(Output(student), labels, Output(torch.randn(1, OLD, 2, 2)))
        assert float(terms["ce"].detach()) == 0
        terms["ce"].backward()
        assert float(student.grad.abs().max()) == 0


def test_local_pod_of_a_map_that_is_not_square():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    found = local_pod(maps)
    for image, row in zip(maps.numpy(), found, strict=True):
        assert row.tolist() == pytest.approx(slow_pod(image).tolist())


def test_local_pod_by_hand():
    """1x1 map 5: every one of 3 scales has one cell with two means of 5."""
    assert local_pod(torch.full((1, 1, 1, 1), 5.0)).tolist() == [[5.0] * 6]


def test_distillation_is_the_mean_over_maps_of_norms_of_pooled_squares():
    torch.manual_seed(1)
    student, teacher = torch.randn(2, OLD + NEW, 8, 8), torch.randn(2, OLD, 8, 8)
    stages = [(torch.rand(2, 4, 4, 8), torch.rand(2, 4, 4, 8)) for _ in range(2)]
    folded = student[:, :OLD].clone()
    folded[:, 0] += student[:, OLD:].sum(1)
    expected = 0.0
    pairs = [(*pair, 0.01) for pair in stages] + [(folded, teacher, 0.0005)]
    for a, b, factor in pairs:
        norms = [
            math.sqrt(sum((slow_pod(i.double().numpy() ** 2) - slow_pod(j.numpy() ** 2)) ** 2))
            for i, j in zip(a, b.double(), strict=True)
        ]
        expected += factor * sum(norms) / 2
    expected *= math.sqrt((OLD + NEW) / NEW) / 3
    one = Output(student, stages=tuple(a for a, _ in stages))
    two = Output(teacher, stages=tuple(b for _, b in stages))
    assert float(plop().distillation(one, two)) == pytest.approx(expected, rel=1e-5)


def test_equal_maps_have_no_distance_and_no_gradient():
    stage = torch.rand(1, 2, 4, 4, requires_grad=True)
    logits = torch.randn(1, OLD, 4, 4)
    student = torch.cat([logits, torch.zeros(1, NEW, 4, 4)], 1)
    loss = plop().distillation(
        Output(student, stages=(stage,)), Output(logits, stages=(stage.detach(),))
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-8)
    assert torch.isfinite(stage.grad).all()


def test_distillation_of_large_bf16_maps_is_finite():
    big = torch.full((1, 2, 4, 4), 3e4, dtype=torch.bfloat16)
    one = Output(torch.randn(1, OLD + NEW, 4, 4).bfloat16(), stages=(big,))
    two = Output(torch.randn(1, OLD, 4, 4).bfloat16(), stages=(big * 2,))
    loss = plop().distillation(one, two)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize("seed", range(5))
def test_median_from_a_histogram_is_the_median(seed):
    generator = np.random.default_rng(seed)
    counts, expected = torch.zeros(3, BINS, dtype=torch.int64), []
    for row in range(3):
        values = generator.beta(0.5 + row, 3, size=1001 + 400 * row)
        places = np.minimum((values * BINS).astype(int), BINS - 1)
        counts[row] = torch.from_numpy(np.bincount(places, minlength=BINS))
        expected.append(np.median(values))
    assert median(counts).tolist() == pytest.approx(expected, abs=1.5 / BINS)


def test_medians_by_hand():
    """4 values in bin 2 of 10, 6 in bin 7: half is 5, one sixth into bin 7."""
    counts = torch.zeros(2, 10, dtype=torch.int64)
    counts[0, 2], counts[0, 7] = 4, 6
    assert median(counts).tolist() == pytest.approx([(7 + 1 / 6) / 10, 0.0])
    # The published sum is 0, 0, 1, 3, 6 before bins 0 to 4. Before bin 2 it is 1, and 1 + 4 >= 5.
    assert published_median(counts).tolist() == pytest.approx([(2 + (5 - 1) / 4) / 10, 0.0])


@pytest.mark.parametrize("kind", ["exact", "published"])
def test_thresholds_are_medians_of_what_may_be_old_but_not_under_the_floor(kind):
    torch.manual_seed(2)
    teacher, labels = torch.randn(1, OLD, 40, 50), torch.zeros(1, 40, 50, dtype=torch.long)
    teacher[:, 2] = -50  # never decided for
    labels[:, :10] = VOID
    labels[:, 10:20] = OLD

    survey = Survey(lambda: iter([(torch.zeros(1), labels)]), lambda network, x: Output(teacher))
    found = plop(median=kind).prepare(survey, object())["thresholds"]
    unit = OLD * math.log(OLD + NEW)
    assert float(found[2]) == pytest.approx(0.001 * unit)
    if kind == "published":
        assert (found >= 0.001 * unit - 1e-7).all()
        return
    values = [[], []]
    for y in range(20, 40):
        for x in range(50):
            q = softmax(teacher[0, :, y, x].double().tolist())
            u = -sum(v * math.log(v) for v in q if v) / math.log(OLD)
            values[q.index(max(q))].append(u)
    assert found[:2].tolist() == pytest.approx([np.median(v) for v in values], abs=5e-3)


def test_at_step_0_there_is_nothing_to_prepare():
    plugin = registry.load("methods", "plop")
    method = plugin(plugin.Config(), StepContext(0, OLD, "real", None))
    assert method.prepare(Survey(lambda: iter([]), lambda network, x: None), None) == {}
    terms = method.terms(Output(torch.zeros(1, OLD, 1, 1)), torch.ones(1, 1, 1).long(), None)
    assert float(terms["ce"]) == pytest.approx(math.log(OLD))


def test_auxiliary_outputs_learn_from_the_same_pseudo_labels(case):
    student, teacher, labels = case
    method = plop()
    method.ready({"thresholds": torch.tensor([0.9, 0.5, 0.2])})
    terms = method.terms(Output(student, aux=(student, student)), labels, Output(teacher))
    assert float(terms["aux"]) == pytest.approx(2 * float(terms["ce"]), rel=1e-6)


def test_gradient_of_the_distillation_matches_differences():
    torch.manual_seed(4)
    stage, before = torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4)
    logits, old = torch.randn(1, OLD + NEW, 4, 4), torch.randn(1, OLD, 4, 4)
    moving = stage.clone().requires_grad_(True)
    method = plop()
    method.distillation(Output(logits, stages=(moving,)), Output(old, stages=(before,))).backward()

    def slow(values):
        difference = slow_pod(values**2) - slow_pod(before[0].double().numpy() ** 2)
        return 0.01 * math.sqrt((difference**2).sum()) * math.sqrt((OLD + NEW) / NEW) / 2

    values = stage[0].double().numpy()
    for y in range(4):
        up, down = values.copy(), values.copy()
        up[0, y, 1] += 1e-6
        down[0, y, 1] -= 1e-6
        expected = (slow(up) - slow(down)) / 2e-6
        assert float(moving.grad[0, 0, y, 1]) == pytest.approx(expected, rel=1e-3)
