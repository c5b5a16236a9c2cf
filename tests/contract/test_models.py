"""What every network promises, whichever files lie in `edgeinc/models`."""

import pytest
import torch

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.models import check_size, create
from edgeinc.models._fold import folded

SMALL = {"width": 0.25}


@pytest.fixture(params=registry.names("models"))
def name(request):
    return request.param


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)


def logits(model, images):
    with torch.no_grad():
        return model(model.normalise(images)).logits


def randomise_statistics(model):
    """Give BatchNorm statistics and scales that a fold cannot get right by luck."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)


def test_logits_have_one_channel_per_class_at_the_resolution_of_the_image(name, images):
    model = create(name, [3, 2], SMALL).eval()
    assert logits(model, images).shape == (2, 5, 64, 96)
    assert model.steps == (3, 2)


def test_training_outputs_have_the_shape_of_the_logits_and_vanish_in_eval_mode(name, images):
    model = create(name, [3], SMALL)
    x = model.normalise(images)
    assert all(a.shape == (2, 3, 64, 96) for a in model.train()(x).aux)
    assert model.eval()(x).aux == ()


def test_growing_changes_no_old_logit_and_no_old_key(name, images):
    model = create(name, [3], SMALL).eval()
    before, state = logits(model, images), set(model.state_dict())
    model.grow(2)
    after = logits(model, images)
    torch.testing.assert_close(after[:, :3], before)
    assert state < set(model.state_dict())


def test_every_head_grows(name):
    model = create(name, [3], SMALL)
    model.grow(2)
    assert {head.steps for head in model.heads()} == {(3, 2)}


def test_fused_head_gives_the_same_logits_as_the_list(name):
    head = create(name, [3, 1, 2], SMALL).heads()[0]
    features = torch.randn(1, head.channels, 8, 12)
    torch.testing.assert_close(head.fused()(features), head(features))


def test_folded_network_answers_as_the_network_in_eval_mode(name, images):
    torch.manual_seed(1)
    model = create(name, [3, 2], SMALL)
    randomise_statistics(model)
    expected = logits(model.eval(), images)
    lean = folded(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in lean.modules())
    assert not any(p.requires_grad for p in lean.parameters()), "a teacher must never learn"
    torch.testing.assert_close(logits(lean, images), expected, atol=2e-4, rtol=1e-3)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()), "original changed"


def test_every_parameter_gets_a_gradient(name, images):
    model = create(name, [2, 2], SMALL).train()
    out = model(model.normalise(images))
    sum(o.square().mean() for o in (out.logits, *out.aux)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_frozen_statistics_survive_train_mode(name, images):
    model = create(name, [2], SMALL)
    model.freeze_bn(stats=True, affine=False)
    model.eval().train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model(model.normalise(images))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    model.freeze_bn(stats=False, affine=False)
    model(model.normalise(images))
    assert any(not torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_frozen_scale_and_shift_take_no_gradient_and_can_be_freed(name):
    model = create(name, [2], SMALL)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    model.freeze_bn(stats=False, affine=True)
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    assert all(p.requires_grad for h in model.heads() for p in h.parameters())
    model.freeze_bn(stats=False, affine=False)
    assert all(p.requires_grad for m in norms for p in m.parameters())


def test_normalise_is_the_imagenet_formula_in_nchw(name):
    model = create(name, [2], SMALL)
    image = torch.tensor([[[[255, 0, 128]]]], dtype=torch.uint8)
    expected = [(255 - 123.675) / 58.395, (0 - 116.28) / 57.12, (128 - 103.53) / 57.375]
    torch.testing.assert_close(
        model.normalise(image).flatten(), torch.tensor(expected), atol=1e-5, rtol=1e-5
    )


def test_indivisible_size_names_the_next_that_fits(name):
    stride = registry.load("models", name).stride
    check_size(name, (stride * 2, stride * 3))
    with pytest.raises(UsageError) as error:
        check_size(name, (stride * 2 + 1, stride * 3))
    assert f"--size {stride * 3}x{stride * 3}" in error.value.hint


def test_unknown_option_is_refused_with_the_nearest(name):
    with pytest.raises(UsageError, match="unknown option 'widht'") as error:
        create(name, [2], {"widht": 1})
    assert "width" in error.value.hint
