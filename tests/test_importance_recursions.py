"""EWC, PI and RW: how they measure importance, against plain loops in float64."""

import math

import pytest
import torch
from bare_weights import (
    Weights,
    finish,
    flat,
    frozen_copy,
    iterate,
    make,
    random_gradients,
    weights,
)
from torch import nn

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.methods import Survey
from edgeinc.models import Output, create
from edgeinc.schema import VOID


def close(found, expected):
    assert found.flatten().tolist() == pytest.approx(expected, rel=2e-4, abs=1e-7)


# ------------------------------------------------------------------------------------- recursions


def slow_fisher(gradients, name, alpha, start=None):
    f = [1.0] * gradients[0][name].numel() if start is None else list(start)
    for gradient in gradients:
        for i, g in enumerate(gradient[name].flatten().tolist()):
            f[i] = alpha * g * g + (1 - alpha) * f[i]
    return f


def slow_min_max(values, eps=1e-8):
    low, high = min(values), max(values)
    return [(v - low) / (high - low + eps) for v in values]


def slow_penalty(omega, model, old, factor):
    return factor * sum(
        o * (theta - star) ** 2
        for name, importances in omega.items()
        for o, theta, star in zip(
            importances,
            model[name].detach().flatten().tolist(),
            old[name].detach().flatten().tolist(),
            strict=True,
        )
    )


def named(model):
    return dict(model.named_parameters())


def test_ewc_online_is_its_recursion_and_goes_on_at_the_next_step():
    model = weights(a=(2, 3), b=(3,))
    base = make("ewc", alpha=0.6)
    base.begin(model, None)
    gradients = random_gradients(model, 3)
    assert iterate(base, model, gradients) == [{}, {}, {}]
    memory = finish(base, model)
    fisher = {n: slow_fisher(gradients, n, 0.6) for n in ("a", "b")}
    for name, expected in fisher.items():
        close(memory[f"online.{name}"], expected)

    old = frozen_copy(model)
    grown = Weights(**named(model), c=torch.randn(2))
    step = make("ewc", memory, 2, alpha=0.6, lambda_penalty=0.1)
    step.begin(grown, old)
    omega = {n: slow_min_max(f) for n, f in fisher.items()}
    more = random_gradients(grown, 3, seed=5)
    before = []
    for gradient in more:
        before.append(slow_penalty(omega, named(grown), named(old), 0.1))
        logged = iterate(step, grown, [gradient])[0]
        assert float(logged["penalty"]) == pytest.approx(before[-1], rel=1e-4)
    assert before[0] == 0 < before[1]
    kept = finish(step, grown, old)
    for name in ("a", "b"):
        close(kept[f"online.{name}"], slow_fisher(more, name, 0.6, start=fisher[name]))
    close(kept["online.c"], slow_fisher(more, "c", 0.6))


def slow_pi(model_path, gradients, name, damping, start):
    """model_path: weights before iteration 0, 1, ... and after the last."""
    size = gradients[0][name].numel()
    omega = [0.0] * size
    for t in range(1, len(gradients)):
        for i in range(size):
            g = float(gradients[t][name].flatten()[i])
            omega[i] += g * (model_path[t - 1][name][i] - model_path[t][name][i])
    end = model_path[-1][name]
    way = [(end[i] - start[name][i]) ** 2 for i in range(size)]
    return [max(0.0, omega[i] / (way[i] + damping)) for i in range(size)]


def walk(step, model, gradients):
    """Iterate, and return the weights before each iteration and after the last."""
    path = [flat(named(model))]
    for gradient in gradients:
        iterate(step, model, [gradient])
        path.append(flat(named(model)))
    return path


