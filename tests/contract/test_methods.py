"""What every method promises, whichever files lie in `edgeinc/methods`."""

from dataclasses import fields, is_dataclass

import pytest
import torch

from edgeinc import registry
from edgeinc.methods import StepContext
from edgeinc.models import Output
from edgeinc.schema import VOID

OLD, NEW = 3, 2


@pytest.fixture(params=registry.names("methods"))
def plugin(request):
    return registry.load("methods", request.param)


def step(plugin, background="none", weights=None):
    context = StepContext(
        first_new=OLD, classes=OLD + NEW, background=background, class_weights=weights
    )
    return plugin(plugin.Config(), context)


def batch(seed=0, batch_size=2, dtype=torch.float32):
    torch.manual_seed(seed)
    logits = torch.randn(batch_size, OLD + NEW, 6, 8, dtype=dtype, requires_grad=True)
    aux = torch.randn(batch_size, OLD + NEW, 6, 8, dtype=dtype, requires_grad=True)
    teacher = torch.randn(batch_size, OLD, 6, 8, dtype=dtype)
    labels = torch.randint(OLD, OLD + NEW, (batch_size, 6, 8))
    labels[torch.rand(labels.shape) < 0.5] = VOID
    return Output(logits, (aux,)), labels, teacher


def total(terms):
    return torch.stack(list(terms.values())).sum()


def test_config_is_frozen_and_every_field_is_documented(plugin):
    assert is_dataclass(plugin.Config)
    assert plugin.Config.__dataclass_params__.frozen
    for field in fields(plugin.Config):
        assert f"{field.name}:" in plugin.Config.__doc__


def test_terms_are_named_finite_scalars_in_float32(plugin):
    for dtype in (torch.float32, torch.bfloat16):
        output, labels, teacher = batch(dtype=dtype)
        terms = step(plugin).terms(output, labels, teacher)
        assert terms
        assert all(t.shape == () and t.dtype == torch.float32 for t in terms.values())
        assert all(torch.isfinite(t) for t in terms.values())


def test_loss_reaches_the_logits(plugin):
    output, labels, teacher = batch()
    total(step(plugin).terms(output, labels, teacher)).backward()
    assert output.logits.grad.abs().sum() > 0


@pytest.mark.parametrize("case", ["all void", "all new", "one image"])
def test_empty_sets_of_pixels_give_finite_terms_and_gradients(plugin, case):
    output, labels, teacher = batch(batch_size=1 if case == "one image" else 2)
    if case == "all void":
        labels[:] = VOID
    if case == "all new":
        labels[:] = OLD
    total(step(plugin).terms(output, labels, teacher)).backward()
    assert torch.isfinite(output.logits.grad).all()


def test_base_step_works_without_a_teacher(plugin):
    output, _, _ = batch()
    labels = torch.randint(0, OLD + NEW, (2, 6, 8))
    context = StepContext(first_new=0, classes=OLD + NEW, background="none", class_weights=None)
    loss = total(plugin(plugin.Config(), context).terms(output, labels, None))
    assert torch.isfinite(loss)


def test_labels_are_not_changed(plugin):
    output, labels, teacher = batch()
    before = labels.clone()
    step(plugin).terms(output, labels, teacher)
    assert torch.equal(labels, before)


def test_perfect_logits_cost_almost_nothing(plugin):
    """A student that says what labels and teacher say, with certainty, has nothing to learn."""
    _, labels, _ = batch()
    truth = torch.where(labels == VOID, torch.zeros_like(labels), labels)
    logits = 50.0 * torch.nn.functional.one_hot(truth, OLD + NEW).permute(0, 3, 1, 2).float()
    teacher = torch.zeros(2, OLD, 6, 8)
    teacher[:, 0] = 50.0
    assert total(step(plugin).terms(Output(logits), labels, teacher)) < 1e-3


def test_gradients_match_finite_differences(plugin):
    torch.manual_seed(3)
    labels = torch.tensor([[[OLD, VOID], [OLD + 1, VOID]]])
    teacher = torch.randn(1, OLD, 2, 2)
    method = step(plugin)
    logits = torch.randn(1, OLD + NEW, 2, 2, requires_grad=True)
    total(method.terms(Output(logits), labels, teacher)).backward()
    direction = torch.randn_like(logits)
    h = 1e-2
    with torch.no_grad():
        plus = total(method.terms(Output(logits + h * direction), labels, teacher))
        minus = total(method.terms(Output(logits - h * direction), labels, teacher))
    numeric = (plus - minus) / (2 * h)
    assert float(numeric) == pytest.approx(
        float((logits.grad * direction).sum()), rel=2e-2, abs=1e-3
    )


def test_background_modes_are_known(plugin):
    assert set(plugin.backgrounds) <= {"none", "real", "virtual"}
    assert plugin.backgrounds
