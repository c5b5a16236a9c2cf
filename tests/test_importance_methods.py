"""EWC, PI and RW: what they hold and how hard, and what must never be measured."""

import math

import pytest
import torch
from bare_weights import (
    LR,
    Weights,
    finish,
    flat,
    frozen_copy,
    iterate,
    make,
    random_gradients,
    weights,
)

from edgeinc import registry
from edgeinc.methods import StepContext
from edgeinc.methods._importance import globally, penalise, per_tensor
from edgeinc.models import create
from edgeinc.runs import open_run
from edgeinc.training import extend, train

METHODS = ("ewc", "pi", "rw")


# ------------------------------------------------------------------------------------ the penalty


def test_penalty_and_its_gradient_are_a_plain_sum_over_weights():
    model, old = weights(1, a=(2, 3), b=(4,)), weights(2, a=(2, 3), b=(4,))
    omega = {"a": torch.rand(6), "b": torch.rand(4)}
    start = random_gradients(model, 1)[0]
    for name, p in model.named_parameters():
        p.grad = start[name].clone()
    found = penalise(
        dict(model.named_parameters()), dict(old.named_parameters()), omega, factor=7.0
    )
    new, before = flat(dict(model.named_parameters())), flat(dict(old.named_parameters()))
    total = 0.0
    for name, importances in flat(omega).items():
        for o, theta, star in zip(importances, new[name], before[name], strict=True):
            total += 7 * o * (theta - star) ** 2
    assert float(found) == pytest.approx(total, rel=1e-5)

    def value(name, index, shift):
        moved = {n: list(v) for n, v in new.items()}
        moved[name][index] += shift
        return sum(
            7 * o * (theta - star) ** 2
            for n, importances in flat(omega).items()
            for o, theta, star in zip(importances, moved[n], before[n], strict=True)
        )

    for name, p in model.named_parameters():
        added = (p.grad - start[name]).flatten().tolist()
        for index, g in enumerate(added):
            slope = (value(name, index, 1e-4) - value(name, index, -1e-4)) / 2e-4
            assert g == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_penalty_of_one_weight_by_hand():
    model, old = Weights(a=torch.tensor([1.5])), Weights(a=torch.tensor([1.0]))
    model.a.grad = torch.tensor([0.25])
    found = penalise({"a": model.a}, {"a": old.a}, {"a": torch.tensor([0.8])}, factor=10.0)
    assert float(found) == pytest.approx(10 * 0.8 * 0.25)
    assert float(model.a.grad) == pytest.approx(0.25 + 2 * 10 * 0.8 * 0.5)


def network_step(method, network):
    """A network at the start of its first extension, with a memory of random importance."""
    torch.manual_seed(0)
    old = create(network, [3], {"width": 0.125})
    kinds = {"ewc": ["online"], "pi": ["score"], "rw": ["fisher", "score"]}[method]
    memory = {f"{k}.{n}": torch.rand(p.numel()) for k in kinds for n, p in old.named_parameters()}
    model = create(network, [3], {"width": 0.125})
    model.load_state_dict(old.state_dict())
    model.grow(2)
    plugin = registry.load("methods", method)
    context = StepContext(3, 5, "none", None, memory)
    step = plugin(plugin.Config(), context)
    step.begin(model, old.eval().requires_grad_(False))
    labels = torch.randint(3, 5, (2, 32, 64))
    terms = step.terms(model.train()(torch.randn(2, 3, 32, 64)), labels, None)
    torch.stack(list(terms.values())).sum().backward()
    return step, model


