"""DKD: every term against slow float64 loops, its start, and the decision of a zero background."""

import math

import pytest
import torch
from torch import nn

from edgeinc.config import TrainSettings
from edgeinc.methods import StepContext, Survey, registry
from edgeinc.methods import _sigmoid as sigmoid_parts
from edgeinc.methods._sigmoid import above_background
from edgeinc.methods.dkd import auxiliary_loss, split_scores
from edgeinc.models import Head, Output, create
from edgeinc.models._fold import folded
from edgeinc.schema import VOID
from edgeinc.training.loop import make_optimizer

OLD, NEW, SIZE = 3, 2, (32, 64)
NETWORKS = ("erfnet", "bisenet")
KEPT = {"sigmoids": torch.ones(1)}
"""What tells a step that the one before it was DKD's."""


def dkd(first=OLD, classes=OLD + NEW, background="real", memory=None, **options):
    plugin = registry.load("methods", "dkd")
    context = StepContext(first, classes, background, None, memory or {}, sigmoids=bool(memory))
    return plugin(plugin.Config(**options), context)


def images(seed=1, batch=2):
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def trained(name, steps=(OLD,)):
    """A softmax network with statistics of its own."""
    torch.manual_seed(3)
    model = create(name, steps, {"width": 0.125})
    model.train()(images(9, 8))
    return model.eval().requires_grad_(False)


def extension(name, background="real", memory=None, **options):
    """The previous network, the one that begins, and the method between them."""
    old = trained(name)
    model = trained(name).requires_grad_(True)
    model.grow(NEW)
    method = dkd(background=background, memory=memory, **options)
    method.begin(model, old)
    return old, model, method


def sigma(z):
    return 1 / (1 + math.exp(-z))


def bce(z, target, positive=1.0):
    return -(positive * target * math.log(sigma(z)) + (1 - target) * math.log(1 - sigma(z)))


def slow_mbce(logits, labels, first, gamma, void_negative):
    total, count = 0.0, 0
    batch, _, height, width = logits.shape
    z = logits.double().tolist()
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                y = int(labels[b, i, j])
                if y == VOID and not void_negative:
                    continue
                count += 1
                for c in range(first, logits.shape[1]):
                    total += bce(z[b][c][i][j], float(y == c), gamma)
    return total / count if count else 0.0


def slow_distillation(logits, teacher, taken=None):
    """Pixels that are `taken` are none of the classes, whatever the teacher says."""
    total, (batch, classes, height, width) = 0.0, logits.shape
    z, t = logits.double().tolist(), teacher.double().tolist()
    for b in range(batch):
        for c in range(classes):
            for i in range(height):
                for j in range(width):
                    target = 0 if taken is not None and taken[b, i, j] else sigma(t[b][c][i][j])
                    total += bce(z[b][c][i][j], target)
    return total / (batch * height * width)


