"""MiB: the folded losses against slow references, and a start that changes no old answer."""

import math

import pytest
import torch

from edgeinc.methods import StepContext, registry
from edgeinc.methods._background import (
    folded_new,
    folded_old,
    start_from_background,
    unbiased_cross_entropy,
    unbiased_distillation,
)
from edgeinc.models import Output, create
from edgeinc.schema import VOID

OLD, NEW = 3, 2


def softmax(values):
    top = max(values)
    e = [math.exp(v - top) for v in values]
    return [v / sum(e) for v in e]


def pixels(tensor):
    return tensor.double().permute(0, 2, 3, 1).reshape(-1, tensor.shape[1]).tolist()


def slow_unce(logits, labels, weights=None):
    above = below = 0.0
    for vector, label in zip(pixels(logits), labels.flatten().tolist(), strict=True):
        if label == VOID:
            continue
        p = softmax(vector)
        label = 0 if label < OLD else label
        w = 1.0 if weights is None else weights[label]
        above -= w * math.log(sum(p[:OLD]) if label == 0 else p[label])
        below += w
    return above / below if below else 0.0


def slow_unkd(student, teacher):
    total, vectors = 0.0, list(zip(pixels(student), pixels(teacher), strict=True))
    for s, t in vectors:
        p, q = softmax(s), softmax(t)
        folded = [p[0] + sum(p[OLD:]), *p[1:OLD]]
        total -= sum(qc * math.log(pc) for qc, pc in zip(q, folded, strict=True)) / OLD
    return total / len(vectors)


@pytest.fixture
def case():
    torch.manual_seed(3)
    student, teacher = torch.randn(2, OLD + NEW, 4, 6) * 3, torch.randn(2, OLD, 4, 6) * 3
    labels = torch.randint(OLD, OLD + NEW, (2, 4, 6))
    labels[torch.rand(labels.shape) < 0.4] = 0
    labels[torch.rand(labels.shape) < 0.2] = VOID
    return student, teacher, labels


def mib(background="real", weights=None, **options):
    plugin = registry.load("methods", "mib")
    return plugin(plugin.Config(**options), StepContext(OLD, OLD + NEW, background, weights))


@pytest.mark.parametrize("weights", [None, [0.5, 9.0, 9.0, 4.0, 0.25]])
def test_cross_entropy_counts_old_classes_as_background(case, weights):
    student, _, labels = case
    tensor = None if weights is None else torch.tensor(weights)
    found = unbiased_cross_entropy(student, labels, OLD, tensor)
    assert float(found) == pytest.approx(slow_unce(student, labels, weights), rel=1e-5)


def test_labels_of_old_classes_count_as_background_and_stay_as_they_are(case):
    student, _, labels = case
    old = torch.where(labels == 0, torch.randint(0, OLD, labels.shape), labels)
    kept = old.clone()
    assert float(unbiased_cross_entropy(student, old, OLD)) == pytest.approx(
        slow_unce(student, labels), rel=1e-5
    )
    assert torch.equal(old, kept)


def test_cross_entropy_of_void_alone_is_zero_with_zero_gradient(case):
    student = case[0].requires_grad_(True)
    loss = unbiased_cross_entropy(student, torch.full((2, 4, 6), VOID), OLD)
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(student.grad.abs().max()) == 0


def test_one_image_is_enough(case):
    student, teacher, labels = (each[:1] for each in case)
    assert float(unbiased_cross_entropy(student, labels, OLD)) == pytest.approx(
        slow_unce(student, labels), rel=1e-5
    )
    assert float(unbiased_distillation(student, teacher)) == pytest.approx(
        slow_unkd(student, teacher), rel=1e-5
    )


def test_distillation_folds_new_classes_into_the_background(case):
    student, teacher, _ = case
    found = unbiased_distillation(student, teacher)
    assert float(found) == pytest.approx(slow_unkd(student, teacher), rel=1e-5)


def test_folded_probabilities_add_up_to_one(case):
    for folded, classes in ((folded_old(case[0], OLD), 1 + NEW), (folded_new(case[0], OLD), OLD)):
        assert folded.shape[1] == classes
        assert torch.allclose(folded.exp().sum(1), torch.ones(2, 4, 6), atol=1e-6)


def test_folding_by_hand():
    """Five equal logits: each class has 1/5, so folded they have 3/5 + 1/5 + 1/5."""
    equal = torch.zeros(1, 5, 1, 1)
    assert folded_old(equal, 3).exp().flatten().tolist() == pytest.approx([0.6, 0.2, 0.2])
    assert folded_new(equal, 3).exp().flatten().tolist() == pytest.approx([0.6, 0.2, 0.2])
    assert folded_old(equal, 2).exp().flatten().tolist() == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert folded_new(equal, 2).exp().flatten().tolist() == pytest.approx([0.8, 0.2])


