"""SDR: prototypes and the terms on features, against slow references in plain loops."""

import math

import pytest
import torch

from edgeinc.methods import StepContext, Survey, registry
from edgeinc.methods._background import unbiased_cross_entropy, unbiased_distillation
from edgeinc.methods.sdr import attraction, matching, repulsion, running, seen, sparsity, sums
from edgeinc.models import Output
from edgeinc.schema import VOID

OLD, NEW, D = 3, 2, 4
ALL = OLD + NEW


def sdr(first=OLD, memory=None, **options):
    plugin = registry.load("methods", "sdr")
    classes = first + NEW if first else OLD
    return plugin(plugin.Config(**options), StepContext(first, classes, "real", None, memory or {}))


def by_class(features, labels):
    """{class: [vectors in float64]} of what is not void."""
    found = {}
    for b, y, x in (labels != VOID).nonzero().tolist():
        found.setdefault(int(labels[b, y, x]), []).append(features[b, :, y, x].double().tolist())
    return found


def mean_of(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def square(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


@pytest.fixture
def case():
    torch.manual_seed(11)
    features = torch.rand(2, D, 3, 5)
    labels = torch.randint(0, ALL, (2, 3, 5))
    labels[labels == 1] = VOID  # a class without a pixel
    return features, labels


def test_sums_and_counts_per_class(case):
    features, labels = case
    total, counts = sums(features, labels, ALL)
    expected = by_class(features, labels)
    for c in range(ALL):
        vectors = expected.get(c, [])
        assert int(counts[c]) == len(vectors)
        wanted = [sum(column) for column in zip(*vectors, strict=True)] if vectors else [0] * D
        assert total[c].tolist() == pytest.approx(wanted, rel=1e-5)


def test_running_means_of_parts_are_the_mean_of_the_whole(case):
    features, labels = case
    table = torch.zeros(ALL, D), torch.zeros(ALL, dtype=torch.int64)
    for b in range(2):
        table = running(*table, *sums(features[b : b + 1], labels[b : b + 1], ALL))
    for c, vectors in by_class(features, labels).items():
        assert table[0][c].tolist() == pytest.approx(mean_of(vectors), rel=1e-5)
        assert int(table[1][c]) == len(vectors)


def test_matching_and_attraction_follow_their_formulas(case):
    features, labels = case
    total, counts = sums(features, labels, ALL)
    mean = total / counts.clamp(min=1).unsqueeze(1)
    prototypes, known = torch.rand(ALL, D), counts > 0
    found = by_class(features, labels)
    near = [square(mean_of(v), prototypes[c].tolist()) / D for c, v in found.items()]
    assert float(matching(mean, prototypes, known)) == pytest.approx(
        sum(near) / len(near), rel=1e-5
    )
    each = [
        sum(square(v, prototypes[c].tolist()) / D for v in vectors) / len(vectors)
        for c, vectors in found.items()
    ]
    assert float(attraction(features, labels, prototypes, known)) == pytest.approx(
        sum(each) / len(each), rel=1e-5
    )


def test_repulsion_is_the_mean_inverse_distance_of_pairs():
    mean = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    expected = (1 / 5 + 1 / 2 + 1 / math.sqrt(13)) / 3
    assert float(repulsion(mean)) == pytest.approx(expected)
    assert float(repulsion(mean[:1])) == 0


def test_equal_means_repel_finitely():
    mean = torch.ones(2, 3, requires_grad=True)
    loss = repulsion(mean)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(100)
    assert torch.isfinite(mean.grad).all()


def test_sparsity_follows_its_formula(case):
    features, labels = case
    ratios = []
    for vectors in by_class(features, labels).values():
        top = max(max(v) for v in vectors)
        for v in vectors:
            g = [x / top for x in v]
            ratios.append(sum(math.exp(x) for x in g) / max(1, sum(g)))
    present = sums(features, labels, ALL)[1] > 0
    assert float(sparsity(features, labels, present)) == pytest.approx(
        sum(ratios) / len(ratios), rel=1e-5
    )


def test_sparsity_prefers_one_loud_channel_to_many():
    labels, present = torch.zeros(1, 1, 1, dtype=torch.long), torch.ones(1, dtype=torch.bool)
    one = torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1)
    silent = sparsity(torch.zeros(1, 4, 1, 1), labels, present)
    assert float(sparsity(one, labels, present)) == pytest.approx(3 + math.e)
    assert float(silent) == pytest.approx(4)


@pytest.mark.parametrize("term", [matching, attraction, sparsity])
def test_terms_pass_gradcheck(term):
    torch.manual_seed(3)
    labels = torch.tensor([[[0, 1], [VOID, 1]]])
    prototypes = torch.rand(2, 3, dtype=torch.float64)
    features = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    known = torch.ones(2, dtype=torch.bool)

    def loss(x):
        if term is matching:
            total, counts = sums(x, labels, 2)
            return matching(total / counts.unsqueeze(1), prototypes, known)
        if term is attraction:
            return attraction(x, labels, prototypes, known)
        return sparsity(x, labels, known)

    assert torch.autograd.gradcheck(loss, (features,))


def test_background_pixels_count_as_what_the_old_network_says():
    labels = torch.tensor([[[0, 4], [VOID, 0]]])
    logits = torch.zeros(1, OLD, 2, 2)
    logits[0, 2, 0, 0] = logits[0, 1, 0, 1] = logits[0, 1, 1, 1] = 5
    output = Output(torch.zeros(1, ALL, 2, 2), features=torch.rand(1, D, 2, 2))
    _, classes = seen(output, labels, Output(logits))
    assert classes.tolist() == [[[2, 4], [VOID, 1]]]


def test_void_alone_adds_nothing_but_distillation():
    method = sdr(memory={"prototypes": torch.rand(OLD, D), "counts": torch.ones(OLD).long()})
    features = torch.rand(1, D, 2, 2, requires_grad=True)
    output = Output(torch.randn(1, ALL, 4, 4), features=features)
    labels = torch.full((1, 4, 4), VOID)
    terms = method.terms(output, labels, Output(torch.randn(1, OLD, 4, 4)))
    assert {k: float(v.detach()) for k, v in terms.items() if k != "kd"} == dict.fromkeys(
        ("ce", "matching", "attraction", "repulsion", "sparsity"), 0.0
    )
    torch.stack(list(terms.values())).sum().backward()
    assert float(features.grad.abs().sum()) == 0


def test_step_0_gathers_prototypes_of_the_labels():
    method = sdr(first=0)
    features, labels = torch.rand(2, D, 2, 2), torch.randint(0, OLD, (2, 2, 2))
    labels[0, 0, 0] = VOID
    for b in range(2):
        output = Output(torch.zeros(1, OLD, 2, 2), features=features[b : b + 1])
        terms = method.terms(output, labels[b : b + 1], None)
        assert set(terms) == {"ce"}
        method.after_update(None)
    memory = method.finish(None, None, None)
    for c, vectors in by_class(features, labels).items():
        assert memory["prototypes"][c].tolist() == pytest.approx(mean_of(vectors), rel=1e-5)
        assert int(memory["counts"][c]) == len(vectors)


def test_an_extension_keeps_old_prototypes_and_adds_new_ones():
    old = torch.rand(OLD, D)
    method = sdr(memory={"prototypes": old, "counts": torch.tensor([5, 0, 7])})
    features = torch.rand(1, D, 2, 2)
    labels = torch.tensor([[[3, 0], [3, VOID]]])
    output = Output(torch.zeros(1, ALL, 2, 2), features=features)
    method.terms(output, labels, Output(torch.zeros(1, OLD, 2, 2)))
    method.after_update(None)
    memory = method.finish(None, None, None)
    assert torch.equal(memory["prototypes"][:OLD], old)
    assert memory["counts"].tolist() == [5, 0, 7, 2, 0]
    expected = (features[0, :, 0, 0] + features[0, :, 1, 0]) / 2
    assert memory["prototypes"][3].tolist() == pytest.approx(expected.tolist())


def test_without_a_memory_prototypes_come_from_the_old_network():
    features, logits = torch.rand(1, D, 2, 2), torch.zeros(1, OLD, 2, 2)
    logits[0, 2, 0] = 5
    logits[0, 1, 1] = 5
    labels = torch.tensor([[[0, 4], [0, VOID]]])
    answer = Output(logits, features=features)
    survey = Survey(lambda: iter([(torch.zeros(1), labels)]), lambda network, x: answer)
    method = sdr()
    found = method.prepare(survey, object())
    assert found["counts"].tolist() == [0, 1, 1]
    assert found["prototypes"][2].tolist() == pytest.approx(features[0, :, 0, 0].tolist())
    method.ready(found)
    assert sdr(memory=found).prepare(survey, object()) == {}


def test_terms_carry_their_factors(case):
    torch.manual_seed(1)
    memory = {"prototypes": torch.rand(OLD, D), "counts": torch.ones(OLD).long()}
    student, teacher = torch.randn(2, ALL, 6, 10), torch.randn(2, OLD, 6, 10)
    labels = torch.randint(OLD, ALL, (2, 6, 10))
    labels[:, :3] = 0
    output = Output(student, features=case[0])
    terms = sdr(memory=memory).terms(output, labels, Output(teacher))
    plain = dict.fromkeys(
        ("lambda_kd", "lambda_matching", "lambda_contrast", "lambda_sparsity"), 1.0
    )
    ones = sdr(memory=memory, **plain).terms(output, labels, Output(teacher))
    factors = {"kd": 100, "matching": 0.01, "attraction": 1e-3, "repulsion": 1e-3, "sparsity": 1e-3}
    for name, factor in factors.items():
        assert float(ones[name]) > 0
        assert float(terms[name]) == pytest.approx(factor * float(ones[name]), rel=1e-5)
    assert float(terms["ce"]) == float(unbiased_cross_entropy(student, labels, OLD))
    assert float(ones["kd"]) == pytest.approx(float(unbiased_distillation(student, teacher)))
