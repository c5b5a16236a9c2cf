"""The formulas of the losses, against slow references in plain float64 loops."""

import math

import pytest
import torch

from edgeinc.methods import StepContext, registry
from edgeinc.methods._losses import cross_entropy, entropy_bits, log_softmax
from edgeinc.methods.cil import distillation
from edgeinc.models import Output
from edgeinc.schema import VOID


def softmax(values):
    top = max(values)
    e = [math.exp(v - top) for v in values]
    return [v / sum(e) for v in e]


def pixels(tensor):
    """(B, C, H, W) -> list of channel vectors, in the order of labels.flatten()."""
    return tensor.double().permute(0, 2, 3, 1).reshape(-1, tensor.shape[1]).tolist()


def slow_cross_entropy(logits, labels, weights=None):
    above = below = 0.0
    for vector, label in zip(pixels(logits), labels.flatten().tolist(), strict=True):
        if label != VOID:
            w = 1.0 if weights is None else weights[label]
            above -= w * math.log(softmax(vector)[label])
            below += w
    return above / below if below else 0.0


def slow_distillation(student, teacher, where, weighted):
    total = count = 0.0
    for s, t, inside in zip(
        pixels(student), pixels(teacher), where.flatten().tolist(), strict=True
    ):
        if not inside:
            continue
        p, q = softmax(s), softmax(t)
        loss = -sum(qc * math.log(p[c]) for c, qc in enumerate(q))
        entropy = -sum(qc * math.log2(qc) for qc in q if qc > 0)
        total += loss * (1 + entropy if weighted else 1)
        count += 1
    return total / count if count else 0.0


@pytest.fixture
def case():
    torch.manual_seed(7)
    student, teacher = torch.randn(2, 5, 4, 6) * 3, torch.randn(2, 3, 4, 6) * 3
    labels = torch.randint(3, 5, (2, 4, 6))
    labels[torch.rand(labels.shape) < 0.6] = VOID
    return student, teacher, labels


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 4.0, 0.25]])
def test_cross_entropy_is_the_weighted_mean_over_labelled_pixels(case, weights):
    student, _, labels = case
    tensor = None if weights is None else torch.tensor(weights)
    expected = slow_cross_entropy(student, labels, weights)
    assert float(cross_entropy(student, labels, tensor)) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_without_a_labelled_pixel_is_zero_with_zero_gradient(case):
    student = case[0].requires_grad_(True)
    loss = cross_entropy(student, torch.full((2, 4, 6), VOID), torch.ones(5))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(student.grad.abs().max()) == 0


@pytest.mark.parametrize("weighted", [True, False])
def test_distillation_follows_the_cil_formula(case, weighted):
    student, teacher, labels = case
    where = labels == VOID
    found = distillation(log_softmax(student), teacher, where, weighted=weighted)
    assert float(found) == pytest.approx(
        slow_distillation(student, teacher, where, weighted), rel=1e-5
    )


def test_entropy_is_in_bits():
    uniform = torch.zeros(1, 8, 1, 1)
    assert float(entropy_bits(log_softmax(uniform))) == pytest.approx(3.0, rel=1e-6)
    two = torch.tensor([0.75, 0.25]).log().view(1, 2, 1, 1)
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert float(entropy_bits(two)) == pytest.approx(expected, rel=1e-6)


def test_one_hot_teacher_has_no_entropy_and_no_nan():
    one_hot = torch.tensor([0.0, -torch.inf, -torch.inf]).view(1, 3, 1, 1)
    assert float(entropy_bits(one_hot)) == 0
    teacher = torch.tensor([[1e4, -1e4, -1e4]]).view(1, 3, 1, 1)
    student = torch.randn(1, 5, 1, 1)
    where = torch.ones(1, 1, 1, dtype=torch.bool)
    weighted = distillation(log_softmax(student), teacher, where, weighted=True)
    expected = -math.log(softmax(student.flatten().double().tolist())[0])
    assert float(weighted) == pytest.approx(expected, rel=1e-5)


def test_uniform_teacher_weighs_a_pixel_one_plus_log2_of_the_classes():
    teacher = torch.zeros(1, 4, 1, 1)
    student = log_softmax(torch.randn(1, 6, 1, 1))
    where = torch.ones(1, 1, 1, dtype=torch.bool)
    plain = distillation(student, teacher, where, weighted=False)
    weighted = distillation(student, teacher, where, weighted=True)
    assert float(weighted / plain) == pytest.approx(1 + 2.0, rel=1e-5)


def test_distillation_gradient_passes_gradcheck():
    torch.manual_seed(0)
    student = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 2, 2, 2)
    where = torch.tensor([[[True, False], [True, True]]])

    def loss(x):
        return distillation(torch.log_softmax(x, 1), teacher, where, weighted=True)

    assert torch.autograd.gradcheck(loss, (student,))


def cil(background="none", **options):
    plugin = registry.load("methods", "cil")
    return plugin(plugin.Config(**options), StepContext(3, 5, background, None))


def test_cil_is_cross_entropy_on_new_and_distillation_on_the_rest(case):
    student, teacher, labels = case
    terms = cil().terms(Output(student), labels, Output(teacher))
    assert float(terms["ce"]) == pytest.approx(slow_cross_entropy(student, labels), rel=1e-5)
    expected = slow_distillation(student, teacher, labels == VOID, True)
    assert float(terms["kd"]) == pytest.approx(expected, rel=1e-5)


def test_cil_without_weights_is_the_plain_distillation(case):
    student, teacher, labels = case
    terms = cil(entropy_weights=False).terms(Output(student), labels, Output(teacher))
    expected = slow_distillation(student, teacher, labels == VOID, False)
    assert float(terms["kd"]) == pytest.approx(expected, rel=1e-5)


def test_cil_distils_background_pixels_where_background_is_real(case):
    student, teacher, labels = case
    labels[:, 0] = 0  # what is not a new class is labelled background
    terms = cil("real").terms(Output(student), labels, Output(teacher))
    not_new = (labels == VOID) | (labels == 0)
    expected = slow_distillation(student, teacher, not_new, True)
    assert float(terms["kd"]) == pytest.approx(expected, rel=1e-5)
    only_new = torch.where(labels == 0, VOID, labels)
    assert float(terms["ce"]) == pytest.approx(slow_cross_entropy(student, only_new), rel=1e-5)


def test_cil_pushes_new_probabilities_down_where_the_teacher_speaks():
    """The softmax is joint: raising a new class's logit on an old pixel must cost something."""
    teacher = torch.tensor([5.0, 0, 0]).view(1, 3, 1, 1)
    student = torch.tensor([5.0, 0, 0, 0, 0]).view(1, 5, 1, 1).requires_grad_(True)
    labels = torch.full((1, 1, 1), VOID)
    cil().terms(Output(student), labels, Output(teacher))["kd"].backward()
    assert (student.grad[0, 3:] > 0).all()


def test_finetune_with_real_background_teaches_old_classes_to_be_background():
    plugin = registry.load("methods", "finetune")
    method = plugin(plugin.Config(), StepContext(3, 5, "real", None))
    student = torch.zeros(1, 5, 1, 1, requires_grad=True)
    method.terms(Output(student), torch.zeros(1, 1, 1, dtype=torch.long), None)["ce"].backward()
    assert student.grad[0, 0] < 0 < student.grad[0, 1]
