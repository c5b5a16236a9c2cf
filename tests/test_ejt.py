"""EJT: its labels against plain loops, the row of what is unknown, and joint training."""

import math

import pytest
import torch
from safetensors.torch import load_file

import edgeinc
from edgeinc.methods import StepContext, Survey, registry
from edgeinc.methods._losses import cross_entropy
from edgeinc.methods.ejt import expected
from edgeinc.models import Output, create
from edgeinc.runs import open_run
from edgeinc.schema import VOID

OLD, NEW, SIZE = 3, 2, (32, 64)
CLASSES = OLD + NEW
NETWORKS = ("erfnet", "bisenet")


def ejt(first=OLD, classes=CLASSES, background="none", memory=None, **context):
    plugin = registry.load("methods", "ejt")
    context = {"class_weights": None, **context}
    context = StepContext(first, classes, background, memory=memory or {}, **context)
    return plugin(plugin.Config(), context)


def network(name, steps):
    torch.manual_seed(3)
    model = create(name, steps, {"width": 0.125})
    model.train()(torch.randn(8, 3, *SIZE))
    return model.eval()


def images(seed=1):
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def base(name):
    """A trained-looking base and the row it keeps."""
    model, method = network(name, [OLD]), ejt(0, OLD)
    method.begin(model, None)
    return model, method.finish(model, None, None)


def step(name):
    """An extension of it: the previous network, the new one, the method."""
    old, memory = base(name)
    model = network(name, [OLD, NEW])
    model.load_state_dict(old.state_dict(), strict=False)
    method = ejt(memory=memory)
    method.begin(model, old)
    method.groups(model)
    return old, model, method


def softmax(row):
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


# ------------------------------------------------------------------------------ the loss


def test_a_complete_label_gives_the_loss_of_joint_training():
    """Every pixel labelled with a new class: weighted cross-entropy, as `joint` has it."""
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5])
    plugin = registry.load("methods", "ejt")
    method = plugin(plugin.Config(), StepContext(OLD, CLASSES, "real", weights))
    method.begin(network("erfnet", [OLD, NEW]), network("erfnet", [OLD]))
    method.ready({})
    logits, teacher = torch.randn(2, CLASSES, 4, 6), torch.randn(2, OLD, 4, 6)
    labels = torch.randint(OLD, CLASSES, (2, 4, 6))
    labels[:, 0] = VOID
    found = method.terms(Output(logits), labels, Output(teacher))["ce"]
    assert float(found) == pytest.approx(float(cross_entropy(logits, labels, weights)), rel=1e-6)


def test_it_is_the_expectation_of_that_loss_over_what_the_teacher_believes():
    """One pixel, two old classes believed with 1/4 and 3/4: a mixture of two weighted losses."""
    logits = torch.tensor([0.0, 1.0, -1.0]).view(1, 3, 1, 1)
    target = torch.tensor([0.25 * 2.0, 0.75 * 4.0, 0.0]).view(1, 3, 1, 1)
    log_p = [v - math.log(1 + math.e + 1 / math.e) for v in (0.0, 1.0, -1.0)]
    by_hand = -(0.5 * log_p[0] + 3 * log_p[1]) / 3.5
    assert float(expected(logits, target)) == pytest.approx(by_hand, rel=1e-6)