def test_far_logits_stay_finite():
    logits = torch.tensor([1e4, -1e4, 0.0, 1e4, -1e4]).view(1, 5, 1, 1).requires_grad_(True)
    labels = torch.full((1, 1, 1), 4)
    loss = unbiased_cross_entropy(logits, labels, OLD)
    loss = loss + unbiased_distillation(logits, torch.tensor([0.0, 1e4, 0]).view(1, 3, 1, 1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("term", ["ce", "kd"])
def test_gradients_match_finite_differences(case, term):
    """In float64 by differences of the slow reference; the code itself computes in float32."""
    student, teacher, labels = (each[:1, ..., :2, :2].clone() for each in case)
    labels[0, 0] = torch.tensor([0, OLD])
    student.requires_grad_(True)
    if term == "ce":
        unbiased_cross_entropy(student, labels, OLD).backward()
    else:
        unbiased_distillation(student, teacher).backward()
    values = student.detach().double()
    for index in range(values.numel()):
        ends = []
        for delta in (1e-5, -1e-5):
            moved = values.flatten().clone()
            moved[index] += delta
            moved = moved.view_as(values)
            ends.append(slow_unce(moved, labels) if term == "ce" else slow_unkd(moved, teacher))
        expected = (ends[0] - ends[1]) / 2e-5
        assert float(student.grad.flatten()[index]) == pytest.approx(expected, abs=1e-5)


def test_the_terms_are_the_two_losses_and_lambda(case):
    student, teacher, labels = case
    for options, factor in (({}, 10.0), ({"lambda_kd": 100.0}, 100.0)):
        terms = mib(**options).terms(Output(student), labels, Output(teacher))
        assert float(terms["ce"]) == pytest.approx(slow_unce(student, labels), rel=1e-5)
        assert float(terms["kd"]) == pytest.approx(factor * slow_unkd(student, teacher), rel=1e-5)
        assert "aux" not in terms


def test_auxiliary_outputs_learn_from_unbiased_cross_entropy_only(case):
    student, teacher, labels = case
    terms = mib().terms(Output(student, aux=(student, student * 2)), labels, Output(teacher))
    expected = slow_unce(student, labels) + slow_unce(student * 2, labels)
    assert float(terms["aux"]) == pytest.approx(expected, rel=1e-5)


def test_base_step_is_plain_cross_entropy(case):
    plugin = registry.load("methods", "mib")
    method = plugin(plugin.Config(), StepContext(0, OLD, "virtual", None))
    logits = torch.zeros(1, OLD, 1, 2)
    terms = method.terms(Output(logits), torch.tensor([[[1, VOID]]]), None)
    assert {k: float(v) for k, v in terms.items()} == pytest.approx({"ce": math.log(OLD)})


def test_virtual_background_teaches_the_sum_of_what_is_not_new():
    """Zero logits and a background label: the gradient raises every old class alike."""
    student = torch.zeros(1, OLD + NEW, 1, 1, requires_grad=True)
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    terms = mib("virtual").terms(Output(student), labels, Output(torch.zeros(1, OLD, 1, 1)))
    terms["ce"].backward()
    # d/dz of log(3/5): p_k - p_k / (3/5) for old, p_k for new
    expected = [0.2 - 0.2 / 0.6] * OLD + [0.2] * NEW
    assert student.grad.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("network", ["erfnet", "bisenet"])
def test_right_after_the_start_the_folded_student_is_the_teacher(network):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 64)
    model = create(network, [OLD], {"width": 0.125})
    model.train()(torch.randn(8, 3, 32, 64))
    model.eval()
    before = [head.weight_and_bias()[0].clone() for head in model.heads()]
    with torch.no_grad():
        teacher = model(x).logits
        model.grow(NEW)
        start_from_background(model)
        student = model(x).logits
    q = torch.softmax(teacher, 1)
    assert torch.allclose(folded_new(student, OLD).exp(), q, atol=1e-5)
    entropy = -(q * q.log()).sum(1).mean() / OLD
    student.requires_grad_(True)
    loss = unbiased_distillation(student, teacher)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(entropy), rel=1e-4)
    assert float(student.grad.abs().max()) * student.numel() < 1e-2  # nothing to correct
    for head, weight in zip(model.heads(), before, strict=True):
        axis = head.class_axis
        old_rows = head[0].weight
        assert torch.equal(old_rows, weight)
        for row in head[-1].weight.unbind(axis):
            assert torch.equal(row, old_rows.select(axis, 0))
        assert torch.equal(head[-1].bias, head[0].bias[:1].expand(NEW))


def test_the_bias_of_the_background_gives_up_its_share():
    model = create("erfnet", [OLD], {"width": 0.125})
    before = model.heads()[0][0].bias.detach().clone()
    model.grow(NEW)
    start_from_background(model)
    after = model.heads()[0][0].bias.detach()
    assert float(after[0] - before[0]) == pytest.approx(-math.log(NEW + 1), rel=1e-5)
    assert torch.equal(after[1:], before[1:])


def test_without_a_step_before_the_start_changes_nothing():
    model = create("erfnet", [OLD], {"width": 0.125})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    start_from_background(model)
    mib().begin(model, None)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