@pytest.mark.parametrize("damping", [1e-20, 1e-3])
def test_pi_is_its_path_integral_and_adds_up_over_steps(damping):
    model = weights(a=(2, 3))
    base = make("pi", damping=damping)
    base.begin(model, None)
    gradients = random_gradients(model, 3)
    path = walk(base, model, gradients)
    memory = finish(base, model)
    first = slow_pi(path, gradients, "a", damping, path[0])
    assert any(first)
    close(memory["score.a"], first)

    old = frozen_copy(model)
    grown = Weights(**named(model), c=torch.randn(2))
    step = make("pi", memory, 2, damping=damping, lambda_penalty=0.1)
    step.begin(grown, old)
    more = random_gradients(grown, 3, seed=5)
    path = walk(step, grown, more)
    kept = finish(step, grown, old)
    second = slow_pi(path, more, "a", damping, path[0])
    close(kept["score.a"], [x + y for x, y in zip(first, second, strict=True)])
    close(kept["score.c"], slow_pi(path, more, "c", damping, path[0]))
    close(step.omega["a"], slow_min_max(first))


def slow_rw(path, gradients, name, alpha, every, damping, fisher=None):
    size = gradients[0][name].numel()
    f = [1.0] * size if fisher is None else list(fisher)
    s, before = [0.0] * size, None
    for t, gradient in enumerate(gradients):
        now, g = path[t][name], gradient[name].flatten().tolist()
        if t % every == 0:
            if before is not None:
                for i in range(size):
                    distance = 0.5 * f[i] * (now[i] - before[i]) ** 2
                    s[i] += g[i] * (before[i] - now[i]) / (distance + damping)
            before = now
        for i in range(size):
            f[i] = alpha * g[i] ** 2 + (1 - alpha) * f[i]
    return f, [max(0.0, v) for v in s]


@pytest.mark.parametrize(("every", "iterations"), [(1, 3), (2, 5), (10, 12)])
def test_rw_is_its_recursion_and_averages_over_steps(every, iterations):
    options = {"alpha": 0.7, "every": every, "damping": 1e-3}
    model = weights(a=(2, 3))
    base = make("rw", **options)
    base.begin(model, None)
    gradients = random_gradients(model, iterations)
    fisher, score = slow_rw(walk(base, model, gradients), gradients, "a", **options)
    memory = finish(base, model)
    assert any(score)
    close(memory["fisher.a"], fisher)
    close(memory["score.a"], score)

    old = frozen_copy(model)
    step = make("rw", memory, 2, lambda_penalty=0.1, **options)
    step.begin(model, old)
    expected = [x + y for x, y in zip(slow_min_max(fisher), slow_min_max(score), strict=True)]
    close(step.omega["a"], expected)
    more = random_gradients(model, iterations, seed=5)
    path = walk(step, model, more)
    kept = finish(step, model, old)
    fisher, new = slow_rw(path, more, "a", fisher=fisher, **options)
    close(kept["fisher.a"], fisher)
    close(kept["score.a"], [(x + y) / 2 for x, y in zip(score, new, strict=True)])


@pytest.mark.parametrize("method", ["pi", "rw"])
def test_one_scale_is_an_option(method):
    # Of 1001 values the 1000th in order is the scale; c is the only one above it.
    score = {"score.a": torch.arange(1.0, 1001), "score.c": torch.tensor([2000.0])}
    memory = score | {k.replace("score", "fisher"): v for k, v in score.items()}
    model = Weights(a=torch.zeros(1000), c=torch.zeros(1))
    published, mended = make(method, memory, 2), make(method, memory, 2, normalise="global")
    for step in (published, mended):
        step.begin(model, frozen_copy(model))
    parts = 2 if method == "rw" else 1
    assert float(published.omega["c"]) == 0  # alone in its tensor: free
    assert float(mended.omega["c"]) == parts
    assert float(mended.omega["a"][499]) == pytest.approx(parts * 500 / 1000)


# ----------------------------------------------------------------------------------- exact Fisher


