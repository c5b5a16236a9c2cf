"""RCIL: two branches that answer as one, merged into the plain network, and its distillation."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgeinc.methods import StepContext, registry
from edgeinc.methods.rcil import cube_distance
from edgeinc.models import Output, create
from edgeinc.models._parallel import Parallel, merge, split

OLD, NEW = 3, 2


def network(name, steps=(OLD,), seed=0):
    torch.manual_seed(seed)
    model = create(name, list(steps), {"width": 0.125})
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)  # negative scales too
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.eval()


def stirred(model):
    """Branches that went different ways."""
    torch.manual_seed(8)
    for double in (m for m in model.modules() if isinstance(m, Parallel)):
        conv, norm = double.second
        with torch.no_grad():
            conv.weight.add_(torch.randn_like(conv.weight) * 0.1)
            norm.weight.add_(0.3)
            norm.bias.sub_(0.2)
            norm.running_mean.add_(0.5)
            norm.running_var.mul_(1.5)
    return model


def rcil(**options):
    plugin = registry.load("methods", "rcil")
    return plugin(plugin.Config(**options), StepContext(OLD, OLD + NEW, "real", None))


@pytest.mark.parametrize(("name", "count"), [("erfnet", 34), ("bisenet", 8)])
def test_two_branches_start_with_the_answers_of_one(name, count):
    """ERFNet has 5 + 8 + 4 residual blocks with 2 pairs each, ResNet-18 has 8 with one."""
    model, x = network(name), torch.randn(2, 3, 32, 64)
    before = model(x).logits
    assert len(split(model)) == count
    assert torch.allclose(model.eval()(x).logits, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["erfnet", "bisenet"])
def test_merging_changes_no_answer_and_leaves_the_plain_network(name):
    model, x = network(name), torch.randn(2, 3, 32, 64)
    plain = {k: v.shape for k, v in model.state_dict().items()}
    split(model)
    with torch.no_grad():
        before = stirred(model).eval()(x).logits
        merge(model)
        after = model.eval()(x).logits
    assert torch.allclose(after, before, atol=1e-4, rtol=1e-3)
    assert {k: v.shape for k, v in model.state_dict().items()} == plain


def test_merging_by_hand():
    """1x1 convolutions 2x and 6x; BatchNorms (·-1)/2·1+3 and (·-4)/1·2+1 with eps 0."""
    double = Parallel(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0))
    for (conv, norm), (weight, mean, variance, scale, shift) in zip(
        (double.first, double.second), ((2, 1, 4, 1, 3), (6, 4, 1, 2, 1)), strict=True
    ):
        for tensor, value in (
            (conv.weight, weight),
            (norm.running_mean, mean),
            (norm.running_var, variance),
            (norm.weight, scale),
            (norm.bias, shift),
        ):
            nn.init.constant_(tensor, value)
    conv, norm = (layer.requires_grad_(False) for layer in double.merged())
    assert float(conv.weight) == pytest.approx((2 * 0.5 + 6 * 2) / 2)
    assert float(norm.running_mean) == pytest.approx((1 * 0.5 + 4 * 2) / 2)
    assert float(norm.running_var) == pytest.approx(((2 * 0.5 + 1 * 2) / 2) ** 2)
    assert float(norm.bias) == pytest.approx(2)
    x = torch.linspace(-2, 2, 5).view(1, 1, 1, 5)
    both = ((2 * x - 1) / 2 + 3 + (6 * x - 4) * 2 + 1) / 2
    assert torch.allclose(norm.eval()(conv(x)), both, atol=1e-5)
    assert torch.allclose(double.eval()(x), both, atol=1e-5)


def test_a_merged_norm_knows_the_statistics_of_its_input():
    """Both branches alike: mean and variance are those of what the convolution gives."""
    torch.manual_seed(0)
    double = Parallel(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    x = torch.randn(64, 3, 6, 6)
    for pair in (double.first, double.second):
        pair[1].momentum = None  # the exact mean over what was seen
    double.train()(x)
    conv, norm = double.merged()
    y = conv(x)
    assert torch.allclose(norm.running_mean, y.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, y.var((0, 2, 3)), rtol=1e-3)


def test_in_training_each_channel_is_one_of_three_in_equal_shares():
    torch.manual_seed(0)
    double = Parallel(nn.Conv2d(1, 3000, 1, bias=False), nn.BatchNorm2d(3000))
    double.train()
    for pair, value in ((double.first, 1.0), (double.second, 3.0)):
        pair[1].eval()
        nn.init.constant_(pair[0].weight, value)
        pair[1].eps = 0
    found = double(torch.ones(1, 1, 1, 1)).flatten()
    counts = [int((found == value).sum()) for value in (1.0, 2.0, 3.0)]
    assert sum(counts) == 3000
    assert all(900 < count < 1100 for count in counts)


@pytest.mark.parametrize("name", ["erfnet", "bisenet"])
def test_after_step_0_the_first_branch_does_not_move(name):
    old = network(name).requires_grad_(False)
    model = network(name)
    model.grow(NEW)
    rcil().begin(model, old)
    model.train()
    doubles = [m for m in model.modules() if isinstance(m, Parallel)]
    before = [double.first[1].running_mean.clone() for double in doubles]
    model(torch.randn(2, 3, 32, 64)).logits.sum().backward()
    for double, mean in zip(doubles, before, strict=True):
        assert all(p.grad is None for p in double.first.parameters())
        assert torch.equal(double.first[1].running_mean, mean)
        assert double.second[0].weight.grad is not None
        assert not torch.equal(double.second[1].running_mean, mean)


def test_at_step_0_both_branches_learn():
    plugin = registry.load("methods", "rcil")
    model = network("erfnet")
    plugin(plugin.Config(), StepContext(0, OLD, "real", None)).begin(model, None)
    assert all(p.requires_grad for p in model.parameters())


def test_frozen_statistics_are_frozen_in_both_branches():
    model = network("erfnet")
    model.freeze_bn(stats=True, affine=False)
    doubles = split(model)
    model.train()
    assert not any(pair[1].training for double in doubles for pair in (double.first, double.second))


def slow_distance(a, b):
    difference = a.double().numpy() - b.double().numpy()
    channels, height, width = difference.shape
    norms = []
    for side in (4, 8, 12, 16, 20, 24):
        h, w = min(side, height), min(side, width)
        total = 0.0
        for c in range(channels):
            for y in range(height - h + 1):
                for x in range(width - w + 1):
                    total += difference[c, y : y + h, x : x + w].mean() ** 2
        norms.append(math.sqrt(total))
    across = sum(
        difference[c : c + 3, y, x].mean() ** 2
        for c in range(channels - 2)
        for y in range(height)
        for x in range(width)
    )
    return np.mean(norms) + math.sqrt(across)


def test_cube_distance_of_maps_that_are_not_square():
    torch.manual_seed(2)
    a, b = torch.rand(2, 4, 5, 9), torch.rand(2, 4, 5, 9)
    expected = [slow_distance(*pair) for pair in zip(a, b, strict=True)]
    assert cube_distance(a, b).tolist() == pytest.approx(expected, rel=1e-5)


def test_cube_distance_passes_gradcheck():
    torch.manual_seed(2)
    a = torch.rand(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    b = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cube_distance(x**2, b**2), (a,))


def test_distillation_is_the_mean_over_maps_with_their_factors():
    torch.manual_seed(3)
    stage, before = torch.rand(1, 4, 4, 6), torch.rand(1, 4, 4, 6)
    student, teacher = torch.randn(1, OLD + NEW, 4, 6), torch.randn(1, OLD, 4, 6)
    folded = student[:, :OLD].clone()
    folded[:, 0] += student[:, OLD:].sum(1)
    expected = 0.01 * slow_distance(stage[0] ** 2, before[0] ** 2)
    expected += 0.0005 * slow_distance(folded[0] ** 2, teacher[0] ** 2)
    expected *= math.sqrt((OLD + NEW) / NEW) / 2
    found = rcil().distillation(Output(student, stages=(stage,)), Output(teacher, stages=(before,)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_finished_step_exports_as_the_plain_network():
    pytest.importorskip("onnxscript")
    from edgeinc.deploy._graph import to_onnx
    from edgeinc.runtimes._topology import topology_sha256

    old, model = network("erfnet").requires_grad_(False), network("erfnet")
    model.grow(NEW)
    method = rcil()
    method.begin(model, old)
    stirred(model)
    assert method.finish(model, old, None) == {}
    plain = network("erfnet", (OLD, NEW), seed=4)
    hashes = [topology_sha256(to_onnx(each.eval(), (32, 64))) for each in (model, plain)]
    assert hashes[0] == hashes[1]
