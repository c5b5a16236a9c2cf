"""Images from a network: terms by slow formulas, statistics by hooks, what is kept by bytes."""

import hashlib
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from edgeinc.methods import NOTHING_KEPT, _inversion
from edgeinc.methods._inversion import (
    Recipe,
    aggregate,
    answer,
    classification,
    invert,
    mean_norm,
    total_variation,
)
from edgeinc.methods._watched import FIRST, Watched, WatchedNorm
from edgeinc.methods.hrhf import HRHF
from edgeinc.models import create
from edgeinc.progress import SILENT

SIZE = (32, 64)


def network(name="erfnet", classes=3, seed=0):
    """A small network with statistics and an affine part of its own."""
    torch.manual_seed(seed)
    model = create(name, [classes], {"width": 0.125})
    model.train()(torch.randn(8, 3, *SIZE) * 2 + 0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def recipe(**options):
    quick = {"per_class": 3, "batch": 8, "iterations": 4}
    return Recipe.of(HRHF.Config(**{**quick, **options}))


def images(model, store=NOTHING_KEPT, classes=(0, 1, 2), progress=SILENT, **options):
    return invert(
        model,
        list(classes),
        recipe(**options),
        size=SIZE,
        seed=0,
        dtype=torch.float32,
        store=store,
        progress=progress,
    )


def weights_hash(model):
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------- aggregation


def test_aggregation_follows_equation_1():
    torch.manual_seed(0)
    logits, r = torch.randn(2, 3, 4, 5) * 4, torch.tensor([[0.5, 1, 5], [10, 20, 0.5]])
    found = aggregate(logits, r, "scale-aware")
    for image in range(2):
        for k in range(3):
            s, scale = logits[image, k].double().flatten().tolist(), float(r[image, k])
            mean = sum(math.exp(scale * v) for v in s) / len(s)
            assert float(found[image, k]) == pytest.approx(math.log(mean) / scale, rel=1e-5)


def test_aggregation_tends_to_the_mean_and_to_the_maximum():
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 6, 6)
    ones = torch.ones(2, 3)
    mean, most = (aggregate(logits, ones, kind) for kind in ("average", "maximum"))
    torch.testing.assert_close(mean, logits.mean((2, 3)))
    torch.testing.assert_close(most, logits.amax((2, 3)))
    torch.testing.assert_close(
        aggregate(logits, 1e-3 * ones, "scale-aware"), mean, atol=2e-3, rtol=0
    )
    torch.testing.assert_close(
        aggregate(logits, 1e4 * ones, "scale-aware"), most, atol=1e-3, rtol=0
    )


def test_aggregation_does_not_overflow():
    logits = torch.tensor([50.0, -50.0]).view(1, 1, 1, 2).requires_grad_(True)
    score = aggregate(logits, torch.full((1, 1), 20.0), "scale-aware")
    assert float(score.detach()) == pytest.approx(50 - math.log(2) / 20, rel=1e-6)
    score.sum().backward()
    assert logits.grad.flatten().tolist() == [1.0, 0.0]
    low = aggregate(logits.detach().bfloat16() - 1000, torch.full((1, 1), 20.0), "scale-aware")
    assert torch.isfinite(low).all()


def test_one_class_is_cross_entropy_and_several_are_binary():
    scores = torch.tensor([[0.0, math.log(3.0), 0.0]])
    one = classification(scores, torch.tensor([[1]]), 0)
    assert float(one) == pytest.approx(-math.log(3 / 5), rel=1e-6)
    two = classification(scores, torch.tensor([[1, 2]]), 1)  # the background takes no part
    assert float(two) == pytest.approx(-math.log(3 / 4) - math.log(1 / 2), rel=1e-6)
    shifted = classification(scores + torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[1, 2]]), 1)
    assert torch.equal(two, shifted)


# ---------------------------------------------------------------------------------- image prior


def test_total_variation_is_the_sum_of_four_norms():
    x = torch.tensor([[0.0, 3.0], [4.0, 0.0]]).view(1, 1, 2, 2)
    # right: 3, -4; down: 4, -3; diagonals: 0 - 0 and 4 - 3
    assert float(total_variation(x)) == pytest.approx(5 + 5 + 0 + 1)
    assert float(total_variation(torch.full((2, 3, 4, 4), 7.0))) == 0


def test_the_prior_of_a_flat_image_has_a_finite_gradient():
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    (total_variation(x) + mean_norm(x)).backward()
    assert torch.isfinite(x.grad).all()


def test_the_norm_is_a_mean_over_images():
    x = torch.zeros(2, 1, 1, 2)
    x[0, 0, 0] = torch.tensor([3.0, 4.0])
    assert float(mean_norm(x)) == pytest.approx(2.5)