def test_nothing_said_is_zero_with_a_gradient_of_zero():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = expected(logits, torch.zeros(1, 3, 2, 2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_the_gradient_is_that_of_its_formula():
    z = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    loss = expected(z, target)
    loss.backward()
    share = target / target.sum()
    by_hand = share.sum(1, keepdim=True) * z.detach().softmax(1) - share
    torch.testing.assert_close(z.grad, by_hand, rtol=1e-4, atol=1e-6)  # computed in float32


def test_weights_are_not_applied_twice():
    """The weighted answer to what the old network believes is the best there is to learn.

    P is true; weights w' made the old network answer w' P. With weights w the loss is smallest,
    its gradient zero, where the new one answers w P, whatever w' was.
    """
    true, before, now = torch.tensor([[0.7, 0.2, 0.1], [1.0, 4.0, 9.0], [2.0, 3.0, 8.0]])
    answers = (before * true).log().view(1, OLD, 1, 1)
    best = torch.cat([(now * true).log(), torch.full((NEW,), -40.0)])
    logits = best.view(1, CLASSES, 1, 1).requires_grad_()
    labels = torch.full((1, 1, 1), VOID)
    for weights, at_rest in ((before, True), (None, False)):
        kept = {} if weights is None else {"class_weights": weights}
        method = ejt(memory=kept, class_weights=torch.cat([now, torch.ones(NEW)]))
        method.begin(network("erfnet", [OLD, NEW]), network("erfnet", [OLD]))
        method.ready({})
        loss = method.terms(Output(logits), labels, Output(answers))["ce"]
        (slope,) = torch.autograd.grad(loss, logits)
        assert (float(slope.abs().max()) < 1e-6) is at_rest


# ------------------------------------------------------------------------------ unknown


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_unknown_counts_for_nothing_and_the_rest_as_believed(name):
    """Plain loops over pixels, for both terms."""
    old, model, method = step(name)
    x, labels = images(), torch.full((2, *SIZE), VOID)
    labels[:, 8:20, 8:40] = OLD + 1
    row, head = method.state(), model.heads()[0]
    with torch.no_grad():
        now, before = model(x), old(x)
        found = {k: float(v) for k, v in method.terms(now, labels, before).items()}
        maps = (now.logits, before.logits, *(unknown(head, o, row) for o in (now, before)))
    total, weight, silent = 0.0, 0.0, 0.0
    pixels = zip(*(m.permute(0, 2, 3, 1).flatten(0, 2).tolist() for m in maps), strict=True)
    for (z, t, (u,), (v,)), label in zip(pixels, labels.flatten().tolist(), strict=True):
        p, q, believed = softmax(z), softmax(t), 1 / (1 + math.exp(-v))
        if label != VOID:
            believed = 0.0
            total, weight = total - math.log(p[OLD + 1]), weight + 1
        else:
            total -= (1 - believed) * sum(q[c] * math.log(p[c]) for c in range(OLD))
            weight += 1 - believed
        s = 1 / (1 + math.exp(-u))
        silent -= believed * math.log(s) + (1 - believed) * math.log(1 - s)
    assert found["ce"] == pytest.approx(total / weight, rel=1e-4)
    assert found["unknown"] == pytest.approx(silent / labels.numel(), rel=1e-4)


def unknown(head, output, row):
    """The logit of a row beside the classifier, as large as the image."""
    scores = head.scores_with(
        output.features, row["weight"].unsqueeze(head.class_axis), row["bias"]
    )
    return torch.nn.functional.interpolate(scores, SIZE, mode="bilinear", align_corners=False)


def test_void_teaches_the_row_at_step_0_and_the_network_learns_as_without_it():
    labels = torch.zeros(2, *SIZE).long()
    labels[0] = VOID
    model, method = network("erfnet", [OLD]).requires_grad_(True), ejt(0, OLD)
    method.begin(model, None)
    (row,) = [g["params"] for g in method.groups(model)][1:]
    terms = method.terms(model(images()), labels, None)
    plain = cross_entropy(model(images()).logits, labels)
    assert float(terms["ce"].detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    terms["unknown"].backward()
    pushed = float(row[1].grad)
    assert all(p.grad is None for p in model.parameters())
    row[1].grad = None
    method.terms(model(images()), torch.zeros_like(labels), None)["unknown"].backward()
    # Half of the pixels void: the logit is pulled up by half more than where none is.
    assert pushed == pytest.approx(float(row[1].grad) - 0.5, abs=1e-4)


def test_a_base_of_another_method_has_no_row_and_teaches_none():
    old, model = network("erfnet", [OLD]), network("erfnet", [OLD, NEW])
    method = ejt()
    method.begin(model, old)
    assert method.state() == {}
    assert len(method.groups(model)) == 1


@pytest.mark.parametrize("background", ["real", "virtual"])
def test_a_background_is_what_is_unknown(background):
    """No row beside the classifier; void says nothing."""
    old, model = network("erfnet", [OLD]), network("erfnet", [OLD, NEW])
    method = ejt(background=background)
    method.begin(model, old)
    assert method.state() == {}
    labels = torch.full((2, *SIZE), VOID)
    with torch.no_grad():
        assert float(method.terms(model(images()), labels, old(images()))["ce"]) == 0


def test_weights_count_what_the_teacher_believes():
    """Two images, one all new class, one unlabelled: shares by hand, `log` weights."""
    old, memory = base("erfnet")
    method = ejt(memory=memory, weighting="log")
    model = network("erfnet", [OLD, NEW])
    method.begin(model, old)
    method.groups(model)
    labels = torch.full((2, *SIZE), VOID)
    labels[0] = OLD
    x = images()
    survey = Survey(lambda: iter([(x, labels)]), lambda net, batch: net(batch))
    with torch.no_grad():
        pixels = method.prepare(survey, old)["pixels"]
        answer = old(x[1:])
        known = 1 - unknown(old.heads()[0], answer, memory).sigmoid()
        belief = (known * answer.logits.softmax(1)).sum((0, 2, 3))
    by_hand = [*belief.tolist(), SIZE[0] * SIZE[1], 0]
    assert pixels.tolist() == pytest.approx(by_hand, rel=1e-4)
    method.ready({"pixels": pixels})
    shares = [v / sum(by_hand) for v in by_hand]
    weights = [1 / math.log(1.1 + s) if s else 1.0 for s in shares]
    assert method._weights.tolist() == pytest.approx(weights, rel=1e-4)


def test_a_class_that_is_hardly_believed_in_does_not_take_the_loss():
    method = ejt(weighting="inverse")
    method.ready({"pixels": torch.tensor([400.0, 600.0, 7e-6, 24.0, 0.0], dtype=torch.float64)})
    weights = method._weights
    by_hand = [1024 / n for n in (400, 600, 24)]
    expected = [w / (sum(by_hand) / 3) for w in by_hand]
    assert weights[[0, 1, 3]].tolist() == pytest.approx(expected, rel=1e-5)
    assert 7e-6 * float(weights[2]) < 1e-3 * 24 * float(weights[3])


# ------------------------------------------------------------------------------ in a run


def test_a_run_hands_the_row_from_step_to_step_and_exports_none_of_it(tmp_path):
    small = {
        "size": (32, 64),
        "epochs": 1,
        "limit": 4,
        "threads": 1,
        "batch_size": 2,
        "sets": ["model.width=0.125"],
    }
    run = tmp_path / "run"
    edgeinc.train("streets", classes=["road", "sky"], method="ejt", run=run, **small)
    rows = []
    for name in ("car", "bus"):
        edgeinc.extend(run, new_classes=[name], method="ejt", limit=4)
        rows.append(load_file(open_run(run).memory(len(rows)))["weight"])
    assert not torch.equal(*rows)
    with edgeinc.open_artifact(edgeinc.export(run).path) as session:
        assert session.table.names == ("road", "sky", "car", "bus")