@pytest.mark.parametrize("network", registry.names("models"))
@pytest.mark.parametrize("method", METHODS)
def test_at_the_old_weights_there_is_no_penalty_and_no_pull(method, network):
    step, model = network_step(method, network)
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    assert float(step.after_backward(model)["penalty"]) == 0
    assert all(torch.equal(p.grad, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("network", registry.names("models"))
@pytest.mark.parametrize("method", METHODS)
def test_away_from_them_all_but_the_new_classifiers_are_pulled(method, network):
    step, model = network_step(method, network)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.01 * torch.randn_like(p)
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    assert float(step.after_backward(model)["penalty"]) > 0
    new = {n for n in before if "head.1." in n}
    assert len(new) == 2 * len(model.heads())
    for name, p in model.named_parameters():
        assert torch.equal(p.grad, before[name]) == (name in new or p.numel() == 1), name


@pytest.mark.parametrize("method", METHODS)
def test_without_a_memory_nothing_is_held(method):
    model = weights(a=(3,))
    step, old = make(method, first_new=2), frozen_copy(model)
    step.begin(model, old)
    gradients = random_gradients(model, 3)
    assert iterate(step, model, gradients) == [{}, {}, {}]
    expected = old.a - LR * sum(g["a"] for g in gradients)
    assert torch.allclose(model.a, expected, atol=1e-6)
    assert finish(step, model, old)  # but it is measured for the step after


# ---------------------------------------------------------------------------------- normalisation


def test_each_tensor_spans_zero_to_one_as_published():
    raw = torch.tensor([[3.0, 1.0], [2.0, 5.0]])
    assert per_tensor(raw).flatten().tolist() == pytest.approx([0.5, 0.0, 0.25, 1.0])
    wild = torch.randn(1000) * torch.logspace(-6, 6, 1000)
    assert (float(per_tensor(wild).min()), float(per_tensor(wild).max())) == (0, 1)
    assert per_tensor(torch.full((5,), 7.0)).tolist() == [0] * 5
    assert per_tensor(torch.tensor([7.0])).tolist() == [0]
    small = per_tensor(torch.tensor([0.0, 1e-8]))  # the published 1e-8 in the denominator
    assert small.tolist() == pytest.approx([0.0, 0.5])


def test_one_scale_for_all_tensors_keeps_their_proportions_and_cuts_outliers():
    raw = {"a": torch.arange(1.0, 1000).view(3, 333), "b": torch.tensor([1e9])}
    found = globally(raw)  # 1000 values: the 999th is the scale
    assert found["a"].flatten().tolist() == pytest.approx([v / 999 for v in range(1, 1000)])
    assert found["b"].tolist() == [1]


def test_one_scale_survives_zeros():
    assert globally({}) == {}
    assert globally({"a": torch.zeros(3)})["a"].tolist() == [0, 0, 0]
    mostly = torch.zeros(2000)
    mostly[7] = 4.0  # 99.9 % are 0: the maximum is the scale
    assert float(globally({"a": mostly})["a"].sum()) == 1


# --------------------------------------------------------------------------- what must not happen


@pytest.mark.parametrize("method", METHODS)
def test_frozen_weights_are_not_measured_and_keep_what_was_known_of_them(method):
    model = weights(a=(3,), b=(3,))
    base = make(method)
    base.begin(model, None)
    iterate(base, model, random_gradients(model, 12))
    memory = finish(base, model)
    old = frozen_copy(model)
    model.b.requires_grad_(False)
    step = make(method, memory, 2, lambda_penalty=0.01)
    step.begin(model, old)
    gradients = [{"a": g["a"]} for g in random_gradients(model, 12, seed=4)]
    iterate(step, model, gradients)
    kept = finish(step, model, old)
    assert kept.keys() == memory.keys()
    for name in memory:
        assert torch.equal(kept[name], memory[name]) == name.endswith(".b"), name


@pytest.mark.parametrize("method", METHODS)
def test_the_penalty_is_not_measured_as_importance(method):
    """Of two steps over the same path, one with a huge penalty must measure the same."""
    memory = {f"{k}.a": torch.arange(3.0) for k in ("fisher", "online", "score")}
    kept = []
    for factor in (0.0, 1e6):
        model = weights(a=(3,))
        step = make(method, memory, 2, lambda_penalty=factor)
        step.begin(model, weights(9, a=(3,)).requires_grad_(False))
        for gradient in random_gradients(model, 12):
            model.a.grad = gradient["a"].clone()
            step.after_backward(model)
            with torch.no_grad():
                model.a -= LR * gradient["a"]
            step.after_update(model)
        kept.append(finish(step, model))
    assert all(torch.equal(kept[0][n], kept[1][n]) for n in kept[0])


@pytest.mark.parametrize("method", METHODS)
def test_an_iteration_that_fp16_drops_is_not_measured(method):
    measured = []
    for overflow in (False, True):
        model = weights(a=(3,), b=(3,))
        step = make(method)
        step.begin(model, None)
        for t, gradient in enumerate(random_gradients(model, 12)):
            if overflow and t in (0, 5):
                model.a.grad = torch.tensor([1.0, math.inf, math.nan])
                model.b.grad = torch.ones(3)
                step.after_backward(model)
                step.after_update(model)
            iterate(step, model, [gradient])
        measured.append(finish(step, model))
    assert all(torch.equal(measured[0][n], measured[1][n]) for n in measured[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [1, 4, 11])
def test_a_continued_step_measures_to_the_bit_what_an_unbroken_one_does(method, stop):
    memory = {f"{k}.a": torch.rand(3) for k in ("fisher", "online", "score")}
    old = weights(a=(3,)).requires_grad_(False)

    def begun():
        model = Weights(a=old.a, c=torch.ones(2, 2))
        step = make(method, memory, 2, lambda_penalty=0.5)
        step.begin(model, old)
        return step, model

    step, model = begun()
    gradients = random_gradients(model, 23)
    iterate(step, model, gradients)
    broken, first = begun()
    iterate(broken, first, gradients[:stop])
    saved = {k: v.detach().cpu().contiguous().clone() for k, v in broken.state().items()}
    again, second = begun()
    second.load_state_dict(first.state_dict())
    again.restore(saved)
    iterate(again, second, gradients[stop:])
    assert all(torch.equal(v, second.state_dict()[n]) for n, v in model.state_dict().items())
    expected, found = finish(step, model, old), finish(again, second, old)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], v) for n, v in expected.items())


@pytest.mark.parametrize("method", METHODS)
def test_the_memory_is_not_changed_by_using_it(method):
    memory = {f"{k}.a": torch.rand(3) for k in ("fisher", "online", "score")}
    before = {k: v.clone() for k, v in memory.items()}
    model = weights(a=(3,))
    step = make(method, memory, 2, lambda_penalty=0.5)
    step.begin(model, frozen_copy(model))
    iterate(step, model, random_gradients(model, 12))
    finish(step, model)
    assert all(torch.equal(v, before[k]) for k, v in memory.items())


# ------------------------------------------------------------------------------------- in a run


QUICK = {"epochs": 1, "batch_size": 4, "precision": "fp32", "threads": 1, "workers": 0}


@pytest.mark.parametrize(
    ("method", "options"), [("ewc", ("method.fisher=exact",)), ("pi", ()), ("rw", ())]
)
def test_a_run_hands_importance_from_step_to_step(street_data, tmp_path, method, options):
    run = tmp_path / "run"
    train(
        street_data,
        classes=["road", "sky"],
        method=method,
        size=(32, 64),
        run=run,
        sets=("model.width=0.125", *options),
        **QUICK,
    )
    assert open_run(run).memory(0) is not None
    for name in ("building", "car"):
        extend(run, new_classes=[name], method=method, sets=options)
    for step in (1, 2):
        rows = open_run(run).metrics(step)
        assert rows[0]["penalty"] == 0
        assert rows[-1]["penalty"] > 0
    assert "penalty" not in open_run(run).metrics(0)[0]
