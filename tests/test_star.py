"""STAR: what it keeps of a class, what it makes of it, and its terms, against slow loops."""

import math
from dataclasses import replace
from statistics import mean, pstdev

import pytest
import torch

from edgeinc.methods import StepContext, Survey, registry
from edgeinc.methods.star import Sums, shrunk, synthesise
from edgeinc.models import Output, create
from edgeinc.schema import VOID

OLD, NEW, SIZE = 3, 2, (32, 64)
NETWORKS = ("erfnet", "bisenet")


def star(first=OLD, classes=OLD + NEW, background="real", memory=None, **options):
    plugin = registry.load("methods", "star")
    context = StepContext(first, classes, background, None, memory or {}, sigmoids=bool(memory))
    return plugin(plugin.Config(**options), context)


def images(seed=1, batch=2):
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def softplus(z):
    return math.log(1 + math.exp(z))


def slow_map(logits, labels, first, gamma):
    """Loss of every pixel: {(b, i, j): value}."""
    z, out = logits.double().tolist(), {}
    for b, plane in enumerate(labels.tolist()):
        for i, row in enumerate(plane):
            for j, y in enumerate(row):
                out[b, i, j] = sum(
                    gamma * softplus(-z[b][c][i][j]) if y == c else softplus(z[b][c][i][j])
                    for c in range(first, logits.shape[1])
                )
    return out


def keeps(classes=OLD, channels=4, pixels=(0.0, 100.0, 50.0), background=0.0):
    """A memory of an earlier step, background at id 0."""
    generator = torch.Generator().manual_seed(5)
    direction = torch.rand(classes, channels, generator=generator)
    return {
        "direction": torch.nn.functional.normalize(direction, dim=1),
        "spread": torch.rand(classes, channels, generator=generator) * 0.1,
        "norm": torch.tensor([[2.0, 0.25]]).repeat(classes, 1),
        "pixels": torch.tensor(pixels, dtype=torch.float64),
        "background": torch.tensor([background]),
    }


@pytest.fixture
def case():
    torch.manual_seed(7)
    student, teacher = torch.randn(2, OLD + NEW, 4, 6) * 2, torch.randn(2, OLD, 4, 6) * 2
    labels = torch.randint(OLD, OLD + NEW, (2, 4, 6))
    labels[torch.rand(labels.shape) < 0.5] = 0
    labels[torch.rand(labels.shape) < 0.2] = VOID
    now, before = torch.rand(2, 4, 2, 3), torch.rand(2, 4, 2, 3)
    return Output(student, features=now), Output(teacher, features=before), labels


def old_class(teacher, labels, b, i, j):
    """The old class of a pixel, by the rule of one half; None where there is none."""
    if labels[b, i, j] >= OLD:
        return None
    z = [float(teacher.logits[b, c, i, j] - teacher.logits[b, 0, i, j]) for c in range(OLD)]
    best = max(range(1, OLD), key=lambda c: z[c])
    return best if 1 / (1 + math.exp(-z[best])) > 0.5 else None


# ------------------------------------------------------------------------------ what is kept


def test_statistics_are_those_of_plain_loops():
    torch.manual_seed(0)
    features = torch.rand(3, 5, 4, 6) * 3
    labels = torch.randint(0, 4, (3, 8, 12))
    labels[labels == 3] = VOID
    sums = Sums(4, 5)
    sums.add(features[:2], labels[:2])
    sums.add(features[2:], labels[2:])
    found = sums.statistics()
    for k in range(3):
        rows = [
            features[b, :, i, j].double().tolist()
            for b in range(3)
            for i in range(4)
            for j in range(6)
            if labels[b, 2 * i, 2 * j] == k
        ]
        norms = [math.hypot(*row) for row in rows]
        units = [[v / n for v in row] for row, n in zip(rows, norms, strict=True)]
        centre = [mean(column) for column in zip(*units, strict=True)]
        direction = [v / math.hypot(*centre) for v in centre]
        spread = [math.sqrt(mean((u[d] - direction[d]) ** 2 for u in units)) for d in range(5)]
        assert found["direction"][k].tolist() == pytest.approx(direction, rel=1e-5)
        assert found["spread"][k].tolist() == pytest.approx(spread, rel=1e-4)
        assert found["norm"][k].tolist() == pytest.approx([mean(norms), pstdev(norms)], rel=1e-5)
        assert int(found["pixels"][k]) == int((labels == k).sum())
    assert not found["pixels"][3]
    assert not any(found[name][3].any() for name in ("direction", "spread", "norm"))