@pytest.mark.parametrize("kind", ["scale-aware", "average", "maximum"])
@pytest.mark.parametrize("wished", [[[1], [0]], [[1, 2], [2, 1]]])
def test_gradients_of_scores_are_their_slopes(kind, wished):
    """The scores are float32, so the differences are wide."""
    torch.manual_seed(4)
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    r = torch.tensor([[0.5, 1, 5], [5, 1, 0.5]])

    def loss(z):
        return classification(aggregate(z, r, kind), torch.tensor(wished), 1).double()

    assert torch.autograd.gradcheck(loss, logits, eps=1e-2, atol=1e-2, rtol=1e-2)


def test_gradients_of_the_prior_are_its_slopes():
    torch.manual_seed(4)
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total_variation, x)
    assert torch.autograd.gradcheck(mean_norm, x)


# ---------------------------------------------------------------------------------- BatchNorm


def hooked(model, x):
    """Sum of f_l R_l as DeepInversion computes it: a hook on every BatchNorm, autograd through."""
    terms, handles = [], []

    def look(module, inputs):
        mean = inputs[0].mean((0, 2, 3))
        var = inputs[0].var((0, 2, 3), correction=0)
        terms.append(
            (module, (mean - module.running_mean).norm() + (var - module.running_var).norm())
        )

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_pre_hook(look) for m in norms]
    logits = model(x).logits
    for handle in handles:
        handle.remove()
    return logits, sum((FIRST if m is norms[0] else 1) * term for m, term in terms)


@pytest.mark.parametrize("name", ["erfnet", "bisenet"])
def test_value_and_gradient_are_those_of_hooks(name):
    model = network(name).double().requires_grad_(False)
    x = torch.randn(8, 3, *SIZE, dtype=torch.float64, requires_grad=True)
    logits, term = hooked(model, x)
    (logits.square().mean() + 0.3 * term).backward()
    expected, x.grad = x.grad, None
    watched = Watched(model, torch.float64, 0.3)
    found = watched.logits(x)
    found.square().mean().backward()
    torch.testing.assert_close(found, logits)
    assert float(watched.term()) == pytest.approx(0.3 * float(term.detach()), rel=1e-9)
    torch.testing.assert_close(x.grad, expected, rtol=1e-6, atol=1e-12)


def test_a_batch_in_parts_has_the_gradient_of_the_whole():
    model = network().double()
    x = torch.randn(8, 3, *SIZE, dtype=torch.float64, requires_grad=True)
    watched = Watched(model, torch.float64, 0.3)
    watched.logits(x).square().sum().backward()
    (whole, term), x.grad = (x.grad, float(watched.term())), None
    parts = [x[:3], x[3:6], x[6:]]
    watched.collect(parts)
    assert float(watched.term()) == pytest.approx(term, rel=1e-9)
    for part in parts:
        watched.logits(part).square().sum().backward()
    torch.testing.assert_close(x.grad, whole, rtol=1e-6, atol=1e-12)


def test_the_term_is_zero_where_batch_and_running_statistics_agree():
    norm = nn.BatchNorm2d(4).double().eval()
    x = torch.randn(8, 4, 5, 5, dtype=torch.float64)
    norm.running_mean = x.mean((0, 2, 3))
    norm.running_var = x.var((0, 2, 3), correction=0)
    watched = WatchedNorm(norm, 1.0)
    x.requires_grad_(True)
    watched(x).sum().backward()
    assert float(watched.term()) == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(x.grad).all()