def slow_split(features, weight, kind, keep):
    """z+ or z-: only the products that `keep` keeps, position by position."""
    batch, channels, height, width = features.shape
    side = 2 if kind == "deconv2x2" else 1
    classes = weight.shape[1] if kind == "deconv2x2" else weight.shape[0]
    out = torch.zeros(batch, classes, height * side, width * side, dtype=torch.float64)
    for b, c, i, j in torch.cartesian_prod(
        *(torch.arange(n) for n in (batch, classes, height * side, width * side))
    ).tolist():
        for d in range(channels):
            if kind == "deconv2x2":
                w = float(weight[d, c, i % 2, j % 2])
            else:
                w = float(weight[c, d, 0, 0])
            product = float(features[b, d, i // side, j // side]) * w
            if keep(product):
                out[b, c, i, j] += product
    return out


@pytest.fixture
def case():
    torch.manual_seed(7)
    student, teacher = torch.randn(2, OLD + NEW, 4, 6) * 2, torch.randn(2, OLD, 4, 6) * 2
    labels = torch.randint(OLD, OLD + NEW, (2, 4, 6))
    labels[torch.rand(labels.shape) < 0.4] = 0
    labels[torch.rand(labels.shape) < 0.3] = VOID
    return student, teacher, labels


# ------------------------------------------------------------------------------ the terms


@pytest.mark.parametrize("void_negative", [False, True])
@pytest.mark.parametrize("gamma", [1.0, 35.0])
def test_mbce_is_the_mean_over_pixels_summed_over_the_new_classes(case, void_negative, gamma):
    student, _, labels = case
    method = dkd(ac=False, void_negative=void_negative, gamma=gamma)
    found = method.terms(Output(student), labels, None)
    assert found.keys() == {"bce"}
    expected = slow_mbce(student, labels, OLD, gamma, void_negative)
    assert float(found["bce"]) == pytest.approx(expected, rel=1e-5)
    one = method.terms(Output(student[:1]), labels[:1], None)["bce"]
    expected = slow_mbce(student[:1], labels[:1], OLD, gamma, void_negative)
    assert float(one) == pytest.approx(expected, rel=1e-5)


def test_mbce_by_hand():
    """One pixel of a class with z = ln 3: sigmoid 0.75; the other class at z = 0."""
    logits = torch.tensor([9.0, 9.0, 9.0, math.log(3), 0.0]).view(1, 5, 1, 1)
    labels = torch.full((1, 1, 1), OLD)
    terms = dkd(ac=False, gamma=2.0).terms(Output(logits), labels, None)
    assert float(terms["bce"]) == pytest.approx(2 * -math.log(0.75) + math.log(2), rel=1e-6)


def test_the_base_step_weighs_positives_more_and_asks_nothing_of_the_background(case):
    student, _, labels = case
    labels = torch.where(labels >= OLD, labels - 2, labels)  # classes 1 and 2 of a base
    student = student[:, :OLD].clone().requires_grad_(True)
    term = dkd(0, OLD, ac=False).terms(Output(student), labels, None)["bce"]
    assert float(term.detach()) == pytest.approx(slow_mbce(student, labels, 1, 2, False), rel=1e-5)
    term.backward()
    assert float(student.grad[:, 0].abs().max()) == 0
    assert float(student.grad[:, 1:].abs().min(1).values.max()) > 0


def test_without_a_background_void_is_a_negative(case):
    student, _, labels = case
    labels = torch.where(labels == 0, VOID, labels)
    later = dkd(background="none", ac=False).terms(Output(student), labels, None)["bce"]
    assert float(later) == pytest.approx(slow_mbce(student, labels, OLD, 1, True), rel=1e-5)
    base = torch.where(labels == VOID, VOID, labels - OLD)
    first = dkd(0, OLD, "none", ac=False).terms(Output(student[:, :OLD]), base, None)["bce"]
    assert float(first) == pytest.approx(slow_mbce(student[:, :OLD], base, 0, 2, True), rel=1e-5)


@pytest.mark.parametrize("background", ["none", "real"])
def test_kd_is_the_binary_distillation_of_the_old_classes(case, background):
    student, teacher, labels = case
    method = dkd(background=background, memory=KEPT, ac=False, dkd=False)
    found = method.terms(Output(student), labels, Output(teacher))["kd"]
    if background == "real":
        student, teacher = student[:, 1:], teacher[:, 1:] - teacher[:, :1]
    taken = (labels >= OLD) & (labels != VOID) & (background == "none")
    expected = slow_distillation(student[:, : teacher.shape[1]], teacher, taken)
    assert float(found) == pytest.approx(5 * expected, rel=1e-5)


@pytest.mark.parametrize("sigmoids", [True, False])
def test_logits_of_another_method_of_sigmoids_stay_what_they_are(sigmoids):
    context = StepContext(3, 4, "none", None, sigmoids=sigmoids)  # of STAR's, say: nothing is kept
    logits = torch.tensor([-4.0, -5.0, -6.0]).view(1, 3, 1, 1)
    found = above_background(logits, context).flatten().tolist()
    assert found == pytest.approx([-4, -5, -6] if sigmoids else [1.5, 0, -1.5])


def test_without_a_background_logits_of_a_softmax_are_set_against_each_other(case):
    """z_k less the mean of the other two: what the network says is the same, now one by one."""
    student, teacher, labels = case
    found = dkd(background="none", ac=False, dkd=False).terms(
        Output(student), labels, Output(teacher)
    )
    a, b, c = teacher.unbind(1)
    apart = torch.stack([a - (b + c) / 2, b - (a + c) / 2, c - (a + b) / 2], 1)
    expected = slow_distillation(student[:, :OLD], apart, (labels >= OLD) & (labels != VOID))
    assert float(found["kd"]) == pytest.approx(5 * expected, rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("memory", [{}, {"sigmoids": torch.ones(1)}])
def test_a_network_without_a_background_starts_with_its_own_decision(name, memory):
    old, model, method = extension(name, "none", memory=memory)
    x = images()
    before, after = old(x).logits, model.eval()(x).logits[:, :OLD]
    if memory:
        torch.testing.assert_close(after, before)
    else:
        others = (before.sum(1, keepdim=True) - before) / (OLD - 1)
        torch.testing.assert_close(after, before - others, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.argmax(1), before.argmax(1))
    labels = torch.full((2, *SIZE), VOID)
    terms = method.terms(model(x), labels, old(x))
    # Equal to the teacher: each distillation is the entropy of its target.
    q = after.double().sigmoid()
    entropy = -(q * q.log() + (1 - q) * (1 - q).log()).sum(1).mean()
    assert float(terms["kd"].detach()) == pytest.approx(5 * float(entropy.detach()), rel=1e-4)


@pytest.mark.parametrize("background", ["none", "real"])
def test_what_a_new_label_takes_is_no_part_of_the_decomposed_term(background):
    old, model, method = extension("erfnet", background, memory=KEPT)
    x, labels = images(), torch.full((2, *SIZE), VOID)
    with torch.no_grad():
        model.eval().head[0].weight.add_(0.3)
        unlabelled = method.terms(model(x), labels, old(x))
        left = method.terms(model(x[1:]), labels[1:], old(x[1:]))
        labels[0] = OLD
        found = method.terms(model(x), labels, old(x))
    for term in ("dkd+", "dkd-"):
        expected = left[term] if background == "none" else unlabelled[term]
        assert float(found[term]) == pytest.approx(float(expected), rel=1e-4)


def test_kd_of_equal_logits_has_no_gradient():
    z = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    sigmoid_parts.binary_distillation(z, z.detach().sigmoid()).backward()
    assert float(z.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("kind", ["conv1x1", "deconv2x2"])
def test_the_split_is_by_the_sign_of_the_product(kind):
    torch.manual_seed(0)
    head = Head(5, 3, kind)
    features = torch.relu(torch.randn(2, 5, 2, 3))
    weight = head.weight_and_bias()[0].detach()
    positive, negative = split_scores(head, features, weight)
    for found, keep in ((positive, lambda x: x > 0), (negative, lambda x: x < 0)):
        expected = slow_split(features, weight, kind, keep)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert positive.min() >= 0 >= negative.max()


@pytest.mark.parametrize("name", NETWORKS)
def test_both_halves_and_the_bias_are_the_logit_of_the_network(name):
    model = trained(name, (OLD, NEW))
    features, head = model(images()).features, model.heads()[0]
    weight, bias = head.weight_and_bias()
    positive, negative = split_scores(head, features, weight)
    found = positive + negative + bias.view(1, -1, 1, 1)
    torch.testing.assert_close(found, head(features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("pool", [1, 2])
def test_dkd_terms_are_the_distillation_of_both_halves(name, pool):
    old, model, method = extension(name, pool=pool)
    with torch.no_grad():  # the student has moved away from the teacher
        for p in model.heads()[0].parameters():
            p.add_(torch.randn_like(p) * 0.3)
    output, answer = model.eval()(images()), old(images(4))
    terms = method.terms(output, torch.zeros(2, *SIZE, dtype=torch.long), answer)
    head, before = model.heads()[0], old.heads()[0]
    axis = head.class_axis
    own = head.weight_and_bias()[0].detach().narrow(axis, 1, OLD - 1).double()
    theirs = before.weight_and_bias()[0].double()
    theirs = theirs.narrow(axis, 1, OLD - 1) - theirs.narrow(axis, 0, 1)
    f, g = output.features.detach().double(), answer.features.double()
    if pool > 1:
        f, g = nn.functional.avg_pool2d(f, pool), nn.functional.avg_pool2d(g, pool)
    for key, low, high in (("dkd+", 0, None), ("dkd-", None, 0)):
        z = head.scores_with(f, own.clamp(low, high))
        target = head.scores_with(g, theirs.clamp(low, high))
        expected = 5 * slow_distillation(z, target)
        assert float(terms[key].detach()) == pytest.approx(expected, rel=1e-4)


def test_dkd_gradient_passes_gradcheck():
    torch.manual_seed(1)
    z = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_parts.binary_distillation(x, teacher.sigmoid()), (z,)
    )


def test_the_auxiliary_term_is_silence_everywhere_at_the_size_of_the_image():
    head = Head(4, 1, "conv1x1")
    features = torch.rand(2, 4, 2, 3, requires_grad=True)
    logit = nn.functional.interpolate(head(features), (4, 6), mode="bilinear").detach()
    expected = sum(bce(z, 0.0) for z in logit.double().flatten().tolist()) / logit.numel()
    loss = auxiliary_loss(head, features, torch.Size((4, 6)))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert features.grad is None
    # Interpolation keeps a constant, so moving the bias moves every logit by as much.
    slope = sum(sigma(z) for z in logit.double().flatten().tolist()) / logit.numel()
    assert float(head[0].bias.grad) == pytest.approx(slope, rel=1e-5)
    assert head[0].weight.grad.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_auxiliary_term_gives_the_network_no_gradient(name):
    old, model, method = extension(name)
    terms = method.terms(model.train()(images()), torch.zeros(2, *SIZE).long(), old(images()))
    terms["ac"].backward()
    assert all(p.grad is None for p in model.parameters())
    rows = [p for group in method.groups(model) for p in group["params"] if p.grad is not None]
    assert len(rows) == 2 * len(model.heads())  # one classifier per head, weight and bias


def test_terms_can_be_switched_off(case):
    old, model, method = extension("erfnet", kd=False, dkd=False, ac=False)
    terms = method.terms(model(images()), torch.zeros(2, *SIZE).long(), old(images()))
    assert terms.keys() == {"bce"}
    assert method.state() == {}
    kept = method.finish(model, old, Survey(lambda: iter(()), lambda n, x: n(x)))
    assert kept.keys() == {"sigmoids"}


@pytest.mark.parametrize("name", NETWORKS)
def test_new_rows_are_the_auxiliary_classifier_of_the_step_before(name):
    base = dkd(0, OLD)
    model = trained(name).requires_grad_(True)
    base.begin(model, None)
    optimizer = make_optimizer(base.groups(model), TrainSettings(lr=1e-2))
    for _ in range(2):
        terms = base.terms(model.train()(images()), torch.ones(2, *SIZE).long(), None)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    memory = base.finish(model, None, None)
    _, grown, method = extension(name, memory=memory)
    for index, head in enumerate(grown.heads()):
        for k in range(NEW):
            row = head[-1].weight.select(head.class_axis, k)
            assert torch.equal(row, memory[f"weight.{index}"])
            assert torch.equal(head[-1].bias[k : k + 1], memory[f"bias.{index}"])
    assert all(torch.equal(v, memory[k]) for k, v in method.state().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_new_rows_without_an_auxiliary_classifier_change_no_decision(name):
    _, model, _ = extension(name)
    logits = model.eval()(images()).logits
    assert not logits[:, OLD:].any()  # a tie with the background, which comes first
    assert torch.equal(logits.argmax(1), logits[:, :OLD].argmax(1))
    _, model, _ = extension(name, "none")
    logits = model.eval()(images()).logits[:, OLD:]
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01))
    _, model, _ = extension(name, init="random")
    assert model.heads()[0][-1].weight.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_starting_from_a_softmax_changes_no_decision(name):
    old, model, _ = extension(name)
    before, after = old(images()).logits, model.eval()(images()).logits
    assert float(after[:, 0].detach().abs().max()) == 0
    torch.testing.assert_close(after[:, 1:OLD], before[:, 1:] - before[:, :1], atol=1e-4, rtol=1e-4)
    sure = before.topk(2, 1).values.diff(dim=1).abs()[:, 0] > 1e-3
    assert sure.any()
    assert torch.equal(after[:, :OLD].argmax(1)[sure], before.argmax(1)[sure])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("background", ["none", "virtual"])
def test_an_extension_starts_as_the_network_before(name, background):
    """BatchNorm and dropout stand still, so distillation has nothing to correct at the start."""
    old, model, method = extension(name, background)
    teacher = folded(old)
    labels = torch.full((2, *SIZE), VOID if background == "none" else 0)
    terms = method.terms(model.train()(images()), labels, teacher(images()))
    (terms["kd"] + terms["dkd+"] + terms["dkd-"]).backward()
    found = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    assert found < 1e-4
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    kept = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model.train()(images(5) * 3)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in kept.items())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_the_background_row_never_moves(name, kind):
    old, model, method = extension(name, init="random")
    settings = TrainSettings(lr=1e-2, optimizer=kind, weight_decay=0.1)
    optimizer = make_optimizer(method.groups(model), settings)
    labels = torch.randint(OLD, OLD + NEW, (2, *SIZE))
    labels[:, ::2] = 0
    first = model.heads()[0][0].weight.detach().clone()
    for i in range(3):
        optimizer.zero_grad()
        terms = method.terms(model.train()(images(i)), labels, old(images(i)))
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    assert not torch.equal(model.heads()[0][0].weight, first)
    for head in model.heads():
        assert not head[0].weight.select(head.class_axis, 0).any()
        assert not head[0].bias[0]


def test_only_new_rows_and_the_auxiliary_classifier_decay_in_extensions():
    _, model, method = extension("bisenet", head_lr=10.0)
    groups = method.groups(model)
    decaying = {id(p) for g in groups if g.get("weight_decay") != 0 for p in g["params"]}
    new = {id(p) for head in model.heads() for p in head[-1].parameters()}
    own = {id(p) for p in model.parameters()}
    assert decaying & own == new
    fast = {id(p) for g in groups if g.get("lr_scale") == 10 for p in g["params"]}
    assert fast & own == {id(p) for head in model.heads() for p in head.parameters()}


# ------------------------------------------------------------------------------ the decision


def rule(logits):
    """The best class if its sigmoid is above 0.5, else background; ids as in the network."""
    probability, best = logits[:, 1:].double().sigmoid().max(1)
    return torch.where(probability > 0.5, best + 1, 0)


def test_argmax_of_a_zero_background_is_the_rule_of_one_half_ties_included():
    values = torch.tensor([-2.0, -1e-6, 0.0, 1e-6, 2.0])
    grid = torch.cartesian_prod(values, values, values)
    logits = torch.cat([torch.zeros(len(grid), 1), grid], 1)[:, :, None, None]
    assert torch.equal(logits.argmax(1), rule(logits))
    assert int((grid.max(1).values == 0).sum()) > 0


def test_an_exported_network_decides_by_the_rule_of_one_half():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from edgeinc.deploy._graph import to_onnx

    size = (64, 64)
    _, model, _ = extension("erfnet", "virtual")
    head = model.heads()[0]
    pixels = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    with torch.no_grad():  # logits around 0, so several classes win; the last is 0 everywhere
        nn.init.normal_(head[-1].weight)
        head[-1].weight.select(head.class_axis, NEW - 1).zero_()
        head[-1].bias.zero_()
        centre = model.eval()(model.normalise(pixels)).logits.mean((0, 2, 3))
        head[0].bias[1:] -= centre[1:OLD]
        head[-1].bias -= centre[OLD:]
        logits = model(model.normalise(pixels)).logits
    expected = rule(logits)
    assert {0} < set(expected.unique().tolist())
    assert OLD + NEW - 1 not in expected  # never strictly above one half
    session = onnxruntime.InferenceSession(
        to_onnx(model, size).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})[0]
    sure = logits[:, 1:-1].abs().min(1).values > 1e-3
    top = logits.topk(2, 1).values
    sure &= (top[:, 0] - top[:, 1] > 1e-3) | (expected == 0)
    assert sure.float().mean() > 0.5
    assert torch.equal(torch.from_numpy(found).long()[sure], expected[sure])
