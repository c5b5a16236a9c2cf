"""SSUL: binary cross-entropy with an unknown row, what is frozen, and the exported decision."""

import math

import numpy as np
import pytest
import torch

from edgeinc.config import TrainSettings
from edgeinc.methods import StepContext, registry
from edgeinc.methods.ssul import binary, with_pseudo_labels
from edgeinc.models import Output, create, restored
from edgeinc.models._fold import folded
from edgeinc.schema import VOID
from edgeinc.training.loop import make_optimizer

OLD, NEW = 3, 2
SIZE = (32, 64)


def ssul(first=OLD, **options):
    plugin = registry.load("methods", "ssul")
    classes = first + NEW if first else OLD
    return plugin(plugin.Config(**options), StepContext(first, classes, "real", None))


def base(network="erfnet", seed=0):
    """A network after step 0."""
    torch.manual_seed(seed)
    model = create(network, [OLD], {"width": 0.125})
    ssul(first=0).begin(model, None)
    return model.eval()


def extended(network="erfnet"):
    old = base(network).requires_grad_(False)
    model = restored(network, [OLD], old.state_dict(), {"width": 0.125})
    model.grow(NEW)
    method = ssul()
    method.begin(model, old)
    return method, model, old


def slow_binary(logits, labels):
    total = count = 0
    for b, y, x in (labels != VOID).nonzero().tolist():
        count += 1
        for c, z in enumerate(logits[b, :, y, x].double().tolist()):
            s = 1 / (1 + math.exp(-z))
            total -= math.log(s if c == int(labels[b, y, x]) else 1 - s)
    return total / count if count else 0.0


@pytest.fixture
def case():
    torch.manual_seed(7)
    logits, labels = torch.randn(2, OLD + NEW, 3, 4) * 3, torch.randint(0, OLD + NEW, (2, 3, 4))
    labels[torch.rand(labels.shape) < 0.3] = VOID
    return logits, labels


def test_binary_cross_entropy_is_summed_over_channels_and_averaged_over_pixels(case):
    assert float(binary(*case)) == pytest.approx(slow_binary(*case), rel=1e-5)
    one = case[0][:1], case[1][:1]
    assert float(binary(*one)) == pytest.approx(slow_binary(*one), rel=1e-5)


def test_binary_cross_entropy_of_void_is_zero_with_zero_gradient(case):
    logits = case[0].requires_grad_(True)
    loss = binary(logits, torch.full((2, 3, 4), VOID))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(logits.grad.abs().max()) == 0


def test_gradient_is_sigmoid_minus_target(case):
    logits, labels = case[0].requires_grad_(True), case[1]
    binary(logits, labels).backward()
    valid = labels != VOID
    target = torch.zeros_like(logits).scatter_(1, labels.masked_fill(~valid, 0).unsqueeze(1), 1)
    expected = (torch.sigmoid(logits.detach()) - target) * valid.unsqueeze(1) / valid.sum()
    assert torch.allclose(logits.grad, expected, atol=1e-6)


def test_background_is_the_unknown_channel_and_the_background_channel_is_negative(case):
    logits, labels = case
    unknown = torch.randn(2, 1, 3, 4)
    terms = ssul(first=0).terms(Output(logits, aux=(logits,), unknown=unknown), labels, None)
    everything = torch.cat([unknown, logits], 1)  # the order of the paper
    shifted = torch.where(labels == VOID, VOID, torch.where(labels == 0, 0, labels + 1))
    assert float(terms["bce"]) == pytest.approx(slow_binary(everything, shifted), rel=1e-5)
    assert float(terms["aux"]) == pytest.approx(slow_binary(logits, labels), rel=1e-5)


def test_pseudo_labels_are_sure_old_classes_on_background():
    sure, below = math.log(0.71 / 0.29), math.log(0.69 / 0.31)
    logits = torch.full((1, OLD, 1, 7), -5.0)
    unknown = torch.full((1, 1, 1, 7), -5.0)
    logits[0, 1, 0, 0] = sure
    logits[0, 1, 0, 1] = below
    logits[0, 2, 0, 2] = sure  # but labelled with a new class
    logits[0, 0, 0, 3] = sure  # background
    logits[0, 2, 0, 4], unknown[0, 0, 0, 4] = sure, 2.0  # unknown is surer
    logits[0, 1, 0, 5] = sure  # but void
    logits[0, 2, 0, 6] = sure
    labels = torch.tensor([[[0, 0, OLD, 0, 0, VOID, 0]]])
    kept = labels.clone()
    found = with_pseudo_labels(labels, Output(logits, unknown=unknown), 0.7)
    assert found.tolist() == [[[1, 0, OLD, 0, 0, VOID, 2]]]
    assert torch.equal(labels, kept)
    without = with_pseudo_labels(labels, Output(logits), 0.7)
    assert without.tolist() == [[[1, 0, OLD, 0, 2, VOID, 2]]]


