"""LwF, LWOF, LwF-MC, ILT and Michieli against slow loops in float64, and what they promise."""

import math

import numpy as np
import pytest
import torch

from edgeinc import registry
from edgeinc.methods import StepContext
from edgeinc.methods.lwf_mc import binary
from edgeinc.methods.lwf_mc import distillation as binary_distillation
from edgeinc.models import Output, create
from edgeinc.schema import VOID

OLD, CLASSES = 3, 5
WEIGHTS = [0.5, 2.0, 1.0, 4.0, 0.25]


def method(name, background=None, weights=None, first_new=OLD, **options):
    plugin = registry.load("methods", name)
    tensor = None if weights is None else torch.tensor(weights)
    context = StepContext(first_new, CLASSES, background or plugin.backgrounds[0], tensor)
    return plugin(plugin.Config(**options), context)


# ------------------------------------------------------------------------- slow references


def softmax(values):
    top = max(values)
    e = [math.exp(v - top) for v in values]
    return [v / sum(e) for v in e]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def bce(logit, target):
    return math.log1p(math.exp(-abs(logit))) + max(logit, 0) - logit * target


def pixels(logits):
    """(B, C, H, W) array -> list of channel vectors in the order of labels.ravel()."""
    return np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1]).tolist()


def mean(values, weights=None):
    weights = [1.0] * len(values) if weights is None else weights
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0


def slow_ce(logits, labels, weights=None, first=0):
    """Cross-entropy among the classes from `first` on, on pixels labelled with one of them."""
    losses, shares = [], []
    for z, label in zip(pixels(logits), labels.ravel().tolist(), strict=True):
        if first <= label != VOID:
            losses.append(-math.log(softmax(z[first:])[label - first]))
            shares.append(weights[label] if weights else 1.0)
    return mean(losses, shares)


def slow_old_kd(logits, teacher):
    losses = []
    for z, t in zip(pixels(logits), pixels(teacher), strict=True):
        p, q = softmax(z[: len(t)]), softmax(t)
        losses.append(-sum(a * math.log(b) for a, b in zip(q, p, strict=True)))
    return mean(losses)


def slow_bce(logits, labels, weights=None):
    losses, shares = [], []
    for z, label in zip(pixels(logits), labels.ravel().tolist(), strict=True):
        if label != VOID:
            losses.append(sum(bce(v, float(c == label)) for c, v in enumerate(z)))
            shares.append(weights[label] if weights else 1.0)
    return mean(losses, shares)


def slow_bce_kd(logits, teacher):
    return mean(
        [
            sum(bce(a, sigmoid(b)) for a, b in zip(z, t, strict=False))
            for z, t in zip(pixels(logits), pixels(teacher), strict=True)
        ]
    )


def slow_masked_kd(logits, teacher, labels):
    losses = []
    for z, t, label in zip(pixels(logits), pixels(teacher), labels.ravel().tolist(), strict=True):
        if label < OLD:
            p, q = softmax(z), softmax(t)
            losses.append(-sum(a * math.log(p[c]) for c, a in enumerate(q)))
    return mean(losses)


def slow_terms(name, logits, labels, teacher, weights=None):
    """The terms of a method that hang on the principal logits, at their default factors."""
    if name == "lwof":
        return {
            "ce": slow_ce(logits, labels, weights, OLD),
            "kd": slow_old_kd(logits, teacher),
        }
    if name == "lwf_mc":
        return {
            "bce": slow_bce(logits, labels, weights),
            "kd": 10 * slow_bce_kd(logits, teacher),
        }
    ce = slow_ce(logits, labels, weights)
    if name == "michieli":
        return {"ce": ce, "kd": slow_masked_kd(logits, teacher, labels)}
    return {"ce": ce, "kd": 100 * slow_old_kd(logits, teacher) / OLD}


NAMES = ("lwf", "lwof", "lwf_mc", "ilt", "michieli")


def case(name, seed=7, shape=(2, 3, 4)):
    """Student, teacher and labels as a run of the method has them, void pixels among them."""
    generator = torch.Generator().manual_seed(seed)
    b, h, w = shape
    student = torch.randn(b, CLASSES, h, w, generator=generator) * 3
    teacher = torch.randn(b, OLD, h, w, generator=generator) * 3
    labels = torch.randint(OLD, CLASSES, shape, generator=generator)
    if name == "michieli":
        labels = torch.randint(0, CLASSES, shape, generator=generator)
    hidden = torch.rand(shape, generator=generator) < 0.5
    labels[hidden] = 0 if name in ("lwf", "lwf_mc", "ilt") else VOID
    labels[:, 0, :2] = VOID
    return student, teacher, labels


