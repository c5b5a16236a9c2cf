"""EWF: the blend of two networks, and the training before it."""

import math

import pytest
import torch

from edgeinc import registry
from edgeinc.methods import StepContext, Survey
from edgeinc.methods._ewf import blend, new_share
from edgeinc.models import Output, create


def networks(network, seed=0):
    """A network before a step of two classes and one after it, with statistics of their own."""
    torch.manual_seed(seed)
    pair = [create(network, [3], {"width": 0.125}), create(network, [3, 2], {"width": 0.125})]
    for each in pair:
        each.train()(torch.randn(4, 3, 32, 64) * 3 + 1)
    return pair


def test_the_share_of_the_new_weights_by_hand():
    assert new_share(5, 16) == pytest.approx(math.sqrt(5 / 21))  # VOC 15-5, with background
    assert new_share(1, 3) == 0.5


@pytest.mark.parametrize("network", registry.names("models"))
def test_every_shared_tensor_is_blended_and_the_new_classifier_is_not(network):
    old, model = networks(network)
    before = {n: t.clone() for n, t in old.state_dict().items()}
    trained = {n: t.clone() for n, t in model.state_dict().items()}
    blend(model, old, 2, 3)
    beta = math.sqrt(2 / 5)
    checked = set()
    for name, found in model.state_dict().items():
        if "head.1." in name or not found.is_floating_point():
            assert torch.equal(found, trained[name]), name
            continue
        a, b = (t[name].double() for t in (before, trained))
        expected = (1 - beta) * a + beta * b
        assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-6), name
        checked.add(name.rpartition(".")[2])
    assert checked == {"weight", "bias", "running_mean", "running_var"}
    assert all(torch.equal(t, before[n]) for n, t in old.state_dict().items())


def test_blending_equal_networks_changes_nothing():
    old, _ = networks("erfnet")
    model = create("erfnet", [3, 2], {"width": 0.125})
    model.load_state_dict(old.state_dict(), strict=False)
    blend(model, old, 2, 3)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in old.state_dict().items())


def make(background, first_new=3, **options):
    plugin = registry.load("methods", "ewf")
    context = StepContext(first_new, 5, background, None)
    return plugin(plugin.Config(**options), context)


@pytest.mark.parametrize(
    ("background", "name", "options"),
    [("none", "cil", {}), ("real", "mib", {"lambda_kd": 3.0}), ("virtual", "mib", {})],
)
def test_it_trains_with_the_method_its_background_allows(background, name, options):
    torch.manual_seed(1)
    logits, teacher = torch.randn(2, 5, 4, 6), torch.randn(2, 3, 4, 6)
    labels = torch.randint(3, 5, (2, 4, 6))
    labels[:, :2] = 255 if background == "none" else 0
    base = registry.load("methods", name)
    expected = base(base.Config(**options), StepContext(3, 5, background, None))
    output = Output(logits, aux=(logits * 0.5,))
    found = make(background, **options).terms(output, labels, Output(teacher))
    wanted = expected.terms(output, labels, Output(teacher))
    assert {k: float(v) for k, v in found.items()} == {k: float(v) for k, v in wanted.items()}
    assert {"ce", "kd", "aux"} == set(found)


def test_it_starts_new_classes_from_the_background_where_there_is_one():
    old, _ = networks("erfnet")
    for background in ("none", "real"):
        _, model = networks("erfnet")
        drawn = model.head[1].bias.clone()
        make(background).begin(model, old)
        assert torch.equal(model.head[1].bias, drawn) == (background == "none")
    equal = model.head[1].bias == model.head[0].bias[0]
    assert bool(equal.all())


def test_the_blend_comes_with_the_end_of_an_extension_and_not_of_step_0():
    survey = Survey(lambda: iter(()), lambda network, x: network(x))
    old, model = networks("erfnet")
    trained = model.head[0].bias.detach().clone()
    assert make("none").finish(model, None, survey) == {}
    assert torch.equal(model.head[0].bias, trained)
    make("none").finish(model, old, survey)
    beta = math.sqrt(2 / 5)
    expected = (1 - beta) * old.head[0].bias + beta * trained
    assert torch.allclose(model.head[0].bias, expected, atol=1e-6)