def test_a_class_is_kept_in_about_two_kilobytes():
    rows = Sums(1, 256).statistics()
    assert sum(v.numel() * 4 for v in rows.values()) == (2 * 256 + 3) * 4


def test_made_features_have_the_statistics_of_their_class():
    memory = keeps()
    generator = torch.Generator().manual_seed(0)
    made = synthesise(memory, torch.tensor([0.0, 0.0, 1.0]), 20000, generator).double()
    expected = memory["direction"][2] * 2.0
    assert made.mean(0).tolist() == pytest.approx(expected.tolist(), abs=0.02)
    # Var[(mu + e s)(m + e' d)] = s^2 (m^2 + d^2) + mu^2 d^2
    mu, s = memory["direction"][2].double(), memory["spread"][2].double()
    deviation = (s**2 * (2.0**2 + 0.25**2) + mu**2 * 0.25**2).sqrt()
    assert made.std(0).tolist() == pytest.approx(deviation.tolist(), rel=0.05)


def test_classes_are_drawn_by_what_is_missing():
    memory = keeps()
    memory["spread"].zero_()
    memory["norm"][:, 1] = 0
    made = synthesise(
        memory, torch.tensor([0.0, 30.0, 10.0]), 8000, torch.Generator().manual_seed(0)
    )
    first = (made - memory["direction"][1] * 2).abs().amax(1) < 1e-5
    second = (made - memory["direction"][2] * 2).abs().amax(1) < 1e-5
    assert bool((first ^ second).all())
    assert float(first.float().mean()) == pytest.approx(0.75, abs=0.02)


def test_labels_shrink_to_the_nearest_pixel_whatever_the_ratio():
    labels = torch.arange(48).view(1, 6, 8)
    assert shrunk(labels, (6, 8)).equal(labels)
    assert shrunk(labels, (3, 2)).tolist() == [[[0, 4], [16, 20], [32, 36]]]


# ------------------------------------------------------------------------------ the terms


@pytest.mark.parametrize("gamma", [4.0, 1.0])
def test_without_replay_it_is_the_plain_mbce(case, gamma):
    student, teacher, labels = case
    values = slow_map(student.logits, labels, OLD, gamma)
    expected = mean(v for (b, i, j), v in values.items() if labels[b, i, j] != VOID)
    found = star(gamma=gamma).terms(student, labels, teacher)["bce"]
    assert float(found) == pytest.approx(expected, rel=1e-5)
    base = star(0, OLD + NEW, gamma=gamma).terms(student, labels, None)
    values = slow_map(student.logits, labels, 1, gamma)
    expected = mean(v for (b, i, j), v in values.items() if labels[b, i, j] != VOID)
    assert base.keys() == {"bce"}
    assert float(base["bce"]) == pytest.approx(expected, rel=1e-5)


def test_pkd_is_the_mean_square_where_an_old_class_was_found(case):
    student, teacher, labels = case
    squares = []
    for b in range(2):
        for i in range(2):
            for j in range(3):
                if labels[b, 2 * i, 2 * j] == VOID:
                    continue
                if old_class(teacher, labels, b, 2 * i, 2 * j) is not None:
                    gap = student.features[b, :, i, j] - teacher.features[b, :, i, j]
                    squares.append(float(gap.double().square().mean()))
    found = star().terms(student, labels, teacher)["pkd"]
    assert squares
    assert float(found) == pytest.approx(5 * mean(squares), rel=1e-5)
    silent = Output(torch.zeros(2, OLD, 4, 6), features=teacher.features)
    assert float(star().terms(student, labels, silent)["pkd"]) == 0