@pytest.mark.parametrize("network", ["erfnet", "bisenet"])
def test_new_rows_start_as_the_unknown_row(network):
    _, model, old = extended(network)
    x = torch.randn(2, 3, *SIZE)
    before, after = old(x), model.eval()(x)
    assert torch.allclose(after.logits[:, :OLD], before.logits, atol=1e-5)
    assert torch.allclose(after.unknown, before.unknown, atol=1e-5)
    for c in range(OLD, OLD + NEW):
        assert torch.allclose(after.logits[:, c : c + 1], before.unknown, atol=1e-5)


def test_without_an_unknown_row_it_starts_as_the_background():
    torch.manual_seed(0)
    old = create("erfnet", [OLD], {"width": 0.125}).eval()
    model = restored("erfnet", [OLD], old.state_dict(), {"width": 0.125})
    model.grow(NEW)
    ssul().begin(model, old)
    output = model.eval()(torch.randn(1, 3, *SIZE))
    for part in (output.unknown, output.logits[:, OLD:]):
        assert torch.allclose(part, output.logits[:, :1].expand_as(part), atol=1e-5)


@pytest.mark.parametrize("network", ["erfnet", "bisenet"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_nothing_moves_but_new_rows_unknown_and_background(network, kind):
    method, model, old = extended(network)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    settings = TrainSettings(optimizer=kind, lr=1e-2, weight_decay=1e-2)
    optimizer = make_optimizer(method.groups(model), settings)
    model.train()
    for seed in range(2):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * group["lr_scale"]
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        x, labels = torch.randn(2, 3, *SIZE), torch.randint(0, OLD + NEW, (2, *SIZE))
        terms = method.terms(model(x), labels, old(x))
        torch.stack(list(terms.values())).sum().backward()
        method.after_backward(model)
        optimizer.step()
    after, head = model.state_dict(), model.heads()[0]
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    own = next(k.removesuffix("0.weight") for k in after if k.endswith("head.0.weight"))
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "extra_weight", "extra_bias")
    assert moved == {own + name for name in names}
    rows = after[own + "0.weight"] != before[own + "0.weight"]
    changed = rows.movedim(head.class_axis, 0).flatten(1).any(1)
    assert changed.tolist() == [True] + [False] * (OLD - 1)
    assert torch.equal(after[own + "0.bias"][1:], before[own + "0.bias"][1:])
    slow = float((after[own + "0.weight"] - before[own + "0.weight"]).abs().max())
    fast = float((after[own + "1.weight"] - before[own + "1.weight"]).abs().max())
    assert slow < fast * 0.01


def test_every_parameter_moves_at_step_0():
    assert all(p.requires_grad for p in base().parameters())


def test_unknown_adds_to_the_background_in_the_decision():
    """0.4 and 0.4 for background and unknown beat 0.7 for a class, and 0.2 and 0.4 do not."""
    z = {s: math.log(s / (1 - s)) for s in (0.2, 0.4, 0.7)}
    logits = torch.tensor([[z[0.4], z[0.7]], [z[0.2], z[0.7]]]).view(2, 2, 1, 1)
    output = Output(logits, unknown=torch.full((2, 1, 1, 1), z[0.4]))
    model = base()
    assert model.decide(output).argmax(1).flatten().tolist() == [0, 1]
    assert model.decide(output).flatten().tolist() == pytest.approx([0.8, 0.7, 0.6, 0.7])
    assert model.decide(Output(logits)) is logits


def test_the_unknown_row_is_kept_in_a_state_dict_and_by_folding():
    model, x = base("bisenet"), torch.randn(1, 3, *SIZE)
    again = restored("bisenet", [OLD], model.state_dict(), {"width": 0.125}).eval()
    assert torch.equal(again(x).unknown, model(x).unknown)
    fast = folded(model)(x)
    assert torch.allclose(fast.unknown, model(x).unknown, atol=1e-4)
    assert torch.allclose(fast.logits, model(x).logits, atol=1e-4)


def test_another_method_goes_on_with_the_unknown_row_as_background():
    model, x = base(), torch.randn(1, 3, *SIZE)
    before = model(x)
    model.drop_unknown()
    after = model(x)
    assert after.unknown is None
    assert torch.allclose(after.logits[:, :1], before.unknown, atol=1e-6)
    assert torch.allclose(after.logits[:, 1:], before.logits[:, 1:], atol=1e-6)
    assert not any("extra" in key for key in model.state_dict())
    assert model.decision == "argmax"


def test_the_exported_graph_decides_like_the_network(tmp_path):
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    from edgeinc.deploy._graph import to_onnx

    _, model, _ = extended()
    model.eval()
    with torch.no_grad():  # decisions that need the sum: neither alone would win
        torch.manual_seed(1)
        model.heads()[0][1].weight.normal_(0, 2)
        model.heads()[0][0].weight.normal_(0, 2)
    image = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    session = ort.InferenceSession(to_onnx(model, SIZE).SerializeToString())
    found = session.run(None, {"images": image})[0]
    with torch.no_grad():
        output = model(model.normalise(torch.from_numpy(image)))
        expected = model.decide(output).argmax(1).numpy()
        plain = output.logits.argmax(1).numpy()
    assert (found == expected).mean() > 0.999
    assert (plain != expected).mean() > 0.01