class Pixelwise(nn.Module):
    """logits = w x + b per pixel, as small as a segmentation network gets."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]]))
        self.b = nn.Parameter(torch.tensor([0.1, 0.0, -0.1]))

    def forward(self, x):
        return Output(torch.einsum("kc,bchw->bkhw", self.w, x) + self.b.view(1, -1, 1, 1))


def slow_image_gradient(model, image, label):
    """Of the mean cross-entropy over labelled pixels: sum of (p - onehot) x, by hand."""
    w, b = model.w.detach().tolist(), model.b.detach().tolist()
    gw, gb = [[0.0, 0.0] for _ in w], [0.0 for _ in w]
    pixels = [
        (image[:, y, x].tolist(), int(label[y, x]))
        for y in range(label.shape[0])
        for x in range(label.shape[1])
        if int(label[y, x]) != VOID
    ]
    for value, target in pixels:
        z = [row[0] * value[0] + row[1] * value[1] + c for row, c in zip(w, b, strict=True)]
        top = max(z)
        e = [math.exp(v - top) for v in z]
        for k in range(len(w)):
            error = (e[k] / sum(e) - (k == target)) / len(pixels)
            gb[k] += error
            for c in range(2):
                gw[k][c] += error * value[c]
    return [g for row in gw for g in row], gb


def test_exact_fisher_is_the_mean_over_images_of_squared_gradients_and_adds_up():
    torch.manual_seed(3)
    x, labels = torch.randn(3, 2, 4, 5), torch.randint(0, 3, (3, 4, 5))
    labels[torch.rand(labels.shape) < 0.3] = VOID
    labels[1] = VOID  # an image without a label counts as one without a gradient
    batches = [(x[:2], labels[:2]), (x[2:].bfloat16(), labels[2:])]  # as bf16 training passes them
    x[2] = x[2].bfloat16().float()
    survey = Survey(lambda: iter(batches), None)
    model = Pixelwise()
    step = make("ewc", fisher="exact")
    step.begin(model, None)
    iterate(step, Weights(w=model.w), random_gradients(Weights(w=model.w), 2))  # changes nothing
    memory = step.finish(model, None, survey)
    per_image = [slow_image_gradient(model, i, y) for i, y in zip(x, labels, strict=True)]
    expected = {
        name: [sum(g[part][i] ** 2 for g in per_image) / 3 for i in range(size)]
        for part, (name, size) in enumerate((("w", 6), ("b", 3)))
    }
    for name, values in expected.items():
        close(memory[f"exact.{name}"], values)
    assert all(p.requires_grad for p in model.parameters())

    later = make("ewc", memory, 2, fisher="exact")
    later.begin(model, model)
    scale = max(v for values in expected.values() for v in values)  # 99.9 % of 9 are all 9
    close(later.omega["b"], [v / scale for v in expected["b"]])
    again = later.finish(model, model, survey)
    for name, values in expected.items():
        close(again[f"exact.{name}"], [2 * v for v in values])


@pytest.mark.parametrize("network", registry.names("models"))
def test_exact_fisher_of_a_network_spares_frozen_weights_and_statistics(network):
    model = create(network, [3], {"width": 0.125}).train()
    model.freeze_bn(stats=False, affine=True)
    still = {n: b.clone() for n, b in model.named_buffers()}
    step = make("ewc", fisher="exact")
    step.begin(model, None)
    batch = torch.randn(2, 3, 32, 64), torch.randint(0, 3, (2, 32, 64))
    memory = step.finish(model, None, Survey(lambda: iter([batch]), None))
    moving = {f"exact.{n}" for n, p in model.named_parameters() if p.requires_grad}
    assert set(memory) == moving
    assert float(memory["exact.head.0.bias" if network == "erfnet" else
                        "exact.classifier.head.0.bias"].sum()) > 0  # fmt: skip
    assert all(torch.equal(b, still[n]) for n, b in model.named_buffers())


def test_an_importance_estimated_in_the_other_way_is_refused():
    model = weights(a=(2, 3))
    base = make("ewc")
    base.begin(model, None)
    walk(base, model, random_gradients(model, 1))
    memory = finish(base, model)
    with pytest.raises(UsageError, match=r"fisher=exact.*'online'"):
        make("ewc", memory, 2, fisher="exact").begin(model, frozen_copy(model))