def test_cont_is_one_over_the_distance_to_the_nearest_old_class(case):
    student, teacher, labels = case
    memory = keeps()
    losses = []
    for k in (OLD, OLD + 1):
        units = [
            (f / f.norm()).tolist()
            for b in range(2)
            for i in range(2)
            for j in range(3)
            if labels[b, 2 * i, 2 * j] == k
            for f in [student.features[b, :, i, j].double()]
        ]
        if not units:
            continue
        centre = [sum(column) for column in zip(*units, strict=True)]
        centre = [v / math.hypot(*centre) for v in centre]
        nearest = min(math.dist(centre, row) for row in memory["direction"][1:].double().tolist())
        losses.append(1 / math.sqrt(nearest**2 + 1e-4))
    assert losses
    found = star(memory=memory).terms(student, labels, teacher)["cont"]
    assert float(found) == pytest.approx(0.05 * mean(losses), rel=1e-4)
    nothing = torch.zeros_like(labels)
    assert float(star(memory=memory).terms(student, nothing, teacher)["cont"]) == 0


def test_cont_stays_finite_where_a_new_class_looks_like_an_old_one():
    memory = keeps()
    features = memory["direction"][1].view(1, 4, 1, 1).clone().requires_grad_(True)
    output = Output(torch.zeros(1, 5, 1, 1), features=features)
    teacher = Output(torch.zeros(1, 3, 1, 1), features=features.detach())
    term = star(memory=memory).terms(output, torch.full((1, 1, 1), OLD), teacher)["cont"]
    term.backward()
    assert float(term.detach()) == pytest.approx(0.05 * 100, rel=1e-3)
    assert bool(torch.isfinite(features.grad).all())


# ------------------------------------------------------------------------------ the balance


def test_missing_is_what_was_kept_less_what_is_still_found(case):
    _, teacher, labels = case
    found = {1: 0, 2: 0}
    background = 0
    for b in range(2):
        for i in range(4):
            for j in range(6):
                k = None if labels[b, i, j] == VOID else old_class(teacher, labels, b, i, j)
                if k is not None:
                    found[k] += 1
                elif labels[b, i, j] == 0:
                    background += 1
    assert min(found[1], found[2], background) > 0
    memory = keeps(pixels=(0.0, 100.0, 1.0), background=3.0 * 2 * background)
    survey = Survey(lambda: iter([(None, labels)] * 2), lambda network, x: teacher)
    prepared = star(memory=memory).prepare(survey, object())
    assert prepared["missing"].tolist() == pytest.approx([0, (100 - 2 * found[1]) / 2, 0])
    assert prepared["background_weight"].tolist() == pytest.approx([3.0])
    assert star().prepare(survey, object()) == {}
    assert star(memory=memory, replay=False).prepare(survey, object()) == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_replayed_features_and_background_weigh_what_is_missing(name):
    """The classifier is constant, so the balance shows whatever was drawn."""
    torch.manual_seed(2)
    model = create(name, [OLD, NEW], {"width": 0.125})
    model.train()(images(9, 8))
    for parameter in model.heads()[0].parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        model.heads()[0][-1].bias.copy_(torch.tensor([1.0, -2.0]))
    channels = model.heads()[0].channels
    method = star(memory=keeps(channels=channels), gamma=2.0, samples=16)
    method.begin(model, model)
    missing = torch.tensor([0.0, 5000.0, 1000.0])
    method.ready({"missing": missing, "background_weight": torch.tensor([3.0])})
    output = model.eval()(images())
    teacher = Output(torch.zeros(2, OLD, *SIZE), features=output.features.detach())
    labels = torch.zeros(2, *SIZE, dtype=torch.long)
    labels[0, :8], labels[1, :4] = OLD, VOID
    new = 8 * 64
    background = 2 * 32 * 64 - new - 4 * 64
    negative = softplus(1) + softplus(-2)
    positive = 2 * softplus(-1) + softplus(-2)
    above = 3 * background * negative + new * positive + 6000 * negative
    expected = above / (3 * background + new + 6000)
    found = method.terms(output, labels, teacher)["bce"]
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert bool(model.heads()[0][-1].weight.grad.abs().sum() > 0)