def test_a_norm_that_sees_one_pixel_is_finite():
    watched = WatchedNorm(nn.BatchNorm2d(4).eval(), 1.0)
    x = torch.randn(1, 4, 1, 1, requires_grad=True)
    watched(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert math.isfinite(watched.term())


@pytest.mark.parametrize("name", ["erfnet", "bisenet"])
def test_the_network_is_left_alone(name):
    model = network(name)
    before, modes = weights_hash(model), [m.training for m in model.modules()]
    images(model)
    assert weights_hash(model) == before
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# ---------------------------------------------------------------------------------- images


def test_every_class_is_wished_for_as_often():
    made = images(network(), per_class=8, iterations=1)
    wished = torch.cat([batch["wished"] for batch in made]).flatten()
    assert torch.bincount(wished).tolist() == [8, 8, 8]
    assert {float(r) for batch in made for r in batch["r"].flatten()} <= {0.5, 1, 5, 10, 20}
    fixed = images(network(), r=5.0, iterations=1)
    assert {float(r) for batch in fixed for r in batch["r"].flatten()} == {5.0}


def test_several_wished_classes_are_different_ones():
    (batch, *_) = images(network(), classes_per_image=2, iterations=1)
    assert batch["wished"].shape[1] == batch["share"].shape[1] == 2
    assert all(len(set(row)) == 2 for row in batch["wished"].tolist())


def test_every_class_that_is_not_wished_counts_against_several_whatever_the_draw_was(monkeypatch):
    spied = []
    real = _inversion.classification
    monkeypatch.setattr(
        _inversion,
        "classification",
        lambda scores, wished, first: spied.append(first) or real(scores, wished, first),
    )
    model = network(classes=9)
    for classes, first in (((1, 2, 3, 4, 5, 6, 7, 8), 1), (range(9), 0)):
        spied.clear()
        images(model, classes=classes, classes_per_image=2, iterations=1)
        assert set(spied) == {first}


def test_clipped_images_are_ones_that_a_camera_could_take():
    model = network()
    low, high = ((v - np.array(model.mean)) / np.array(model.std) for v in (0, 255))
    inside = images(model, iterations=2)[0]["images"].double().numpy()
    assert (inside >= low.reshape(3, 1, 1) - 2e-3).all()
    assert (inside <= high.reshape(3, 1, 1) + 2e-3).all()
    free = images(model, iterations=2, clip=False)[0]["images"].double().numpy()
    assert (free > high.reshape(3, 1, 1)).any()


def test_what_is_kept_is_what_was_judged():
    model = network()
    batch = images(model)[0]
    seen = answer(model, batch["images"]).flatten(1)
    share = (seen == batch["wished"]).float().mean(1, keepdim=True)
    torch.testing.assert_close(share, batch["share"])


def test_the_classification_loss_and_the_statistics_get_better():
    model = network()
    quick = {"iterations": 60, "lr": 0.1, "jitter": 0, "flip": False}
    batch = images(model, per_class=8, classes=(1,), r=1.0, **quick)[0]
    assert float(batch["bn"][1]) < float(batch["bn"][0])
    start = images(model, per_class=8, classes=(1,), r=1.0, iterations=1, lr=1e-9)[0]
    assert float(batch["share"].mean()) >= float(start["share"].mean())


def test_a_batch_that_is_good_enough_is_done():
    whole = images(network(), iterations=30, stop_loss=100.0)
    once = images(network(), iterations=30, stop_loss=0.0)
    assert float(whole[0]["seconds"]) < float(once[0]["seconds"])


# ---------------------------------------------------------------------------------- the store


class Kept:
    """A store in memory that counts."""

    def __init__(self):
        self.sets, self.saved = {}, []

    def load(self, name):
        found = self.sets.get(name)
        return None if found is None else dict(found)

    def save(self, name, tensors):
        self.saved.append(name)
        self.sets[name] = {k: v.clone() for k, v in tensors.items()}

    def drop(self, name):
        self.sets.pop(name, None)


def same(one, other):
    return all(
        torch.equal(a[k], b[k])
        for a, b in zip(one, other, strict=True)
        for k in ("images", "wished", "r", "share", "bn")
    )


def test_a_second_call_computes_nothing():
    store, model = Kept(), network()
    first = images(model, store)
    count = len(store.saved)
    assert same(first, images(model, store))
    assert len(store.saved) == count == 2  # 9 images asked for are two batches of 8
    images(model, store, tv=0.1)
    assert len(store.saved) > count


class Stopping:
    """A progress that stops the work after some iterations, and knows where it began."""

    def __init__(self, after):
        self.left = after
        self.began = None

    @contextmanager
    def task(self, name, total, unit="it", done=0):
        self.began = done
        yield self

    def advance(self, n=1, note=""):
        self.left -= n
        if self.left < 0:
            raise KeyboardInterrupt


def test_interrupted_anywhere_it_continues_to_the_same_bytes(monkeypatch):
    model, whole = network(), images(network(), iterations=6)
    monkeypatch.setattr("edgeinc.methods._inversion.SAVE_EVERY_S", 0.0)
    store = Kept()
    for after, began in ((3, 0), (2, 3), (3, 5)):  # else the rate and the time left were wrong
        stopping = Stopping(after)
        with pytest.raises(KeyboardInterrupt):
            images(model, store, progress=stopping, iterations=6)
        assert stopping.began == began
    assert any(name.endswith(".part") for name in store.sets)
    assert same(whole, images(model, store, iterations=6))
    assert not any(name.endswith(".part") for name in store.sets)


def test_parts_change_the_memory_and_hardly_the_images():
    whole, parts = images(network(), lr=0.01)[0], images(network(), lr=0.01, part=3)[0]
    difference = (whole["images"].float() - parts["images"].float()).abs()
    assert float(difference.median()) < 1e-3
    assert float(whole["bn"][1]) == pytest.approx(float(parts["bn"][1]), rel=1e-2)


def test_bfloat16_makes_images_too():
    made = invert(
        network(),
        [0, 1, 2],
        recipe(),
        size=SIZE,
        seed=0,
        dtype=torch.bfloat16,
        store=NOTHING_KEPT,
        progress=SILENT,
    )
    assert all(torch.isfinite(v).all() for batch in made for v in batch.values())