def terms_of(name, student, labels, teacher, weights=None, aux=()):
    """The terms, where the features of student and teacher differ by 1 everywhere."""
    built = method(name, weights=weights)
    network = create("erfnet", [OLD, CLASSES - OLD], {"width": 0.125})
    built.begin(network, network)
    stages = tuple(torch.full((1, 2, 2, 2), float(i)) for i in range(4))
    moved = tuple(s + 1 for s in stages)
    return built.terms(Output(student, aux, None, moved), labels, Output(teacher, (), None, stages))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 5)])
def test_terms_are_those_of_the_slow_reference(name, weights, shape):
    student, teacher, labels = case(name, shape=shape)
    found = terms_of(name, student, labels, teacher, weights)
    arrays = student.double().numpy(), labels.numpy(), teacher.double().numpy()
    expected = slow_terms(name, *arrays, weights)
    if name == "ilt":
        expected["features"] = 100.0  # (e + 1 - e)^2 everywhere
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, rel=2e-5)
    assert expected["kd"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_slope_of_the_slow_reference(name):
    student, teacher, labels = case(name, shape=(1, 2, 2))
    labels[0, 1] = torch.tensor([CLASSES - 1, VOID if name == "lwof" else 0])
    student.requires_grad_(True)
    found = terms_of(name, student, labels, teacher)
    (found.get("ce", found.get("bce")) + found["kd"]).backward()
    z, step = student.detach().double().numpy(), 1e-5
    slope = np.zeros_like(z)
    for at in np.ndindex(*z.shape):
        ends = []
        for sign in (1, -1):
            moved = z.copy()
            moved[at] += sign * step
            values = slow_terms(name, moved, labels.numpy(), teacher.double().numpy())
            ends.append(sum(values.values()))
        slope[at] = (ends[0] - ends[1]) / (2 * step)
    assert student.grad.numpy() == pytest.approx(slope, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["lwf", "lwof", "lwf_mc", "ilt"])
def test_a_student_that_answers_as_the_teacher_is_left_alone_by_distillation(name):
    student, _, labels = case(name)
    teacher = student[:, :OLD].clone()
    student.requires_grad_(True)
    kd = terms_of(name, student, labels, teacher)["kd"]
    kd.backward()
    assert float(kd.detach()) > 0  # the entropy of the teacher
    assert float(student.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["lwf", "lwof", "lwf_mc", "ilt"])
def test_distillation_does_not_see_the_new_logits(name):
    student, teacher, labels = case(name)
    student.requires_grad_(True)
    terms_of(name, student, labels, teacher)["kd"].backward()
    assert float(student.grad[:, OLD:].abs().max()) == 0
    assert float(student.grad[:, :OLD].abs().min()) > 0


@pytest.mark.parametrize("name", ["lwf", "lwof", "lwf_mc", "ilt"])
def test_void_pixels_are_distilled(name):
    student, teacher, labels = case(name)
    void = torch.full_like(labels, VOID)
    found = terms_of(name, student, void, teacher)
    assert float(found["kd"]) == float(terms_of(name, student, labels, teacher)["kd"])
    assert float(found.get("ce", found.get("bce"))) == 0


@pytest.mark.parametrize("name", NAMES)
def test_training_outputs_learn_labels_and_are_not_distilled(name):
    student, teacher, labels = case(name)
    other = case(name, seed=8)[0]
    found = terms_of(name, student, labels, teacher, WEIGHTS, aux=(student, other))
    key = "bce" if name == "lwf_mc" else "ce"
    again = terms_of(name, other, labels, teacher, WEIGHTS)
    assert float(found["aux"]) == pytest.approx(float(found[key] + again[key]), rel=1e-6)
    assert found.keys() - {"features"} == {key, "kd", "aux"}


@pytest.mark.parametrize("name", NAMES)
def test_base_step_has_the_loss_of_the_labels_alone(name):
    student, _, _ = case(name)
    labels = torch.randint(0, CLASSES, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    labels[0, 0] = VOID
    found = method(name, weights=WEIGHTS, first_new=0).terms(Output(student), labels, None)
    slow = slow_bce if name == "lwf_mc" else slow_ce
    expected = slow(student.double().numpy(), labels.numpy(), WEIGHTS)
    assert [float(v) for v in found.values()] == pytest.approx([expected], rel=1e-5)


# ----------------------------------------------------------------------- numbers by hand


def vector(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def test_lwf_divides_by_the_old_classes_and_lwof_does_not():
    """q = p = (3/4, 1/4): the entropy is 0.562335 nats, so 100 / 2 of it against 1 of it."""
    q = vector(math.log(3), 0)
    student = torch.cat([q, vector(9.0)], 1)
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    built = {name: method(name, first_new=2) for name in ("lwf", "lwof")}
    kd = {n: float(m.terms(Output(student), labels, Output(q))["kd"]) for n, m in built.items()}
    assert kd == pytest.approx({"lwf": 28.11676, "lwof": 0.562335}, rel=1e-6)


def test_lwf_teaches_old_classes_to_be_background_where_cross_entropy_speaks():
    student = torch.zeros(1, CLASSES, 1, 1, requires_grad=True)
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    method("lwf").terms(Output(student), labels, None)["ce"].backward()
    assert student.grad[0, 0] < 0 < student.grad[0, 1]


def test_lwof_compares_no_old_class_with_a_new_one():
    student, teacher, labels = case("lwof")
    found = terms_of("lwof", student, labels, teacher)
    shifted = student.clone()
    shifted[:, OLD:] += 17
    again = terms_of("lwof", shifted, labels, teacher)
    for name, value in found.items():
        assert float(again[name]) == pytest.approx(float(value), rel=1e-5)


def test_binary_cross_entropy_of_logits_at_zero_is_ln_2_per_class():
    labels = torch.tensor([[[0, VOID]]])
    zero = torch.zeros(1, 4, 1, 2)
    assert float(binary(zero, labels, None)) == pytest.approx(4 * math.log(2), rel=1e-6)
    assert float(binary_distillation(zero, zero[:, :3])) == pytest.approx(3 * math.log(2), rel=1e-6)


def test_sigmoids_far_out_stay_finite():
    logits = vector(1e4, -1e4, 1e4).requires_grad_(True)
    labels = torch.ones(1, 1, 1, dtype=torch.long)
    loss = binary(logits, labels, None) + binary_distillation(logits, vector(-1e4, 1e4))
    loss.backward()
    # Label 1 of (wrong, wrong, wrong): 3e4; the teacher says the contrary of two: 2e4.
    assert float(loss.detach()) == pytest.approx(5e4, rel=1e-6)
    assert torch.isfinite(logits.grad).all()


def test_ilt_compares_what_the_encoder_ends_with():
    labels = torch.full((1, 1, 1), VOID)
    logits = torch.zeros(1, CLASSES, 1, 1)
    for network, place in (("erfnet", 1), ("bisenet", 2)):
        built = method("ilt", features=8.0)
        model = create(network, [OLD], {"width": 0.125})
        built.begin(model, None)
        # Half of the values are off by 3: the mean square is 4.5.
        ours = [torch.zeros(1, 2, 1, 1) for _ in range(3)]
        theirs = [s.clone() for s in ours]
        theirs[place][0, 0] = 3.0
        found = built.terms(
            Output(logits, stages=tuple(ours)),
            labels,
            Output(logits[:, :OLD], stages=tuple(theirs)),
        )
        assert float(found["features"]) == pytest.approx(36.0)


def test_encoder_of_erfnet_ends_at_an_eighth_with_128_channels():
    model = create("erfnet", [2]).eval()
    with torch.no_grad():
        encoded = model(torch.zeros(1, 3, 16, 24)).stages[model.encoded]
    assert encoded.shape == (1, 128, 2, 3)


def test_michieli_distils_old_labels_only():
    student, teacher, labels = case("michieli")
    student.requires_grad_(True)
    terms_of("michieli", student, labels, teacher)["kd"].backward()
    touched = student.grad.abs().sum(1) > 0
    assert torch.equal(touched, labels < OLD)
    without = torch.where(labels < OLD, VOID, labels)
    assert float(terms_of("michieli", student, without, teacher)["kd"].detach()) == 0


def test_michieli_pushes_new_classes_down_where_it_distils():
    teacher, student = vector(5, 0, 0), vector(5, 0, 0, 0, 0).requires_grad_(True)
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    method("michieli").terms(Output(student), labels, Output(teacher))["kd"].backward()
    assert (student.grad[0, OLD:] > 0).all()


@pytest.mark.parametrize("name", ["lwof", "michieli"])
def test_start_of_an_extension_is_the_previous_network_unless_the_papers_is_asked_for(name):
    plugin = registry.load("methods", name)
    assert plugin.init(plugin.Config()) == "previous"
    assert plugin.init(plugin.Config(init="fresh")) == "fresh"


@pytest.mark.parametrize(
    ("name", "modes"),
    [
        ("lwf", ("real", "virtual")),
        ("lwf_mc", ("real", "virtual")),
        ("ilt", ("real", "virtual")),
        ("lwof", ("none",)),
        ("michieli", ("none", "real")),
    ],
)
def test_background_modes(name, modes):
    assert registry.load("methods", name).backgrounds == modes