def test_only_new_rows_learn_from_replay_and_old_rows_have_no_term():
    torch.manual_seed(2)
    model = create("erfnet", [OLD, NEW], {"width": 0.125})
    method = star(memory=keeps(channels=model.heads()[0].channels))
    method.begin(model, model)
    method.ready({"missing": torch.tensor([0.0, 9.0, 0.0]), "background_weight": torch.ones(1)})
    output = model.eval()(images())
    teacher = Output(torch.ones(2, OLD, *SIZE), features=output.features.detach())
    labels = torch.full((2, *SIZE), VOID)  # nothing but replay
    terms = method.terms(output, labels, teacher)
    torch.stack(list(terms.values())).sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"head.1.weight", "head.1.bias"}


def test_noise_goes_on_where_a_restored_step_left_off():
    model = create("erfnet", [OLD, NEW], {"width": 0.125})
    prepared = {"missing": torch.tensor([0.0, 9.0, 0.0]), "background_weight": torch.ones(1)}
    memory = keeps(channels=model.heads()[0].channels)
    one, two = star(memory=memory), star(memory=memory)
    for method in (one, two):
        method.begin(model, model)
        method.ready(prepared)
    drawn = [float(one._replayed().detach()) for _ in range(3)]
    assert len(set(drawn)) == 3
    two.restore({"draws": torch.tensor([2])})
    assert float(two._replayed().detach()) == drawn[2]


@pytest.mark.parametrize("seed", [2**32, 2**63])
def test_every_seed_that_a_run_can_have_draws_noise_of_its_own(seed):
    model = create("erfnet", [OLD, NEW], {"width": 0.125})
    memory = keeps(channels=model.heads()[0].channels)
    drawn = []
    for value in (seed, seed + 1):
        method = star(memory=memory)
        method.context = replace(method.context, seed=value)
        method.begin(model, model)
        method.ready({"missing": torch.tensor([0.0, 9.0, 0.0])})
        drawn.append(float(method._replayed().detach()))
    assert drawn[0] != drawn[1]


# ------------------------------------------------------------------------------ from step to step


@pytest.mark.parametrize("background", ["none", "real", "virtual"])
def test_older_statistics_stay_and_new_ones_join(background):
    torch.manual_seed(2)
    old = create("erfnet", [OLD], {"width": 0.125}).eval()
    model = create("erfnet", [OLD, NEW], {"width": 0.125})
    channels = model.heads()[0].channels
    memory = keeps(channels=channels, background=7.0)
    method = star(background=background, memory=memory)
    labels = torch.randint(OLD, OLD + NEW, (2, *SIZE))
    labels[:, 16:] = VOID if background == "none" else 0
    survey = Survey(lambda: iter([(images(), labels)]), lambda network, x: network(x))
    with torch.no_grad():
        kept = method.finish(model.train(), old, survey)
    assert model.training
    for name in ("direction", "spread", "norm", "pixels"):
        assert torch.equal(kept[name][:OLD].double(), memory[name].double())
        assert kept[name].shape[0] == OLD + NEW
        assert bool(kept[name][OLD:].any())
    for k in (OLD, OLD + 1):
        assert int(kept["pixels"][k]) == int((labels == k).sum())
    assert float(kept["background"]) >= 7
    assert all(v.ndim < 3 for v in kept.values())
